# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tractor catalogues, with units, sky positions and the shapes of galaxies as ellipses.

``tractor-BRICK.fits -> columns with units -> position, r50, axis ratio, position angle``
"""

import re

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from fiberifu.surveys._checks import column, read_table, reading

__all__ = ["add_ellipse", "read_tractor"]

_WHAT = "a Tractor catalogue"
_BAND = r"(?:[ugrizyY]|w[1-4])"
# Units of columns, https://www.legacysurvey.org/dr9/catalogs; the files themselves have few.
_UNITS = {
    rf"(?:flux|fiberflux|fibertotflux|apflux|apflux_resid|apflux_blobresid|lc_flux)_{_BAND}": u.nmgy,
    rf"(?:flux_ivar|apflux_ivar|lc_flux_ivar|psfdepth|galdepth)_{_BAND}": u.nmgy**-2,
    rf"psfsize_{_BAND}|shape_r": u.arcsec,
    rf"(?:blob_)?nea_{_BAND}": u.arcsec**2,
    "shape_r_ivar": u.arcsec**-2,
    "ra|dec": u.deg,
    "ra_ivar|dec_ivar": u.deg**-2,
    "bx|by|wise_x|wise_y": u.pix,
    "parallax": u.mas,
    "parallax_ivar": u.mas**-2,
    "pmra|pmdec": u.mas / u.yr,
    "pmra_ivar|pmdec_ivar": u.yr**2 / u.mas**2,
    rf"mjd_min|mjd_max|lc_mjd_{_BAND}": u.day,
    "ref_epoch": u.yr,
    "ebv|gaia_phot_(?:g|bp|rp)_mean_mag": u.mag,
}


def read_tractor(path, *, columns=None):
    """Read a catalogue of the Legacy Surveys, ``tractor-BRICK.fits`` or a sweep file.

    Parameters
    ----------
    path : path-like
    columns : sequence of str, optional
        Only those, for large files, with what the added columns are made of.

    Returns
    -------
    `~astropy.table.QTable`
        The file's columns in lower case, with units: fluxes in nanomaggy (AB zero point 22.5; WISE too), not corrected
        for Galactic extinction (``ebv`` on the SFD scale; divide by ``mw_transmission_*``). Added are

        * ``position`` : `~astropy.coordinates.SkyCoord`;
        * ``r50`` : half-light semi-major axis, arcsec, 0 of point sources; NaN where ``shape_r`` is none;
        * ``axis_ratio`` : b / a of the model, 1 of round ones and point sources;
        * ``position_angle`` : of the major axis from North through East, 0 to 180 degrees, 0 of round ones.

        ``meta["header"]`` is the table's header.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated, lacks columns, has one in a unit of something else, or is a prediction.

    Notes
    -----
    Ellipses by the Tractor's definition: ``|e| = (1 - b/a) / (1 + b/a)`` and a position angle of half the angle of
    (``shape_e1``, ``shape_e2``), https://www.legacysurvey.org/dr9/catalogs, "Ellipticities".
    """
    if columns is not None:
        columns = {*map(str.lower, columns), "ra", "dec", "shape_r", "shape_e1", "shape_e2"}
    header, data = read_table(path, _WHAT, columns, needed=("ra", "dec", "shape_r", "shape_e1", "shape_e2"))
    with reading(path, _WHAT):
        table = QTable(data, meta={"header": header})
        for name in table.colnames:
            unit = next((unit for form, unit in _UNITS.items() if re.fullmatch(form, name)), None)
            if unit is not None:
                table[name] = column(path, header, name, np.asarray(table[name]), unit)
        bad = ~(np.abs(table["dec"]) <= 90 * u.deg) | ~np.isfinite(table["ra"])
        if bad.any():
            raise ValueError(f"{path}: {bad.sum()} rows have no position on the sky (ra, dec); fetch it again")
        table["position"] = SkyCoord(table["ra"], table["dec"])
        add_ellipse(table)
    return table


def add_ellipse(table):
    """Add ``r50``, ``axis_ratio`` and ``position_angle`` to a table that has the Tractor's shapes."""
    e1, e2 = (np.asarray(table[name], float) for name in ("shape_e1", "shape_e2"))
    ellipticity = np.clip(np.hypot(e1, e2), 0, 1)
    r50 = u.Quantity(table["shape_r"], u.arcsec).astype(float)
    table["r50"] = np.where(np.isfinite(r50) & (r50 >= 0), r50, np.nan)
    table["axis_ratio"] = (1 - ellipticity) / (1 + ellipticity)
    table["position_angle"] = np.degrees(np.arctan2(e2, e1) / 2) % 180 * u.deg
