"""Who computes what: one process alone, or the ranks that ``torchrun`` started, each with some pieces of every batch.

``join (environment of torchrun) -> Ranks: pieces, total, wait, parallel``
"""

import contextlib
import dataclasses
import inspect
import os

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Ranks", "join"]


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among all; without a process group it is alone.

    Attributes
    ----------
    rank, size : int
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls):
        """The ranks of the process group that there is."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @classmethod
    def of_environment(cls):
        """The ranks that ``torchrun`` started this process among, whether they have met or not."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def first(self):
        """Whether this one writes the files."""
        return self.rank == 0

    def pieces(self, n):
        """Which of the ``n`` pieces of a batch are computed here."""
        return range(self.rank, n, self.size)

    def total(self, values):
        """Sum of a tensor over the ranks, in place; the same on all of them."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self):
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def parallel(self, module):
        """A module whose gradients are averaged over the ranks in its backward pass.

        Which parameters are used differs by step and rank: without context fibres, none that read spectra.
        """
        if self.size == 1:
            return module
        # buffers are constants, the same everywhere; the name of their switch has changed with PyTorch 2.13
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(module, find_unused_parameters=True, **{buffers: False})

    def alone(self, module):
        """A context in which the gradients of a module of `parallel` stay here and add up."""
        return module.no_sync() if self.size > 1 else contextlib.nullcontext()


@contextlib.contextmanager
def join(device=None):
    """Join the ranks of ``torchrun`` (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` in the environment), if there are any.

    Parameters
    ----------
    device : str, optional
        "cpu" or "cuda"; by default a GPU where there is one. Among ranks, "cuda" is the GPU of the local rank.

    Yields
    ------
    device : str
        Of this rank.

    Raises
    ------
    ValueError
        For a GPU where there is none.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device: got {device!r}, and PyTorch sees no GPU here; use 'cpu'")
    if Ranks.of_environment().size == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()
