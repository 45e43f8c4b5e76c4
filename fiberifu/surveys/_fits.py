# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Opening FITS files with errors that name the file."""

import os
import warnings
import zlib
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, FITSFixedWarning

from fiberifu.provenance import is_predicted

__all__ = ["celestial_wcs", "read_hdus"]


def read_hdus(path):
    """Read a FITS file wholly.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of (Header, ndarray or None)
        One per HDU, in memory; the file is closed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated, or is a prediction of this package.
    """
    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # astropy only warns of a truncated file, and fails later or not at all.
            warnings.filterwarnings("error", message=".*truncated", category=AstropyWarning)
            warnings.filterwarnings("error", message=".*Error validating header", category=AstropyWarning)
            # Opened here, so that it is closed when astropy gives up half-way.
            with open(path, "rb") as file, fits.open(file, memmap=False) as hdus:
                out = [(hdu.header.copy(), None if hdu.data is None else hdu.data.copy()) for hdu in hdus]
    except (OSError, ValueError, TypeError, EOFError, zlib.error, AstropyWarning) as error:
        state = "truncated or damaged FITS" if _looks_like_fits(path) else "not a FITS file"
        raise ValueError(f"{path}: {state} ({error}); fetch it again") from error
    if any(is_predicted(header) for header, _ in out):
        raise ValueError(f"{path}: DATATYPE='PREDICTED', made by fiberifu; give an observed or simulated image")
    return out


def celestial_wcs(header, path):
    """Celestial WCS of a header; ValueError, naming the file, if it has none."""
    with warnings.catch_warnings():
        # wcslib announces that it completes the CD matrix of a cube of bands: harmless.
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header).celestial
    if wcs.naxis != 2:
        raise ValueError(f"{path}: no celestial WCS in its header")
    return wcs


def _looks_like_fits(path):
    with open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(b"SIMPLE") or start.startswith(b"\x1f\x8b")
