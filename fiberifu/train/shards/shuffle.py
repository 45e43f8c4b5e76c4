"""The order in which an epoch visits all galaxies, as a function of seed, epoch and place: nothing to replay.

``position -> (epoch, consumed) -> Feistel permutation keyed by (seed, epoch) -> galaxy``
"""

import numpy as np

__all__ = ["Shuffle"]

ROUNDS = 6


def _mix(x):
    """The finaliser of splitmix64 (Steele+2014, OOPSLA, 453), on arrays of uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Shuffle:
    """Epoch after epoch through ``n`` things, each in an order of its own.

    A permutation of 0 to n - 1 is a Feistel network (Luby & Rackoff 1988, SIAM J. Comput. 17, 373) on the smallest
    square of a power of two that holds n, walked until it lands below n (Black & Rogaway 2002, CT-RSA, 114). It takes
    no memory, and any place of any epoch costs the same.

    Parameters
    ----------
    n : int
        One or more.
    seed : int

    Examples
    --------
    >>> order = Shuffle(5, seed=1)
    >>> sorted(order(epoch=0, place=range(5)).tolist())
    [0, 1, 2, 3, 4]
    >>> order.state(13)
    {'epoch': 2, 'consumed': 3}
    """

    def __init__(self, n, seed):
        if n < 1:
            raise ValueError(f"n: got {n}; there is nothing to shuffle")
        self.n, self.seed = int(n), int(seed)
        self._half = max(1, (max(self.n - 1, 1).bit_length() + 1) // 2)  # bits

    def state(self, position):
        """Where a reader is that has taken ``position`` things: the epoch, and how many of it are consumed."""
        epoch, consumed = divmod(int(position), self.n)
        return {"epoch": epoch, "consumed": consumed}

    def position(self, state):
        """The inverse of `state`."""
        return state["epoch"] * self.n + state["consumed"]

    def visits(self, first, count):
        """Epochs and things (count,) at positions from ``first``, counted through all epochs."""
        epoch, place = np.divmod(np.arange(first, first + count, dtype=np.int64), self.n)
        thing = np.empty(count, np.int64)
        for one in np.unique(epoch):
            thing[epoch == one] = self(one, place[epoch == one])
        return epoch, thing

    def __call__(self, epoch, place):
        """Things (int64) at places of an epoch.

        Raises
        ------
        ValueError
            For places that an epoch has not.
        """
        place = np.atleast_1d(np.asarray(place, np.int64))
        if place.size and not (place.min() >= 0 and place.max() < self.n):
            raise ValueError(f"place: got {place.min()} to {place.max()}; an epoch has 0 to {self.n - 1}")
        numbers = np.array([self.seed % 2**64, int(epoch) % 2**64, *range(ROUNDS)], np.uint64)
        with np.errstate(over="ignore"):
            key = _mix(_mix(numbers[:1] + np.uint64(0x9E3779B97F4A7C15)) ^ _mix(numbers[1:2] + np.uint64(1)))
            keys = _mix(key + numbers[2:] * np.uint64(0x9E3779B97F4A7C15))
            out = self._permuted(place.astype(np.uint64), keys)
            while (outside := out >= self.n).any():
                out[outside] = self._permuted(out[outside], keys)
        return out.astype(np.int64)

    def _permuted(self, x, keys):
        bits = np.uint64(self._half)
        low = np.uint64((1 << self._half) - 1)
        left, right = x >> bits, x & low
        for key in keys:
            left, right = right, left ^ (_mix(right * np.uint64(0x9E3779B97F4A7C15) + key) & low)
        return (left << bits) | right
