# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fibre spectra of DESI: coadds and single exposures, with the redshifts of redrock.

``coadd-*.fits -> arms, fibermap; redrock-*.fits -> redshifts -> joint grid, table of fibres -> Spectrum``

Data model: https://desidatamodel.readthedocs.io/en/latest/DESI_SPECTRO_REDUX/SPECPROD; pipeline: Guy et al. 2023 (AJ
165, 144).  Wavelengths are in vacuum and barycentric.
"""

import os

import astropy.units as u
import numpy as np
from astropy.nddata import InverseVariance
from astropy.table import Table
from specutils import Spectrum

from fiberifu.provenance import NAME_PARTS, Provenance
from fiberifu.surveys._fits import FitsFile, exists
from fiberifu.surveys.desi_fibers import fiber_table
from fiberifu.surveys.fibers import UNIT, FiberFlag, flag_names, set_flag

__all__ = ["read_desi"]

#: The joint grid of the arms, which all have steps of 0.8 Angstrom from 3600: Guy et al. 2023, section 4.5.
START, STEP, N_WAVE = 3600.0, 0.8, 7781
ARMS = ("B", "R", "Z")
FIBER_DIAMETER = 1.5 * u.arcsec  # mean over the focal plane: 107 micron; Abareshi et al. 2022 (AJ 164, 207)
BLOCK = 256  # rows that are read at a time: some 110 MB, most of it resolution matrices


def read_desi(path, *, redrock=None, targetids=None, resolution=True, checksum=False):
    """Read fibre spectra of DESI, ``coadd-*.fits`` or ``spectra-*.fits``, onto the joint grid of the three arms.

    Parameters
    ----------
    path : path-like or str
        A file of healpix or tile coadds, or of single exposures; gzipped or not; or the URL of one (``https://...``,
        ``s3://desidata/...`` without sign-in; needs ``fsspec``), of which the wanted rows alone are fetched.
    redrock : path-like, str or False, optional
        The file of redshifts; by default ``redrock-*`` beside ``coadd-*`` or ``spectra-*``, if there is one.  False for
        none.
    targetids : sequence of int, optional
        Read these only, in this order (of single exposures all of each).
    resolution : bool
        Whether to read the resolution, four fifths of the file.
    checksum : bool
        Whether to verify the checksums of the files, for which all of them is read.

    Returns
    -------
    `~specutils.Spectrum`, shape (n, 7781)
        3600 to 9824 Angstrom in steps of 0.8, in 1e-17 erg/(s cm2 Angstrom), with `~astropy.nddata.InverseVariance`;
        where arms overlap their mean with inverse variances as weights.  The mask is True, and flux and inverse
        variance are 0, where every arm has a mask bit, no inverse variance or no number.  ``meta`` has

        * ``fibers`` : `~astropy.table.QTable` with one row per spectrum, see Notes;
        * ``fibermap`` : `~astropy.table.Table`, the file's own table of the rows;
        * ``lsf`` : instrumental sigma (n, 7781), a length, before the integration over pixels, as
          `~fiberifu.lines.fit_line_maps` takes it; NaN where there is none; None without ``resolution``;
        * ``header`` : the primary header; ``provenance`` if the spectra are simulated;
        * ``survey`` "DESI", ``fiber_diameter``, ``medium`` "vacuum", ``frame`` "barycentric",
          ``extinction_corrected`` False, ``calibration`` "point source".

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If a URL needs a package that is not installed.
    ValueError
        If a file is not FITS, is truncated or damaged, is a prediction, lacks what is needed, has other units or
        another grid, holds no spectra; if a TARGETID is not in it.

    Notes
    -----
    *Flux* is calibrated so that it is the total of a point source, whatever is in the fibre.  Of extended light it is
    therefore too much, by 0.16, 0.24, 0.41 dex at a seeing of 0.9, 1.1, 1.5 arcsec for uniform light, and more in the
    blue.  The column ``psf_to_fiber_specflux`` is the pipeline's factor to the flux in the fibre at 1 arcsec seeing, a
    weak guide: grey, for centred exponential discs.  It is NaN where the file has 0 (sky, failed fibres), which stands
    for undefined, and nominal where the flag NO_PHOTOMETRY is set.  Nothing is corrected for Galactic extinction.

    ``fibers`` has the columns ``targetid``; ``z``, ``zerr``, ``zwarn`` (-1 without a redshift), ``deltachi2``,
    ``spectype``, ``subtype`` of redrock; ``position``, where the fibre was, and ``target``, where the target is
    (`~astropy.coordinates.SkyCoord`); ``position_scatter``, standard deviation of the exposures' positions, both
    coordinates in quadrature; ``psf_to_fiber_specflux``; ``flux_*``, ``flux_ivar_*``, ``fiberflux_*`` and
    ``fibertotflux_*`` in nanomaggies, observed, NaN where not measured; ``ebv``, ``morphtype``, ``shape_r``,
    ``shape_e1``, ``shape_e2``, ``sersic``, ``photsys``; ``objtype``, ``fiberstatus`` (the survey's bits); ``exptime``,
    ``n_exposures``, ``expid``, ``tileid``, ``healpix``, ``survey``, ``program``; ``flags`` (`FiberFlag`), and
    ``status``, their names.  Position, scatter and factor are means over the exposures that entered the coadd, from
    EXP_FIBERMAP where the file has it: in early releases the MEAN columns of FIBERMAP include exposures that failed, up
    to two arcminutes away, and STD_FIBER_RA is divided by cos(dec) where it should be multiplied.

    *Resolution*: DESI gives a matrix per spectrum (Guy et al. 2023, section 4.5), which acts on monochromatic light at
    the centres of the pixels.  Sigma is the root of the second moment of its columns about their mean, from which the
    variance of a pixel, 0.8^2 / 12, is taken.  Arms are joined as their light is, sigma^2 with the inverse variances as
    weights.

    *specutils* has a reader too (formats "DESI coadd" and "DESI spectra"), which is not used: it returns the arms, of
    different length, and the tables as they are, reads whole files only, takes truncated files for good ones, and does
    not know redrock's.
    """
    with FitsFile(path, checksum=checksum) as file:
        fibermap, rows = _wanted(file, targetids)
        arms = _arms(file, len(fibermap["TARGETID"]))
        exposures = file.table("EXP_FIBERMAP") if "EXP_FIBERMAP" in file else None
        n = len(rows)
        flux, ivar = np.zeros((n, N_WAVE), np.float32), np.zeros((n, N_WAVE), np.float32)
        sigma = np.full((n, N_WAVE), np.nan, np.float32) if resolution else None
        seen = np.zeros((n, len(ARMS)), bool)
        for block, start, stop, within in _blocks(rows):
            parts = _read_block(file, arms, start, stop, within, resolution)
            flux[block], ivar[block], seen[block], lsf = _join(parts, arms)
            if resolution:
                sigma[block] = lsf
        header = file.headers["PRIMARY"].copy()
        cards = header, file.headers["FIBERMAP"]
    redshifts = _redshifts(path, redrock, checksum)
    fibers = fiber_table({k: v[rows] for k, v in fibermap.items()}, exposures, redshifts, cards)
    flags = fibers["flags"]
    set_flag(flags, FiberFlag.NO_SIGNAL, ~seen.any(1))
    set_flag(flags, FiberFlag.ARM_MISSING, seen.any(1) & ~seen.all(1))
    fibers["status"] = flag_names(flags)
    meta = {
        "header": header,
        "fibers": fibers,
        "fibermap": Table({k: v[rows] for k, v in fibermap.items()}),
        "lsf": None if sigma is None else sigma * u.AA,
        "survey": "DESI",
        "fiber_diameter": FIBER_DIAMETER,
        "medium": "vacuum",
        "frame": "barycentric",
        "extinction_corrected": False,
        "calibration": "point source",
    }
    if header.get("DATATYPE") in NAME_PARTS:
        meta["provenance"] = Provenance.from_header(header)
    return Spectrum(
        flux * UNIT,
        spectral_axis=(START + STEP * np.arange(N_WAVE)) * u.AA,
        uncertainty=InverseVariance(ivar, unit=UNIT**-2),
        mask=ivar == 0,
        meta=meta,
        spectral_axis_index=1,
    )


# ---------------------------------------------------------------- rows
def _wanted(file, targetids):
    """The fibermap, and the rows that are wanted."""
    if "FIBERMAP" not in file:
        raise ValueError(f"{file.path}: no extension FIBERMAP; is it a coadd or spectra file of DESI?")
    fibermap = file.table("FIBERMAP")
    known = fibermap.get("TARGETID")
    if known is None or known.ndim != 1 or known.dtype.kind != "i":
        raise ValueError(f"{file.path}: FIBERMAP has no column of integers TARGETID; is it a file of DESI?")
    if not len(known):
        raise ValueError(f"{file.path}: FIBERMAP has no rows; the file has no spectra")
    if targetids is None:
        return fibermap, np.arange(len(known))
    wanted = np.atleast_1d(np.asarray(targetids))
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or not len(wanted):
        raise ValueError(f"targetids is {targetids!r}; give one or more integers")
    found = [np.flatnonzero(known == t) for t in wanted.astype(np.int64)]
    missing = [str(t) for t, rows in zip(wanted, found, strict=True) if not len(rows)]
    if missing:
        raise ValueError(f"{file.path}: no TARGETID {', '.join(missing[:5])}{' ...' if missing[5:] else ''} in it")
    return fibermap, np.concatenate(found)


def _blocks(rows):
    """Parts of the rows: where they go, what stretch of the file to read for them, which rows of it."""
    order = np.argsort(rows, kind="stable")
    start = 0
    while start < len(rows):
        low = rows[order[start]]
        stop = start + 1
        while stop < len(rows) and rows[order[stop]] < low + BLOCK and rows[order[stop]] - rows[order[stop - 1]] <= 8:
            stop += 1
        block = order[start:stop]
        yield block, int(low), int(rows[order[stop - 1]]) + 1, rows[block] - low
        start = stop


# ---------------------------------------------------------------- arms
def _arms(file, n):
    """Of each arm that there is: its name, its place in the joint grid, factors to the units; all is checked."""
    arms = []
    for name in ARMS:
        parts = [f"{name}_{part}" for part in ("WAVELENGTH", "FLUX", "IVAR")]
        missing = [part for part in parts if file.shape(part) is None]
        if len(missing) == len(parts):
            continue
        if missing:
            raise ValueError(f"{file.path}: no extension {', '.join(missing)}; fetch the file again")
        shape = file.shape(parts[1])
        mask, matrix = f"{name}_MASK", f"{name}_RESOLUTION"
        same = [file.shape(part) == shape for part in (parts[2], mask) if part in file]
        if len(shape) != 2 or shape[0] != n or file.shape(parts[0]) != shape[1:] or not all(same):
            found = {part: file.shape(part) for part in (*parts, mask) if part in file}
            raise ValueError(f"{file.path}: shapes {found} for {n} rows of FIBERMAP; fetch the file again")
        size = file.shape(matrix)
        if size is not None and (len(size) != 3 or (size[0], size[2]) != shape or size[1] % 2 == 0):
            raise ValueError(f"{file.path}: {matrix} has the shape {size}, the flux {shape}; fetch the file again")
        arms.append((name, _place(file, parts[0]), *_factors(file, name), mask in file, size is not None))
    if not arms:
        raise ValueError(
            f"{file.path}: no arm, B_FLUX, R_FLUX or Z_FLUX, with wavelength and ivar; give a coadd or spectra file"
        )
    return arms


def _place(file, name):
    """Where the pixels of an arm are in the joint grid, as a slice."""
    wave = np.asarray(file.image(name), float) * _unit(file, name, u.AA)
    first = round((wave[0] - START) / STEP) if np.isfinite(wave[0]) else -1
    grid = START + STEP * (first + np.arange(len(wave)))
    if first < 0 or first + len(wave) > N_WAVE or not np.allclose(wave, grid, rtol=0, atol=0.01):
        raise ValueError(f"{file.path}: {name} is not in steps of {STEP} Angstrom between 3600 and 9824 Angstrom")
    return slice(first, first + len(wave))


def _factors(file, arm):
    """Factors that bring flux and ivar to their units."""
    flux = _unit(file, f"{arm}_FLUX", UNIT)
    ivar = _unit(file, f"{arm}_IVAR", UNIT**-2) if file.headers[f"{arm}_IVAR"].get("BUNIT") else flux**-2
    if not np.isclose(ivar * flux**2, 1, rtol=1e-6):
        raise ValueError(f"{file.path}: the units of {arm}_FLUX and {arm}_IVAR do not belong together")
    return flux, ivar


def _unit(file, name, unit):
    text = file.headers[name].get("BUNIT")
    try:
        return float(u.Unit(str(text)).to(unit))
    except (ValueError, TypeError, u.UnitConversionError) as error:
        raise ValueError(f"{file.path}: {name} has BUNIT {text!r}, not a unit like {unit.to_string()}") from error


def _read_block(file, arms, start, stop, within, resolution):
    """Flux, weight (ivar, 0 where bad) and sigma (or None) of each arm, shape (rows, pixels)."""
    for name, _, to_flux, to_ivar, has_mask, has_resolution in arms:
        flux, ivar = (file.rows(f"{name}_{part}", start, stop)[within].astype(float) for part in ("FLUX", "IVAR"))
        with np.errstate(over="ignore", invalid="ignore"):
            flux, ivar = flux * to_flux, ivar * to_ivar
            good = np.isfinite(flux) & (ivar > 0) & (ivar < np.finfo(np.float32).max)
            good &= (np.abs(flux) < np.finfo(np.float32).max) & (np.abs(ivar * flux) < np.finfo(float).max)
        if has_mask:  # every bit is one of a bad pixel, as the pipeline has it when it joins arms
            good &= file.rows(f"{name}_MASK", start, stop)[within] == 0
        sigma = None
        if resolution and has_resolution:
            sigma = _sigma(file.rows(f"{name}_RESOLUTION", start, stop)[within])
        yield np.where(good, flux, 0), np.where(good, ivar, 0), sigma


def _sigma(matrix):
    """Sigma (rows, pixels), Angstrom, of matrices (rows, diagonals, pixels), before the pixels' integration."""
    offset = matrix.shape[1] // 2 - np.arange(matrix.shape[1])
    with np.errstate(all="ignore"):
        total, first, second = (np.einsum("d,rdp->rp", offset**k, matrix, dtype=float) for k in range(3))
        variance = second / total - (first / total) ** 2 - 1 / 12
        # what is broader than the matrix, or narrower than a tenth of a pixel, was none
        good = (total > 0.1) & (variance > 0.01) & (variance < offset[0] ** 2)
        sigma = np.where(good, STEP * np.sqrt(np.where(good, variance, 1)), np.nan)
    pixels = np.arange(sigma.shape[1])
    for row, known in zip(sigma, good, strict=True):
        if known.any() and not known.all():  # a hole: at a dead column
            row[~known] = np.interp(pixels[~known], pixels[known], row[known])
    return sigma


def _join(parts, arms):
    """Flux, ivar (rows, 7781), which arms have a signal (rows, 3), and sigma (rows, 7781)."""
    total = None
    for (name, place, *_), (flux, weight, sigma) in zip(arms, parts, strict=True):
        if total is None:
            n = len(flux)
            total, ivar, variance, share = (np.zeros((n, N_WAVE)) for _ in range(4))
            seen = np.zeros((n, len(ARMS)), bool)
        total[:, place] += weight * flux
        ivar[:, place] += weight
        seen[:, ARMS.index(name)] = weight.any(1)
        if sigma is not None:
            # a weight is needed also where no arm is good
            w = np.where(np.isfinite(sigma), weight + 1e-30, 0)
            variance[:, place] += w * np.where(np.isfinite(sigma), sigma, 0) ** 2
            share[:, place] += w
    good = (ivar > 0) & (ivar < np.finfo(np.float32).max)
    flux = np.divide(total, ivar, out=np.zeros_like(total), where=good)
    sigma = np.sqrt(np.divide(variance, share, out=np.full_like(share, np.nan), where=share > 0))
    return flux, np.where(good, ivar, 0), seen, sigma


# ---------------------------------------------------------------- redshifts
def _redshifts(path, redrock, checksum):
    """Columns of redrock's table, and the name of its file; None if there is none."""
    if redrock is None:
        redrock = _beside(os.fspath(path))
    if redrock is None or redrock is False:
        return None
    with FitsFile(redrock, checksum=checksum) as file:
        name = next((name for name in ("REDSHIFTS", "ZBEST") if name in file), None)
        if name is None:
            raise ValueError(f"{redrock}: no extension REDSHIFTS; give the redrock file, or redrock=False for none")
        table = file.table(name)
    missing = [key for key in ("TARGETID", "Z", "ZERR", "ZWARN") if key not in table]
    if missing or any(table[key].ndim != 1 for key in ("TARGETID", "Z", "ZERR", "ZWARN")):
        raise ValueError(f"{redrock}: its {name} lacks columns {', '.join(missing)}; is it of redrock?")
    return table


def _beside(path):
    """Name of the redrock file beside a file of spectra, if it is there."""
    folder, slash, name = path.rpartition("/") if "/" in path else path.rpartition(os.sep)
    kind, dash, rest = name.partition("-")
    if kind not in ("coadd", "spectra") or not dash:
        return None
    plain = rest.removesuffix(".gz")
    names = (f"{folder}{slash}redrock-{rest}", f"{folder}{slash}redrock-{plain}", f"{folder}{slash}redrock-{plain}.gz")
    return next((name for name in names if exists(name)), None)
