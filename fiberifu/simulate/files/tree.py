# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A simulated survey as a folder: units of work leave whole files, and a last step gathers what goes across units.

``unit -> images, cubes (final names) and parts (spectra by pixel, rows) -> gather -> coadds, catalogues, truth``

A unit is done when its marker is there; the markers and parts go only after the last file, the list of all files with
their sizes and checksums, is written. Whatever moment a run is killed at, doing the missing units and the gathering
again gives the same files. Names are noted before files are written, so that only our own are ever removed.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from astropy.io import fits

from ...output import atomic_path
from ..products import FiberSpectra
from ..survey import STRATA
from . import desi, legacysurvey, manga
from .common import provenance, write_hdus
from .truth_table import WISHES, in_degrees, truth_hdu

__all__ = ["FILES", "PARTS", "TRUTH", "damaged", "finish", "gather", "is_done", "listed", "remove_files", "reopen",
           "run_unit"]  # fmt: skip

PARTS = ".fiberifu-parts"  # folder of what is to be gathered
FILES = "files_sim.json"  # of a finished survey: {name: {"size", "sha256", "unit"}}, unit null for what was gathered
NAMES = "names.txt"  # in PARTS: names below the folder, noted before the files are written
TRUTH = "truth_sim.fits"
MAPS = ("TRUTH", "FIT")  # what is "HYB10-MILESHC-MASTARSSP" in the names of the DAP's files


def image_name(kind, seed, galaxy):
    """``images/cutout_sim-SEED-GALAXY.fits``, or ``copsf_...``."""
    return Path("images") / f"{kind}_sim-{seed}-{galaxy:06d}.fits"


def is_done(folder, unit):
    """Whether unit ``unit`` is complete."""
    return (Path(folder) / PARTS / f"{unit:06d}.json").is_file()


def _note(folder, path):
    """``path``, after its name is noted as one of ours."""
    with open(folder / PARTS / NAMES, "a") as file:  # one short line at a time: whole even from several processes
        file.write(f"{path.relative_to(folder).as_posix()}\n")
    return path


def _mark(path):
    """Size and sha256 of a file."""
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def listed(folder):
    """Files of a finished survey, as in `FILES`; None if it is not finished."""
    try:
        content = json.loads((Path(folder) / FILES).read_text())
        return {str(name): dict(entry) for name, entry in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def remove_files(folder):
    """Remove the files of an earlier survey in ``folder``: those that it has noted or listed, and nothing else."""
    folder = Path(folder)
    names = list(listed(folder) or ())
    if (folder / PARTS / NAMES).is_file():
        names += (folder / PARTS / NAMES).read_text().splitlines()
    for name in names:
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts:
            (folder / name).unlink(missing_ok=True)
    (folder / FILES).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def damaged(folder):
    """What is missing of a finished survey, or has another size or checksum than when it was written.

    Returns
    -------
    list of str
    """
    folder, bad = Path(folder), []
    for name, entry in listed(folder).items():
        path = folder / name
        whole = path.is_file() and path.stat().st_size == entry["size"]
        if not whole or _mark(path)["sha256"] != entry["sha256"]:
            bad.append(name)
    return bad


def reopen(folder, bad):
    """Remove damaged files of a finished survey, and say what is to be done again.

    Parameters
    ----------
    folder : path-like
    bad : list of str
        Of `damaged`.

    Returns
    -------
    set of int, or None
        Units; None for all, and the gathering, where a file is damaged that was gathered from all.
    """
    folder = Path(folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    entries = listed(folder)
    for name in bad:
        (folder / name).unlink(missing_ok=True)
    units = {entries[name]["unit"] for name in bad}
    if None not in units:
        return units
    (folder / PARTS).mkdir()
    (folder / PARTS / NAMES).write_text("".join(f"{name}\n" for name in entries))
    (folder / FILES).unlink()
    return None


# ---------------------------------------------------------------- units
def run_unit(folder, unit, survey, simulator, instruments, *, seed, start, n, options):
    """Simulate the galaxies of slots ``start`` to ``start + n`` and write all that is theirs alone.

    A slot's galaxy has another number within the seed, which names files: see `fiberifu.simulate.selection`.
    """
    folder = Path(folder)
    for name in (PARTS, "images"):
        (folder / name).mkdir(exist_ok=True)
    make = {"desi": _desi_unit, "manga": _manga_unit}[survey]
    paths = make(folder, unit, simulator, instruments, seed, start, n, options)
    files = {path.relative_to(folder).as_posix(): _mark(path) | {"unit": unit} for path in paths}
    with atomic_path(folder / PARTS / f"{unit:06d}.json") as temporary:
        temporary.write_text(json.dumps({"start": start, "n": n, "files": files}))


def _desi_unit(folder, unit, simulator, instruments, seed, start, n, options):
    spectra, images = instruments["desi"](simulator, seed, start, n)
    spectra = desi.with_truth(desi.identified(spectra, seed=seed))
    numbers = np.unique(spectra.table["galaxy"])
    paths, catalogue, fields = [], [], _by_galaxy(images, start)
    for galaxy, field in fields.items():
        _stamp(field.meta, simulator)
        paths += _write_images(folder, field, seed, galaxy, options)
        rows = np.flatnonzero(np.asarray(spectra.table["galaxy"]) == galaxy)
        target = np.char.strip(np.asarray(spectra.table["objtype"]).astype(str)[rows]) == "TGT"
        if target.any():
            table = {key: np.asarray(value)[rows[target]] for key, value in spectra.table.items()}
            catalogue.append(legacysurvey.tractor_rows(table, field, seed=seed))
            for key in (f"flux_ivar_{band}" for band in "grz"):  # what the images tell of the targets
                column = spectra.table.setdefault(key, np.zeros(len(spectra.table["galaxy"]), np.float32))
                column[rows[target]] = catalogue[-1].get(key, 0)
    for pixel, rows in desi.pixels_of(spectra).items():
        _save(folder / PARTS / f"{unit:06d}-pixel-{pixel}.npz", _flat(desi.select(spectra, rows)))
    if catalogue:
        _save(folder / PARTS / f"{unit:06d}-tractor.npz", _joined(catalogue))
    wishes = {galaxy: field.meta for galaxy, field in fields.items()}
    _save(folder / PARTS / f"{unit:06d}-galaxies.npz", _galaxies(simulator, seed, sorted({*numbers, *fields}), wishes))
    return paths


def _manga_unit(folder, unit, simulator, instruments, seed, start, n, options):
    rows, galaxies, wishes, paths = [], [], {}, []
    for i, cube in enumerate(instruments["manga"](simulator, seed, start, n)):
        galaxy = int(cube.table.get("galaxy", start + i))
        galaxies.append(galaxy)
        wishes[galaxy] = cube.table
        _stamp(cube.table, simulator)
        name = manga.manga_name(seed, galaxy)
        plate, number = name.split("-")
        stack = folder / "spectro" / "redux" / "sim" / plate / "stack"
        analysis = folder / "spectro" / "analysis" / "sim"
        stack.mkdir(parents=True, exist_ok=True)
        cube_file = _note(folder, stack / f"manga-{name}-LOGCUBE.fits.gz")
        manga.write_logcube(cube, cube_file, seed=seed, overwrite=True)
        paths.append(cube_file)
        for kind in MAPS:
            if kind == "FIT" and options["continuum"] is None:
                continue
            where = analysis / kind / plate / number
            where.mkdir(parents=True, exist_ok=True)
            path = _note(folder, where / f"manga-{name}-MAPS-{kind}.fits.gz")
            paths.append(path)
            if kind == "TRUTH":
                manga.write_truth_maps(cube, path, seed=seed)
            else:
                manga.write_fitted_maps(cube_file, path, continuum=options["continuum"], threads=1)
        rows.append({"galaxy": galaxy} | manga.drpall_rows(cube, seed=seed, galaxy=galaxy))
        rows[-1]["stellar_limited"] = _limited(cube)
    _save(folder / PARTS / f"{unit:06d}-drpall.npz", {key: [row[key] for row in rows] for key in rows[0]})
    pointed = instruments.get("centred", lambda same: same)(simulator)  # IFUs point at the galaxy: so do the images
    for galaxy, field in zip(galaxies, instruments["images"](pointed, seed, galaxies), strict=True):
        _stamp(field.meta, pointed)
        paths += _write_images(folder, field, seed, galaxy, options)
    _save(folder / PARTS / f"{unit:06d}-galaxies.npz", _galaxies(pointed, seed, galaxies, wishes))
    return paths


def _limited(cube):
    """Share of spaxels whose stars are narrower than the templates; NaN where that is not known."""
    limited = np.asarray(cube.truth.get("stellar_limited", []))[np.isfinite(cube.truth.get("sigma_star", []))]
    return float(limited.mean()) if limited.size else float("nan")


def _stamp(record, simulator):
    """Note the template pack, where the instrument has not."""
    record.setdefault("pack_sha256", getattr(simulator, "pack_sha256", None))


def _by_galaxy(images, start):
    """Fields by the number of their galaxy: what they say, or else their order."""
    return {int(field.meta.get("index", start + i)): field for i, field in enumerate(images)}


def _write_images(folder, field, seed, galaxy, options):
    paths = [_note(folder, folder / image_name(kind, seed, galaxy)) for kind in ("cutout", "copsf")]
    legacysurvey.write_cutout(field, paths[0], seed=seed, overwrite=True)
    legacysurvey.write_psf(field, paths[1], seed=seed, overwrite=True)
    if options["bricks"]:
        for path in legacysurvey.brick_paths(field, folder / "legacysurvey", galaxy).values():
            paths.append(_note(folder, path))
        legacysurvey.write_brick(field, folder / "legacysurvey", seed=seed, galaxy=galaxy)
    return paths


def _galaxies(simulator, seed, numbers, wishes):
    """What was drawn for every galaxy: one number or vector each, strata among them; and what its slot wished for."""
    drawn = simulator.scene(seed, [int(i) for i in numbers])["g"]
    out = {"galaxy": np.asarray(numbers, np.int64)}
    for key, value in drawn.items():
        value = np.asarray(value.detach().cpu()) if hasattr(value, "detach") else np.asarray(value)
        if value.shape[:1] == (len(numbers),) and value.ndim < 3:
            out[key] = value > 0 if key in STRATA else value
    for key in WISHES:
        if all(key in wishes.get(number, ()) for number in numbers):
            out[key] = np.asarray([wishes[number][key] for number in numbers])
    return in_degrees(out)


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
    """Write what goes across units, then the list of all files; then remove the parts.

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
    paths, coadds = [], []
    if survey == "desi":
        truth["FIBERS"] = _gather_desi(folder, seed, pack_sha256, paths, coadds)
    else:
        truth["CUBES"] = _joined([_load(path) for path in sorted((folder / PARTS).glob("*-drpall.npz"))])
        rows = {key: value for key, value in truth["CUBES"].items() if key not in ("galaxy", "stellar_limited")}
        paths.append(_note(folder, folder / "spectro" / "redux" / "sim" / "drpall-sim.fits"))
        manga.write_drpall([dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)], paths[-1],
                           seed=seed, pack_sha256=pack_sha256)  # fmt: skip
    hdus = [fits.PrimaryHDU(), *(truth_hdu(name, columns) for name, columns in truth.items())]
    hdus[1].header["STRATA"] = (",".join(key for key in STRATA if key in truth["GALAXIES"]), "columns of labels")
    paths.append(_note(folder, folder / TRUTH))
    write_hdus(hdus, paths[-1], provenance(seed, pack_sha256))
    finish(folder, {path.relative_to(folder).as_posix(): _mark(path) | {"unit": None} for path in coadds + paths})
    return paths


def finish(folder, files):
    """Write the list of all files: ``files``, as in `FILES`, and those of units that were done; remove the parts."""
    folder = Path(folder)
    for path in sorted((folder / PARTS).glob("*.json")):
        files = files | json.loads(path.read_text())["files"]
    with atomic_path(folder / FILES) as temporary:
        temporary.write_text(json.dumps(dict(sorted(files.items())), indent=1) + "\n")
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _gather_desi(folder, seed, pack_sha256, paths, coadds):
    """Coadds and redshifts (``coadds``), catalogues (``paths``); gives the table of all fibres."""
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
            path = _note(folder, where / f"{kind}-{desi.SURVEY}-{desi.PROGRAM}-{pixel}.fits")
            coadds.append(path)
            if not path.is_file():  # a run that was killed while it gathered has written it
                write(spectra, path, seed=seed, pixel=pixel)
        if "true_flux" in spectra.table:
            path = _note(folder, where / f"truth-{desi.SURVEY}-{desi.PROGRAM}-{pixel}.fits")
            coadds.append(path)
            if not path.is_file():
                desi.write_truth(spectra, path, seed=seed, pixel=pixel)
        rows.append(desi.zcatalog_rows(spectra, pixel))
        table = {key: value for key, value in spectra.table.items() if key != "true_flux"}
        fibers.append(table | {"healpix": np.full(len(table["targetid"]), pixel)})
    catalogues = folder / "spectro" / "redux" / desi.SPECPROD / "zcatalog" / "v1"
    catalogues.mkdir(parents=True, exist_ok=True)
    paths.append(_note(folder, catalogues / f"zall-pix-{desi.SPECPROD}.fits"))
    desi.write_zcatalog(rows, paths[-1], seed=seed, pack_sha256=pack_sha256)
    parts = [_load(path) for path in sorted((folder / PARTS).glob("*-tractor.npz"))]
    if parts:
        (folder / "legacysurvey" / "tractor" / "sim").mkdir(parents=True, exist_ok=True)
        paths.append(_note(folder, folder / "legacysurvey" / "tractor" / "sim" / f"tractor-sim-{seed}.fits"))
        legacysurvey.write_tractor(_joined(parts), paths[-1], seed=seed, pack_sha256=pack_sha256)
    return _joined(fibers)
