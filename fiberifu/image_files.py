# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images as the command line and catalogues name them: ``files -> which survey's -> its reader -> {band: CCDData}``."""

import re
import warnings
from pathlib import Path

import astropy.units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from . import surveys
from .bands import filter_letter

__all__ = ["read_image"]


def read_image(items, *, psf=None, zero_point=None, psf_fwhm=None):
    """Read an image from one file of all bands, or from one file per band.

    Parameters
    ----------
    items : sequence of str
        One cutout of the Legacy Surveys' viewer; or files of one band each, as ``"BAND=FILE"``, or ``"FILE"`` where
        the header tells the band (BAND, FILTER): of the Dark Energy Survey, Pan-STARRS1, frames of the SDSS, or any
        FITS image with a celestial WCS and a unit or zero point.
    psf : path-like, optional
        PSF file of the Legacy Surveys' viewer, with a cutout of it.
    zero_point : float or dict of str to float, optional
        AB magnitude of one unit of the files, of all bands or by band; for files that do not tell their unit.
    psf_fwhm : `~astropy.units.Quantity` or dict of str to Quantity, optional
        FWHM of the PSF, an angle, of all bands or by band, instead of the header's.

    Returns
    -------
    image : dict of str to `~astropy.nddata.CCDData`
    files : list of `~pathlib.Path`

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file, or the argument, and what is wrong with it.
    """
    pairs = [re.fullmatch(r"([A-Za-z]\w?)=(.+)", item) for item in items]
    if any(pairs) and not all(pairs):
        raise ValueError(f"image is {' '.join(items)}: give one file, or BAND=FILE for every band")
    named = [(pair[1], Path(pair[2])) if pair else (None, Path(item)) for pair, item in zip(pairs, items, strict=True)]
    if any(pairs) and len(dict(named)) < len(named):
        raise ValueError(f"image is {' '.join(items)}: a band is named twice")
    if psf is not None and any(pairs):
        raise ValueError("psf goes with a cutout of the Legacy Surveys, not with BAND=FILE")
    if psf is not None and psf_fwhm is not None:
        raise ValueError("psf and psf_fwhm are both given; give one of the two")
    files = [path for _, path in named]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    image = {}
    for band, path in named:
        for name, ccd in _read(path, band, psf, zero_point, psf_fwhm).items():
            if name in image:
                raise ValueError(f"{path}: second file of band {name!r}")
            image[name] = ccd
    for argument, values in (("zero_point", zero_point), ("psf_fwhm", psf_fwhm)):
        if unused := sorted(set(values) - set(image)) if isinstance(values, dict) else ():
            raise ValueError(f"{argument}: given for {', '.join(unused)}, but the image has {', '.join(image)}")
    return image, files


def _read(path, band, psf, zero_point, psf_fwhm):
    """The bands of one file."""
    headers = _headers(path)
    if _is_cutout(headers):
        _refuse(path, zero_point, band, "a cutout of the Legacy Surveys' viewer, in nanomaggy")
        image = surveys.read_legacysurvey(path, psf=psf)
        if band is not None and band not in image:
            raise ValueError(f"{path}: given as band {band!r}, but it has {', '.join(image)}")
        image = image if band is None else {band: image[band]}
    elif psf is not None:
        raise ValueError(f"psf goes with a cutout of the Legacy Surveys, and {path} is none; give psf_fwhm")
    elif survey := next((survey for known, *survey in _SURVEYS if any(map(known, headers))), None):
        what, reader = survey
        _refuse(path, zero_point, band, what)
        image = reader(path if band is None else {band: path})
    else:
        band = band or _band(path, headers)
        return {band: surveys.read_image(path, band, zero_point=_of(zero_point, band), psf_fwhm=_of(psf_fwhm, band))}
    for name, ccd in image.items():
        if (fwhm := _of(psf_fwhm, name)) is not None:
            ccd.meta["PSF_FWHM"] = u.Quantity(fwhm).to_value(u.arcsec)
    return image


# Whether a header is a survey's, what its files are, and their reader.
_SURVEYS = (
    (lambda h: "DES_EXT" in h or str(h.get("TILENAME", "")).startswith("DES"),
     "a coadd of the Dark Energy Survey", surveys.read_des),
    (lambda h: "FPA.FILTERID" in h or "BSOFTEN" in h, "a stack of Pan-STARRS1", surveys.read_ps1),
    (lambda h: "CAMCOL" in h and "FILTER" in h, "a frame of the SDSS, in nanomaggy", surveys.read_sdss_frame),
)  # fmt: skip


def _is_cutout(headers):
    return any("BANDS" in header or ("BAND" in header and "IMAGETYP" in header) for header in headers)


def _headers(path):
    """Headers of all HDUs; of a file that cannot be read none, since its reader says what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with open(path, "rb") as file, fits.open(file) as hdus:
                return [hdu.header.copy() for hdu in hdus]
    except Exception:  # a damaged file can raise anything
        return []


def _refuse(path, zero_point, band, what):
    if zero_point is not None and (band is None or _of(zero_point, band) is not None):
        raise ValueError(f"zero_point: {path} is {what}, and needs none; leave it out")


def _of(value, band):
    """The value of a band."""
    return value.get(band) if isinstance(value, dict) else value


def _band(path, headers):
    """Name of the band of a file, by its header."""
    cards = [str(header[key]).strip() for key in ("BAND", "FILTER") for header in headers if key in header]
    letters = [letter for letter in map(filter_letter, cards) if letter]
    if headers and not letters:
        found = f"BAND and FILTER are {', '.join(cards)}" if cards else "it has neither BAND nor FILTER"
        raise ValueError(f"{path}: its header does not tell the band ({found}); say it, such as r={path}")
    return letters[0] if letters else "r"  # of no headers: for the reader to refuse
