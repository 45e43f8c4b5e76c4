"""A store of shards: a folder of raw arrays, one file per unit of work, each with an index in JSON beside it.

``records -> write_shard -> NAME.bin, NAME.json``; ``all units done -> finish -> index.json``; ``ShardStore -> arrays``.
A unit is there when its JSON is, which is written last; whatever moment a build is killed at, no half unit is seen.
"""

import collections
import dataclasses
import hashlib
import json
import os
import resource
import secrets
import threading
from pathlib import Path

import numpy as np

from .record import FIBER_FIELDS, GALAXY_FIELDS, SPLITS, Layout, compress

__all__ = ["INDEX", "SHARDS", "ShardStore", "finish", "is_done", "read_notes", "verify", "write_shard"]

FORMAT = 1
INDEX = "index.json"  # of a finished store
SHARDS = "shards"  # folder of the units
ALIGN = 4096  # bytes; arrays begin on a page


def _paths(folder, name):
    return Path(folder) / SHARDS / f"{name}.bin", Path(folder) / SHARDS / f"{name}.json"


def _replace(temporary, path):
    """Give a file its name, when it is on the disk."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_json(path, content, *, shared=False):
    """Write a file whole; ``shared`` if several jobs may write it at the same moment."""
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}" if shared else f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _replace(temporary, path)


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no readable index ({error}); build the shards again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not an index of format {FORMAT}; build the shards again with this version")
    return content


# ---------------------------------------------------------------- writing
def write_shard(folder, name, galaxies, layout, *, notes=None):
    """Write a unit.

    Parameters
    ----------
    folder : path-like
        Of the store.
    name : str
        Of the unit; the same unit has the same name and content whenever it is made.
    galaxies : iterable of dict
        Fields of ``GALAXY_FIELDS`` but for ``first_fiber`` and ``n_fibers``; and ``fibers``, a dict of those of
        ``FIBER_FIELDS``, (n, ...) each. Scales may be missing: then numbers are not in half precision yet.
    layout : Layout
    notes : dict, optional
        For the index, such as what was left out.

    Returns
    -------
    dict
        The index.
    """
    data, index = _paths(folder, name)
    data.parent.mkdir(parents=True, exist_ok=True)
    columns = _columns([compress(galaxy) for galaxy in galaxies], layout)
    temporary = data.with_name(f".{data.name}.part")
    digest, arrays, place = hashlib.sha256(), {}, 0
    with open(temporary, "wb") as file:
        for key, array in columns.items():
            padding = bytes(-place % ALIGN)
            for part in (padding, np.ascontiguousarray(array).tobytes()):
                file.write(part)
                digest.update(part)
            place += len(padding)
            arrays[key] = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": place}
            place += array.nbytes
    _replace(temporary, data)
    split = columns["split"]
    content = {
        "format": FORMAT, "name": name, "galaxies": len(split), "fibers": len(columns["targetid"]),
        "splits": {side: int((split == i).sum()) for i, side in enumerate(SPLITS)},
        "size": place, "sha256": digest.hexdigest(), "layout": dataclasses.asdict(layout), "arrays": arrays,
        "notes": notes or {},
    }  # fmt: skip
    _write_json(index, content)
    return content


def _columns(galaxies, layout):
    """Galaxies as arrays of the dtypes on the disk."""
    counts = np.array([len(galaxy["fibers"]["targetid"]) for galaxy in galaxies], np.int64)
    given = {"n_fibers": counts, "first_fiber": np.cumsum(counts) - counts}
    out = {}
    for fields, rows in ((GALAXY_FIELDS, galaxies), (FIBER_FIELDS, [galaxy["fibers"] for galaxy in galaxies])):
        join = np.stack if fields is GALAXY_FIELDS else np.concatenate
        for key, (dtype, _) in fields.items():
            values = given[key] if key in given else join([np.asarray(row[key]) for row in rows]) if rows else []
            out[key] = np.ascontiguousarray(np.reshape(values, (-1, *layout.shape(key))), np.dtype(dtype))
    return out


def is_done(folder, name):
    """Whether a unit is there: its index, and its data at their full length."""
    data, index = _paths(folder, name)
    try:
        return data.stat().st_size == _read_json(index)["size"]
    except (OSError, ValueError, KeyError):
        return False


def read_notes(folder, name):
    """Notes of a unit that is there, as `write_shard` took them."""
    return _read_json(_paths(folder, name)[1])["notes"]


def finish(folder, names, *, layout, meta=None):
    """Write the index of all units, when all of them are there; the same content whoever writes it.

    Parameters
    ----------
    folder : path-like
    names : sequence of str
    layout : Layout
    meta : dict, optional
        Where the data come from.

    Returns
    -------
    dict or None
        The index; None if units are missing.
    """
    if not all(is_done(folder, name) for name in names):
        return None
    keys = ("name", "galaxies", "fibers", "splits", "size", "sha256", "arrays")
    units = [_read_json(_paths(folder, name)[1]) for name in sorted(names)]
    left_out = collections.Counter()
    for unit in units:
        left_out.update(unit["notes"].get("left_out", {}))
    identity = hashlib.sha256("".join(unit["sha256"] for unit in units).encode()).hexdigest()
    content = {
        "format": FORMAT, "sha256": identity, "layout": dataclasses.asdict(layout), "meta": meta or {},
        "galaxies": sum(unit["galaxies"] for unit in units), "fibers": sum(unit["fibers"] for unit in units),
        "splits": {side: sum(unit["splits"][side] for unit in units) for side in SPLITS},
        "size": sum(unit["size"] for unit in units), "left_out": dict(sorted(left_out.items())),
        "shards": [{key: unit[key] for key in keys} for unit in units],
    }  # fmt: skip
    _write_json(Path(folder) / INDEX, content, shared=True)
    return content


def verify(folder):
    """Names of the units of a finished store that are missing or have another sha256 than when they were written."""
    bad = []
    for unit in _read_json(Path(folder) / INDEX)["shards"]:
        data, _ = _paths(folder, unit["name"])
        try:
            with open(data, "rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == unit["sha256"]
        except OSError:
            same = False
        if not same:
            bad.append(unit["name"])
    return bad


# ---------------------------------------------------------------- reading
class ShardStore:
    """A finished store, memory-mapped.

    Parameters
    ----------
    path : path-like
        Folder that ``fiberifu shards`` has made.

    Attributes
    ----------
    layout : Layout
    sha256 : str
        Of all records, in their order.
    index : dict
        As in ``index.json``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it is not finished.
    ValueError
        If its index cannot be read, or a file is missing or not as long as it was written.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not (self.path / INDEX).is_file():
            state = "not finished; 'fiberifu shards ... --resume' goes on" if self.path.is_dir() else "no such folder"
            raise FileNotFoundError(f"shards {self.path}: {state}")
        self.index = _read_json(self.path / INDEX)
        self.layout, self.sha256 = Layout(**self.index["layout"]), self.index["sha256"]
        self._units = self.index["shards"]
        for unit in self._units:
            data, _ = _paths(self.path, unit["name"])
            size = data.stat().st_size if data.is_file() else None
            if size != unit["size"]:
                raise ValueError(f"{data}: {size} bytes, {unit['size']} were written; build the unit again (--resume)")
        self._open, self._lock = collections.OrderedDict(), threading.Lock()
        # a mapped file keeps a descriptor; half of what the process may have are left to others
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, 16)

    def __len__(self):
        """Units."""
        return len(self._units)

    def arrays(self, unit):
        """Arrays of a unit by name, read-only views of the mapped file; of ``GALAXY_FIELDS`` and ``FIBER_FIELDS``."""
        with self._lock:
            if unit in self._open:
                self._open.move_to_end(unit)
                return self._open[unit]
        found = self._units[unit]
        raw = np.memmap(_paths(self.path, found["name"])[0], np.uint8, "r") if found["size"] else np.empty(0, np.uint8)
        views = {}
        for key, entry in found["arrays"].items():
            dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
            end = entry["offset"] + dtype.itemsize * int(np.prod(shape))
            views[key] = np.asarray(raw[entry["offset"] : end]).view(dtype).reshape(shape)
        with self._lock:
            self._open[unit] = views
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return views

    def galaxies(self, split="train"):
        """Unit and row (n, 2) of the galaxies on one side of the split, in the order of the store.

        Raises
        ------
        ValueError
            For an unknown side.
        """
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}, use one of {SPLITS}")
        side, found = SPLITS.index(split), []
        for unit in range(len(self)):
            rows = np.flatnonzero(self.arrays(unit)["split"] == side)
            found.append(np.stack([np.full(len(rows), unit), rows], 1))
        return np.concatenate(found).astype(np.int32) if found else np.empty((0, 2), np.int32)
