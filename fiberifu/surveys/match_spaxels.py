# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Spaxels of a cube in the fibres of a survey, so that the two can be compared.

``cube + positions -> share of each spaxel in each fibre -> spectra as the fibres would have taken them``
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import InverseVariance
from scipy.sparse import csr_matrix
from specutils import Spectrum

from fiberifu.lines.binning import COVARIANCE, LARGEST
from fiberifu.surveys._sky import one_angle

__all__ = ["extract_fibers", "spaxel_weights"]

_COVERED = 0.9  # of a fibre's area that good spaxels must have


def spaxel_weights(positions, wcs, shape=None, *, aperture=1.5 * u.arcsec):
    """Share of the area of every spaxel that lies within each fibre, exactly.

    Parameters
    ----------
    positions : `~astropy.coordinates.SkyCoord`, shape (n,)
    wcs : `~astropy.wcs.WCS`
        Of a cube or a map.
    shape : (int, int), optional
        ``(ny, nx)``; by default that of the WCS.
    aperture : `~astropy.units.Quantity`
        Diameter of the fibres.

    Returns
    -------
    weights : `~scipy.sparse.csr_matrix`, shape (n, ny * nx)
        From 0 to 1; ``weights @ image.ravel()`` are sums over fibres.
    covered : ndarray, shape (n,)
        Share of the fibre's area that lies on the grid.

    Raises
    ------
    ValueError
        For other positions, an aperture that is no angle, or an unknown shape.
    """
    from photutils.aperture import SkyCircularAperture

    if not isinstance(positions, SkyCoord):
        raise ValueError(f"positions must be a SkyCoord, got {type(positions).__name__}")
    wcs, shape = wcs.celestial, wcs.array_shape[-2:] if shape is None and wcs.array_shape else shape
    if shape is None:
        raise ValueError("wcs has no array_shape; give shape=(ny, nx)")
    radius = one_angle(aperture, "aperture") / 2
    data, columns, ends, covered = [], [], [0], []
    for position in positions.icrs.reshape(-1):
        circle = SkyCircularAperture(position, radius).to_pixel(wcs) if np.isfinite(position.ra.deg) else None
        mask = circle.to_mask(method="exact") if circle is not None and np.isfinite(circle.positions).all() else None
        large, small = mask.get_overlap_slices(shape) if mask is not None else (None, None)
        if large is not None:
            part = mask.data[small]
            y, x = np.mgrid[large]
            data.append(part[part > 0])
            columns.append((y * shape[1] + x)[part > 0])
        ends.append(ends[-1] + (len(data[-1]) if large is not None else 0))
        covered.append(data[-1].sum() / circle.area if large is not None else 0.0)
    join = [np.concatenate(parts) if parts else np.zeros(0) for parts in (data, columns)]
    weights = csr_matrix((join[0], join[1].astype(int), ends), shape=(len(covered), shape[0] * shape[1]))
    return weights, np.array(covered)


def extract_fibers(cube, positions, *, aperture=1.5 * u.arcsec, covariance=COVARIANCE):
    """Spectra that fibres would have taken of a cube, at the cube's PSF.

    Parameters
    ----------
    cube : `~specutils.Spectrum`, shape (n_wave, ny, nx)
        Flux per spaxel, with uncertainty, of a reader of this package.
    positions : `~astropy.coordinates.SkyCoord`, shape (n,)
    aperture : `~astropy.units.Quantity`
        Diameter of the fibres: 1.5 arcsec DESI, 2 and 3 arcsec SDSS.
    covariance : float
        Sigma of a sum of N spaxels is multiplied by 1 + covariance log10 N; 1.62 for MaNGA (Law et al. 2016, AJ 152,
        83), 0 for independent spaxels. N is the effective number, (sum w)^2 / sum w^2.

    Returns
    -------
    `~specutils.Spectrum`, shape (n, n_wave)
        Flux in the fibre, with `~astropy.nddata.InverseVariance`; masked where good spaxels cover less than 90 % of
        it, and scaled to the whole elsewhere. ``meta`` is the cube's but for what belongs to spaxels, with
        ``position``, ``covered`` (n,) and ``fiber_diameter``.

    Raises
    ------
    ValueError
        If the cube has no celestial WCS or no uncertainty.

    Notes
    -----
    A cube of MaNGA has a PSF of 2.5 arcsec, a fibre of DESI saw 1.1: steep centres differ by that, and DESI's
    spectra are calibrated to the total of a point source. Compare shapes and equivalent widths, or smooth the
    sharper one first.
    """
    wcs = cube.meta.get("celestial_wcs") or getattr(cube.wcs, "celestial", None)
    if cube.flux.ndim != 3 or wcs is None or cube.uncertainty is None:
        raise ValueError("cube must be a Spectrum (n_wave, ny, nx) with a celestial WCS and an uncertainty")
    n_wave, *shape = cube.flux.shape
    weights, covered = spaxel_weights(positions, wcs, tuple(shape), aperture=aperture)
    with np.errstate(divide="ignore"):  # pixels without a weight
        ivar = cube.uncertainty.represent_as(InverseVariance).array.reshape(n_wave, -1)
    flux = cube.flux.value.reshape(n_wave, -1)
    good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    if cube.mask is not None:
        good &= ~cube.mask.reshape(n_wave, -1)
    whole = np.asarray(weights.sum(1)).reshape(-1, 1)
    seen = weights @ good.T.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = covered[:, None] * seen / whole
        scale = 1 / share
        total = (weights @ np.where(good, flux, 0).T) * scale
        squares = weights.power(2)
        variance = (squares @ np.where(good, 1 / np.where(good, ivar, 1), 0).T) * scale**2
        number = np.clip(seen**2 / (squares @ good.T.astype(float)), 1, LARGEST)
        variance *= (1 + covariance * np.log10(number)) ** 2
        bad = ~(share >= _COVERED) | ~(variance > 0)
        inverse = np.where(bad, 0, 1 / np.where(bad, 1, variance))
    spaxel = ("lsf", "bins", "celestial_wcs", "dust", "covariance")
    meta = {key: value for key, value in cube.meta.items() if key not in spaxel}
    meta |= {"position": positions, "covered": covered, "fiber_diameter": aperture}
    return Spectrum(
        np.where(bad, 0, total) * cube.flux.unit,
        spectral_axis=cube.spectral_axis,
        spectral_axis_index=1,
        uncertainty=InverseVariance(inverse, unit=cube.flux.unit**-2),
        mask=bad,
        meta=meta,
    )
