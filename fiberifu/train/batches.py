"""Batches of simulated galaxies, made ahead by worker processes and always the same for a (seed, step, piece)."""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import threading

import numpy as np
import torch

from .cache import cached
from .shards import shard_batches

__all__ = ["augment", "drop_bands", "recipe_batches", "simulated_batches", "simulated_step"]

_source = None  # of a worker process
KEEP = ("image", "sigma", "present", "psf_fwhm", "fiber_galaxy", "fiber_offset", "fiber_redshift", "sigma_z", "flux",
        "ivar", "fiber_radius")  # fmt: skip


def _make_source(pack_path, settings, seed, survey, cache=None):
    """A function ``(step, piece, pieces, n) -> piece of a batch`` of ``n`` simulated galaxies, as arrays."""
    if cache is not None:
        made = []  # the simulator, once it is needed

        def make(*piece):
            made[:] = made or [_make_source(pack_path, settings, seed, survey)]
            return made[0](*piece)

        about = {"settings": settings, "seed": seed, "survey": survey}
        return cached(make, cache, about, pack_path)
    from ..simulate import SimConfig, Simulator, load_template_pack
    from .finite_survey import FiniteSurvey

    simulator = Simulator(load_template_pack(pack_path), config=SimConfig(**settings))
    if survey is not None:
        finite = FiniteSurvey(simulator, survey, _batch_seed(seed, 0))
        return lambda step, piece, pieces, n: _arrays(finite.batch(step * pieces + piece, n))
    return lambda step, piece, pieces, n: _arrays(simulator.batch(n, _batch_seed(seed, step), piece * n))


def _arrays(batch):
    return {k: (batch["truth"] if k == "fiber_radius" else batch)[k].numpy() for k in KEEP}


def _start_worker(*source):
    """Of a simulating process, which ends with its parent and not before: signals to a whole group stop runs neatly."""
    global _source
    for name in (signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
        signal.signal(name, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _source = _make_source(*source)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_in_worker(*piece):
    return _source(*piece)


def _batch_seed(seed, step):
    """Every step has a universe of its own."""
    return seed * 10_000_000 + step


def recipe_batches(recipe, pack_path, first_step, mine, cache=None):
    """Iterate over ``(number, batch)`` of a recipe from ``first_step``: simulated, or read from its shards.

    Parameters
    ----------
    recipe : Recipe
    pack_path : path-like
    first_step : int
    mine : sequence of int
        Pieces to yield.
    cache : path-like, optional
        See `simulated_batches`.

    Returns
    -------
    iterator
        As of `simulated_batches`.
    """
    if recipe.shards is not None:
        return shard_batches(recipe.shards, recipe.batch, recipe.seed, first_step, bands=recipe.model.bands,
                             pieces=recipe.pieces, mine=mine)  # fmt: skip
    return simulated_batches(
        pack_path, recipe.simulator, recipe.batch, recipe.seed, first_step, recipe.workers, recipe.survey,
        pieces=recipe.pieces, mine=mine, passes=recipe.passes, shelf=recipe.shelf, cache=cache,
    )  # fmt: skip


def simulated_step(step, seed, passes, shelf):
    """Which simulated batch a step reads: the first ``shelf`` of them ``passes`` times, then the next ones.

    The first pass is in order, as they are made; the later ones are shuffled. With one pass it is the step itself.
    """
    block, within = divmod(step, passes * shelf)
    turn, place = divmod(within, shelf)
    if turn:
        place = np.random.default_rng([seed, block, turn]).permutation(shelf)[place]
    return block * shelf + int(place)


def simulated_batches(
    pack_path, settings, n, seed, first_step, workers=1, survey=None, *, pieces=1, mine=(0,), passes=1, shelf=1,
    cache=None,
):  # fmt: skip
    """Iterate over ``(number, batch)`` from ``first_step``; what a number holds depends on the seed and itself alone.

    A batch of ``n`` galaxies comes in equal pieces; number ``step x pieces + piece`` is one of them.

    Parameters
    ----------
    pack_path : path-like
        Template pack.
    settings : dict
        Of `fiberifu.simulate.SimConfig`.
    n, seed, first_step : int
        Galaxies of a batch; seed; step of the first.
    workers : int
        Simulating processes; 0 simulates in this one.
    survey : Survey, optional
        A finite set of galaxies; by default every step has new ones.
    pieces : int
        Of a batch.
    mine : sequence of int
        Pieces to yield.
    passes, shelf : int
        Batches are kept, ``shelf`` of them, and read ``passes`` times (see `simulated_step`) while the next ones are
        made. So a simulator that is slower than the network does not hold it up.
    cache : path-like, optional
        Folder of batches on disk, about 0.6 MB for a galaxy, for trainings that see the same galaxies: what is there is
        read, what is not is simulated and stays there. None are kept in memory then.

    Yields
    ------
    number : int
    batch : dict of Tensor
    """
    wanted = (
        (step * pieces + piece, (simulated_step(step, seed, passes, shelf), piece, pieces, n // pieces),
         cache is not None or step // shelf % passes == passes - 1)
        for step in itertools.count(first_step) for piece in mine
    )  # fmt: skip
    source = (str(pack_path), settings, seed, survey, None if cache is None else str(cache))
    busy = 2 * workers + 1 if workers else 0
    most = 2 * shelf * len(mine) if passes > 1 and cache is None else busy
    with _maker(source, workers) as make, contextlib.closing(_kept(wanted, make, most, busy)) as kept:
        for number, batch in kept:
            yield number, {k: torch.from_numpy(v) for k, v in batch.items()}


@contextlib.contextmanager
def _maker(source, workers):
    """A function that starts to make a piece and returns its future."""
    if workers == 0:
        make = _make_source(*source)

        def now(*piece):
            future = concurrent.futures.Future()
            future.set_result(make(*piece))
            return future

        yield now
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, source) as pool:
        yield functools.partial(pool.submit, _make_in_worker)


def _kept(wanted, make, most, busy):
    """Batches ``(number, batch)`` of ``(number, piece, last)``, made ahead: up to ``most`` kept, ``busy`` in work.

    A piece is kept until it was wanted for the last time.
    """
    queue, shelf = collections.deque(), {}
    try:
        while True:
            while not queue or (len(shelf) < most and sum(not f.done() for f in shelf.values()) < busy):
                number, piece, last = next(wanted)
                if piece not in shelf:
                    shelf[piece] = make(*piece)
                queue.append((number, piece, last))
            number, piece, last = queue.popleft()
            again = not last or any(piece == other for _, other, _ in queue)
            batch = (shelf[piece] if again else shelf.pop(piece)).result()
            yield number, batch
    finally:
        for future in shelf.values():
            future.cancel()


def augment(batch, generator):
    """One of the eight rotations and flips of the square for the whole batch (sky parity is no physics here)."""
    turns = int(torch.randint(4, (), generator=generator))
    flip = bool(torch.rand((), generator=generator) < 0.5)
    out = dict(batch)
    east, north = batch["fiber_offset"].unbind(-1)
    for name in ("image", "sigma"):
        x = batch[name]
        x = x.flip(-1) if flip else x
        out[name] = torch.rot90(x, turns, (-2, -1)).contiguous()
    east = -east if flip else east
    for _ in range(turns):  # rot90 of [row, column] takes (column, row) = (x, y) to (y, -x)
        east, north = north, -east
    out["fiber_offset"] = torch.stack([east, north], -1)
    return out


def drop_bands(batch, share, generator):
    """Hide whole bands at random, never the last one of a galaxy."""
    present = batch["present"]
    draw = torch.rand(present.shape, generator=generator)
    keep = present & (draw > share)
    best = torch.where(present, draw, -1.0).argmax(-1, keepdim=True)
    keep = keep.scatter(1, best, present.gather(1, best))
    out = dict(batch)
    hidden = ~keep[:, :, None, None]
    out["sigma"] = torch.where(hidden, torch.inf, batch["sigma"])
    out["image"] = torch.where(hidden, 0.0, batch["image"])
    out["present"] = keep
    return out
