# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of the Dark Energy Survey: cutouts of the coadds, one file per band."""

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, InverseVariance

from fiberifu.surveys._checks import load_hdus, reading, sky_wcs

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
    # 22.5 is the AB zero point of a nanomaggy.
    factor = 10 ** (-0.4 * (float(header.get("MAGZERO", _ZERO_POINT)) - 22.5))
    meta = {"SURVEY": "DES", "BAND": band, "FILTER": f"DECam {band}"}
    if header.get("TILENAME"):
        meta["TILENAME"] = header["TILENAME"]
    if float(header.get("SATURATE", 0)) > 0:
        meta["SATURATE"] = float(header["SATURATE"]) * factor
    image = np.ascontiguousarray(data, dtype=np.float32) * np.float32(factor)
    bad = ~np.isfinite(image)
    uncertainty = None
    if weight is not None:
        ivar = np.ascontiguousarray(weight, dtype=np.float32) / np.float32(factor**2)
        bad |= ~(ivar > 0)
        uncertainty = InverseVariance(ivar, unit=u.nmgy**-2)
    if mask is not None:
        bad |= mask != 0
    wcs = sky_wcs(header, path)
    return band, CCDData(image, unit=u.nmgy, wcs=wcs, uncertainty=uncertainty, mask=bad, meta=meta)
