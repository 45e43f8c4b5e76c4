# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""MaNGA's summary table (drpall), and what the bits of its quality flags mean.

``drpall-*.fits -> columns with units -> name, position, z, r50, axis ratio, position angle, quality``
"""

import re
from enum import IntFlag

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from fiberifu.surveys._checks import column, read_table, reading

__all__ = ["DAPQuality", "DRPQuality", "first_value", "read_drpall"]

_WHAT = "a MaNGA drpall file"
_NONE = -999.0  # and below: the survey's stand-ins for values that are not there, -999 and -9999
# Units of columns: https://www.sdss4.org/dr17/manga/manga-data/data-model/ (drpall). NSA fluxes are nanomaggy.
_UNITS = {
    "objra|objdec|ifura|ifudec|cenra|cendec|ifuglon|ifuglat": u.deg,
    "exptime": u.s,
    "[griz]fwhm|nsa_elpetro_th(50|90)_r|nsa_elpetro_theta_r|nsa_petro_th(50|90)|nsa_sersic_th50": u.arcsec,
    "nsa_elpetro_phi|nsa_sersic_phi": u.deg,
    "ebvgal": u.mag,
    "airms.*": u.one,
    "see(min|med|max)": u.arcsec,
    "nsa_(elpetro|sersic|petro)_flux": u.nmgy,
    "nsa_(elpetro|sersic|petro)_flux_ivar": u.nmgy**-2,
}


class DRPQuality(IntFlag):
    """Bits of DRP3QUAL (MANGA_DRP3QUAL): the quality of a whole cube."""

    RETIRED = 1 << 0  #: retired from use
    BADDEPTH = 1 << 1  #: the target depth was not reached
    SKYSUBBAD = 1 << 2  #: bad sky subtraction in one or more frames
    HIGHSCAT = 1 << 3  #: high scattered light in one or more frames
    BADASTROM = 1 << 4  #: bad astrometry in one or more frames
    VARIABLELSF = 1 << 5  #: the LSF varies between the spectra that make the cube
    BADOMEGA = 1 << 6  #: omega beyond its threshold in one or more sets
    BADSET = 1 << 7  #: one or more sets are bad
    BADFLUX = 1 << 8  #: bad flux calibration
    BADPSF = 1 << 9  #: the estimate of the PSF may be bad
    MANYDEAD = 1 << 10  #: many dead fibres
    BADHELIORV = 1 << 11  #: MaStar: high variance between stellar velocities
    CRITICAL = 1 << 30  #: critical failure in one or more frames: do not use


class DAPQuality(IntFlag):
    """Bits of DAPQUAL (MANGA_DAPQUAL): the quality of the analysis of a whole galaxy."""

    FORESTAR = 1 << 0  #: a foreground star within the cube
    BADZ = 1 << 1  #: the redshift of the NASA-Sloan Atlas is not that of the spectra
    LINELESS = 1 << 2  #: no emission lines
    PPXFFAIL = 1 << 3  #: pPXF failed
    SINGLEBIN = 1 << 4  #: all spectra in one Voronoi bin
    BADGEOM = 1 << 5  #: elliptical coordinates and effective radius mean nothing
    DRPCRIT = 1 << 28  #: critical failure of the reduction
    DAPCRIT = 1 << 29  #: critical failure of the analysis
    CRITICAL = 1 << 30  #: critical failure of either: do not use


def read_drpall(path):
    """Read the summary table of MaNGA's reductions, one row per cube.

    Parameters
    ----------
    path : path-like
        ``drpall-v3_1_1.fits`` or of another release, or ``drpall-sim.fits`` of a simulated survey.

    Returns
    -------
    `~astropy.table.QTable`
        The file's columns in lower case, with units, but those named as one of these, which are added:

        * ``name`` : str, plate and IFU, "7815-3702";
        * ``position`` : `~astropy.coordinates.SkyCoord` of the galaxy (OBJRA, OBJDEC);
        * ``z`` : redshift of the NASA-Sloan Atlas or of an ancillary programme; NaN where there is none;
        * ``r50`` : half-light semi-major axis in r, arcsec (elliptical Petrosian, else Sersic); NaN where there is
          none;
        * ``axis_ratio`` : b / a, 0 to 1; NaN where there is none;
        * ``position_angle`` : of the major axis from North through East, degrees;
        * ``quality`` : int, bits of `DRPQuality`; ``critical`` : bool, those that must not be used;
        * ``galaxy`` : bool, targeted as a galaxy (MNGTARG1 or 3), true for simulations.

        ``meta["header"]`` is the table's header.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated, has no such table, or a column in a unit of something else.

    Examples
    --------
    >>> from fiberifu.surveys import DRPQuality, read_drpall
    >>> table = read_drpall("drpall-v3_1_1.fits")  # doctest: +SKIP
    >>> good = table[table["galaxy"] & ~table["critical"]]  # doctest: +SKIP
    >>> DRPQuality(1 << 30 | 2)
    <DRPQuality.BADDEPTH|CRITICAL: 1073741826>
    """
    header, data = read_table(path, _WHAT, needed=("objra", "objdec", "drp3qual"))
    with reading(path, _WHAT):
        if "plateifu" not in data and "simname" not in data:
            raise ValueError(f"{path}: no column plateifu; is it {_WHAT}?")
        for key, values in data.items():
            unit = next((unit for form, unit in _UNITS.items() if re.fullmatch(form, key)), None)
            data[key] = values if unit is None else column(path, header, key, values, unit)
        name = data["plateifu"] if "plateifu" in data else data["simname"]
        ra, dec = np.asarray(data["objra"], float), np.asarray(data["objdec"], float)
        if not (np.isfinite(ra) & (np.abs(dec) <= 90)).all():
            raise ValueError(f"{path}: rows without a position (objra, objdec); fetch it again")
        table = QTable(meta={"header": header})
        table["name"], table["position"] = np.asarray(name, str), SkyCoord(ra, dec, unit="deg")
        table["z"] = first_value(data, len(ra), "z", "nsa_z")
        table["r50"] = first_value(data, len(ra), "nsa_elpetro_th50_r", "nsa_sersic_th50", positive=True) * u.arcsec
        ratio = first_value(data, len(ra), "nsa_elpetro_ba", "nsa_sersic_ba", positive=True)
        table["axis_ratio"] = np.where(ratio <= 1, ratio, np.nan)
        table["position_angle"] = first_value(data, len(ra), "nsa_elpetro_phi", "nsa_sersic_phi") % 180 * u.deg
        table["quality"] = np.asarray(data["drp3qual"], np.int64)
        table["critical"] = (table["quality"] & DRPQuality.CRITICAL) != 0
        targets = [np.asarray(data[key]) != 0 for key in ("mngtarg1", "mngtarg3") if key in data]
        simulated = str(header.get("DATATYPE", "")).strip() == "SIMULATED"
        table["galaxy"] = np.ones(len(ra), bool) if simulated or not targets else np.logical_or.reduce(targets)
        for key in [key for key in data if key not in table.colnames]:
            table[key] = data[key]
    return table


def first_value(data, n, *keys, positive=False):
    """The first of the columns that has a value, row by row; NaN where none has."""
    out = np.full(n, np.nan)
    for key in keys:
        if key in data:
            value = np.asarray(data[key], float)
            good = np.isfinite(value) & (value > (0 if positive else _NONE))
            out = np.where(np.isnan(out) & good, value, out)
    return out
