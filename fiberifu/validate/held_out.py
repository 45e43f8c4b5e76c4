# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The held-out galaxies in a folder: ``seed -> choose_galaxies -> galaxy_truth -> shards -> TruthMaps, one by one``.

Shard k holds galaxies ``k * per_shard`` and on of the endless list of a seed, so a set can be stopped, resumed, made
longer, or made by several processes, and is the same. Images (relative rounding 5e-4, against noise of 0.5 % or more
per pixel) and noiseless spectra are kept in half precision, all else in single.
"""

import dataclasses
import json
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..output import MANIFEST, atomic_path, prepare_output_folder, settings_hash
from .maps import TruthMaps
from .truth import RULE, VERSION, choose_galaxies, galaxy_truth

__all__ = ["SEED", "HeldOutSet", "check_seed", "remove_halves"]

log = logging.getLogger(__name__)

#: Of the held-out galaxies. Step k of training by a recipe of seed s simulates with the seed 10^7 s + k, and k stays
#: below half of 10^7: held-out seeds are those whose last seven digits lie above.
SEED = 77_000_001
MOST_STEPS = 10_000_000
PER_SHARD = 25

_HALF = ("image", "sigma", "spectrum")
_IMAGES = ("image", "sigma")
_OF_POSITION = ("row", "column", "east", "north", "radius", "flux", "ew", "band", "velocity", "peak_distance")
_SCALARS = ("seed", "index", "psf_fwhm", "pixel_scale", "redshift", "spaxel")
_ARRAYS = ("present", "depth", "spectrum_at", "central_flux", "central_ivar", "central_offset", *_HALF)
_MOST = 6e4  # below the largest half-precision number


class HeldOutSet:
    """Held-out galaxies, read when asked for.

    Iterating gives `TruthMaps`; so does ``held_out[i]``.

    Parameters
    ----------
    folder : path-like
        Of the shards, ``00000.npz`` and on, and a manifest.
    simulator : `~fiberifu.simulate.Simulator`, optional
        On the CPU. Needed to `build`; a folder that has shards is read without one.
    galaxies : int, optional
        By default 2000 with a simulator, and without one all that the folder has.
    seed : int
    per_shard : int, optional
        Galaxies in one file. By default that of the galaxies in the folder; of a new set 25 or a little fewer, so that
        (almost) no galaxy is made that was not asked for.

    Attributes
    ----------
    key : str
        Hash of all that decides what the galaxies are; not of how many there are.

    Raises
    ------
    FileNotFoundError
        When there is no simulator and the folder is not one of held-out galaxies.
    ValueError
        When the folder holds galaxies of another simulator, template pack, seed or rule, or for a seed that a training
        may use.
    """

    def __init__(self, folder, simulator=None, galaxies=None, seed=SEED, *, per_shard=None):
        self.folder, self._simulator = Path(folder), simulator
        if galaxies is not None and (not isinstance(galaxies, int | np.integer) or galaxies < 1):
            raise ValueError(f"galaxies: got {galaxies!r}; give a whole number from 1")
        if simulator is not None:
            check_seed(seed)
            if simulator.device.type != "cpu":
                raise ValueError(f"simulator: got one on {simulator.device}; held-out galaxies are made on the CPU")
            galaxies = 2000 if galaxies is None else galaxies
            per_shard = _per_shard(self.folder, galaxies) if per_shard is None else per_shard
            self.settings = _settings(simulator, seed, per_shard)
            if self.folder.exists():  # refuse other settings now, not after the work
                self._refuse_others()
        else:
            self.settings = _read_settings(self.folder)
        self.key = settings_hash(self.settings)
        self.seed, self.per_shard = self.settings["seed"], self.settings["per_shard"]
        if galaxies is None:
            whole = 0
            while self._path(whole).is_file():
                whole += 1
            galaxies = whole * self.per_shard
        self.galaxies = int(galaxies)
        self._cache = {}  # images or not -> (number, galaxies) of the last shard

    def __len__(self):
        return self.galaxies

    def __repr__(self):
        return f"<HeldOutSet of {len(self)} simulated galaxies of seed {self.seed} in {self.folder}>"

    def __getitem__(self, i):
        i = range(len(self))[i]  # IndexError, negative numbers
        return self._shard(i // self.per_shard, images=True)[i % self.per_shard]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    @property
    def shards(self):
        """Their number."""
        return -(-len(self) // self.per_shard)

    def shard(self, number):
        """All galaxies of one file, beyond the last of the set, too.

        Returns
        -------
        list of TruthMaps
        """
        return list(self._shard(number, images=True))

    def truths(self):
        """All galaxies without their images, which metrics do without: 2000 take 0.5 GB.

        Returns
        -------
        list of TruthMaps
            With ``image`` and ``sigma`` of shape (4, 0, 0).
        """
        out = []
        for number in range(self.shards):
            out += _read(self._existing(number), images=False)
        return out[: len(self)]

    # --- making it

    def missing(self):
        """Numbers of the shards that are not there yet."""
        return [k for k in range(self.shards) if not self._path(k).is_file()]

    def build(self, *, workers=1, progress=False):
        """Simulate what is missing; a run that is killed loses the shards it was at.

        Parameters
        ----------
        workers : int
            Processes, each with one thread. The files do not depend on it.
        progress : bool

        Returns
        -------
        HeldOutSet
            This one.

        Raises
        ------
        ValueError
            When there is no simulator, or the folder holds galaxies made under other settings.
        """
        if not self.missing():
            return self
        if self._simulator is None:
            raise ValueError("build: give the HeldOutSet a simulator; without one it only reads")
        prepare_output_folder(self.folder, resume=True, settings=self.settings)
        remove_halves(self.folder)
        todo, size = self.missing(), self.per_shard
        chosen = choose_galaxies(self._simulator, self.seed, self.shards * size)
        jobs = [(self._path(k), self.seed, chosen[k * size : (k + 1) * size]) for k in todo]
        if len(todo) < self.shards:
            log.info("%d of %d shards of held-out galaxies are there already", self.shards - len(todo), self.shards)
        total = self.shards * size
        with tqdm(
            total=total, initial=total - len(jobs) * size, unit="galaxy", disable=not progress, leave=False
        ) as bar:
            for _ in _run(self._simulator, jobs, min(workers, len(jobs))):
                bar.update(size)
        return self

    # --- files

    def _path(self, number):
        return self.folder / f"{number:05d}.npz"

    def _existing(self, number):
        if not self._path(number).is_file():
            raise FileNotFoundError(f"{self._path(number)} is not there; make it with HeldOutSet(...).build()")
        return self._path(number)

    def _shard(self, number, images):
        if self._cache.get(images, (None,))[0] != number:
            self._cache[images] = number, _read(self._existing(number), images)
        return self._cache[images][1]

    def _refuse_others(self):
        if any(self.folder.glob("*.npz")) and settings_hash(_read_settings(self.folder)) != settings_hash(
            self.settings
        ):
            prepare_output_folder(self.folder, resume=True, settings=self.settings)  # names what differs


def check_seed(seed):
    """Refuse a seed whose galaxies a network, or trees on IFU spaxels, may have been trained on.

    Parameters
    ----------
    seed : int

    Raises
    ------
    ValueError
    """
    from .fiber_sample import IFU_SEED

    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}; give a whole number from 0, such as {SEED}")
    if seed % MOST_STEPS < MOST_STEPS // 2:
        raise ValueError(f"seed is {seed}, whose galaxies a network may have been trained on; give one whose last "
                         "seven digits are 5000000 or more, such as 78000001")  # fmt: skip
    if seed == IFU_SEED:
        raise ValueError(f"seed is {seed}, whose galaxies the IFU spaxels are of that baselines learn from; give "
                         "another, such as 78000001")  # fmt: skip


def _per_shard(folder, galaxies):
    """As the folder has it, or such that all shards are full, or nearly."""
    try:
        return _read_settings(folder)["per_shard"]
    except FileNotFoundError:
        return -(-galaxies // -(-galaxies // PER_SHARD))


def _settings(simulator, seed, per_shard):
    from .realism.origin import simulator_hash

    return {
        "kind": "held-out galaxies",
        "version": VERSION,
        "simulator": simulator_hash(),
        "templates": simulator.pack_sha256,
        "config": dataclasses.asdict(simulator.config),
        "seed": int(seed),
        "rule": {name: list(value) if isinstance(value, tuple) else value for name, value in RULE.items()},
        "per_shard": int(per_shard),
        **({"universe": simulator.universe} if hasattr(simulator, "universe") else {}),  # of controls
    }


def _read_settings(folder):
    try:
        settings = json.loads((folder / MANIFEST).read_text())["settings"]
        if settings["kind"] == "held-out galaxies":
            return settings
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise FileNotFoundError(f"folder: {folder} holds no held-out galaxies; give a simulator and build() them")


# --- processes
_state = {}


def _start(simulator, watch):
    if watch:
        import threading

        import torch

        from ..simulate_job import _follow

        threading.Thread(target=_follow, daemon=True).start()  # ends with its parent
        torch.set_num_threads(1)
    _state["simulator"] = simulator


def _make(job):
    path, seed, indices = job
    galaxies = []
    for index in indices:
        try:
            galaxies.append(galaxy_truth(_state["simulator"], seed, index))
        except Exception as error:
            error.add_note(f"while simulating held-out galaxy SIM {seed}-{index}")
            raise
    _write(path, galaxies)


def _run(simulator, jobs, workers):
    if workers <= 1:
        _start(simulator, watch=False)
        try:
            yield from map(_make, jobs)
        finally:
            _state.clear()
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, context, _start, (simulator, True)) as pool:
        try:
            yield from pool.map(_make, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# --- one shard


def remove_halves(folder):
    """Remove shards that a killed run was writing: hidden and old, as a run that is alive takes seconds for one."""
    for path in folder.glob(".????????-*.npz"):  # see `fiberifu.output.atomic_path`
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 600:
                path.unlink()


def _write(path, galaxies):
    """Galaxies of one shard; what has a length of its own for each galaxy is chained."""
    out = {"length": np.array([len(g) for g in galaxies]), "wave": galaxies[0].wave}
    out |= {name: np.array([getattr(g, name) for g in galaxies]) for name in ("name", *_SCALARS)}
    for name in _ARRAYS:
        values = np.stack([getattr(g, name) for g in galaxies])
        if name in _HALF:  # inf stays: nothing was measured
            values = np.where(np.isfinite(values), values.clip(-_MOST, _MOST), values).astype(np.float16)
        out[name] = values
    out |= {name: np.concatenate([getattr(g, name) for g in galaxies]) for name in _OF_POSITION}
    for name in ("strata", "properties"):
        keys = list(getattr(galaxies[0], name))
        out[f"{name}_names"] = np.array(keys)
        out[name] = np.array([[getattr(g, name)[key] for key in keys] for g in galaxies])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **out)


def _read(path, images):
    """Galaxies of a shard, in single precision."""
    with np.load(path, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files if images or name not in _IMAGES}
    count = len(data["length"])
    if not images:
        data |= {name: np.zeros((count, 4, 0, 0), np.float32) for name in _IMAGES}
    for name in _HALF:
        data[name] = data[name].astype(np.float32)
    ends = np.cumsum(data["length"])
    out = []
    for i, (end, n) in enumerate(zip(ends, data["length"], strict=True)):
        values = {name: data[name][i].item() for name in ("name", *_SCALARS)}
        values |= {name: data[name][i] for name in _ARRAYS} | {"wave": data["wave"]}
        values |= {name: data[name][end - n : end] for name in _OF_POSITION}
        for name in ("strata", "properties"):
            values[name] = dict(zip(data[f"{name}_names"].tolist(), data[name][i].tolist(), strict=True))
        out.append(TruthMaps(**values))
    return out
