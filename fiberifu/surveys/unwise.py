# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Coadds of unWISE in W1 and W2: from Vega nanomaggies to AB.

``unwise-TILE-wN-img-m.fits (+ -invvar-m beside it) -> CCDData``

Lang 2014 (AJ 147, 108), Meisner et al. 2017 (AJ 154, 161); http://unwise.me.
"""

import re

from fiberifu.surveys._checks import load_hdus, sky_wcs
from fiberifu.surveys._images import NMGY_ZERO_POINT, nanomaggy_ccd, read_bands

__all__ = ["VEGA_TO_AB", "read_unwise"]

#: AB minus Vega magnitudes: Jarrett et al. 2011 (ApJ 735, 112), as in the Legacy Surveys' catalogues (WISEAB1,
#: WISEAB2).
VEGA_TO_AB = {"W1": 2.699, "W2": 3.339}
#: FWHM of the PSF, arcsec: Wright et al. 2010 (AJ 140, 1868). The coadds keep it.
PSF_FWHM = {"W1": 6.1, "W2": 6.4}
_WHAT = "a coadd of unWISE"
_NAME = re.compile(r"-w([12])-img(-[mu]\.fits(?:\.gz)?)", re.IGNORECASE)


def read_unwise(paths):
    """Read unWISE coadds, one file per band.

    Parameters
    ----------
    paths : path-like, sequence of path-like, or mapping of str to path-like
        ``unwise-0000p000-w1-img-m.fits`` and alike; ``-invvar-m.fits``, compressed or not, that lies beside it is read.

    Returns
    -------
    dict of str to CCDData
        "W1", "W2": nanomaggy **on the AB system**, celestial WCS, inverse variance, ``meta["FILTER"]`` "WISE W1" ...,
        ``meta["PSF_FWHM"]`` 6.1 and 6.4 arcsec, ``meta["SURVEY"]`` "unWISE".

    Raises
    ------
    FileNotFoundError
        If a file is absent.
    ValueError
        If a file is not FITS, is truncated, or says neither in its header nor its name which band it is.

    Notes
    -----
    The files are in Vega nanomaggies (zero point 22.5); fluxes are multiplied by 10^(-0.4 x 2.699) in W1 and
    10^(-0.4 x 3.339) in W2. Pixels are 2.75 arcsec. Not corrected for Galactic extinction. The bundled network has
    no use for these bands: `~fiberifu.image.prepare_image` leaves them out and says so.
    """
    return read_bands(paths, _WHAT, _ccd, VEGA_TO_AB)


def _ccd(path):
    header, data = _image(path)
    named = _NAME.search(path.name)
    number = str(header.get("BAND", named[1] if named else "")).strip().upper().removeprefix("W")
    band = f"W{number}"
    if band not in VEGA_TO_AB:
        raise ValueError(f"{path}: BAND is {number!r}; W1 and W2 can be read, 1 or 2 in the header or -w1- in the name")
    zero_point = float(header.get("MAGZP", NMGY_ZERO_POINT))
    if not 10 < zero_point < 40:
        raise ValueError(f"{path}: MAGZP is {zero_point}; 22.5 is that of unWISE")
    factor = 10 ** (-0.4 * (zero_point + VEGA_TO_AB[band] - NMGY_ZERO_POINT))
    ivar = None
    if named:
        name = path.name.replace("-img-", "-invvar-").removesuffix(".gz")
        beside = next((p for p in (path.with_name(name), path.with_name(f"{name}.gz")) if p.is_file()), None)
        ivar = None if beside is None else _image(beside)[1]
    meta = {"SURVEY": "unWISE", "BAND": band, "FILTER": f"WISE {band}", "PSF_FWHM": PSF_FWHM[band]}
    return band, nanomaggy_ccd(path, data, factor, sky_wcs(header, path), meta, ivar=ivar)


def _image(path):
    for header, data in load_hdus(path, _WHAT):
        if data is not None and data.dtype.names is None and data.ndim == 2:
            return header, data
    raise ValueError(f"{path}: no image with two axes")
