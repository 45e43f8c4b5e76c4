# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What readers share beyond opening a file: tables, places on the sky, and errors that name the file whatever it is."""

import re
import warnings
from contextlib import contextmanager

import astropy.units as u
import numpy as np

from fiberifu.surveys._fits import celestial_wcs, read_hdus

__all__ = ["column", "first_image", "flux_factor", "load_hdus", "of_one_shape", "read_table", "reading", "sky_wcs"]


@contextmanager
def reading(path, what):
    """Turn what goes wrong inside, such as a card or a column that is absent, into a ValueError that names the file.

    Parameters
    ----------
    path : path-like
    what : str
        What the file should have been, "a MaNGA drpall file".
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: damaged, or not {what} ({reason}); fetch it again") from error


def load_hdus(path, what):
    """As `~fiberifu.surveys._fits.read_hdus`, with errors as by `reading`."""
    with reading(path, what):
        return read_hdus(path)


def read_table(path, what, columns=None, *, needed=(), rename=str.lower):
    """Header and columns of the first table of a FITS file that has the columns needed.

    Parameters
    ----------
    path : path-like
    what : str
        What the file should be, for errors.
    columns : set of str, optional
        Only those, as renamed.
    needed : sequence of str
        Columns that must be there, as renamed.
    rename : callable
        From the file's names to ours.

    Returns
    -------
    header : Header
    columns : dict of str to ndarray
        Native byte order, strings stripped.

    Raises
    ------
    FileNotFoundError, ValueError
        As by `read_hdus`, or without such a table.
    """
    tables = [(header, data) for header, data in load_hdus(path, what) if getattr(data, "names", None)]
    for header, data in tables:
        names = {rename(name): name for name in data.names}
        if all(name in names for name in needed):
            with reading(path, what):
                wanted = [name for name in names if columns is None or name in columns]
                return header, {name: _plain(data[names[name]]) for name in wanted}
    lacks = f"no table with the columns {', '.join(needed)}" if needed else "no table"
    raise ValueError(f"{path}: not {what}: {lacks} in it; was another file meant?")


def _plain(array):
    array = np.asarray(array)
    if array.dtype.kind in "SU":
        return np.char.strip(array.astype(str))
    return array.astype(array.dtype.newbyteorder("="))


def column(path, header, name, values, unit):
    """A column as a Quantity: in ``unit``, or converted to it if the table's header gives another (TUNIT).

    Spellings that astropy does not know are taken for the survey's own of ``unit``; a unit of something else is a
    ValueError that names the file.
    """
    keys = [key for key in header if key.startswith("TTYPE") and str(header[key]).strip().lower() == name]
    text = str(header.get(f"TUNIT{keys[0][5:]}", "") if keys else "").strip()
    told = unit if not text else _unit(text, parse_strict="silent")
    if isinstance(told, u.UnrecognizedUnit):
        told = unit
    if not told.is_equivalent(unit):
        raise ValueError(f"{path}: column {name} is in {text!r}, not in {unit.to_string()} or alike; fetch it again")
    return u.Quantity(values, told).to(unit)


def flux_factor(path, text, unit):
    """Factor from a BUNIT, whose "per spaxel" (or pixel) is understood, to a unit; 1 if the file has none.

    ValueError, naming the file, if it is a unit of something else.
    """
    if text is None:
        return 1.0
    plain = re.sub(r"\s*/\s*(spaxel|pixel)\b", "", re.sub(r"10\*\*\(?([-+]?\d+)\)?", r"1e\1", str(text)), flags=re.I)
    plain = re.sub(r"\bang(strom)?\b", "Angstrom", plain, flags=re.I)
    try:
        return float(_unit(plain).to(unit))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: BUNIT is {text!r}, not a unit like {unit.to_string()}; fetch it again") from error


def _unit(text, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # more than one slash: all survey files have them
        return u.Unit(text, **keywords)


def sky_wcs(header, path):
    """Celestial WCS of a header; ValueError, naming the file, if it has none that can be used."""
    with reading(path, "an image with a celestial WCS"):
        wcs = celestial_wcs(header, path)
        numbers = [*wcs.wcs.crval, *wcs.wcs.crpix, *wcs.pixel_scale_matrix.ravel()]
        if not (np.isfinite(numbers).all() and np.linalg.det(wcs.pixel_scale_matrix) != 0):
            raise ValueError(f"{path}: the celestial WCS in its header maps pixels to no area on the sky")
    return wcs


def first_image(path, hdus):
    """First HDU of an open file with two axes, compressed or not; ValueError, naming the file, if it has none."""
    for hdu in hdus:
        if hdu.is_image and len(hdu.shape) == 2:
            return hdu
    raise ValueError(f"{path}: no image with two axes")


def of_one_shape(path, shape, **arrays):
    """ValueError, naming the file, unless the arrays that are there have a shape."""
    for name, array in arrays.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{path}: {name} has the shape {array.shape}, the image {shape}; fetch it again")
