"""Batches of simulated galaxies, made ahead by worker processes and always the same for a (seed, step)."""

import collections
import concurrent.futures
import itertools
import multiprocessing

import torch

__all__ = ["augment", "drop_bands", "simulated_batches"]

_source = None  # of a worker process


def _make_source(pack_path, settings, seed, survey):
    """A function ``(step, n) -> batch`` of the simulator."""
    from ..simulate import SimConfig, Simulator, load_template_pack
    from .finite_survey import FiniteSurvey

    simulator = Simulator(load_template_pack(pack_path), config=SimConfig(**settings))
    if survey is not None:
        return FiniteSurvey(simulator, survey, _batch_seed(seed, 0)).batch
    return lambda step, n: simulator.batch(n, _batch_seed(seed, step))


def _start_worker(*source):
    global _source
    torch.set_num_threads(1)
    _source = _make_source(*source)


def _make_in_worker(step, n):
    return _make(_source, step, n)


def _make(source, step, n):
    batch = source(step, n)
    keep = (
        "image",
        "sigma",
        "present",
        "psf_fwhm",
        "fiber_galaxy",
        "fiber_offset",
        "fiber_redshift",
        "sigma_z",
        "flux",
        "ivar",
    )
    return {k: batch[k].numpy() for k in keep}


def _batch_seed(seed, step):
    """Every step has a universe of its own."""
    return seed * 10_000_000 + step


def simulated_batches(pack_path, settings, n, seed, first_step, workers=1, survey=None):
    """Iterate over ``(step, batch)`` from ``first_step``; what a step holds depends on (seed, step) alone.

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

    Yields
    ------
    step : int
    batch : dict of Tensor
    """
    if workers == 0:
        source = _make_source(pack_path, settings, seed, survey)
        for step in itertools.count(first_step):
            batch = _make(source, step, n)
            yield step, {k: torch.from_numpy(v) for k, v in batch.items()}
    context = multiprocessing.get_context("spawn")
    source = (str(pack_path), settings, seed, survey)
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, source) as pool:
        ahead = collections.deque()
        step = first_step
        try:
            while True:
                while len(ahead) < 2 * workers + 1:
                    next_step = step + len(ahead)
                    ahead.append(pool.submit(_make_in_worker, next_step, n))
                batch = ahead.popleft().result()
                yield step, {k: torch.from_numpy(v) for k, v in batch.items()}
                step += 1
        finally:
            for future in ahead:
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
