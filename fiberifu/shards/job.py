# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a survey's files to a store of shards: what ``fiberifu shards`` calls.

``plan -> units, each on its own, in any number of processes and jobs -> index``
"""

import functools
import hashlib
import logging
import multiprocessing
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from ..output import MANIFEST, prepare_output_folder
from ..provenance import software_version
from .inputs import check_inputs, describe_inputs
from .plan import make_plan
from .unit import make_records

__all__ = ["read_positions", "shards_to_folder", "split_side", "summary_lines"]

log = logging.getLogger(__name__)

AWAY = 30.0  # arcsec, from positions that are held out
COLUMNS = (("ra", "dec"), ("objra", "objdec"), ("ifura", "ifudec"), ("target_ra", "target_dec"))


def shards_to_folder(
    tree,
    folder,
    *,
    bricks=None,
    held_out=None,
    bands=("g", "r", "i", "z"),
    per_unit=512,
    seed=0,
    workers=1,
    chunk=(1, 1),
    overwrite=False,
    resume=False,
    progress=False,
):
    """Make the records of a survey, for training.

    Parameters
    ----------
    tree : path-like
        DESI's files: a folder with ``redrock-*.fits`` and ``coadd-*.fits`` at any depth.
    folder : path-like
        Of the store; made if it does not exist.
    bricks : sequence of path-like, optional
        Folders of the Legacy Surveys that have ``coadd/RRR/BRICK``, such as ``dr9/south`` and ``dr9/north``; by default
        ``legacysurvey`` in the tree.
    held_out : path-like, optional
        Table with positions of galaxies that are never trained on, nor what is within 30 arcsec of them, such as
        MaNGA's drpall: columns ``ra, dec`` or ``objra, objdec``, in degrees.
    bands : sequence of str
        That are kept; a band that is never there costs a quarter of the disk.
    per_unit : int
        Galaxies of a unit, at least.
    seed : int
        Of the jitter of stamps.
    workers : int
        Processes. The shards do not depend on it.
    chunk : (int, int)
        The i-th of N parts of the units, for jobs on several machines; whoever is last writes the index.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`; ``resume`` does the units that are not there, and is refused
        where files of those that are there have another size or time of change than when they were read.
    progress : bool

    Returns
    -------
    dict or None
        The index; None where other chunks have units left to do.

    Raises
    ------
    ValueError, OSError
        For what is wrong with an argument or the folder. Single files, galaxies and fibres that cannot be used are
        left out with a warning, and counted in the index.
    """
    from ..train.shards import Layout, finish, is_done, read_notes  # late: torch

    layout = Layout(bands=tuple(bands))
    for name, value, least in (("per_unit", per_unit, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number from {least}")
    which, of = chunk
    if not 1 <= which <= of:
        raise ValueError(f"chunk is {which} of {of}; give 1 of N to N of N")
    tree = Path(tree)
    bricks = [Path(b) for b in bricks] if bricks else [tree / "legacysurvey"]
    if missing := [str(b) for b in bricks if not b.is_dir()]:
        raise FileNotFoundError(f"bricks {', '.join(missing)}: no such folder; give that which has coadd/")
    positions = read_positions(held_out) if held_out is not None else np.empty((0, 2))
    plan = make_plan(tree, per_unit=per_unit)
    settings = {
        "made": "shards", "plan": plan.sha256, "bands": "".join(layout.bands), "seed": int(seed),
        "held_out": hashlib.sha256(positions.tobytes()).hexdigest(), "software": software_version(),
        "bricks": [str(b.resolve()) for b in bricks],
    }  # fmt: skip
    if overwrite and not resume:
        _remove(Path(folder))
    folder = prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)
    names = list(plan.units)
    mine = names[which - 1 :: of]
    todo = [name for name in mine if not is_done(folder, name)]
    recorded = {name: read_notes(folder, name).get("inputs", {}) for name in mine if name not in todo}
    check_inputs(folder, recorded, {name: describe_inputs(*_parts(plan, name), bricks) for name in recorded})
    log.info("%d fibres of %d galaxies in %d units, %d of them to do here", len(plan.fibers), plan.galaxies, len(names),
             len(todo))  # fmt: skip
    job = {"folder": folder, "bricks": bricks, "layout": layout, "seed": int(seed), "positions": positions}
    try:
        _run(plan, todo, job, min(workers, max(len(todo), 1)), progress)
    except ImportError as error:  # curves of the northern surveys
        raise ValueError(f"bricks of BASS and MzLS: {error}") from error
    meta = {"settings": settings, "left_out_by_plan": dict(sorted(plan.left_out.items())), "tree": tree.name,
            "kind": " and ".join(plan.kinds)}  # fmt: skip
    index = finish(folder, names, layout=layout, meta=meta)
    if index is None:
        log.info("other units are missing yet: the index is written with the last of them")
    return index


def _remove(folder):
    """Remove a former store in ``folder``: manifest and index first, so that nothing vouches for what is left."""
    from ..train.shards.store import INDEX, SHARDS

    for name in (MANIFEST, INDEX):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob(f"{SHARDS}/*pixel-*"):
        if path.suffix in (".json", ".bin", ".part"):
            path.unlink(missing_ok=True)


def read_positions(path):
    """Right ascension and declination (n, 2), degrees, of a table in any format that Astropy reads.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and the columns that would do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"held_out {path}: no such file")
    try:
        table = Table.read(path)
    except Exception as error:  # of whichever reader tried
        raise ValueError(f"held_out {path}: no readable table ({str(error).splitlines()[0]})") from error
    names = {name.lower(): name for name in table.colnames}
    for pair in COLUMNS:
        if names.keys() >= set(pair):
            found = np.stack([np.asarray(table[names[name]], float) for name in pair], 1)
            return found[np.isfinite(found).all(1)]
    raise ValueError(f"held_out {path}: columns {table.colnames[:12]}; ra and dec, or objra and objdec, are needed")


def split_side(ra, dec, positions):
    """Place in ``SPLITS`` of a galaxy: held out in a cell of the sky that is, and near positions that are.

    Parameters
    ----------
    ra, dec : float
        Degrees.
    positions : ndarray (n, 2)
        Degrees.
    """
    from ..train.shards.record import SPLITS
    from ..train.split import is_held_out

    cos = np.cos(np.radians(dec))
    east = (positions[:, 0] - ra + 180) % 360 - 180
    near = np.hypot(east * cos, positions[:, 1] - dec) < AWAY / 3600
    if near.any() or is_held_out(ra, dec, margin=0):
        return SPLITS.index("held_out")
    return SPLITS.index("between" if is_held_out(ra, dec) else "train")


# ---------------------------------------------------------------- units
_state = {}


def _start(job, watch):
    if watch:  # in a process of its own
        import torch

        from ..simulate_job import _follow

        threading.Thread(target=_follow, daemon=True).start()
        torch.set_num_threads(1)
    _state["job"] = job


def _unit(name, fibers, files):
    """Make and write one unit; its galaxies."""
    from ..train.shards import write_shard

    job = _state["job"]
    inputs = describe_inputs(fibers, files, job["bricks"])  # before they are read
    side = functools.partial(split_side, positions=job["positions"])
    galaxies, left_out = make_records(fibers, files, job["bricks"], job["layout"], job["seed"], side)
    write_shard(job["folder"], name, galaxies, job["layout"], notes={"left_out": left_out, "inputs": inputs})
    return len(galaxies)


def _parts(plan, name):
    """Fibres of a unit, and the coadds of these."""
    fibers = plan.fibers[plan.units[name]].copy()
    used, fibers["file"] = np.unique(np.asarray(fibers["file"]), return_inverse=True)
    return fibers, [plan.files[i] for i in used]


def _run(plan, todo, job, workers, progress):
    total = sum(len(np.unique(plan.fibers["galaxy"][plan.units[name]])) for name in todo)
    with tqdm(total=total, unit="galaxy", disable=not progress, leave=False) as bar:
        if workers == 1:
            _start(job, watch=False)
            for name in todo:
                bar.update(_unit(name, *_parts(plan, name)))
            return
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(workers, context, _start, (job, True)) as pool:
            try:
                for future in as_completed([pool.submit(_unit, name, *_parts(plan, name)) for name in todo]):
                    bar.update(future.result())
            except BrokenExecutor as error:
                raise OSError(
                    "a worker process has ended, killed or for want of memory: what was done is kept; go on with "
                    "resume=True (--resume), perhaps with fewer workers"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def summary_lines(index):
    """What a store holds, in words."""
    splits = ", ".join(f"{count} {side.replace('_', ' ')}" for side, count in index["splits"].items())
    yield f"{index['galaxies']} galaxies ({splits}), {index['fibers']} fibres, {len(index['shards'])} shards"
    size = index["size"]
    yield f"{size / 1e6:.1f} MB, {size / max(index['galaxies'], 1) / 1e3:.0f} kB per galaxy; sha256 {index['sha256']}"
    left = {**index["meta"]["left_out_by_plan"]}
    for reason, count in index["left_out"].items():
        left[reason] = left.get(reason, 0) + count
    yield "left out: " + (", ".join(f"{count} {reason}" for reason, count in left.items()) or "nothing")
