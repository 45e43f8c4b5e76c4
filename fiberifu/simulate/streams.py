"""Random numbers of the telescopes: one stream for each galaxy and purpose, whatever its company.

They are apart from `recipe.Draws`, so that looking at a galaxy does not change it.
"""

import zlib

import numpy as np

__all__ = ["stream"]


def stream(seed, index, purpose):
    """A generator fixed by the seed, the galaxy and what it is for.

    Parameters
    ----------
    seed, index : int
        Galaxy ``index`` of ``seed``.
    purpose : str
        Such as ``"imager r"``.

    Returns
    -------
    `numpy.random.Generator`
    """
    return np.random.default_rng([int(seed) % 2**64, int(index), zlib.crc32(purpose.encode())])
