# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What to predict from: ``files, or the viewer -> image``; else a galaxy's own continuum."""

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty, VarianceUncertainty

from ...constants import AB_NANOMAGGY
from ...jobs import read_image
from ...lines import line_table

__all__ = ["cube_image", "find_image", "maps_image"]

FIELD = 45 * u.arcsec  # more than the largest bundle of MaNGA, 32 arcsec, with room for the network's stamps
#: Windows of continuum that stand for bands, Angstrom: DECam's at half of their maximum (Flaugher et al. 2015, AJ 150,
#: 150, figure 8).
WINDOWS = {"g": (4000, 5500), "r": (5650, 7150), "i": (7000, 8500), "z": (8500, 10000)}
CLEAR = 15.0  # Angstrom, rest frame: nearer to a strong line is no continuum
WHOLE = 0.6  # part of a window that must be covered


def find_image(files, how, position=None):
    """The image of a galaxy, from its files or fetched.

    Parameters
    ----------
    files : `~fiberifu.validate.manga.find.GalaxyFiles`
    how : {'files', 'fetch'}
        'fetch' asks the Legacy Surveys' viewer (`~fiberifu.surveys.fetch_cutout`) where there is no file.
    position : `~astropy.coordinates.SkyCoord`, optional
        Where, if the files do not tell.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`, or None
        None if there is no file and none is to be fetched.
    """
    if files.image:
        return read_image(files.image, psf=files.psf)[0]
    position = files.position if files.position is not None else position
    if how != "fetch":
        return None
    if position is None:
        raise ValueError(f"{files.name}: where it is is not known, so no image can be fetched; give ra and dec")
    from ...surveys import fetch_cutout, fetch_psf

    return read_image([str(fetch_cutout(position, FIELD))], psf=fetch_psf(position))[0]


def cube_image(cube, redshift):
    """Continuum of a cube in windows that stand for the bands: a hard test, for want of an image.

    Strong lines are left out, so that the image tells nothing of them; the PSF and the spaxels are the cube's.

    Parameters
    ----------
    cube : `~specutils.Spectrum`, shape (n_wave, ny, nx)
    redshift : float

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        Of the bands that the cube covers by 60 % or more, nanomaggy per spaxel.
    """
    wave = cube.spectral_axis.to_value(u.AA)
    strong = line_table("strong")["wavelength"].to_value(u.AA) * (1 + redshift)
    clear = (np.abs(wave[:, None] - strong) > CLEAR * (1 + redshift)).all(1)
    factor = cube.flux.unit.to(u.Unit("1e-17 erg / (s cm2 AA)"))
    variance = cube.uncertainty.represent_as(VarianceUncertainty).array
    psf = {str(key): value.to_value(u.arcsec) for key, value in (cube.meta.get("psf_fwhm") or {}).items()}
    out = {}
    for band, (low, high) in WINDOWS.items():
        inside = clear & (wave > low) & (wave < high)
        if np.diff(wave)[inside[:-1]].sum() < WHOLE * (high - low):
            continue
        good = ~cube.mask[inside]
        n = np.maximum(good.sum(0), 1)
        flux = np.where(good, cube.flux.value[inside], 0).sum(0) / n * factor
        sigma = np.sqrt(np.where(good, variance[inside], 0).sum(0)) / n * factor
        pivot = wave[inside].mean()
        fwhm = psf.get(band) or psf.get("blue" if band == "g" else "red") or next(iter(psf.values()), None)
        out[band] = _plane(band, flux, sigma, pivot, good.mean(0) < 0.5, cube.meta["celestial_wcs"], fwhm)
    if not out:
        raise ValueError(f"cube covers {wave[0]:.0f}-{wave[-1]:.0f} Angstrom: none of the bands g, r, i, z")
    return out


def maps_image(path, wcs, psf_fwhm):
    """The only image in a MAPS file: the mean flux of its spaxels (SPX_MFLUX), in g.

    Parameters
    ----------
    path : path-like
    wcs : `~astropy.wcs.WCS`
        Celestial.
    psf_fwhm : float
        arcsec.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        One band, nanomaggy per spaxel.

    Raises
    ------
    ValueError
        If there is none.
    """
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        if "SPX_MFLUX" not in hdus:
            raise ValueError(f"{path}: no SPX_MFLUX in it, and no image beside it; give an image")
        flux, ivar = (hdus[name].data.astype(float) for name in ("SPX_MFLUX", "SPX_MFLUX_IVAR"))
    bad = ~(ivar > 0)
    # weighted by the response in SDSS g, of effective wavelength 4686 Angstrom (Fukugita et al. 1996, AJ 111, 1748)
    return {"g": _plane("g", flux, np.where(bad, 1, ivar) ** -0.5, 4686.0, bad, wcs, psf_fwhm)}


def _plane(band, flux, sigma, pivot, bad, wcs, fwhm):
    """1e-17 erg/s/cm2/Angstrom per spaxel as an image in nanomaggy."""
    to = pivot**2 / AB_NANOMAGGY
    meta = {"FILTER": f"DECam {band}"} | ({} if fwhm is None else {"PSF_FWHM": float(fwhm)})
    sigma = np.where(bad | ~(sigma > 0), 1, sigma * to)
    return CCDData(np.where(bad, 0, flux * to), unit=u.nmgy, wcs=wcs.celestial, mask=bad | ~np.isfinite(flux),
                   uncertainty=StdDevUncertainty(sigma, unit=u.nmgy), meta=meta)  # fmt: skip
