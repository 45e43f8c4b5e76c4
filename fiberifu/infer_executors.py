# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Who computes the parts of a catalogue: this process, several of this machine, or workers of dask."""

import logging
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from fiberifu.simulate_job import _follow

__all__ = ["EXECUTORS", "open_executor"]

EXECUTORS = ("none", "process", "dask")


@contextmanager
def open_executor(kind, workers=1, address=None):
    """An executor for `~fiberifu.infer_job.infer_catalog`, by its name.

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
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers is {workers!r}; give a whole number from 1")
    if kind not in EXECUTORS:
        raise ValueError(f"executor is {kind!r}; give one of {', '.join(EXECUTORS)}")
    if address is not None and kind != "dask":
        raise ValueError(f"scheduler is {address!r}, and executor {kind!r}; a scheduler is dask's")
    if kind == "none":
        yield None
    elif kind == "process":
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
        logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every connection
        here = {"n_workers": workers, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
        with Client(address) if address is not None else Client(**here) as client:
            yield client.get_executor(pure=False)


def _start_worker():
    """A process of ours: ends with its parent, and says nothing that the parent has said."""
    threading.Thread(target=_follow, daemon=True).start()
    logging.getLogger("fiberifu").setLevel(logging.ERROR)
