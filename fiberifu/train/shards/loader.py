"""Batches from shards, read ahead by threads into buffers that are used again: what `simulated_batches` is for files.

``step, piece -> positions -> Shuffle -> galaxies -> memory map -> float16 buffer -> float32 batch``
"""

import collections
import concurrent.futures
import itertools
import queue

import numpy as np
import torch

from .shuffle import Shuffle
from .store import ShardStore

__all__ = ["ShardLoader", "shard_batches"]


class ShardLoader:
    """Batches of the galaxies of a store, in an order that seed and position fix.

    Parameters
    ----------
    store : ShardStore or path-like
    n : int
        Galaxies of a batch.
    seed : int
        Of the order.
    bands : sequence of str
        Of the batches; those that the store has not are missing in all galaxies.
    split : {'train', 'held_out', 'between'}
    fibers : int
        Of a galaxy at most, in one visit; of more, each epoch takes others.
    threads : int
        Which read ahead; 0 reads when asked.
    ahead : int
        Batches read ahead, at most.

    Attributes
    ----------
    order : Shuffle

    Raises
    ------
    ValueError
        If there is no galaxy on that side of the split.
    """

    def __init__(
        self, store, n, seed, *, bands=("g", "r", "i", "z"), split="train", fibers=4, threads=2, ahead=4
    ):  # fmt: skip
        self.store = store if isinstance(store, ShardStore) else ShardStore(store)
        self.n, self.bands, self.fibers, self.threads, self.ahead = n, tuple(bands), fibers, threads, max(ahead, 1)
        self.galaxies = self.store.galaxies(split)
        if not len(self.galaxies):
            raise ValueError(
                f"shards {self.store.path}: no galaxy in {split!r}; they hold {self.store.index['splits']}"
            )
        self.order = Shuffle(len(self.galaxies), seed)
        self._places = [(i, self.bands.index(b)) for i, b in enumerate(self.store.layout.bands) if b in self.bands]

    def read(self, number, buffers=None):
        """Batch ``number``: the ``n`` visits from position ``number * n``.

        Parameters
        ----------
        number : int
        buffers : Buffers, optional
            To be written to; new ones by default.

        Returns
        -------
        dict of Tensor
            As `fiberifu.simulate.Simulator.batch`, without the truth; fibres of one galaxy together.
        """
        buffers = Buffers(self) if buffers is None else buffers
        epoch, visited = self.order.visits(number * self.n, self.n)
        return buffers.fill(epoch, self.galaxies[visited])

    def batches(self, first=0, step=None):
        """Iterate over ``(number, batch)`` from ``first``, or over the numbers that ``step`` yields.

        A batch is overwritten when the next one is asked for: what is to last must be copied.
        """
        numbers = itertools.count(first) if step is None else iter(step)
        if self.threads == 0:
            buffers = Buffers(self)
            for number in numbers:
                yield number, self.read(number, buffers)
            return
        free = queue.SimpleQueue()
        for _ in range(self.ahead + 1):  # one is with the user
            free.put(Buffers(self))
        pool = concurrent.futures.ThreadPoolExecutor(self.threads, thread_name_prefix="shards")
        waiting = collections.deque()

        def start():
            if (number := next(numbers, None)) is not None:
                buffers = free.get()
                waiting.append((number, buffers, pool.submit(self.read, number, buffers)))

        try:
            for _ in range(self.ahead):
                start()
            while waiting:
                number, buffers, future = waiting.popleft()
                batch = future.result()
                start()
                yield number, batch
                free.put(buffers)
        finally:
            pool.shutdown(cancel_futures=True)


class Buffers:
    """Memory of one batch: what comes from the disk in half precision, and the batch in float32.

    Its tensors are ordinary ones even where they are made in inference mode, since other threads fill them.
    """

    @torch.inference_mode(False)
    def __init__(self, loader):
        self._loader = loader
        layout, n = loader.store.layout, loader.n
        shape = (n, len(layout.bands), layout.stamp, layout.stamp)
        self._half = {key: np.empty(shape, np.float16) for key in ("image", "sigma")}
        self._scale = {key: np.empty(shape[:2], np.float32) for key in ("image", "sigma")}
        full = (n, len(loader.bands), *shape[2:])
        self._full = {"image": torch.zeros(full), "sigma": torch.full(full, torch.inf)}
        self._spectra, self._capacity = {}, 0

    def _reserve(self, count):
        """Room for ``count`` spectra."""
        if count > self._capacity:
            self._capacity = count + count // 4
            shape = (self._capacity, self._loader.store.layout.wave_size)
            for key in ("flux", "ivar"):
                self._spectra[key] = np.empty(shape, np.float16), torch.empty(shape)

    @torch.inference_mode(False)
    def fill(self, epoch, galaxies):
        """The batch of galaxies (n, 2), each visited in its epoch."""
        loader, n = self._loader, len(galaxies)
        found = [(loader.store.arrays(int(unit)), int(row)) for unit, row in galaxies]
        rows = [self._fibers(arrays, row, int(e)) for (arrays, row), e in zip(found, epoch, strict=True)]
        counts = np.array([len(r) for r in rows])
        total = int(counts.sum())
        self._reserve(total)
        present = np.zeros((n, len(loader.bands)), bool)
        psf = np.empty(n, np.float32)
        numbers = {"offset": (2,), "redshift": (), "sigma_z": (), "flux_scale": (), "ivar_scale": ()}
        fiber = {key: np.empty((total, *shape), np.float32) for key, shape in numbers.items()}
        first = 0
        for i, ((arrays, row), mine) in enumerate(zip(found, rows, strict=True)):
            for key, half in self._half.items():
                half[i] = arrays[key][row]
                self._scale[key][i] = arrays[f"{key}_scale"][row]
            for a, b in loader._places:
                present[i, b] = arrays["present"][row, a]
            psf[i] = arrays["psf_fwhm"][row]
            for j in mine:
                for key, (half, _) in self._spectra.items():
                    half[first] = arrays[key][j]
                for key, values in fiber.items():
                    values[first] = arrays[key][j]
                first += 1
        for key, full in self._full.items():
            half, scale = torch.from_numpy(self._half[key]), torch.from_numpy(self._scale[key])
            for a, b in loader._places:
                full[:, b].copy_(half[:, a]).mul_(scale[:, a, None, None])
        for key, (half, full) in self._spectra.items():
            full[:total].copy_(torch.from_numpy(half[:total])).mul_(torch.from_numpy(fiber[f"{key}_scale"])[:, None])
        return {
            **self._full,
            "present": torch.from_numpy(present),
            "psf_fwhm": torch.from_numpy(psf),
            "fiber_galaxy": torch.from_numpy(np.repeat(np.arange(n), counts)),
            "fiber_offset": torch.from_numpy(fiber["offset"]),
            "fiber_redshift": torch.from_numpy(fiber["redshift"]),
            "sigma_z": torch.from_numpy(fiber["sigma_z"]),
            **{key: full[:total] for key, (_, full) in self._spectra.items()},
        }

    def _fibers(self, arrays, row, epoch):
        """Rows of a galaxy's fibres in one visit: each epoch begins with another, which is shown as the context."""
        count, first = int(arrays["n_fibers"][row]), int(arrays["first_fiber"][row])
        return [first + (epoch + k) % count for k in range(min(count, self._loader.fibers))]


def shard_batches(settings, n, seed, first_step, *, bands, pieces=1, mine=(0,)):
    """Iterate over ``(number, batch)`` from ``first_step``, as `fiberifu.train.simulated_batches` does.

    A batch of ``n`` galaxies comes in equal pieces; number ``step x pieces + piece`` is one of them, and what it holds
    depends on the store, the seed and itself alone: not on the number of ranks, nor on where a run began.

    Parameters
    ----------
    settings : Shards
        Table ``[shards]`` of a recipe.
    n, seed, first_step : int
        Galaxies of a batch; seed; step of the first.
    bands : sequence of str
    pieces : int
        Of a batch.
    mine : sequence of int
        Pieces to yield.

    Yields
    ------
    number : int
    batch : dict of Tensor
        Overwritten when the next one is asked for.
    """
    loader = ShardLoader(
        settings.path, n // pieces, seed, bands=bands, split=settings.split, fibers=settings.fibers,
        threads=settings.threads,
    )  # fmt: skip
    yield from loader.batches(step=(step * pieces + piece for step in itertools.count(first_step) for piece in mine))
