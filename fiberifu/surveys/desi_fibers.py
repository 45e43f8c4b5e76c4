# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The table of DESI's fibres: fibermap, exposures and redshifts become one row per spectrum, with flags."""

import astropy.units as u
import numpy as np
from astropy.table import QTable

from fiberifu.surveys.fibers import FiberFlag, set_flag, sky_coord

__all__ = ["fiber_table"]

# Bits of FIBERSTATUS: desispec.maskbits.fibermask.  A fibre is lost by BROKENFIBER, MISSINGPOSITION, BADPOSITION,
# BADFIBER, BADTRACE, BADFLAT, BADARC, MANYBADCOL, MANYREJECTED (desispec.fiberbitmasking); BADAMP* only cost an arm,
# and a positioner that is stuck or restricted (1, 3) may still be on its target.
UNASSIGNED, POOR_POSITION = 1 << 0, 1 << 10
LOST = sum(1 << bit for bit in (2, 8, 9, 16, 17, 18, 19, 20, 21))
NO_WARNING = 0
BANDS = ("g", "r", "z", "w1", "w2")
NUMBERS = {  # column -> (names in the fibermap, the first that there is; unit)
    "ebv": (("EBV",), u.mag),
    "shape_r": (("SHAPE_R",), u.arcsec),
    "shape_e1": (("SHAPE_E1",), None),
    "shape_e2": (("SHAPE_E2",), None),
    "sersic": (("SERSIC",), None),
    "exptime": (("COADD_EXPTIME", "EXPTIME"), u.s),
}
INTEGERS = {
    "fiberstatus": (("COADD_FIBERSTATUS", "FIBERSTATUS"), 0),
    "n_exposures": (("COADD_NUMEXP",), 1),
    "expid": (("EXPID",), -1),
    "tileid": (("TILEID",), -1),
    "healpix": (("HEALPIX",), -1),
}
TEXTS = {"morphtype": "MORPHTYPE", "photsys": "PHOTSYS", "objtype": "OBJTYPE"}


def fiber_table(fibermap, exposures, redshifts, headers):
    """One row per spectrum, as the Notes of `~fiberifu.surveys.read_desi` say.

    Parameters
    ----------
    fibermap : dict of ndarray
        FIBERMAP, of the rows that are wanted (n,).
    exposures : dict of ndarray, or None
        EXP_FIBERMAP.
    redshifts : dict of ndarray, or None
        Of redrock.
    headers : sequence of `~astropy.io.fits.Header`

    Returns
    -------
    `~astropy.table.QTable`
        Without the column ``status``; flags that need the spectra are not set.
    """
    n = len(fibermap["TARGETID"])
    table, flags = QTable(), np.zeros(n, np.int64)
    table["targetid"] = fibermap["TARGETID"].astype(np.int64)
    _add_redshifts(table, redshifts, flags)
    is_coadd = "FIBERSTATUS" not in fibermap
    _add_positions(table, fibermap, exposures, flags)
    for name, (sources, fallback) in INTEGERS.items():
        table[name] = _first(fibermap, sources, n, fallback).astype(np.int64)
    for name, (sources, unit) in NUMBERS.items():
        values = _first(fibermap, sources, n, np.nan).astype(float)
        table[name] = values if unit is None else values * unit
    for name, source in TEXTS.items():
        table[name] = _text(fibermap, source, n)
    _add_photometry(table, fibermap)
    for name, card in (("survey", "SURVEY"), ("program", "PROGRAM")):
        table[name] = np.full(n, next((str(h[card]).strip() for h in headers if card in h), ""))
    pixel = next((h["HPXPIXEL"] for h in headers if isinstance(h.get("HPXPIXEL"), int)), None)
    if pixel is not None and (table["healpix"] == -1).all():
        table["healpix"] = np.full(n, pixel)
    _set_flags(table, flags, is_coadd)
    table["flags"] = flags
    return table


# ---------------------------------------------------------------- columns
def _first(fibermap, names, n, fallback):
    """The first column of these that there is, if it has one number per row."""
    for name in names:
        values = fibermap.get(name)
        if values is not None and values.shape == (n,) and values.dtype.kind in "iufb":
            return values
    return np.full(n, fallback)


def _text(fibermap, name, n):
    values = fibermap.get(name)
    is_text = values is not None and values.shape == (n,) and values.dtype.kind == "U"
    return np.char.strip(values) if is_text else np.full(n, "")


def _add_photometry(table, fibermap):
    """Fluxes in nanomaggies; NaN where the band was not measured, which its inverse variance tells."""
    n = len(table)
    for band in BANDS:
        end = band.upper()
        ivar = _first(fibermap, (f"FLUX_IVAR_{end}",), n, np.nan).astype(float)
        measured = (ivar > 0) | np.full(n, f"FLUX_IVAR_{end}" not in fibermap)
        table[f"flux_ivar_{band}"] = ivar * u.nmgy**-2
        for kind in ("FLUX", "FIBERFLUX", "FIBERTOTFLUX"):
            name = f"{kind}_{end}"
            if kind == "FLUX" or name in fibermap:
                flux = _first(fibermap, (name,), n, np.nan).astype(float)
                table[name.lower()] = np.where(measured, flux, np.nan) * u.nmgy


def _add_redshifts(table, redshifts, flags):
    n = len(table)
    names = {"z": float, "zerr": float, "deltachi2": float, "zwarn": np.int64}
    for name in names:
        table[name] = np.full(n, -1) if name == "zwarn" else np.full(n, np.nan)
    table["spectype"] = table["subtype"] = np.full(n, "")
    if redshifts is None:
        set_flag(flags, FiberFlag.REDSHIFT_MISSING, np.ones(n, bool))
        return
    known = redshifts["TARGETID"]
    m = len(known)
    # the first of equals after this order: without a warning, and the surest
    warns = _first(redshifts, ("ZWARN",), m, -1) != NO_WARNING
    order = np.lexsort((-np.nan_to_num(_first(redshifts, ("DELTACHI2",), m, 0.0).astype(float)), warns, known))
    first = np.searchsorted(known[order], table["targetid"])
    found = first < m
    found[found] = known[order][first[found]] == table["targetid"][found]
    row = order[first[found]]
    for name, dtype in names.items():
        values = _first(redshifts, (name.upper(),), m, -1 if dtype is np.int64 else np.nan)
        table[name][found] = values[row].astype(dtype)
    for name in ("spectype", "subtype"):
        values = np.full(n, "", dtype="U20")
        values[found] = _text(redshifts, name.upper(), m)[row]
        table[name] = values
    set_flag(flags, FiberFlag.REDSHIFT_MISSING, ~np.isfinite(table["z"]))
    set_flag(flags, FiberFlag.REDSHIFT_WARNING, found & (table["zwarn"] != NO_WARNING))
    set_flag(flags, FiberFlag.NOT_GALAXY, found & (table["spectype"] != "GALAXY"))


def _add_positions(table, fibermap, exposures, flags):
    """Where the fibre was, its scatter and its factor: of the exposures, else of the fibermap, else the target's."""
    n = len(table)
    get = {name: _first(fibermap, names, n, np.nan).astype(float) for name, names in (
        ("ra", ("MEAN_FIBER_RA", "FIBER_RA")), ("dec", ("MEAN_FIBER_DEC", "FIBER_DEC")),
        ("std_ra", ("STD_FIBER_RA",)), ("std_dec", ("STD_FIBER_DEC",)), ("target_ra", ("TARGET_RA",)),
        ("target_dec", ("TARGET_DEC",)), ("factor", ("MEAN_PSF_TO_FIBER_SPECFLUX", "PSF_TO_FIBER_SPECFLUX")),
    )}  # fmt: skip
    scatter = np.hypot(get["std_ra"], get["std_dec"])
    if exposures is not None:
        means = _exposure_means(table["targetid"], exposures)
        if means is not None:
            ra, dec, spread, factor, excluded = means
            has = np.isfinite(ra)
            get["ra"], get["dec"] = np.where(has, ra, get["ra"]), np.where(has, dec, get["dec"])
            scatter = np.where(has, spread, scatter)
            get["factor"] = np.where(has & np.isfinite(factor), factor, get["factor"])
            set_flag(flags, FiberFlag.EXPOSURES_EXCLUDED, has & excluded)
    target, _ = sky_coord(get["target_ra"], get["target_dec"])
    _, known = sky_coord(get["ra"], get["dec"])
    ra, dec = (np.where(known, get[name], get[f"target_{name}"]) for name in ("ra", "dec"))
    table["position"], good = sky_coord(ra, dec)
    table["target"] = target
    table["position_scatter"] = np.where(known, scatter, np.nan) * u.arcsec
    with np.errstate(invalid="ignore"):
        defined = np.isfinite(get["factor"]) & (get["factor"] > 0)
    table["psf_to_fiber_specflux"] = np.where(defined, get["factor"], np.nan)
    set_flag(flags, FiberFlag.APERTURE_UNDEFINED, ~defined)
    set_flag(flags, FiberFlag.POSITION_TARGET, ~known & good)
    set_flag(flags, FiberFlag.POSITION_MISSING, ~good)


def _exposure_means(targetid, exposures):
    """Mean position (deg), scatter (arcsec), mean factor of the exposures in each coadd; whether it is without others.

    All (n,), NaN where no exposure is good; None if the table lacks a column.
    """
    m = len(exposures.get("TARGETID", ()))
    names = ("FIBER_RA", "FIBER_DEC", "FIBERSTATUS")
    if not m or any(exposures.get(name) is None or exposures[name].shape != (m,) for name in names):
        return None
    if any(exposures[name].dtype.kind not in "iuf" for name in names) or exposures["TARGETID"].dtype.kind != "i":
        return None
    _, good = sky_coord(exposures["FIBER_RA"], exposures["FIBER_DEC"])
    good &= (exposures["FIBERSTATUS"].astype(np.int64) & LOST) == 0
    coadded = [exposures[f"IN_COADD_{arm}"] for arm in "BRZ" if f"IN_COADD_{arm}" in exposures]
    if coadded:
        good &= np.any([np.asarray(x, bool) for x in coadded], axis=0)
    ids, row = np.unique(exposures["TARGETID"], return_inverse=True)
    use = np.flatnonzero(good)
    count = np.bincount(row[use], minlength=len(ids))
    dec0, ra0 = np.zeros(len(ids)), np.zeros(len(ids))
    ra0[row[use]], dec0[row[use]] = exposures["FIBER_RA"][use], exposures["FIBER_DEC"][use]

    def mean(values, number=count):
        total = np.bincount(row[use], weights=values, minlength=len(ids))
        return np.divide(total, number, out=np.full(len(ids), np.nan), where=number > 0)

    # offsets from one of them: no trouble at 360 degrees, nor with digits
    east = (exposures["FIBER_RA"][use] - ra0[row[use]] + 180) % 360 - 180
    north = exposures["FIBER_DEC"][use] - dec0[row[use]]
    ra, dec = (ra0 + mean(east)) % 360, dec0 + mean(north)
    spread = np.sqrt(mean((east - mean(east)[row[use]]) ** 2) * np.cos(np.radians(dec)) ** 2
                     + mean((north - mean(north)[row[use]]) ** 2))  # fmt: skip
    factor = np.full(len(ids), np.nan)
    values = exposures.get("PSF_TO_FIBER_SPECFLUX")
    if values is not None and values.shape == (m,) and values.dtype.kind == "f":
        known = np.isfinite(values[use]) & (values[use] > 0)
        factor = mean(np.where(known, values[use], 0), np.bincount(row[use], weights=known, minlength=len(ids)))
    place = np.clip(np.searchsorted(ids, targetid), 0, len(ids) - 1)
    found = ids[place] == targetid
    excluded = np.bincount(row, minlength=len(ids)) > count
    out = [np.where(found, x[place], np.nan) for x in (ra, dec, 3600 * spread, factor)]
    return *out, found & excluded[place]


def _set_flags(table, flags, is_coadd):
    status = table["fiberstatus"]
    kind, negative = np.asarray(table["objtype"], str), np.asarray(table["targetid"]) < 0
    sky = kind == "SKY"
    set_flag(flags, FiberFlag.SKY, sky)
    set_flag(flags, FiberFlag.NO_TARGET, ~sky & (((status & UNASSIGNED) != 0) | negative | (kind != "TGT")))
    set_flag(flags, FiberFlag.FIBER_FAILED, (status & LOST) != 0)
    set_flag(flags, FiberFlag.POOR_POSITION, (status & POOR_POSITION) != 0)
    blank = (np.asarray(table["morphtype"], str) == "") | ~np.isfinite(table["flux_r"].value)
    set_flag(flags, FiberFlag.NO_PHOTOMETRY, blank)
    if is_coadd:  # single exposures repeat their target's number
        _, inverse, counts = np.unique(np.asarray(table["targetid"]), return_inverse=True, return_counts=True)
        set_flag(flags, FiberFlag.DUPLICATE, counts[inverse] > 1)
