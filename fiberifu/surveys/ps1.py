# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Stacks of Pan-STARRS1: skycells as archived, on an asinh scale, and linear cutouts of the archive.

``rings.v3.skycell.*.stk.BAND.unconv.fits (+ .wt, .mask beside it) -> linear counts -> nanomaggy -> CCDData``

Waters et al. 2020 (ApJS 251, 4), section 7; https://outerspace.stsci.edu/display/PANSTARRS ("PS1 Stack images",
"Pixel flags").
"""

import numpy as np

from fiberifu.flags import Flag
from fiberifu.surveys._checks import load_hdus, of_one_shape, sky_wcs
from fiberifu.surveys._images import NMGY_ZERO_POINT, nanomaggy_ccd, read_bands

__all__ = ["read_ps1"]

BANDS = "grizy"
_WHAT = "a stack of Pan-STARRS1"
ZERO_POINT = 25.0  # AB magnitude of one count per second
_POGSON = 2.5 * np.log10(np.e)
_SATURATED = 0x0020
# Pixels of no use: DETECTOR, FLAT, DARK, BLANK, CTE, LOW, CR, GHOST, CONV.BAD. Not among them: SUSPECT, SPIKE, STREAK,
# STARCORE, CONV.POOR, and SAT, which has a flag of its own.
_BAD = 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0040 | 0x0100 | 0x0400 | 0x2000


def read_ps1(paths):
    """Read Pan-STARRS1 stacks, one file per band.

    Parameters
    ----------
    paths : path-like, sequence of path-like, or mapping of str to path-like
        ``rings.v3.skycell.PPPP.CCC.stk.BAND.unconv.fits``, or cutouts. Weights ``.unconv.wt.fits`` and masks
        ``.unconv.mask.fits`` that lie beside them are read, too.

    Returns
    -------
    dict of str to CCDData
        Nanomaggy, celestial WCS, inverse variance, mask; saturated pixels in ``flags``; ``meta["FILTER"]`` "PS1 g" ...,
        ``meta["SURVEY"]`` "PS1". The files hold no PSF.

    Raises
    ------
    FileNotFoundError
        If a file is absent.
    ValueError
        If a file is not FITS, is truncated, or has no filter or exposure time in its header.

    Notes
    -----
    Whole skycells are archived as ``x = 2.5 log10(e) asinh((f - BOFFSET) / (2 BSOFTEN))``, and f is counts at a zero
    point of 25 + 2.5 log10(EXPTIME); files without BSOFTEN, such as the archive's cutouts, are linear. The final
    photometric calibration moved zero points of some stacks by about 0.01 mag. Not corrected for Galactic
    extinction. Pixels are 0.25 arcsec and their noise is correlated; the weights do not know that.
    """
    return read_bands(paths, _WHAT, _ccd, BANDS)


def _plane(path, kind):
    """Header and array of the image, or of a companion; None if it does not lie there."""
    if kind != "image":
        if not path.name.endswith((".unconv.fits", ".unconv.fits.fz", ".unconv.fits.gz")):
            return None
        path = path.with_name(path.name.replace(".unconv.fits", f".unconv.{kind}.fits"))
        if not path.is_file():
            return None
    for header, data in load_hdus(path, _WHAT):
        if data is not None and data.dtype.names is None and data.ndim == 2:
            return header, data
    raise ValueError(f"{path}: no image with two axes")


def _ccd(path):
    (header, data), wt, mask = (_plane(path, kind) for kind in ("image", "wt", "mask"))
    band = str(header.get("FPA.FILTERID", header.get("FPA.FILTER", header.get("FILTER", "")))).split(".")[0].strip()
    if band not in BANDS or not band:
        raise ValueError(f"{path}: no FPA.FILTERID of {', '.join(BANDS)} in its header; is it a stack of Pan-STARRS1?")
    time = float(header.get("EXPTIME", np.nan))
    zero_point = float(header.get("FPA.ZP", ZERO_POINT))
    if not (np.isfinite(time) and time > 0 and 10 < zero_point < 40):
        raise ValueError(f"{path}: EXPTIME is {time}, FPA.ZP {zero_point}; the zero point is made of them")
    factor = 10 ** (-0.4 * (zero_point + 2.5 * np.log10(time) - NMGY_ZERO_POINT))
    ivar = bad = flags = None
    if wt is not None:  # of stacks these are variances
        variance = _linear(*wt)
        with np.errstate(divide="ignore", invalid="ignore"):
            ivar = np.where(np.isfinite(variance) & (variance > 0), 1 / variance, 0)
    if mask is not None:
        of_one_shape(path, data.shape, mask=mask[1])
        bits = np.nan_to_num(mask[1]).astype(np.int64)
        bad = (bits & _BAD) != 0
        flags = np.where((bits & _SATURATED) != 0, int(Flag.SATURATED), 0)
    meta = {"SURVEY": "PS1", "BAND": band, "FILTER": f"PS1 {band}", "EXPTIME": time}
    return band, nanomaggy_ccd(
        path, _linear(header, data), factor, sky_wcs(header, path), meta, ivar=ivar, bad=bad, flags=flags
    )


def _linear(header, data):
    """Undo the asinh scale of archived skycells."""
    data = np.asarray(data, np.float64)
    if "BSOFTEN" not in header:
        return data
    soften, offset = float(header["BSOFTEN"]), float(header.get("BOFFSET", 0))
    with np.errstate(over="ignore"):
        return offset + 2 * soften * np.sinh(data / _POGSON)
