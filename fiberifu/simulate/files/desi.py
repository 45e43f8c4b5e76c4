# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Simulated fibre spectra in DESI's formats: coadds by HEALPix pixel, redrock's redshifts, the redshift catalogue.

https://desidatamodel.readthedocs.io/en/latest/DESI_SPECTRO_REDUX/SPECPROD; columns as of DR1 and later.
"""

import dataclasses
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..identifiers import RELEASE, brick_name, is_simulated_targetid, simulated_targetid
from ..milky_way import BAND_EXTINCTION
from ..products import FiberSpectra
from .common import healpix_nested, provenance, sersic_index, table_hdu, write_hdus
from .from_api import fiber_spectra

__all__ = ["concatenate", "identified", "pixel_folder", "pixels_of", "select", "with_truth", "write_coadd",
           "write_redrock", "write_truth", "write_zcatalog", "zcatalog_rows"]  # fmt: skip

#: Names that DESI has not given: of survey and production. They put ``sim`` into the names of the files.
SURVEY, PROGRAM, SPECPROD = "sim", "bright", "sim"
FLUX_UNIT, IVAR_UNIT = "10**-17 erg/(s cm2 Angstrom)", "10**+34 (s2 cm4 Angstrom2) / erg2"

# Bits of desitarget: BGS_ANY and SKY of DESI_TARGET, BGS_FAINT and BGS_BRIGHT of BGS_TARGET (r > and < 19.5).
BGS_ANY, SKY, BGS_FAINT, BGS_BRIGHT = 1 << 60, 1 << 32, 1 << 0, 1 << 1

FIBERMAP = (
    "TARGETID:K COADD_FIBERSTATUS:J TARGET_RA:D TARGET_DEC:D DESINAME:22A PMRA:E PMDEC:E REF_EPOCH:E FA_TARGET:K "
    "FA_TYPE:B OBJTYPE:3A SUBPRIORITY:D OBSCONDITIONS:J RELEASE:I BRICKNAME:8A BRICKID:J BRICK_OBJID:J MORPHTYPE:4A "
    "EBV:E FLUX_G:E FLUX_R:E FLUX_Z:E FLUX_W1:E FLUX_W2:E FLUX_IVAR_G:E FLUX_IVAR_R:E FLUX_IVAR_Z:E FLUX_IVAR_W1:E "
    "FLUX_IVAR_W2:E FIBERFLUX_G:E FIBERFLUX_R:E FIBERFLUX_Z:E FIBERTOTFLUX_G:E FIBERTOTFLUX_R:E FIBERTOTFLUX_Z:E "
    "MASKBITS:I SERSIC:E SHAPE_R:E SHAPE_E1:E SHAPE_E2:E REF_ID:K REF_CAT:2A GAIA_PHOT_G_MEAN_MAG:E "
    "GAIA_PHOT_BP_MEAN_MAG:E GAIA_PHOT_RP_MEAN_MAG:E PARALLAX:E PHOTSYS:1A PRIORITY_INIT:K NUMOBS_INIT:K "
    "DESI_TARGET:K BGS_TARGET:K MWS_TARGET:K SCND_TARGET:K PLATE_RA:D PLATE_DEC:D COADD_NUMEXP:I COADD_EXPTIME:E "
    "COADD_NUMNIGHT:I COADD_NUMTILE:I MEAN_DELTA_X:E RMS_DELTA_X:E MEAN_DELTA_Y:E RMS_DELTA_Y:E "
    "MEAN_PSF_TO_FIBER_SPECFLUX:E MEAN_FIBER_RA:D STD_FIBER_RA:E MEAN_FIBER_DEC:D STD_FIBER_DEC:E MIN_MJD:D MAX_MJD:D "
    "MEAN_MJD:D"
)
EXP_FIBERMAP = (
    "TARGETID:K PRIORITY:J SUBPRIORITY:D NIGHT:J EXPID:J MJD:D TILEID:J EXPTIME:D PETAL_LOC:I DEVICE_LOC:J LOCATION:K "
    "FIBER:J FIBERSTATUS:J FIBERASSIGN_X:E FIBERASSIGN_Y:E LAMBDA_REF:E PLATE_RA:D PLATE_DEC:D NUM_ITER:K FIBER_X:D "
    "FIBER_Y:D DELTA_X:D DELTA_Y:D FIBER_RA:D FIBER_DEC:D PSF_TO_FIBER_SPECFLUX:D "
    "IN_COADD_B:L IN_COADD_R:L IN_COADD_Z:L"
)
REDSHIFTS = (
    "TARGETID:K Z:D ZERR:D ZWARN:K CHI2:D COEFF:10D FITMETHOD:4A NPIXELS:K SPECTYPE:6A SUBTYPE:20A NCOEFF:K DELTACHI2:D"
)
TSNR2 = "TSNR2_BGS:E TSNR2_LRG:E"
# Effective exposure times are 0.14 TSNR2_BGS in bright, 12.15 TSNR2_LRG in dark time (Guy+2023, AJ 165, 144, sec. 4.14)
BGS_TIME, LRG_TIME = 0.14, 12.15
# desitarget's targetmask.yaml, main survey: first priorities of BGS_BRIGHT and BGS_FAINT; sky fibres have -1
PRIORITY_BRIGHT, PRIORITY_FAINT, PRIORITY_SKY = 102100, 102000, -1


# ---------------------------------------------------------------- lists of spectra
def select(spectra, rows):
    """Some rows of a `~fiberifu.simulate.products.FiberSpectra`."""

    def pick(part):
        return {key: np.asarray(value)[rows] for key, value in part.items()}

    return dataclasses.replace(
        spectra,
        flux=pick(spectra.flux),
        ivar=pick(spectra.ivar),
        mask=pick(spectra.mask),
        resolution=pick(spectra.resolution),
        table=pick(spectra.table),
    )


def concatenate(parts):
    """One `~fiberifu.simulate.products.FiberSpectra` of several on the same pixels."""
    parts = list(parts)

    def join(name):
        return {key: np.concatenate([getattr(p, name)[key] for p in parts]) for key in getattr(parts[0], name)}

    return FiberSpectra(parts[0].wave, *map(join, ("flux", "ivar", "mask", "resolution", "table")), parts[0].meta)


def identified(spectra, *, seed):
    """The same with identifiers from the range reserved for simulations, and with ``objid``.

    TARGETIDs of `~fiberifu.simulate.identifiers.simulated_targetid` are kept, others replaced; fibres are numbered
    within their galaxy.
    """
    table = dict(spectra.table)
    galaxy = np.asarray(table["galaxy"], np.int64)
    number = np.zeros(len(galaxy), np.int64)
    for g in np.unique(galaxy):
        number[galaxy == g] = np.arange(np.sum(galaxy == g))
    given = np.asarray(table.get("targetid", np.zeros(len(galaxy))), np.int64)
    if not (is_simulated_targetid(given).all() and len(given)):
        given = simulated_targetid(seed, galaxy, number, sky=_text(table["objtype"]) == "SKY")
    table["targetid"], table["objid"] = given, given & 0x3FFFFF
    return dataclasses.replace(spectra, table=table)


def with_truth(spectra):
    """The same with ``meta["truth"]``, arrays (F, ...), in the table, as true_line_flux, true_flux ..."""
    truth = {f"true_{key}": np.asarray(value) for key, value in spectra.meta.get("truth", {}).items()}
    meta = {key: value for key, value in spectra.meta.items() if key != "truth"}
    return dataclasses.replace(spectra, table=spectra.table | truth, meta=meta)


def pixels_of(spectra):
    """Rows (array of int) by the number of their HEALPix pixel, of nside 64, nested."""
    pixel = healpix_nested(spectra.table["target_ra"], spectra.table["target_dec"])
    return {int(p): np.flatnonzero(pixel == p) for p in np.unique(pixel)}


def pixel_folder(folder, pixel):
    """``spectro/redux/sim/healpix/sim/bright/PIXEL // 100/PIXEL`` in ``folder``."""
    return (Path(folder) / "spectro" / "redux" / SPECPROD / "healpix" / SURVEY / PROGRAM / str(pixel // 100)
            / str(pixel))  # fmt: skip


def _text(values):
    return np.char.strip(np.asarray(values).astype(str))


# ---------------------------------------------------------------- files
def write_coadd(spectra, path, *, seed, pixel):
    """Write ``coadd-sim-bright-PIXEL.fits``: the spectra of one HEALPix pixel.

    Parameters
    ----------
    spectra : `~fiberifu.simulate.products.FiberSpectra`
        Of `identified`.
    path : path-like
    seed, pixel : int
    """
    spectra = fiber_spectra(spectra)
    hdus = [fits.PrimaryHDU(header=_cards(pixel)), _fibermap(spectra), _exp_fibermap(spectra)]
    # specutils knows a coadd by this card; in DESI it names the spectra that were added
    hdus[0].header["INFIL000"] = f"spectra-{SURVEY}-{PROGRAM}-{pixel}.fits"
    hdus[0].header["FIBERMIN"] = 0
    for arm in spectra.wave:
        name = arm.upper()
        wave = fits.ImageHDU(np.asarray(spectra.wave[arm], np.float64), name=f"{name}_WAVELENGTH")
        wave.header["BUNIT"] = "Angstrom"
        flux = fits.ImageHDU(np.asarray(spectra.flux[arm], np.float32), name=f"{name}_FLUX")
        flux.header["BUNIT"] = FLUX_UNIT
        ivar = fits.ImageHDU(np.asarray(spectra.ivar[arm], np.float32), name=f"{name}_IVAR")
        ivar.header["BUNIT"] = IVAR_UNIT
        mask = fits.ImageHDU(np.asarray(spectra.mask[arm], np.uint32), name=f"{name}_MASK")
        matrix = fits.ImageHDU(np.asarray(spectra.resolution[arm], np.float32), name=f"{name}_RESOLUTION")
        hdus += [wave, flux, ivar, mask, matrix]
    hdus.append(_scores(spectra))
    write_hdus(hdus, path, provenance(seed, spectra.meta.get("pack_sha256")))


def write_redrock(spectra, path, *, seed, pixel):
    """Write ``redrock-sim-bright-PIXEL.fits``: REDSHIFTS, FIBERMAP, EXP_FIBERMAP and TSNR2.

    No templates were fitted: COEFF is 0, and CHI2 and DELTACHI2 are what the Notes say.

    Notes
    -----
    CHI2 is the number of good pixels, which is what a perfect template would leave on average; DELTACHI2 is what the
    noiseless spectrum with a cubic polynomial in each arm gains on the polynomials alone, see
    `fiberifu.simulate.delta_chi2`. Where it is below 9, ZWARN has 4.
    """
    spectra = fiber_spectra(spectra)
    hdus = [fits.PrimaryHDU(header=_cards(pixel)), table_hdu(REDSHIFTS, _redshifts(spectra), len(_ids(spectra)),
                                                             "REDSHIFTS")]  # fmt: skip
    hdus[0].header["RRVER"] = ("none", "redshifts are simulated, not fitted by redrock")
    tsnr2 = {"TARGETID": _ids(spectra)} | _tsnr2(spectra)
    hdus += [_fibermap(spectra), _exp_fibermap(spectra)]
    hdus.append(table_hdu(f"TARGETID:K {TSNR2}", tsnr2, len(_ids(spectra)), "TSNR2"))
    write_hdus(hdus, path, provenance(seed, spectra.meta.get("pack_sha256")))


def write_truth(spectra, path, *, seed, pixel):
    """Write ``truth-sim-bright-PIXEL.fits``: spectra without noise, in the fibre, before the dust of the Milky Way.

    Extensions TRUTH (TARGETID, TRUEZ), WAVELENGTH and FLUX, in the rows of the coadd of the same name.  The flux is
    what entered the fibre: not calibrated as that of a point source.
    """
    flux = np.asarray(spectra.table["true_flux"], np.float32)
    wave = np.unique(np.concatenate([np.round(w, 6) for w in spectra.wave.values()]))
    if len(wave) != flux.shape[1]:
        raise ValueError(f"true_flux has {flux.shape[1]} pixels, the arms together {len(wave)}")
    values = {"TARGETID": _ids(spectra), "TRUEZ": spectra.table["z_true"]}
    hdus = [fits.PrimaryHDU(header=_cards(pixel)), table_hdu("TARGETID:K TRUEZ:D", values, len(flux), "TRUTH"),
            fits.ImageHDU(wave, name="WAVELENGTH"), fits.ImageHDU(flux, name="FLUX")]  # fmt: skip
    hdus[2].header["BUNIT"], hdus[3].header["BUNIT"] = "Angstrom", FLUX_UNIT
    write_hdus(hdus, path, provenance(seed, spectra.meta.get("pack_sha256")))


def zcatalog_rows(spectra, pixel):
    """Columns of the redshift catalogue, without the counts of `write_zcatalog`, of the spectra of one pixel."""
    n = len(_ids(spectra))
    rows = {"SURVEY": np.full(n, SURVEY), "PROGRAM": np.full(n, PROGRAM), "HEALPIX": np.full(n, pixel),
            "SPGRPVAL": np.full(n, pixel)}  # fmt: skip
    return rows | _fibermap_values(spectra) | _redshifts(spectra) | _tsnr2(spectra)


def write_zcatalog(parts, path, *, seed, pack_sha256=None):
    """Write ``zall-pix-sim.fits``: all redshifts, the best of each target with ZCAT_PRIMARY.

    Parameters
    ----------
    parts : list of dict
        Of `zcatalog_rows`.
    path : path-like
    seed : int
    pack_sha256 : str, optional
        Of the template pack.
    """
    rows = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        rows[name] = np.concatenate([np.asarray(part[name]) for part in parts])
    targetid = np.asarray(rows["TARGETID"])
    n = len(targetid)
    _, which, counts = np.unique(targetid, return_inverse=True, return_counts=True)
    # as desispec.zcatalog.find_primary_spectra: without warnings first, then the longest effective time
    order = np.lexsort((-np.asarray(rows["TSNR2_LRG"]), np.asarray(rows["ZWARN"]) != 0, targetid))
    primary = np.zeros(n, bool)
    primary[order[np.r_[True, np.diff(targetid[order]) != 0]]] = True
    rows |= {"ZCAT_NSPEC": counts[which], "ZCAT_PRIMARY": primary}
    layout = " ".join(
        ["TARGETID:K SURVEY:7A PROGRAM:6A HEALPIX:J SPGRPVAL:J", REDSHIFTS.split(" ", 1)[1],
         FIBERMAP.split(" ", 1)[1], TSNR2, "ZCAT_NSPEC:I ZCAT_PRIMARY:L"]
    )  # fmt: skip
    hdu = table_hdu(layout, rows, n, "ZCATALOG")
    write_hdus([fits.PrimaryHDU(), hdu], path, provenance(seed, pack_sha256))


# ---------------------------------------------------------------- tables
def _ids(spectra):
    return np.asarray(spectra.table["targetid"], np.int64)


def _cards(pixel):
    header = fits.Header()
    header["SPGRP"], header["SPGRPVAL"] = "healpix", pixel
    header["HPXPIXEL"], header["HPXNSIDE"], header["HPXNEST"] = pixel, 64, True
    header["SURVEY"], header["PROGRAM"], header["SPECPROD"] = SURVEY, PROGRAM, SPECPROD
    return header


def _fibermap_values(spectra):
    t = spectra.table
    n = len(_ids(spectra))
    kind = _text(t["objtype"])
    sky = kind == "SKY"
    # DESINAME is how DESI's objects are called; these are "SIM J..."
    names = [f"SIM J{ra:08.4f}{dec:+08.4f}" for ra, dec in zip(t["target_ra"], t["target_dec"], strict=True)]
    # targets are chosen by magnitudes without the dust of the Milky Way (Hahn+2023, AJ 165, 253)
    dust = 10 ** (-0.4 * BAND_EXTINCTION["r"] * np.asarray(t["ebv"], float))
    is_bright = np.asarray(t["flux_r"]) / dust > 10 ** (0.4 * (22.5 - 19.5))
    bright = np.where(is_bright, BGS_BRIGHT, BGS_FAINT)
    priority, subpriority = _priorities(t, sky, is_bright)
    objid = np.asarray(t["objid"])
    values = {
        "TARGETID": _ids(spectra), "COADD_FIBERSTATUS": t["fiberstatus"], "TARGET_RA": t["target_ra"],
        "TARGET_DEC": t["target_dec"], "DESINAME": names, "REF_EPOCH": np.full(n, 2015.5),
        "FA_TARGET": np.where(sky, SKY, BGS_ANY), "FA_TYPE": np.where(sky, 4, 1), "OBJTYPE": kind,
        "OBSCONDITIONS": np.full(n, 4), "RELEASE": np.full(n, RELEASE),
        "BRICKNAME": [brick_name(g) for g in np.asarray(t["galaxy"])],
        "BRICKID": (_ids(spectra) >> 22) & 0xFFFFF, "BRICK_OBJID": objid, "MORPHTYPE": t["morphtype"],
        "EBV": t["ebv"], "SHAPE_R": t["shape_r"], "PHOTSYS": t.get("photsys", np.full(n, "S")),
        "SERSIC": sersic_index(t["morphtype"]),
        "PRIORITY_INIT": priority, "SUBPRIORITY": subpriority, "NUMOBS_INIT": np.where(sky, -1, 1),
        "DESI_TARGET": np.where(sky, SKY, BGS_ANY), "BGS_TARGET": np.where(sky, 0, bright),
        "PLATE_RA": t["target_ra"], "PLATE_DEC": t["target_dec"], "COADD_NUMEXP": t["n_exposures"],
        "COADD_EXPTIME": t["exptime"], "COADD_NUMNIGHT": np.ones(n), "COADD_NUMTILE": np.ones(n),
        "MEAN_PSF_TO_FIBER_SPECFLUX": t["psf_to_fiber_specflux"], "MEAN_FIBER_RA": t["fiber_ra"],
        "STD_FIBER_RA": t["std_fiber_ra"], "MEAN_FIBER_DEC": t["fiber_dec"], "STD_FIBER_DEC": t["std_fiber_dec"],
    }  # fmt: skip
    for band in "grz":
        for name in ("flux", "flux_ivar", "fiberflux", "fibertotflux"):
            if f"{name}_{band}" in t:
                values[f"{name}_{band}".upper()] = t[f"{name}_{band}"]
    values |= {key.upper(): t[key] for key in ("shape_e1", "shape_e2") if key in t}
    for band in "GRZ":  # nothing else is in the fibre but what was simulated
        if f"FIBERFLUX_{band}" in values:
            values.setdefault(f"FIBERTOTFLUX_{band}", values[f"FIBERFLUX_{band}"])
    return values


def _priorities(t, sky, bright):
    """PRIORITY, and SUBPRIORITY, a number in [0, 1) that the TARGETID fixes."""
    targetid = np.asarray(t["targetid"], np.uint64)
    mixed = (targetid ^ (targetid >> np.uint64(21))) * np.uint64(0x9E3779B97F4A7C15)  # golden-ratio hash
    priority = np.where(sky, PRIORITY_SKY, np.where(bright, PRIORITY_BRIGHT, PRIORITY_FAINT))
    return priority, (mixed >> np.uint64(11)) / 2.0**53


def _fibermap(spectra):
    return table_hdu(FIBERMAP, _fibermap_values(spectra), len(_ids(spectra)), "FIBERMAP")


def _exp_fibermap(spectra):
    """One row per exposure, all alike: the mean position, the exposure time shared equally."""
    t, target = spectra.table, _fibermap_values(spectra)
    count = np.maximum(np.asarray(t["n_exposures"], int), 1)
    row = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    n = len(row)
    values = {
        "TARGETID": _ids(spectra)[row], "PRIORITY": target["PRIORITY_INIT"][row],
        "SUBPRIORITY": target["SUBPRIORITY"][row], "EXPID": np.arange(n) - first[row], "LAMBDA_REF": np.full(n, 5400.0),
        "EXPTIME": (np.asarray(t["exptime"]) / count)[row], "FIBERSTATUS": np.asarray(t["fiberstatus"])[row],
        "PLATE_RA": np.asarray(t["target_ra"])[row], "PLATE_DEC": np.asarray(t["target_dec"])[row],
        "FIBER_RA": np.asarray(t["fiber_ra"])[row], "FIBER_DEC": np.asarray(t["fiber_dec"])[row],
        "PSF_TO_FIBER_SPECFLUX": np.asarray(t["psf_to_fiber_specflux"])[row],
    }  # fmt: skip
    values |= {f"IN_COADD_{arm.upper()}": np.asarray(spectra.ivar[arm]).any(1)[row] for arm in spectra.wave}
    return table_hdu(EXP_FIBERMAP, values, n, "EXP_FIBERMAP")


def _good_ivar(spectra, arm):
    return np.where(np.asarray(spectra.mask[arm]) == 0, np.asarray(spectra.ivar[arm], float), 0.0)


def _scores(spectra):
    values, layout = {"TARGETID": _ids(spectra)}, ["TARGETID:K"]
    for arm, wave in spectra.wave.items():
        flux, ivar = np.asarray(spectra.flux[arm], float), _good_ivar(spectra, arm)
        good = np.where(ivar > 0, flux, np.nan)
        good[~(ivar > 0).any(1)] = 0
        parts = {"INTEG": np.nansum(good * np.gradient(np.asarray(wave, float)), 1), "MEDIAN": np.nanmedian(good, 1)}
        snr = np.nanmedian(good * np.sqrt(ivar), 1)
        for key, value in ((f"{name}_COADD_FLUX_{arm.upper()}", part) for name, part in parts.items()):
            values[key] = value
            layout.append(f"{key}:E")
        values[f"MEDIAN_COADD_SNR_{arm.upper()}"] = snr
        layout.append(f"MEDIAN_COADD_SNR_{arm.upper()}:E")
    return table_hdu(" ".join([*layout, TSNR2]), values | _tsnr2(spectra), len(_ids(spectra)), "SCORES")


def _tsnr2(spectra):
    """Template S/N^2 by their definition through the effective exposure time, which is what is simulated."""
    time = np.asarray(spectra.table["exptime"], float)
    return {"TSNR2_BGS": time / BGS_TIME, "TSNR2_LRG": time / LRG_TIME}


def _redshifts(spectra):
    t = spectra.table
    n = len(_ids(spectra))
    pixels = sum((_good_ivar(spectra, arm) > 0).sum(1) for arm in spectra.wave)
    return {
        "TARGETID": _ids(spectra), "Z": t["z"], "ZERR": t["zerr"], "ZWARN": t["zwarn"], "CHI2": pixels,
        "FITMETHOD": np.full(n, "NONE"), "NPIXELS": pixels, "SPECTYPE": np.full(n, "GALAXY"),
        "DELTACHI2": t["deltachi2"],
    }  # fmt: skip
