# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A simulated survey as a folder: units of work leave whole files, and a last step gathers what goes across units.

``unit -> images, cubes (final names) and parts (spectra by pixel, rows) -> gather -> coadds, catalogues, truth``

A unit is done when its marker is there; the markers and parts go only after the last file, the truth, is written.
Whatever moment a run is killed at, doing the missing units and the gathering again gives the same files.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from ...output import atomic_path
from ..products import FiberSpectra
from ..survey import STRATA
from . import desi, legacysurvey, manga
from .common import provenance, write_hdus

__all__ = ["PARTS", "TRUTH", "gather", "is_done", "remove_files", "run_unit"]

PARTS = ".fiberifu-parts"  # folder of what is to be gathered
TRUTH = "truth_sim.fits"
MAPS = ("TRUTH", "FIT")  # what is "HYB10-MILESHC-MASTARSSP" in the names of the DAP's files
#: Files that a survey makes, for `remove_files`; patterns below the folder.
PATTERNS = (TRUTH, "images/*_sim-*.fits", *(f"{part}/sim/**/*sim*.fits*" for part in (
    "legacysurvey/coadd", "legacysurvey/tractor", "spectro/redux", "spectro/analysis")))  # fmt: skip


def image_name(kind, seed, galaxy):
    """``images/cutout_sim-SEED-GALAXY.fits``, or ``copsf_...``."""
    return Path("images") / f"{kind}_sim-{seed}-{galaxy:06d}.fits"


def is_done(folder, unit):
    """Whether unit ``unit`` is complete."""
    return (Path(folder) / PARTS / f"{unit:06d}.json").is_file()


def remove_files(folder):
    """Remove the files of an earlier survey in ``folder``, and nothing else."""
    folder = Path(folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    for pattern in PATTERNS:
        for path in folder.glob(pattern):
            path.unlink()


# ---------------------------------------------------------------- units
def run_unit(folder, unit, survey, simulator, instruments, *, seed, start, n, options):
    """Simulate galaxies ``start`` to ``start + n`` and write all that is theirs alone; see `fiberifu.simulate_job`."""
    folder = Path(folder)
    for name in (PARTS, "images"):
        (folder / name).mkdir(exist_ok=True)
    {"desi": _desi_unit, "manga": _manga_unit}[survey](folder, unit, simulator, instruments, seed, start, n, options)
    with atomic_path(folder / PARTS / f"{unit:06d}.json") as temporary:
        temporary.write_text(json.dumps({"start": start, "n": n}))


def _desi_unit(folder, unit, simulator, instruments, seed, start, n, options):
    spectra, images = instruments["desi"](simulator, seed, start, n)
    spectra = desi.with_truth(desi.identified(spectra, seed=seed))
    for pixel, rows in desi.pixels_of(spectra).items():
        _save(folder / PARTS / f"{unit:06d}-pixel-{pixel}.npz", _flat(desi.select(spectra, rows)))
    numbers = np.unique(spectra.table["galaxy"])
    catalogue, fields = [], _by_galaxy(images, start)
    for galaxy, field in fields.items():
        _stamp(field.meta, simulator)
        _write_images(folder, field, seed, galaxy, options)
        rows = np.flatnonzero(np.asarray(spectra.table["galaxy"]) == galaxy)
        target = np.char.strip(np.asarray(spectra.table["objtype"]).astype(str)[rows]) == "TGT"
        if target.any():
            table = {key: np.asarray(value)[rows[target]] for key, value in spectra.table.items()}
            catalogue.append(legacysurvey.tractor_rows(table, field, seed=seed))
    if catalogue:
        _save(folder / PARTS / f"{unit:06d}-tractor.npz", _joined(catalogue))
    _save(folder / PARTS / f"{unit:06d}-galaxies.npz", _galaxies(simulator, seed, sorted({*numbers, *fields})))


def _manga_unit(folder, unit, simulator, instruments, seed, start, n, options):
    rows, galaxies = [], []
    for i, cube in enumerate(instruments["manga"](simulator, seed, start, n)):
        galaxy = int(cube.table.get("galaxy", start + i))
        galaxies.append(galaxy)
        _stamp(cube.table, simulator)
        name = manga.manga_name(seed, galaxy)
        plate, number = name.split("-")
        stack = folder / "spectro" / "redux" / "sim" / plate / "stack"
        analysis = folder / "spectro" / "analysis" / "sim"
        stack.mkdir(parents=True, exist_ok=True)
        manga.write_logcube(cube, stack / f"manga-{name}-LOGCUBE.fits.gz", seed=seed)
        for kind in MAPS:
            if kind == "FIT" and options["continuum"] is None:
                continue
            where = analysis / kind / plate / number
            where.mkdir(parents=True, exist_ok=True)
            path = where / f"manga-{name}-MAPS-{kind}.fits.gz"
            if kind == "TRUTH":
                manga.write_truth_maps(cube, path, seed=seed)
            else:
                cube_file = stack / f"manga-{name}-LOGCUBE.fits.gz"
                manga.write_fitted_maps(cube_file, path, continuum=options["continuum"], threads=1)
        rows.append(manga.drpall_rows(cube, seed=seed, galaxy=galaxy))
    _save(folder / PARTS / f"{unit:06d}-drpall.npz", {key: [row[key] for row in rows] for key in rows[0]})
    pointed = instruments.get("centred", lambda same: same)(simulator)  # IFUs point at the galaxy: so do the images
    for galaxy, field in zip(galaxies, instruments["images"](pointed, seed, galaxies), strict=True):
        _stamp(field.meta, pointed)
        _write_images(folder, field, seed, galaxy, options)
    _save(folder / PARTS / f"{unit:06d}-galaxies.npz", _galaxies(pointed, seed, galaxies))


def _stamp(record, simulator):
    """Note the template pack, where the instrument has not."""
    record.setdefault("pack_sha256", getattr(simulator, "pack_sha256", None))


def _by_galaxy(images, start):
    """Fields by the number of their galaxy: what they say, or else their order."""
    return {int(field.meta.get("index", start + i)): field for i, field in enumerate(images)}


def _write_images(folder, field, seed, galaxy, options):
    legacysurvey.write_cutout(field, folder / image_name("cutout", seed, galaxy), seed=seed)
    legacysurvey.write_psf(field, folder / image_name("copsf", seed, galaxy), seed=seed)
    if options["bricks"]:
        legacysurvey.write_brick(field, folder / "legacysurvey", seed=seed, galaxy=galaxy)


def _galaxies(simulator, seed, numbers):
    """What was drawn for every galaxy: one number or vector each, strata among them."""
    drawn = simulator.scene(seed, [int(i) for i in numbers])["g"]
    out = {"galaxy": np.asarray(numbers, np.int64)}
    for key, value in drawn.items():
        value = np.asarray(value.detach().cpu()) if hasattr(value, "detach") else np.asarray(value)
        if value.shape[:1] == (len(numbers),) and value.ndim < 3:
            out[key] = value > 0 if key in STRATA else value
    return out


# ---------------------------------------------------------------- parts
def _save(path, arrays):
    with atomic_path(path) as temporary:
        np.savez(temporary, **{key: _plain(value) for key, value in arrays.items()})


def _plain(value):
    value = np.asarray(value)
    return value.astype(str) if value.dtype.kind in "OS" else value


def _load(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _joined(rows):
    """One dict of arrays; a column that only some of them have is 0 in the others."""
    lengths = [len(next(iter(part.values()))) for part in rows]
    out = {}
    for key in dict.fromkeys(key for part in rows for key in part):
        like = np.asarray(next(part[key] for part in rows if key in part))
        out[key] = np.concatenate(
            [np.asarray(part[key]) if key in part else np.zeros((n, *like.shape[1:]), like.dtype)
             for part, n in zip(rows, lengths, strict=True)]
        )  # fmt: skip
    return out


def _flat(spectra):
    """A `FiberSpectra` as a dict of arrays."""
    out = {f"wave/{arm}": wave for arm, wave in spectra.wave.items()}
    for name in ("flux", "ivar", "mask", "resolution", "table"):
        out |= {f"{name}/{key}": value for key, value in getattr(spectra, name).items()}
    for name in ("flux", "ivar", "resolution"):  # as they will be written
        out |= {key: np.asarray(value, np.float32) for key, value in out.items() if key.startswith(name)}
    return out


def _spectra(arrays):
    groups = {name: {} for name in ("wave", "flux", "ivar", "mask", "resolution", "table")}
    for key, value in arrays.items():
        name, item = key.split("/", 1)
        groups[name][item] = value
    return FiberSpectra(**groups)


# ---------------------------------------------------------------- gathering
def gather(folder, survey, *, seed, pack_sha256=None):
    """Write what goes across units, the truth last; then remove the parts.

    Parameters
    ----------
    folder : path-like
    survey : {'desi', 'manga'}
    seed : int
    pack_sha256 : str, optional
        Of the template pack, for the headers.

    Returns
    -------
    list of `~pathlib.Path`
        Catalogues and the truth.
    """
    folder = Path(folder)
    truth = {"GALAXIES": _joined([_load(path) for path in sorted((folder / PARTS).glob("*-galaxies.npz"))])}
    paths = []
    if survey == "desi":
        truth["FIBERS"] = _gather_desi(folder, seed, pack_sha256, paths)
    else:
        rows = _joined([_load(path) for path in sorted((folder / PARTS).glob("*-drpall.npz"))])
        truth["CUBES"] = rows
        paths.append(folder / "spectro" / "redux" / "sim" / "drpall-sim.fits")
        keys = list(rows)
        manga.write_drpall([dict(zip(keys, row, strict=True)) for row in zip(*rows.values(), strict=True)], paths[-1],
                           seed=seed, pack_sha256=pack_sha256)  # fmt: skip
    hdus = [fits.PrimaryHDU()]
    for name, columns in truth.items():
        hdus.append(fits.table_to_hdu(Table(columns)))
        hdus[-1].name = name
    hdus[1].header["STRATA"] = (",".join(key for key in STRATA if key in truth["GALAXIES"]), "columns of labels")
    paths.append(folder / TRUTH)
    write_hdus(hdus, paths[-1], provenance(seed, pack_sha256))
    shutil.rmtree(folder / PARTS)
    return paths


def _gather_desi(folder, seed, pack_sha256, paths):
    """Coadds, redshifts and catalogues; gives the table of all fibres."""
    by_pixel = {}
    for path in sorted((folder / PARTS).glob("*-pixel-*.npz")):
        by_pixel.setdefault(int(path.stem.split("-")[-1]), []).append(path)
    rows, fibers = [], []
    for pixel in sorted(by_pixel):
        spectra = desi.concatenate(_spectra(_load(path)) for path in by_pixel[pixel])
        spectra.meta["pack_sha256"] = pack_sha256
        where = desi.pixel_folder(folder, pixel)
        where.mkdir(parents=True, exist_ok=True)
        for kind, write in (("coadd", desi.write_coadd), ("redrock", desi.write_redrock)):
            path = where / f"{kind}-{desi.SURVEY}-{desi.PROGRAM}-{pixel}.fits"
            if not path.is_file():  # a run that was killed while it gathered has written it
                write(spectra, path, seed=seed, pixel=pixel)
        path = where / f"truth-{desi.SURVEY}-{desi.PROGRAM}-{pixel}.fits"
        if "true_flux" in spectra.table and not path.is_file():
            desi.write_truth(spectra, path, seed=seed, pixel=pixel)
        rows.append(desi.zcatalog_rows(spectra, pixel))
        table = {key: value for key, value in spectra.table.items() if key != "true_flux"}
        fibers.append(table | {"healpix": np.full(len(table["targetid"]), pixel)})
    catalogues = folder / "spectro" / "redux" / desi.SPECPROD / "zcatalog" / "v1"
    catalogues.mkdir(parents=True, exist_ok=True)
    paths.append(catalogues / f"zall-pix-{desi.SPECPROD}.fits")
    desi.write_zcatalog(rows, paths[-1], seed=seed, pack_sha256=pack_sha256)
    parts = [_load(path) for path in sorted((folder / PARTS).glob("*-tractor.npz"))]
    if parts:
        (folder / "legacysurvey" / "tractor" / "sim").mkdir(parents=True, exist_ok=True)
        paths.append(folder / "legacysurvey" / "tractor" / "sim" / f"tractor-sim-{seed}.fits")
        legacysurvey.write_tractor(_joined(parts), paths[-1], seed=seed, pack_sha256=pack_sha256)
    return _joined(fibers)
