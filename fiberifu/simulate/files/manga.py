# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Simulated cubes in MaNGA's formats: LOGCUBE, MAPS (of a fit, and the truth), drpall.

Law et al. 2016 (AJ 152, 83), appendix B; https://www.sdss4.org/dr17/manga/manga-data/data-model/.
"""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.wcs import WCS
from specutils import Spectrum

from ...constants import C_KMS
from ...extinction import mw_transmission
from ...lines import DAPMask, LineMaps, fit_line_maps, line_table
from ...output import atomic_path
from ...surveys import read_manga_cube
from ..gas import LINES
from .common import compressed, provenance, table_hdu, write_hdus
from .from_api import ifu_cube, seed_of

__all__ = ["cube_wcs", "drpall_rows", "manga_name", "write_drpall", "write_fitted_maps", "write_logcube",
           "write_truth_maps"]  # fmt: skip

#: Plates of simulations are 900,000 + seed modulo 100,000; those of the survey have four or five digits.
PLATE = 900_000
CUBE_UNIT = "1E-17 erg/s/cm^2/Ang/spaxel"
FWHM = 2 * np.sqrt(2 * np.log(2))
BANDS = "griz"
NOCOV = 1 << 0  # of MANGA_DRP3PIXMASK

DRPALL = (
    "plate:J ifudsgn:5A simname:24A srvymode:13A versdrp3:8A objra:D objdec:D ifura:D ifudec:D ebvgal:E nexp:J "
    "exptime:E drp3qual:J bluesn2:E redsn2:E gfwhm:E rfwhm:E ifwhm:E zfwhm:E mngtarg1:J mngtarg2:J mngtarg3:J "
    "ifudesignsize:J ifutargetsize:J z:D nsa_z:D nsa_elpetro_ba:E nsa_elpetro_phi:E nsa_elpetro_th50_r:E "
    "nsa_elpetro_mass:E nsa_sersic_ba:E nsa_sersic_phi:E nsa_sersic_th50:E"
)


def manga_name(seed, galaxy):
    """``sim900001-000012`` for galaxy 12 of seed 1: what "plate-ifu" is in names of MaNGA's files."""
    return f"sim{PLATE + seed % 100_000}-{galaxy:06d}"


def _cube_cards(cube):
    """WCS cards as the survey writes them: RA---TAN, DEC--TAN and WAVE-LOG, or WAVE; Angstrom, CD matrix."""
    ny, nx = cube.flux.shape[1:]
    wave = np.asarray(cube.wave, float)
    step = np.diff(wave)
    log = np.diff(np.log(wave))
    if np.ptp(log) < 1e-3 * log.mean():
        name, cd = "WAVE-LOG", wave[0] * log.mean()
    elif np.ptp(step) < 1e-3 * step.mean():
        name, cd = "WAVE", step.mean()
    else:
        raise ValueError(f"wave is from {wave[0]} to {wave[-1]} in steps neither of wave nor of log(wave)")
    scale, header = cube.spaxel / 3600, fits.Header()
    header["EQUINOX"], header["RADESYS"] = 2000.0, "FK5"  # as the survey has it, in cubes and maps
    axes = [("RA---TAN", "deg", cube.center[0], (nx + 1) / 2, -scale), ("DEC--TAN", "deg", cube.center[1],
            (ny + 1) / 2, scale), (name, "Angstrom", wave[0], 1.0, cd)]  # fmt: skip
    for i, (kind, unit, value, pixel, step) in enumerate(axes, start=1):
        header[f"CTYPE{i}"], header[f"CUNIT{i}"] = kind, unit
        header[f"CRPIX{i}"], header[f"CRVAL{i}"], header[f"CD{i}_{i}"] = float(pixel), float(value), float(step)
    return header


def cube_wcs(cube):
    """3-D `~astropy.wcs.WCS` of an `~fiberifu.simulate.products.IFUCube`."""
    return WCS(_cube_cards(cube), naxis=3)


def _marks(cube, seed):
    t = cube.table
    return provenance(seed, t.get("pack_sha256"), redshift=float(t["redshift"]), ebv=float(t.get("ebv", 0.0)))


def _ifu(cube):
    return int(cube.table.get("ifudesign", 0))


def _cards(cube, seed):
    """Cards that the survey writes into the primary and into each image extension; none that names an observation."""
    header = fits.Header()
    header["BUNIT"] = (CUBE_UNIT, "Specific intensity (per spaxel)")
    header["MASKNAME"] = ("MANGA_DRP3PIXMASK", "Bits in sdssMaskbits.par used by mask extension")
    # readers know the layout by these two
    header["TELESCOP"] = ("SDSS 2.5-M", "simulated")
    header["INSTRUME"] = ("MaNGA", "simulated")
    header["SRVYMODE"] = ("simulated", "no survey led this")
    header["VERSDRP3"] = ("sim", "no pipeline reduced this")
    header["OBJSYS"], header["EQUINOX"], header["RADESYS"] = "ICRS", 2000.0, "FK5"
    header["NEXP"] = (int(cube.table.get("exposures", 0)), "Total number of exposures")
    for key, value, comment in (
        ("IFURA", cube.center[0], "IFU R.A. (J2000 deg.)"),
        ("IFUDEC", cube.center[1], "IFU Dec. (J2000 deg.)"),
        ("OBJRA", cube.center[0], "Object R.A. (J2000 deg.)"),
        ("OBJDEC", cube.center[1], "Object Dec. (J2000 deg.)"),
    ):
        header[key] = (float(value), comment)
    header["PLATEID"] = (PLATE + seed % 100_000, "beyond the plates of the survey")
    header["IFUDSGN"] = header["IFUDESGN"] = (str(_ifu(cube)), "ifuDesign")
    header["DRP3QUAL"] = (0, "DRP-3d quality bitmask")
    for band in BANDS:
        if band in cube.fwhm:
            header[f"{band.upper()}FWHM"] = (float(cube.fwhm[band]), f"Reconstructed FWHM in {band}-band (arcsec)")
    return header


def write_logcube(cube, path, *, seed=None, overwrite=False):
    """Write ``manga-simPLATE-NUMBER-LOGCUBE.fits.gz``.

    Parameters
    ----------
    cube : `~fiberifu.simulate.products.IFUCube`, or the cube that `fiberifu.simulate.IFU.observe` gives
    path : path-like
        With ``sim`` in its name.
    seed : int, optional
        That of the cube by default.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        For other cubes, or a name that does not say what the file is.
    FileExistsError
        Without ``overwrite``.

    Notes
    -----
    FLUX, IVAR, MASK, LSFPOST, LSFPRE, WAVE, SPECRES, SPECRESD, PRESPECRES, PRESPECRESD, then GIMG, RIMG, IIMG, ZIMG,
    GPSF ... ZPSF, and GCORREL ... ZCORREL where the correlation of the noise is known.  LSFPRE is without the
    integration over pixels, LSFPOST with it (Law et al. 2021, AJ 161, 52); the same in all spaxels here.
    """
    cube = ifu_cube(cube)
    seed, wave = seed_of(seed, cube.table, "cube"), np.asarray(cube.wave, float)
    cards, three = _cards(cube, seed), _cube_cards(cube)
    two = fits.Header([card for card in three.cards if "3" not in card.keyword])
    shape = cube.flux.shape
    pre = np.asarray(cube.lsf, float)
    post = np.sqrt(pre**2 + np.gradient(wave) ** 2 / 12)

    def image(name, data, header=None, unit=None):
        hdu = fits.ImageHDU(np.ascontiguousarray(data), name=name)
        hdu.header.extend(cards, update=True)
        if header is not None:
            hdu.header.extend(header, update=True)
        for key in ("BUNIT", "PLATEID"):  # wcslib has another meaning for the latter, and warns
            hdu.header.remove(key)
        if unit:
            hdu.header["BUNIT"] = unit
        return hdu

    def everywhere(values):
        return np.broadcast_to(np.asarray(values, np.float32)[:, None, None], shape)

    primary = fits.PrimaryHDU()
    primary.header.extend(cards, update=True)
    hdus = [
        primary,
        image("FLUX", np.asarray(cube.flux, np.float32), three, CUBE_UNIT),
        image("IVAR", np.asarray(cube.ivar, np.float32), three),
        image("MASK", np.asarray(cube.mask, np.int32), three),
        image("LSFPOST", everywhere(post), three, "Angstrom"),
        image("LSFPRE", everywhere(pre), three, "Angstrom"),
        image("WAVE", wave, None, "Angstrom"),
        image("SPECRES", wave / (FWHM * post)),
        image("SPECRESD", np.zeros_like(wave)),
        image("PRESPECRES", wave / (FWHM * pre)),
        image("PRESPECRESD", np.zeros_like(wave)),
    ]
    for band in cube.images:
        hdus.append(image(f"{band.upper()}IMG", np.asarray(cube.images[band], np.float32), two, "nanomaggies/pixel"))
    for band in cube.psf:
        hdus.append(image(f"{band.upper()}PSF", np.asarray(cube.psf[band], np.float32), two))
    if cube.correlation is not None:
        hdus += [_correlation(cube, f"{band.upper()}CORREL") for band in cube.images]
    write_hdus(hdus, path, _marks(cube, seed), overwrite=overwrite)


def _correlation(cube, name):
    """The correlation matrix between spaxels as the survey's sparse table: upper triangle, both indices of each."""
    ny, nx = cube.flux.shape[1:]
    table = np.asarray(cube.correlation, float)
    seen = (np.asarray(cube.mask)[len(cube.wave) // 2] & 1) == 0  # within the field
    y, x = np.nonzero(seen)
    number = np.full((ny, nx), -1)
    number[y, x] = np.arange(len(y))
    reach = len(table) - 1
    rows = []
    for dy in range(0, reach + 1):
        for dx in range(-reach, reach + 1):
            if (dy == 0 and dx < 0) or np.hypot(dx, dy) > reach:
                continue
            rho = np.interp(np.hypot(dx, dy), np.arange(len(table)), table)
            y2, x2 = y + dy, x + dx
            inside = (y2 < ny) & (x2 >= 0) & (x2 < nx)
            inside[inside] &= number[y2[inside], x2[inside]] >= 0
            if abs(rho) > 0.01:
                m = inside.sum()
                rows.append((x[inside], y[inside], x2[inside], y2[inside], np.full(m, rho)))
    names = ("INDXI_C1", "INDXI_C2", "INDXJ_C1", "INDXJ_C2", "RHOIJ")
    values = {key: np.concatenate([row[i] for row in rows]) for i, key in enumerate(names)}
    layout = " ".join(f"{key}:{'E' if key == 'RHOIJ' else 'J'}" for key in names)
    hdu = table_hdu(layout, values, len(values["RHOIJ"]), name)
    hdu.header["COVSHAPE"] = (f"({nx},{ny})", "Shape of the correlation map")
    return hdu


# ---------------------------------------------------------------- maps
def _write_maps(maps, path, more=()):
    """Write maps, and ``more`` extensions, compressed for ``.gz`` as all our files are: equal data give equal files."""

    def write(where):
        maps.write(where, overwrite=True)
        if more:
            with fits.open(where, mode="append") as hdus:
                for hdu in more:
                    hdus.append(hdu)

    with atomic_path(path) as temporary:
        if temporary.suffix != ".gz":
            write(temporary)
            return
        plain = temporary.with_suffix("")
        try:
            write(plain)
            with compressed(temporary) as file:
                file.write(plain.read_bytes())
        finally:
            plain.unlink(missing_ok=True)


def write_truth_maps(cube, path, *, seed):
    """Write the true line maps in the layout of the DAP's MAPS.

    Fluxes are those of the gas alone per spaxel, at the cube's PSF, before the dust of the Milky Way; dispersions have
    the instrument's added in quadrature, as GSIGMA has.  The truth has no errors: inverse variances are 0.  Extensions
    of their own are STELLAR_SIGMA, the dispersion of stars (km/s, without the instrument's), and STELLAR_LIMITED, 1
    where that is below the width of the templates, 70 km/s, so that the cube shows broader stars.
    """
    cube = ifu_cube(cube)
    t = cube.truth
    if not t:
        raise ValueError(
            "cube: got one without its truth; `IFU.observe` gives that beside the cube, with a method `write`"
        )
    wave = dict(zip(line_table("all")["key"], line_table("all")["wavelength"].value, strict=True))
    z = float(cube.table["redshift"])
    centre = np.array([wave[line] for line in LINES]) * (1 + z)
    instrument = np.interp(centre, cube.wave, cube.lsf) / centre * C_KMS
    flux, ew = np.asarray(t["line_flux"], float), np.asarray(t["line_ew"], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        continuum = np.where(ew > 0, flux / ew / (1 + z), np.nan)
    outside = ((np.asarray(cube.mask) & NOCOV) != 0).all(0)
    maps = LineMaps(
        LINES,
        flux,
        None,
        ew,
        None,
        continuum,
        None,
        redshift=z,
        velocity=np.asarray(t["velocity"], float)[None],
        dispersion=np.hypot(np.asarray(t["sigma"], float)[None], instrument[:, None, None]),
        instrumental_dispersion=instrument[:, None, None],
        wcs=cube_wcs(cube).celestial,
        mask=np.where(outside, np.int32(DAPMask.NOCOV | DAPMask.NOVALUE | DAPMask.DONOTUSE), 0),
        extinction_corrected=True,
        provenance=_marks(cube, seed),
    )
    more = []
    for key, kind, unit in (("sigma_star", np.float32, "km/s"), ("stellar_limited", np.uint8, None)):
        if key in t:
            values = np.where(outside, 0, np.asarray(t[key]))
            name = key.upper().replace("SIGMA_STAR", "STELLAR_SIGMA")
            more.append(fits.ImageHDU(values.astype(kind), header=maps.wcs.to_header(), name=name))
            _marks(cube, seed).to_header(more[-1].header)
            if unit:
                more[-1].header["BUNIT"] = unit
    _write_maps(maps, path, more)


def write_fitted_maps(logcube, path, *, table="strong", continuum=2, threads=None):
    """Fit the lines of a LOGCUBE that was written, and write them in the layout of the DAP's MAPS.

    As in the DAP the cube is corrected for the dust of the Milky Way first.

    Parameters
    ----------
    logcube, path : path-like
    table, continuum, threads
        Of `~fiberifu.lines.fit_line_maps`.

    Returns
    -------
    `~fiberifu.lines.LineMaps`
    """
    cube = read_manga_cube(logcube)
    dust = mw_transmission(cube.spectral_axis.to_value("AA"), cube.meta["ebv"])[:, None, None]
    ivar = InverseVariance(cube.uncertainty.array * dust**2, unit=cube.uncertainty.unit)
    meta = cube.meta | {"extinction_corrected": True}
    cube = Spectrum(cube.flux / dust, wcs=cube.wcs, uncertainty=ivar, mask=cube.mask, meta=meta)
    maps = fit_line_maps(cube, table, redshift=meta["redshift"], lsf="cube", continuum=continuum, threads=threads)
    _write_maps(maps, path)
    return maps


# ---------------------------------------------------------------- summary
def drpall_rows(cube, *, seed, galaxy):
    """The row of a cube in `write_drpall`, a dict."""
    t = cube.table
    axis_ratio, pa, re = (float(t.get(key, 0)) for key in ("axis_ratio", "pa", "re"))
    row = {
        "plate": PLATE + seed % 100_000, "ifudsgn": str(_ifu(cube)), "simname": manga_name(seed, galaxy),
        "srvymode": "simulated", "versdrp3": "sim", "objra": cube.center[0], "objdec": cube.center[1],
        "ifura": cube.center[0], "ifudec": cube.center[1], "ebvgal": t.get("ebv", 0.0),
        "nexp": t.get("exposures", 0), "exptime": t.get("exptime", 0.0),
        "ifudesignsize": _ifu(cube) // 100, "ifutargetsize": _ifu(cube) // 100,
        "z": t["redshift"], "nsa_z": t["redshift"], "nsa_elpetro_ba": axis_ratio, "nsa_elpetro_phi": pa,
        "nsa_elpetro_th50_r": re, "nsa_elpetro_mass": 10.0 ** float(t.get("log_mass", 0)),
        "nsa_sersic_ba": axis_ratio, "nsa_sersic_phi": pa, "nsa_sersic_th50": re,
    }  # fmt: skip
    return row | {f"{band}fwhm": cube.fwhm[band] for band in BANDS if band in cube.fwhm}


def write_drpall(rows, path, *, seed, pack_sha256=None):
    """Write ``drpall-sim.fits`` from the rows of `drpall_rows`.

    It has no columns ``mangaid`` and ``plateifu``: ``simname`` is the key.  ``z`` is the truth.
    """
    values = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
    hdu = table_hdu(DRPALL, values, len(rows), "MANGA")
    write_hdus([fits.PrimaryHDU(), hdu], Path(path), provenance(seed, pack_sha256))
