# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A catalogue of galaxies predicted, chunk by chunk: what ``fiberifu infer`` calls.

``catalogue -> targets -> chunks -> parts, each a file made by some worker -> one table per chunk``

A part is written whole or not at all, and a chunk is put together from its parts, so a run killed at any moment goes on
with what it had. What is in a row depends on the galaxy and the settings only: not on chunks, parts, or workers.
"""

import logging
import math
import re
import resource
import shutil
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from tqdm import tqdm

from fiberifu.catalogue import read_targets
from fiberifu.catalogue_row import READERS, field_of, predict_target, prepare_target, row_layout, rows_table
from fiberifu.output import MANIFEST, atomic_path, prepare_output_folder
from fiberifu.pretrained import resolve_pretrained
from fiberifu.provenance import Provenance, software_version
from fiberifu.simulate_job import _follow

__all__ = ["export_galaxy", "infer_catalog", "open_executor", "read_inferred", "summary_lines"]

log = logging.getLogger(__name__)

CHUNK = 1000  # galaxies of a chunk, unless the number of chunks is given
PART = 20  # galaxies: what a kill costs at most, in each worker
AHEAD = 1000  # parts that wait in an executor
EXECUTORS = ("none", "process", "dask")


def infer_catalog(
    catalog,
    folder,
    *,
    model=None,
    chunk=None,
    of=None,
    executor=None,
    columns=None,
    image=None,
    reader="auto",
    size=15 * u.arcsec,
    spaxel=0.75 * u.arcsec,
    aperture=1.5 * u.arcsec,
    lines="strong",
    draws=64,
    seed=0,
    maps=False,
    overwrite=False,
    resume=False,
    progress=False,
):
    """Predict the galaxies of a catalogue: a table of line fluxes, latents and flags, one row for each.

    Parameters
    ----------
    catalog : path-like
        Of N galaxies; see `~fiberifu.catalogue.read_targets` for its columns.
    folder : path-like
        Made if it does not exist.
    model : str or path-like, optional
        As for `VirtualIFU.from_pretrained <fiberifu.VirtualIFU.from_pretrained>`.
    chunk, of : int, optional
        Do only chunk number ``chunk`` of ``of``, from 0. Several may be done at the same time, by different machines,
        in one folder; one that is done already is left as it is. By default all chunks are done, and have at most 1000
        galaxies.
    executor : `concurrent.futures.Executor`, optional
        Where parts are computed: of processes, of ``dask.distributed``, of anything else whose workers can import
        fiberifu and see the same files. By default this process does it. Every worker computes on one thread, and loads
        the model once.
    columns : dict of str to str, optional
    image : str, optional
        Both as for `~fiberifu.catalogue.read_targets`.
    reader : str or callable
        Of images: "auto", "legacysurvey", "des", or a function (files, PSF file or None) -> {band: CCDData}, which
        the workers of the executor can import.
    size, spaxel : `~astropy.units.Quantity`
        Side of the field where the catalogue has none, and of its spaxels; sums are of the circle inside.
    aperture : `~astropy.units.Quantity`
        Diameter of the fibre on the centre.
    lines : str or sequence of str
        "strong", "all", or keys of lines.
    draws : int
        From which the quantiles of sums are taken.
    seed : int
    maps : bool
        Whether the line maps of every galaxy are written, too: a file each.
    overwrite : bool
        Replace what an earlier run, under whatever settings, has made in the folder.
    resume : bool
        Go on in a folder that was made under the same settings; with ``chunk`` that is always so.
    progress : bool

    Returns
    -------
    list of `~pathlib.Path`
        The tables, ``chunk_predicted_00000-of-00010.fits`` and so on, of the chunks asked for.

    Raises
    ------
    ValueError, OSError
        For what is wrong with the catalogue as a whole, the folder or an argument. What is wrong with a galaxy is in
        its row: ``OK`` is False, and ``STATUS`` says why.
    """
    from fiberifu.prediction import _select_lines  # late: it loads much that a worker needs, and --help does not

    targets = read_targets(catalog, columns=columns, image=image)
    source, weights = _model_files(model)
    keys = [str(key) for key in _select_lines(lines)["key"]]
    options = {"reader": reader, "lines": keys, "draws": _whole("draws", draws, 2), "seed": _whole("seed", seed, 0)}
    options |= {name: _angle(name, value) for name, value in
                (("size", size), ("spaxel", spaxel), ("aperture", aperture))}  # fmt: skip
    if not callable(reader) and reader not in READERS:
        raise ValueError(f"reader is {reader!r}; give {', '.join(READERS)} or a function")
    of = max(1, math.ceil(len(targets) / CHUNK)) if of is None and chunk is None else of
    chunks = _chunks(chunk, of, len(targets))
    settings = {
        "catalog": _sha256(catalog), "columns": columns or {}, "image": image, "chunks": of, "part": PART,
        "model": weights, "maps": bool(maps), "software": software_version(),
        **options, "reader": reader if isinstance(reader, str) else f"{reader.__module__}.{reader.__qualname__}",
    }  # fmt: skip
    folder = _prepare(Path(folder), settings, chunk is not None, overwrite, resume)
    job = {"model": str(source), "options": options, "folder": str(folder) if maps else None}
    job["cards"] = {"CATALOG": Path(catalog).name, "CATSHA": settings["catalog"][:16], "SPAXEL": options["spaxel"],
                    "APERTURE": options["aperture"], "DRAWS": draws, "NCHUNK": of}  # fmt: skip
    work = _Chunks(folder, of, targets, chunks)
    with _own_threads(executor):
        work.make(job, executor, progress)
    return [work.table(i) for i in chunks]


def read_inferred(folder):
    """All rows of a catalogue that was predicted.

    Parameters
    ----------
    folder : path-like
        Of `infer_catalog`.

    Returns
    -------
    `~astropy.table.QTable`
        In the order of the catalogue; every row of it once.

    Raises
    ------
    FileNotFoundError
        If there is no chunk.
    ValueError
        If chunks are missing, naming them.
    """
    paths = sorted(Path(folder).glob("chunk_predicted_*-of-*.fits"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no chunk of a predicted catalogue (chunk_predicted_*.fits)")
    of = int(paths[0].stem.rpartition("-")[2])
    there = {int(re.search(r"(\d+)-of", path.name)[1]) for path in paths}
    if missing := sorted(set(range(of)) - there):
        some = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise ValueError(f"{folder}: {len(missing)} of {of} chunks are missing ({some}); do them first")
    table = vstack([QTable.read(path, hdu=1, mask_invalid=False) for path in paths], metadata_conflicts="silent")
    if not np.array_equal(table["ROW"], np.arange(len(table))):
        raise ValueError(f"{folder}: the rows of its chunks do not follow each other; was a file exchanged?")
    return table


def export_galaxy(catalog, folder, name, *, columns=None, image=None, reader="auto", model=None,
                  size=15 * u.arcsec, spaxel=0.75 * u.arcsec, **keywords):  # fmt: skip
    """Cube, line maps and summary of one galaxy of a catalogue, as `infer_catalog` saw it.

    Parameters
    ----------
    catalog, columns, image, reader, model, size, spaxel
        As for `infer_catalog`.
    folder : path-like
        Another than that of the catalogue's tables.
    name : str
        Of the galaxy; ``"#12"`` for row 12, from 0.
    **keywords
        Of `fiberifu.jobs.observe_to_folder`, such as ``seed`` or ``resume``.

    Returns
    -------
    prediction, paths
        As of `fiberifu.jobs.observe_to_folder`.

    Raises
    ------
    ValueError, OSError
        For a name that is not there or not unique, and whatever is wrong with the galaxy.
    """
    from fiberifu.jobs import observe_to_folder
    from fiberifu.observe import VirtualIFU

    targets = read_targets(catalog, columns=columns, image=image)
    same = [t for t in targets if t.name == name or f"#{t.row}" == name]
    if len(same) != 1:
        here = f"are {len(same)} galaxies, rows {', '.join(str(t.row) for t in same[:5])}" if same else "is none"
        raise ValueError(f"name is {name!r}: there {here} of that name in {catalog}; #ROW takes a row, from 0")
    target, options = same[0], {"size": _angle("size", size), "spaxel": _angle("spaxel", spaxel)}
    if target.problem:
        raise ValueError(f"{name}: {target.problem}")
    side, _ = field_of(target, options)
    prepared = prepare_target(target, VirtualIFU.from_pretrained(model).config, reader, side)
    z = target.redshift
    return observe_to_folder(
        prepared,
        folder,
        name=_file_name(target),
        title=target.name,
        model=model,
        inputs={"image": prepared.sha256},
        redshift=(z, target.redshift_error) if np.isfinite(target.redshift_error) else z,
        size=side * u.arcsec,
        spaxel=spaxel,
        center=target.position,
        **keywords,
    )


def summary_lines(paths):
    """What chunks hold, in words: how many galaxies were predicted, and why others were not.

    Parameters
    ----------
    paths : sequence of path-like
        As `infer_catalog` gives them.

    Yields
    ------
    str
    """
    n, reasons = 0, {}
    for path in paths:
        with fits.open(path) as hdus:
            data = hdus[1].data
            n += len(data)
            for name, status in zip(data["NAME"][~data["OK"]], data["STATUS"][~data["OK"]], strict=True):
                reasons.setdefault(_kind_of(str(status)), []).append((str(name), str(status)))
    bad = sum(map(len, reasons.values()))
    yield f"{n - bad} of {n} galaxies predicted" + (f"; {bad} not, whose rows say why (STATUS):" if bad else ".")
    for cases in sorted(reasons.values(), key=len, reverse=True)[:5]:
        yield f"  {len(cases)}, such as {cases[0][0]}: {cases[0][1]}"
    if len(reasons) > 5:
        yield f"  and {len(reasons) - 5} other kinds"
    yield "Predicted from images: not observations."


def _kind_of(status):
    """A reason without its names and numbers."""
    return re.sub(r"\S*[/\d]\S*", "", status)


# ---------------------------------------------------------------- executors
@contextmanager
def open_executor(kind, workers=1, address=None):
    """An executor for `infer_catalog`, by its name.

    Parameters
    ----------
    kind : {"none", "process", "dask"}
        This process; ``workers`` processes of this machine; workers of ``dask.distributed``.
    workers : int
    address : str, optional
        Of a dask scheduler that runs already; by default ``workers`` processes are started on this machine.

    Yields
    ------
    `concurrent.futures.Executor` or None

    Raises
    ------
    ValueError
        For another kind, or where dask.distributed is not installed.
    """
    workers = _whole("workers", workers, 1)
    if kind not in EXECUTORS:
        raise ValueError(f"executor is {kind!r}; give one of {', '.join(EXECUTORS)}")
    if address is not None and kind != "dask":
        raise ValueError(f"scheduler is {address!r}, and executor {kind!r}; a scheduler is dask's")
    if kind == "none":
        yield None
    elif kind == "process":
        import multiprocessing

        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(workers, context, _start_worker) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError(
                "executor is 'dask', and dask.distributed is not installed: pip install 'dask[distributed]'"
            ) from error
        here = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with Client(address) if address is not None else Client(**here) as client:
            yield client.get_executor(pure=False)


def _start_worker():
    """A process of ours: ends with its parent, and says nothing that the parent has said."""
    threading.Thread(target=_follow, daemon=True).start()
    logging.getLogger("fiberifu").setLevel(logging.ERROR)


@lru_cache(maxsize=1)
def _load(source):
    from fiberifu.observe import VirtualIFU

    return VirtualIFU.from_pretrained(source)


_loading = threading.Lock()  # several threads of a worker share one model


def run_part(job, targets, path):
    """Predict some galaxies and write their rows; what an executor's worker does.

    Returns
    -------
    dict
        ``n``, ``bad`` (galaxies that could not be predicted), ``seconds``, ``memory`` (bytes, peak of the process).
    """
    start = time.perf_counter()
    with _loading:
        ifu = _load(job["model"])
    _one_thread()
    options, rows = job["options"], []
    for target in targets:
        row, cube = predict_target(ifu, target, options)
        if cube is not None and job["folder"] is not None:
            place = Path(job["folder"]) / "maps" / Path(path).parent.name
            place.mkdir(parents=True, exist_ok=True)
            name = f"{target.row:07d}_{_file_name(target)}_predicted_maps.fits"
            cube.line_maps(options["lines"]).write(place / name, overwrite=True)
        rows.append(row)
    table = rows_table(rows, row_layout(ifu.config, options["lines"]))
    marks = Provenance(
        model_id=ifu.config.name,
        weights_sha256=ifu.weights_sha256,
        training_data=str(ifu.passport.get("training_data", "unknown")),
        seed=options["seed"],
        extra=job["cards"],
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _write(table, Path(path), marks)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    bad = sum(not row["OK"] for row in rows)
    return {"n": len(rows), "bad": bad, "seconds": time.perf_counter() - start, "memory": used}


def _one_thread():
    """From now on this process computes on one thread.

    As many workers as cores are faster than threads; and results do not depend on how many there are.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@contextmanager
def _own_threads(executor):
    """Where work is done in this very process: its threads are as before afterwards."""
    if executor is not None and not isinstance(executor, ThreadPoolExecutor):
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(1):
        try:
            yield
        finally:
            torch.set_num_threads(before)


# ---------------------------------------------------------------- chunks and parts
class _Chunks:
    """Files of chunks and parts in a folder, and what is to be done."""

    def __init__(self, folder, of, targets, chunks):
        self.folder, self.of, self.targets, self.chunks = folder, of, targets, chunks

    def bounds(self, i):
        return (i * len(self.targets) // self.of, (i + 1) * len(self.targets) // self.of)

    def table(self, i):
        return self.folder / f"chunk_predicted_{i:05d}-of-{self.of:05d}.fits"

    def parts(self, i):
        """Rows (start, stop) and file of each part of a chunk."""
        start, stop = self.bounds(i)
        place = self.folder / "parts" / f"{i:05d}"
        return [(a, min(a + PART, stop), place / f"{a:07d}_predicted.fits") for a in range(start, stop, PART)]

    def make(self, job, executor, progress):
        todo, left = [], {}
        for i in self.chunks:
            if _holds(self.table(i), *self.bounds(i)):
                self.tidy(i)
                continue
            missing = [(i, *part) for part in self.parts(i) if not _holds(part[2], *part[:2])]
            left[i] = len(missing)
            todo += missing
        total = sum(b - a for a, b in map(self.bounds, self.chunks))
        done = total - sum(b - a for _, a, b, _ in todo)
        if done:
            log.info("%d of %d galaxies are there already", done, total)
        for i, missing in left.items():
            if not missing:
                self.gather(i)
        start, most, bad, busy = time.perf_counter(), 0, 0, 0.0
        with tqdm(total=total, initial=done, unit="galaxy", disable=not progress, leave=False) as bar:
            for part, result in _results(executor, job, self.targets, todo):
                most, bad, busy = max(most, result["memory"]), bad + result["bad"], busy + result["seconds"]
                bar.update(result["n"])
                left[part[0]] -= 1
                if not left[part[0]]:
                    self.gather(part[0])
        if todo:
            n, seconds = total - done, time.perf_counter() - start
            log.info("%d galaxies in %.0f s, %.2f s of a worker each; largest worker %.0f MB%s", n, seconds, busy / n,
                     most / 1e6, f"; {bad} could not be predicted" if bad else "")  # fmt: skip

    def gather(self, i):
        """Put a chunk together from its parts."""
        paths = [path for _, _, path in self.parts(i)]
        try:
            tables = [QTable.read(path, hdu=1, mask_invalid=False) for path in paths]
            marks = Provenance.from_header(fits.getheader(paths[0], 1))
        except FileNotFoundError:
            if _holds(self.table(i), *self.bounds(i)):  # another run has done it meanwhile
                return
            raise
        marks = marks.replace(extra=marks.extra | {"CHUNK": i})
        _write(vstack(tables, metadata_conflicts="silent"), self.table(i), marks)
        self.tidy(i)

    def tidy(self, i):
        """Remove the parts of a chunk that is whole, and what a kill has left half-written."""
        shutil.rmtree(self.folder / "parts" / f"{i:05d}", ignore_errors=True)
        for path in self.folder.glob(f".????????-{self.table(i).name}"):
            path.unlink(missing_ok=True)
        for path in (self.folder / "maps" / f"{i:05d}").glob(".????????-*"):
            path.unlink(missing_ok=True)
        try:
            (self.folder / "parts").rmdir()
        except OSError:
            pass  # those of other chunks


def _results(executor, job, targets, todo):
    """Yield (part, result) as parts are made."""
    if executor is None:
        for part in todo:
            yield part, run_part(job, targets[part[1] : part[2]], str(part[3]))
        return
    waiting, ahead = iter(todo), {}
    try:
        while True:
            for part in waiting:
                ahead[executor.submit(run_part, job, targets[part[1] : part[2]], str(part[3]))] = part
                if len(ahead) >= AHEAD:
                    break
            if not ahead:
                return
            for future in wait(ahead, return_when=FIRST_COMPLETED).done:
                yield ahead.pop(future), future.result()
    except BrokenExecutor as error:
        raise OSError(
            "a worker process has ended, killed or for want of memory: what was done is kept; go on with resume=True "
            "(--resume), perhaps with fewer workers"
        ) from error
    finally:
        for future in ahead:
            future.cancel()


def _holds(path, start, stop):
    """Whether a file is a readable table of these rows."""
    if not path.is_file():
        return False
    try:
        with fits.open(path, memmap=False) as hdus:
            return np.array_equal(hdus[1].data["ROW"], np.arange(start, stop))
    except Exception:  # damaged, in one of many ways: made again
        return False


def _write(table, path, marks):
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)])
    hdus[1].name = "GALAXIES"
    for hdu in hdus:
        marks.to_header(hdu.header)
    with atomic_path(path) as temporary:
        hdus.writeto(temporary)


# ---------------------------------------------------------------- arguments and the folder
def _chunks(chunk, of, n):
    of = _whole("of", of, 1) if of is not None else None
    if of is None:
        raise ValueError(f"chunk is {chunk}, of how many? give of= (--of), too")
    if of > n:
        raise ValueError(f"of is {of}; the catalogue has {n} galaxies, which make {n} chunks at most")
    if chunk is None:
        return list(range(of))
    if not isinstance(chunk, int | np.integer) or not 0 <= chunk < of:
        raise ValueError(f"chunk is {chunk!r}; with {of} chunks give a whole number from 0 to {of - 1}")
    return [int(chunk)]


def _prepare(folder, settings, one, overwrite, resume):
    """The folder, with the same settings in its manifest."""
    if overwrite and one:
        raise ValueError("overwrite is true, and chunk is given: that would remove the other chunks; remove the folder "
                         "before the first of them instead")  # fmt: skip
    if overwrite and folder.is_dir():
        # until the old files are gone nothing may vouch for them: a run killed meanwhile cannot be resumed
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.glob("chunk_predicted_*-of-*.fits"):
            path.unlink()
        for name in ("parts", "maps"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return prepare_output_folder(folder, overwrite=overwrite, resume=resume or one, settings=settings)


def _model_files(model):
    """The folder of a model, and a hash of its files; FileNotFoundError if one is not there."""
    folder = resolve_pretrained(model)
    paths = [folder / name for name in ("config.json", "model.safetensors")]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {path.name}; a model folder has config.json and model.safetensors"
            )
    return folder, [_sha256(path) for path in paths]


def _sha256(path):
    from hashlib import file_digest

    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _file_name(target):
    return re.sub(r"[^\w.+-]+", "_", target.name, flags=re.ASCII).strip("._") or f"row{target.row}"


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least}")
    return int(value)


def _angle(name, value):
    """An angle in arcsec."""
    try:
        number = float(u.Quantity(value).to_value(u.arcsec))
    except (TypeError, ValueError, u.UnitsError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {value!r}; give a positive angle, such as 1.5 * u.arcsec")
    return number
