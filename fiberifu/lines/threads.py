# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Work spread over threads that do not get in each other's way."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

__all__ = ["in_threads"]


def in_threads(work, items, threads=None):
    """Results of ``work`` for each of ``items``, in their order, by ``threads`` threads (all cores by default).

    The linear algebra in them runs on one thread each: many small products are slower on several.
    """
    items = list(items)
    workers = min(threads or os.cpu_count() or 1, max(len(items), 1))
    with _libraries().limit(limits=1, user_api="blas"):
        if workers == 1:
            return list(map(work, items))
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, items))


@cache
def _libraries():
    """The linear algebra that is loaded; to look for it takes as long as fitting a dozen spectra."""
    return ThreadpoolController()
