# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors by drawing galaxies with replacement: ``spaxels -> sums per galaxy -> weights @ sums -> scores of all draws``.

Spaxels of one galaxy share its errors, so galaxies are drawn, not spaxels. A score that is a function of sums over
spaxels needs these sums once per galaxy; a draw is then one product with the counts of the galaxies in it.

Shapes: N spaxels, G galaxies, D rows of weights (the first is all ones: the score itself; the others are draws).
"""

import numpy as np

__all__ = ["SURE", "Bootstrap", "galaxy_quantile", "galaxy_ranks", "galaxy_sums", "interval", "weighted_quantile"]

LOW, HIGH = 16, 84  # per cent
SURE = 2.5, 97.5  # per cent: what a verdict is made from
FEWEST = 5  # galaxies below which a spread says nothing


class Bootstrap:
    """Weights of galaxies.

    Parameters
    ----------
    galaxies : int
    draws, seed : int

    Attributes
    ----------
    weights : ndarray (1 + draws, galaxies)
        Ones, then how often each draw has each galaxy. The same for all methods: differences are paired.

    Raises
    ------
    ValueError
        If there are no galaxies, or ``draws`` is negative.
    """

    def __init__(self, galaxies, draws=200, seed=0):
        if galaxies < 1 or draws < 0:
            raise ValueError(
                f"galaxies is {galaxies} and draws {draws}; give at least one galaxy and no negative draws"
            )
        counts = np.random.default_rng(seed).multinomial(galaxies, np.full(galaxies, 1 / galaxies), size=draws)
        self.weights = np.concatenate([np.ones((1, galaxies)), counts])


def galaxy_sums(galaxy, n, *columns):
    """Sums over the spaxels of each galaxy.

    Parameters
    ----------
    galaxy : ndarray (N,) of int
        Of each spaxel.
    n : int
        Galaxies, G.
    *columns : ndarray (N,) or 1
        What is summed; 1 counts.

    Returns
    -------
    ndarray (len(columns), G)
    """
    return np.stack([np.bincount(galaxy, None if np.isscalar(c) else c, minlength=n) for c in columns]).astype(float)


def _order(values, galaxy):
    """Indices that sort by galaxy, then by value."""
    order = np.argsort(values)
    short = np.uint16 if galaxy.max(initial=0) < 2**16 else galaxy.dtype  # numpy sorts short integers faster
    return order[np.argsort(galaxy[order].astype(short), kind="stable")]


def galaxy_ranks(values, galaxy):
    """Rank of each value (N,) within its galaxy, from 0; ties share their mean rank."""
    order = _order(values, galaxy)
    v, g = values[order], galaxy[order]
    place = np.arange(len(v))
    first_of_galaxy = np.maximum.accumulate(np.where(np.r_[True, g[1:] != g[:-1]], place, 0))
    run = np.r_[True, (g[1:] != g[:-1]) | (v[1:] != v[:-1])].cumsum() - 1
    start = np.flatnonzero(np.r_[True, run[1:] != run[:-1]])
    last = np.r_[start[1:], len(v)] - 1
    ranks = np.empty(len(v))
    ranks[order] = (start + last)[run] / 2 - first_of_galaxy
    return ranks


def galaxy_quantile(values, galaxy, n, q):
    """Quantile of the values (N,) of each galaxy, (G,), as `numpy.quantile` has it; NaN for galaxies without any."""
    order = _order(values, galaxy)
    v, count = values[order], np.bincount(galaxy, minlength=n)
    where = np.cumsum(count) - count + q * np.maximum(count - 1, 0)
    out = np.full(n, np.nan)
    some = count > 0
    low = np.floor(where[some]).astype(int)
    high = np.minimum(low + 1, (np.cumsum(count) - 1)[some])
    out[some] = v[low] + (where[some] - low) * (v[high] - v[low])
    return out


def weighted_quantile(values, weights, q):
    """Quantile of the galaxies of each draw.

    Parameters
    ----------
    values : ndarray (G,)
        NaN for galaxies that have none: they are left out.
    weights : ndarray (D, G)
        Whole numbers.
    q : float

    Returns
    -------
    ndarray (D,)
        `numpy.quantile` of the values repeated as the weights say.
    """
    order = np.argsort(values)[: np.isfinite(values).sum()]
    v, cumulative = values[order], np.cumsum(weights[:, order], axis=1)
    if not len(v):
        return np.full(len(weights), np.nan)
    total = cumulative[:, -1:]
    where = q * np.maximum(total - 1, 0)
    low = np.floor(where)
    at = [np.minimum((cumulative <= k).sum(1), len(v) - 1) for k in (low, np.minimum(low + 1, total - 1))]
    result = v[at[0]] + (where - low)[:, 0] * (v[at[1]] - v[at[0]])
    return np.where(total[:, 0] > 0, result, np.nan)


def interval(values, galaxies, percent=(LOW, HIGH)):
    """Value, and 16 and 84 % of a bootstrap, or what else is asked for.

    Parameters
    ----------
    values : ndarray (D,)
        The score itself, then those of the draws.
    galaxies : int
        That have a part in it.
    percent : (float, float)

    Returns
    -------
    value, low, high : float or None
        None for what is not defined: no bounds below 5 galaxies or without draws.
    """
    value, draws = values[0], values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return None, None, None
    if galaxies < FEWEST or not len(draws):
        return float(value), None, None
    low, high = np.percentile(draws, percent)
    return float(value), float(low), float(high)
