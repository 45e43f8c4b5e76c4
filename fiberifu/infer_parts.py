# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Chunks of a catalogue, made of parts: ``targets -> parts, each a file that a worker writes -> a table per chunk``.

A part is written whole or not at all, and a chunk is put together from its parts: what was killed goes on from there.
"""

import logging
import re
import resource
import shutil
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from tqdm import tqdm

from fiberifu.catalogue_row import predict_target, row_layout, rows_table, spaxel_layout, spaxels_table
from fiberifu.output import atomic_path
from fiberifu.provenance import Provenance

__all__ = ["PART", "Chunks", "file_name", "own_threads", "run_part"]

log = logging.getLogger(__name__)

PART = 20  # galaxies: what a kill costs at most, in each worker
AHEAD = 1000  # parts that wait in an executor


# ---------------------------------------------------------------- what a worker does
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
    options, rows, maps = job["options"], [], []
    for target in targets:
        row, spaxels = predict_target(ifu, target, options)
        rows.append(row)
        if spaxels is not None:
            maps.append(spaxels)
    tables = {"GALAXIES": rows_table(rows, row_layout(ifu.config, options["lines"]))}
    if options["maps"]:
        tables["SPAXELS"] = spaxels_table(maps, spaxel_layout(options["lines"]))
    marks = Provenance(
        model_id=ifu.config.name,
        weights_sha256=ifu.weights_sha256,
        training_data=str(ifu.passport.get("training_data", "unknown")),
        seed=options["seed"],
        extra=job["cards"],
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _write(tables, Path(path), marks)
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
def own_threads(executor):
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


def file_name(target):
    return re.sub(r"[^\w.+-]+", "_", target.name, flags=re.ASCII).strip("._") or f"row{target.row}"


# ---------------------------------------------------------------- chunks and parts
class Chunks:
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
            with fits.open(paths[0]) as hdus:
                names, marks = [hdu.name for hdu in hdus[1:]], Provenance.from_header(hdus[1].header)
            tables = {
                name: vstack([QTable.read(path, hdu=name, mask_invalid=False) for path in paths],
                             metadata_conflicts="silent")
                for name in names
            }  # fmt: skip
        except FileNotFoundError:
            if _holds(self.table(i), *self.bounds(i)):  # another run has done it meanwhile
                return
            raise
        marks = marks.replace(extra=marks.extra | {"CHUNK": i})
        _write(tables, self.table(i), marks)
        self.tidy(i)

    def tidy(self, i):
        """Remove the parts of a chunk that is whole, and what a kill has left half-written."""
        shutil.rmtree(self.folder / "parts" / f"{i:05d}", ignore_errors=True)
        for path in self.folder.glob(f".????????-{self.table(i).name}"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # those of other chunks are in it
            (self.folder / "parts").rmdir()


def _results(executor, job, targets, todo):
    """Yield (part, result) as parts are made."""
    if executor is None:
        for part in todo:
            yield part, run_part(job, targets[part[1] : part[2]], str(part[3].absolute()))
        return
    waiting, ahead = iter(todo), {}
    try:
        while True:
            for part in waiting:
                ahead[executor.submit(run_part, job, targets[part[1] : part[2]], str(part[3].absolute()))] = part
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
            rows = hdus["GALAXIES"].data["ROW"]
            return np.array_equal(rows, np.arange(start, stop)) and np.isin(hdus[-1].data["ROW"], rows).all()
    except Exception:  # damaged, in one of many ways: made again
        return False


def _write(tables, path, marks):
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, table in tables.items():
        hdus.append(fits.table_to_hdu(table))
        hdus[-1].name = name
    for hdu in hdus:
        marks.to_header(hdu.header)
    with atomic_path(path) as temporary:
        hdus.writeto(temporary)
