# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a baseline sees of an image: ``image, positions -> aperture photometry and patches -> features, continuum``.

Shapes: n positions, C = 4 bands (g, r, i, z), L = 15 lines, patches 7 x 7 with rows to the North, columns to the East.
"""

import dataclasses

import numpy as np

__all__ = ["PATCH", "PATCH_PIXEL", "ImageView", "colour_features", "image_continuum", "patch_features", "view_image"]

#: Pixels on a side of a patch, as in the published baseline (Peng et al. 2026, arXiv:2606.10197), and their size,
#: arcsec: two of the image's own, so that a patch reaches 1.8 arcsec and covers PSF and aperture.
PATCH, PATCH_PIXEL = 7, 0.524
#: nanomaggy / arcsec2 and nanomaggy where asinh turns from linear to logarithmic: about 25.8 mag, the noise of a pixel.
SOFT_BRIGHTNESS, SOFT_FLUX = 0.05, 0.05
#: Effective wavelengths of DECam g, r, i, z with the atmosphere, Angstrom (Abbott et al. 2021, ApJS 255, 20, table 1).
BAND_WAVE = np.array([4769.0, 6370.0, 7774.0, 9154.0])
#: 1e-17 erg/s/cm2/Angstrom of one nanomaggy, times wavelength squared: AB zero point, 3631e-9 Jy, c in Angstrom/s.
_FLUX_DENSITY = 3631e-9 * 1e-23 * 2.99792458e18 * 1e17
#: Weakest continuum that a logarithm may see, as a share of the error of the band.
_FAINT = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class ImageView:
    """The image around n positions.

    Attributes
    ----------
    flux, error : ndarray (n, 4)
        In the network's aperture, nanomaggy; NaN where a band is not measured.
    patch : ndarray (n, 4, 7, 7)
        Mean surface brightness of pixels of 0.524 arcsec, nanomaggy / arcsec2; NaN where not measured.
    redshift, psf_fwhm : ndarray (n,)
    distance : ndarray (n,)
        From the centre of the galaxy, arcsec: what the catalogue knows, not the image.
    """

    flux: np.ndarray
    error: np.ndarray
    patch: np.ndarray
    redshift: np.ndarray
    psf_fwhm: np.ndarray
    distance: np.ndarray

    def __len__(self):
        return len(self.redshift)


def view_image(config, image, sigma, galaxy, offset):
    """Photometry and patches of positions on the images of a batch, as the network's local view reads them.

    Parameters
    ----------
    config : `~fiberifu.model.ModelConfig`
        Aperture and pixel scale.
    image, sigma : array_like (B, 4, S, S)
        nanomaggy / arcsec2, rows to the North, columns to the East; sigma inf where not measured.
    galaxy : array_like (n,) of int
        Image of each position.
    offset : array_like (n, 2)
        East, north of the centre of the stamp, arcsec.

    Returns
    -------
    flux, error : ndarray (n, 4)
        NaN where a band is not measured.
    patch : ndarray (n, 4, 7, 7) of float32
    """
    import torch

    from ..model.local import LocalView, read_image, square_points

    with torch.random.fork_rng(devices=[]), torch.inference_mode():  # layers that are not used draw weights
        image, sigma, offset = (torch.as_tensor(x).float() for x in (image, sigma, offset))
        galaxy = torch.as_tensor(galaxy)
        flux, error = LocalView(config).photometry(image, sigma, galaxy, offset)
        good = torch.isfinite(sigma)
        # a pixel of the patch is the mean of four bilinear readings
        corner = square_points(2, PATCH_PIXEL / 2)
        points = (square_points(PATCH, PATCH_PIXEL)[:, None] + corner).flatten(0, 1)

        def read(values):
            at = read_image(values, galaxy, offset[:, None] + points, config.pixel_scale)
            return at.unflatten(2, (PATCH, PATCH, len(corner))).mean(-1)

        value, cover = read(torch.where(good, image, 0.0)), read(good.float())
        patch = torch.where(cover > 0.99, value, torch.nan).numpy()
        flux, error = flux.numpy().astype(float), error.numpy().astype(float)
    missing = ~np.isfinite(error)
    return np.where(missing, np.nan, flux), np.where(missing, np.nan, error), patch


def colour_features(view):
    """Colours, surface brightness, signal-to-noise ratios, redshift and PSF (n, 13); NaN where a band is missing."""
    mag = np.arcsinh(view.flux / SOFT_FLUX)
    colours = [mag[:, 0] - mag[:, 1], mag[:, 1] - mag[:, 3], mag[:, 1] - mag[:, 2]]
    return np.column_stack([mag, *colours, view.flux / view.error, view.redshift, view.psf_fwhm])


def patch_features(view):
    """Compressed pixels of the patches, log redshift and PSF (n, 198); NaN where a pixel is missing."""
    pixels = np.arcsinh(view.patch.reshape(len(view), -1) / SOFT_BRIGHTNESS)
    return np.column_stack([pixels, np.log(view.redshift), view.psf_fwhm])


def image_continuum(view):
    """Continuum under the lines that the image alone suggests.

    Interpolated between the bands measured, log flux density against log wavelength; beyond the outermost bands along
    the line through the last two, with one band flat in f_lambda. Corrected for nothing: lines and breaks inside the
    bands stay in it. A band below a fifth of its error counts as that.

    Parameters
    ----------
    view : ImageView

    Returns
    -------
    continuum, sigma : ndarray (n, 15)
        In the aperture, observed frame, 1e-17 erg/s/cm2/Angstrom; ``sigma`` from the noise of the photometry. NaN
        without any band.
    """
    from ..model.lines import LINE_WAVELENGTH

    rest = np.array(list(LINE_WAVELENGTH.values()))
    x = np.log(BAND_WAVE)
    at = np.log(rest * (1 + np.asarray(view.redshift, float)[:, None]))
    floor = np.maximum(view.flux, _FAINT * view.error)
    y = np.log(floor * _FLUX_DENSITY / BAND_WAVE**2)
    relative = view.error / floor
    value, spread = np.full(at.shape, np.nan), np.full(at.shape, np.nan)
    known = np.isfinite(y)
    for pattern in np.unique(known, axis=0):
        row, band = np.flatnonzero((known == pattern).all(1)), np.flatnonzero(pattern)
        if not len(band):
            continue
        if len(band) == 1:
            value[row], spread[row] = y[row][:, band], relative[row][:, band]
            continue
        high = np.clip(np.searchsorted(x[band], at[row]), 1, len(band) - 1)
        a, b = band[high - 1], band[high]
        part = (at[row] - x[a]) / (x[b] - x[a])
        left, right = (np.take_along_axis(y[row], k, 1) for k in (a, b))
        value[row] = left * (1 - part) + right * part
        left, right = (np.take_along_axis(relative[row], k, 1) for k in (a, b))
        spread[row] = np.hypot(left * (1 - part), right * part)
    continuum = np.exp(value)
    return continuum, continuum * spread
