# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fibre spectra of SDSS and BOSS: ``spec-PLATE-MJD-FIBER.fits``.

``COADD table -> wavelength, flux, mask, resolution; SPECOBJ or SPALL row -> position, redshift -> Spectrum``

Data model: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html, the same for both
surveys since DR9.  Wavelengths are in vacuum and heliocentric, in equal steps of their logarithm.
"""

import warnings

import astropy.units as u
import numpy as np
from astropy.nddata import InverseVariance
from astropy.table import QTable
from specutils import Spectrum

from fiberifu.surveys._fits import FitsFile
from fiberifu.surveys.fibers import UNIT, FiberFlag, flag_names, set_flag, sky_coord

__all__ = ["read_sdss_fiber"]

# Bits of and_mask, SPPIXMASK (https://www.sdss4.org/dr17/algorithms/bitmasks/#SPPIXMASK): of pixels FULLREJECT, NOSKY,
# BRIGHTSKY, NODATA, COMBINEREJ, BADFLUXFACTOR, BADSKYCHI, REDMONSTER; of whole fibres NOPLUG, BADTRACE, BADFLAT,
# BADARC. The others (near a bright neighbour, scattered light, ...) are common and no reason to drop a pixel.
BAD_PIXEL = sum(1 << bit for bit in (18, 22, 23, 24, 25, 26, 27, 28))
LOST = sum(1 << bit for bit in range(4))
# ZWARNING: SKY, UNPLUGGED
WARNS_SKY, WARNS_UNPLUGGED = 1 << 0, 1 << 7
# Diameters: York et al. 2000 (AJ 120, 1579) and Smee et al. 2013 (AJ 146, 32); plates of BOSS begin with 3510.
DIAMETER = {"SDSS": 3 * u.arcsec, "BOSS": 2 * u.arcsec}
FIRST_BOSS_PLATE = 3510
SDSS_RUNS = ("26", "103", "104")  # RUN2D of SDSS-I and -II, SEGUE-1 and -2
BANDS = "ugriz"


def read_sdss_fiber(path, *, checksum=False):
    """Read one fibre spectrum of SDSS or BOSS, ``spec-PLATE-MJD-FIBER.fits``, whole or "lite".

    Parameters
    ----------
    path : path-like or str
        Or a URL (needs ``fsspec``).
    checksum : bool
        Whether to verify the file's checksums, if it has them.

    Returns
    -------
    `~specutils.Spectrum`, shape (n_wave,)
        In 1e-17 erg/(s cm2 Angstrom) on the file's grid, 10**loglam, with `~astropy.nddata.InverseVariance`.  The mask
        is True, and flux and inverse variance are 0, where there is no inverse variance or no number, or one of the
        bits FULLREJECT, NOSKY, BRIGHTSKY, NODATA, COMBINEREJ, BADFLUXFACTOR, BADSKYCHI, REDMONSTER of ``and_mask`` is
        set.  ``redshift`` is the survey's, if there is one without a warning.  ``meta`` has

        * ``fibers`` : `~astropy.table.QTable` of one row, with the columns that those of `read_desi` have too:
          ``targetid`` (SPECOBJID, 0 where unknown), ``z``, ``zerr``, ``zwarn``, ``deltachi2`` (RCHI2DIFF times DOF),
          ``spectype`` (CLASS), ``subtype``, ``position``, ``target``, ``position_scatter`` (NaN),
          ``psf_to_fiber_specflux`` (NaN: the survey gives none), ``flux_*`` (MODELFLUX, or CMODELFLUX) and
          ``fiberflux_*`` (FIBER2FLUX, else FIBERFLUX) in nanomaggies where the file has them, ``ebv`` (NaN),
          ``objtype``, ``flags`` (`FiberFlag`), ``status``, and ``plate``, ``mjd``, ``fiberid``;
        * ``lsf`` : instrumental sigma (n_wave,), a length, of ``wdisp`` without the variance of a pixel, as
          `~fiberifu.lines.fit_line_maps` takes it; None without ``wdisp``;
        * ``header`` : the primary header;
        * ``survey`` "SDSS" or "BOSS" (the spectrograph), ``fiber_diameter`` 3 or 2 arcsec, by INSTRUMENT or RUN2D,
          else, flagged, by the plate; ``medium`` "vacuum" ("air" if the header says so), ``frame`` "heliocentric",
          ``extinction_corrected`` False, ``calibration`` "point source".

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If a URL needs a package that is not installed.
    ValueError
        If it is not FITS, is truncated or damaged, is a prediction, has no table with flux, loglam and ivar, no rising
        wavelengths, or another unit.

    Notes
    -----
    Flux is calibrated with the PSF magnitudes of standard stars, to the total flux of a point source (since DR6:
    Adelman-McCarthy et al. 2008, ApJS 175, 297, section 4.1), and not corrected for Galactic extinction; what
    `read_desi` says of extended light holds here too, the less so the larger the fibre is.

    specutils reads the same table (format "SDSS-III/IV spec"), which is not used: it masks every pixel with any bit,
    and knows neither resolution nor position nor redshift.
    """
    with FitsFile(path, checksum=checksum) as file:
        name = next((name for name in file.headers if {"FLUX", "LOGLAM", "IVAR"} <= set(file.columns(name))), None)
        if name is None:
            raise ValueError(f"{path}: no table with flux, loglam and ivar; is it a spec-PLATE-MJD-FIBER.fits?")
        coadd, header = file.table(name), file.headers["PRIMARY"].copy()
        row = next((n for n in file.headers if n != name and {"Z", "CLASS"} <= set(file.columns(n))), None)
        entry = {} if row is None else file.table(row)
    wave, flux, ivar, lsf = _arrays(path, coadd, _factor(path, header))
    fibers, survey = _fibers(entry, header)
    flags = fibers["flags"]
    lost = "AND_MASK" in coadd and (coadd["AND_MASK"].astype(np.int64) & LOST != 0).all()
    set_flag(flags, FiberFlag.FIBER_FAILED, [lost])
    good = ivar > 0
    set_flag(flags, FiberFlag.NO_SIGNAL, [not good.any()])
    set_flag(flags, FiberFlag.ARM_MISSING, [good.any() and good.mean() < 0.5])
    fibers["status"] = flag_names(flags)
    z = float(fibers["z"][0])
    known = np.isfinite(z) and z > -1 and not flags[0] & FiberFlag.REDSHIFT_WARNING
    meta = {
        "header": header,
        "fibers": fibers,
        "lsf": lsf,
        "survey": survey,
        "fiber_diameter": DIAMETER[survey],
        "medium": "air" if header.get("VACUUM", True) is False else "vacuum",
        "frame": "heliocentric",
        "extinction_corrected": False,
        "calibration": "point source",
    } | ({"redshift": z} if known else {})
    return Spectrum(
        flux * UNIT,
        spectral_axis=wave * u.AA,
        uncertainty=InverseVariance(ivar, unit=UNIT**-2),
        mask=~good,
        meta=meta,
        **({"redshift": z} if known else {}),
    )


# ---------------------------------------------------------------- the spectrum
def _factor(path, header):
    """Factor that brings flux to its unit; the data model's where the header says nothing."""
    text = header.get("BUNIT")
    if text is None:
        return 1.0
    try:
        with warnings.catch_warnings():
            # "1E-17 erg/cm^2/s/Ang" is not by the book, but clear
            warnings.simplefilter("ignore", u.UnitsWarning)
            return float(u.Unit(str(text).replace("Angstrom", "Ang").replace("Ang", "Angstrom")).to(UNIT))
    except (ValueError, TypeError, u.UnitConversionError) as error:
        raise ValueError(f"{path}: BUNIT is {text!r}, not a flux density like {UNIT.to_string()}") from error


def _arrays(path, coadd, factor):
    """Wavelength (Angstrom), flux, ivar (n_wave,), and sigma, a length, or None."""
    names = [name for name in ("FLUX", "LOGLAM", "IVAR", "AND_MASK", "WDISP") if name in coadd]
    arrays = [coadd[name] for name in names]
    if any(x.ndim != 1 or x.dtype.kind not in "iuf" for x in arrays) or len(arrays[0]) < 2:
        found = {name: (x.shape, str(x.dtype)) for name, x in zip(names, arrays, strict=True)}
        raise ValueError(f"{path}: columns {found}; each must be one number per pixel; fetch the file again")
    loglam = coadd["LOGLAM"].astype(float)
    with np.errstate(all="ignore"):
        if not (np.isfinite(loglam).all() and (np.diff(loglam) > 0).all() and 3 < loglam[0] and loglam[-1] < 5):
            raise ValueError(f"{path}: loglam does not rise, or is not of Angstrom; fetch the file again")
        flux, ivar = coadd["FLUX"] * np.float64(factor), coadd["IVAR"] * np.float64(factor) ** -2
        largest = np.finfo(np.float32).max
        good = np.isfinite(flux) & (np.abs(flux) < largest) & (ivar > 0) & (ivar < largest)
    if "AND_MASK" in coadd:
        good &= (coadd["AND_MASK"].astype(np.int64) & BAD_PIXEL) == 0
    wave = 10**loglam
    lsf = None
    if "WDISP" in coadd:
        pixels = coadd["WDISP"].astype(float)
        with np.errstate(invalid="ignore"):
            known = (pixels > 0.3) & (pixels < 20)  # sigma in pixels; 0 where there is no spectrum
            sigma = np.sqrt(np.where(known, pixels, 1) ** 2 - 1 / 12) * np.gradient(wave)
        lsf = np.interp(wave, wave[known], sigma[known]) * u.AA if known.any() else None
    return wave, np.where(good, flux, 0).astype(np.float32), np.where(good, ivar, 0).astype(np.float32), lsf


# ---------------------------------------------------------------- the table
def _fibers(entry, header):
    """The table of one row, and the spectrograph."""
    table, flags = QTable(), np.zeros(1, np.int64)

    def number(*names, fallback=np.nan):
        for name in names:
            values = entry.get(name)
            if values is not None and values.size and values.dtype.kind in "iufb":
                return float(values.flat[0])
            if isinstance(header.get(name), int | float):
                return float(header[name])
        return fallback

    def text(*names):
        for name in names:
            value = entry[name].flat[0] if name in entry and entry[name].size else header.get(name)
            if value is not None and str(value).strip():
                return str(value).strip()
        return ""

    def integer(*names, fallback):
        value = number(*names)
        return int(value) if np.isfinite(value) else fallback

    has = "Z" in entry and entry["Z"].size > 0
    z = number("Z") if has else np.nan
    warning = integer("ZWARNING", fallback=0) if has and np.isfinite(z) else -1
    identifier = text("SPECOBJID")
    table["targetid"] = [int(identifier) if identifier.isdecimal() and int(identifier) < 2**63 else 0]
    table["z"], table["zerr"] = [z], [number("Z_ERR")]
    table["zwarn"], table["deltachi2"] = [warning], [number("RCHI2DIFF") * number("DOF")]
    table["spectype"], table["subtype"] = [text("CLASS") if has else ""], [text("SUBCLASS")]
    table["position"], known = sky_coord([number("PLUG_RA", "RACAT")], [number("PLUG_DEC", "DECCAT")])
    table["target"] = table["position"]
    table["position_scatter"], table["psf_to_fiber_specflux"] = [np.nan] * u.arcsec, [np.nan]
    for column, names in (("flux", ("MODELFLUX", "CMODELFLUX")), ("fiberflux", ("FIBER2FLUX", "FIBERFLUX"))):
        values = next((entry[name].ravel() for name in names if name in entry and entry[name].size == len(BANDS)), None)
        for i, band in enumerate(BANDS if values is not None and values.dtype.kind == "f" else ""):
            table[f"{column}_{band}"] = [float(values[i])] * u.nmgy
    table["ebv"], table["objtype"] = [np.nan] * u.mag, [text("OBJTYPE", "SOURCETYPE")]
    for name in ("plate", "mjd", "fiberid"):
        table[name] = [integer(name.upper(), fallback=-1)]
    set_flag(
        flags, FiberFlag.SKY, [table["objtype"][0].upper() == "SKY" or (has and warning > 0 and warning & WARNS_SKY)]
    )
    set_flag(flags, FiberFlag.NO_TARGET, [warning > 0 and warning & WARNS_UNPLUGGED])
    set_flag(flags, FiberFlag.REDSHIFT_MISSING, [not np.isfinite(z)])
    set_flag(flags, FiberFlag.REDSHIFT_WARNING, [np.isfinite(z) and warning != 0])
    set_flag(flags, FiberFlag.NOT_GALAXY, [has and table["spectype"][0] != "GALAXY"])
    set_flag(flags, FiberFlag.POSITION_MISSING, ~known)
    set_flag(flags, FiberFlag.APERTURE_UNDEFINED, [True])
    set_flag(flags, FiberFlag.NO_PHOTOMETRY, ["flux_r" not in table.colnames])
    survey, sure = _spectrograph(text("INSTRUMENT"), text("RUN2D"), table["plate"][0], table["fiberid"][0])
    set_flag(flags, FiberFlag.DIAMETER_GUESSED, [not sure])
    table["flags"] = flags
    return table, survey


def _spectrograph(instrument, run, plate, fiber):
    """SDSS or BOSS, and whether that is sure."""
    if instrument.upper() in DIAMETER:
        return instrument.upper(), True
    if run in SDSS_RUNS or run.startswith("v"):
        return ("SDSS" if run in SDSS_RUNS else "BOSS"), True
    return ("BOSS" if plate >= FIRST_BOSS_PLATE or fiber > 640 else "SDSS"), False  # SDSS had 640 fibres
