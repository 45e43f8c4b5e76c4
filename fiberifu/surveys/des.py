# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of the Dark Energy Survey: cutouts of the coadds, one file per band."""

from collections.abc import Mapping

from fiberifu.surveys._checks import load_hdus, of_one_shape, reading, sky_wcs
from fiberifu.surveys._images import NMGY_ZERO_POINT, nanomaggy_ccd

__all__ = ["read_des"]

# AB zero point of the coadds: Abbott et al. 2018 (ApJS 239, 18), also MAGZERO in their headers.
_ZERO_POINT = 30.0
# The ways in which extensions are called: cutouts (SCI, WGT, MSK) and DESDM tiles.
_WEIGHT_NAMES = ("WGT", "WEIGHT")
_MASK_NAMES = ("MSK", "MASK")


def read_des(paths):
    """Read coadd cutouts of the Dark Energy Survey.

    Parameters
    ----------
    paths : mapping of str to path-like, or sequence of path-like
        One file per band; a sequence takes the bands from the headers (``BAND``).

    Returns
    -------
    dict of str to CCDData
        Nanomaggy, celestial WCS, `InverseVariance` from the weight image, mask,
        ``meta["FILTER"]`` "DECam g" ..., ``meta["SURVEY"]`` "DES", ``meta["SATURATE"]`` in
        nanomaggy. The files hold no PSF.

    Raises
    ------
    FileNotFoundError
        If a file is absent.
    ValueError
        If a file is not FITS, is truncated, has no image, or is of another band than named.
    """
    if isinstance(paths, (str, bytes)) or not hasattr(paths, "__iter__"):
        paths = [paths]
    items = paths.items() if isinstance(paths, Mapping) else ((None, path) for path in paths)
    out = {}
    for name, path in items:
        with reading(path, "a coadd of the Dark Energy Survey"):
            band, ccd = _read(path, name)
        if band in out:
            raise ValueError(f"{path}: second file of band {band!r}")
        out[band] = ccd
    if not out:
        raise ValueError("paths is empty; give one file per band, for example {'g': 'DES_g.fits'}")
    return out


def _read(path, name):
    hdus = [
        (header, data)
        for header, data in load_hdus(path, "a coadd of the Dark Energy Survey")
        if data is not None and data.ndim == 2
    ]
    if not hdus:
        raise ValueError(f"{path}: no image")
    weight = mask = None
    header, data = hdus[0]
    for extra, array in hdus[1:]:
        label = str(extra.get("EXTNAME", "")).strip().upper()
        weight = array if label in _WEIGHT_NAMES else weight
        mask = array if label in _MASK_NAMES else mask
    band = str(header.get("BAND", name or "")).strip()
    if name is not None and band != name:
        raise ValueError(f"{path}: given as band {name!r} but its header says {band!r}")
    if not band:
        raise ValueError(f"{path}: no BAND in its header; pass a mapping such as {{'g': path}}")
    zero_point = float(header.get("MAGZERO", _ZERO_POINT))
    if not 10 < zero_point < 40:
        raise ValueError(f"{path}: MAGZERO is {zero_point}; 30 is that of the survey's coadds")
    factor = 10 ** (-0.4 * (zero_point - NMGY_ZERO_POINT))
    meta = {"SURVEY": "DES", "BAND": band, "FILTER": f"DECam {band}"}
    if header.get("TILENAME"):
        meta["TILENAME"] = header["TILENAME"]
    if float(header.get("SATURATE", 0)) > 0:
        meta["SATURATE"] = float(header["SATURATE"]) * factor
    of_one_shape(path, data.shape, mask=mask)
    bad = None if mask is None else mask != 0
    return band, nanomaggy_ccd(path, data, factor, sky_wcs(header, path), meta, ivar=weight, bad=bad)
