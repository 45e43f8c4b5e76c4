# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How many cubes are fibres worth? ``curve over galaxies, score -> rising curve -> where it is reached, in draws``."""

import dataclasses

import numpy as np

__all__ = ["Worth", "crossing", "monotone", "worth_of"]


@dataclasses.dataclass(frozen=True)
class Worth:
    """How many galaxies with cubes train as well as some fibres.

    Attributes
    ----------
    galaxies : float or None
        Where the monotone curve reaches the score, over all held-out galaxies; None if it does not between its ends.
    low, high : float or None
        16 and 84 % of the draws; None beyond an end of the curve.
    beyond : tuple of (int or None)
        Where the three are: -1 below the smallest number, 0 between the ends, 1 above the largest; None: not known.
    fewer, more : float
        Shares of the draws in which the curve is there at its smallest number already, or not even at its largest.
    smallest, largest : int
        Ends of the curve.
    """

    galaxies: float | None
    low: float | None
    high: float | None
    beyond: tuple
    fewer: float
    more: float
    smallest: int
    largest: int

    @property
    def text(self):
        """In words: the number, or the end beyond which it is, and 16 to 84 % of the draws."""
        value, low, high = map(self._word, (self.galaxies, self.low, self.high), self.beyond)
        side = self.beyond[0]
        if None in self.beyond:
            return value if side is None else f"{value} (interval unknown)"
        if side == 0:
            return f"{value} ({low} to {high})"
        share = f"{100 * (self.more if side > 0 else self.fewer):.0f} % of the draws"
        return f"{value} ({share})" if value == low == high else f"{value} ({low} to {high}; so {share})"

    def _word(self, number, side):
        ends = {None: "unknown", -1: f"fewer than {self.smallest:,}", 1: f"more than {self.largest:,}"}
        return ends[side] if side != 0 else f"{number:,.0f}"


def monotone(curve):
    """The rising curve closest to one in least squares: isotonic regression, points of equal weight.

    More data do not make a method worse. Where a curve falls, by the luck of a training or of the held-out galaxies,
    points are pooled; the first crossing of a noisy curve, in contrast, would be at too few galaxies on average.

    Parameters
    ----------
    curve : ndarray (n, ...)
        Of which more is better.

    Returns
    -------
    ndarray (n, ...)
        NaN all along where a point is not known.

    Notes
    -----
    Min-max formula of isotonic regression (Barlow et al. 1972, Statistical Inference under Order Restrictions): point
    i is the largest over j <= i of the smallest over k >= i of the mean of points j to k.
    """
    curve = np.asarray(curve, float)
    n, sums = len(curve), np.concatenate([np.zeros((1, *curve.shape[1:])), np.cumsum(curve, 0)])

    def mean(j, k):
        return (sums[k + 1] - sums[j]) / (k + 1 - j)

    out = [np.max([np.min([mean(j, k) for k in range(i, n)], 0) for j in range(i + 1)], 0) for i in range(n)]
    return np.where(np.isfinite(curve).all(0), np.stack(out), np.nan)


def crossing(galaxies, curve, score):
    """The least number of galaxies at which a curve reaches a score: linear in its logarithm between the points.

    Parameters
    ----------
    galaxies : sequence of int (n,)
        Rising.
    curve : ndarray (n, ...)
        Scores, of which more is better.
    score : ndarray (...)

    Returns
    -------
    ndarray (...)
        0 where the first point is as good already, infinite where none is, NaN where a score is not known.
    """
    x, curve, score = np.log(np.asarray(galaxies, float)), np.asarray(curve, float), np.asarray(score, float)
    if len(x) != len(curve) or (np.diff(x) <= 0).any():
        raise ValueError(f"galaxies: got {list(galaxies)}; give a rising number for each of {len(curve)} points")
    out = np.where(curve[0] >= score, 0.0, np.inf)
    for i in range(len(x) - 1):
        low, high = curve[i], curve[i + 1]
        here = np.isinf(out) & (high >= score)
        part = np.where(here, (score - low) / np.where(high > low, high - low, 1.0), 0.0)
        out = np.where(here, np.exp(x[i] + part * (x[i + 1] - x[i])), out)
    return np.where(np.isfinite(curve).all(0) & np.isfinite(score), out, np.nan)


def worth_of(galaxies, curve, score, better=True):
    """Number of cubes that are worth a score, with its interval over the draws of a bootstrap.

    The curve is made `monotone` first, in each draw by itself.

    Parameters
    ----------
    galaxies : sequence of int (n,)
    curve : ndarray (n, 1 + draws)
        Scores of the cubes; the first is that of all galaxies.
    score : ndarray (1 + draws,)
        Of the fibres, on the same draws.
    better : bool
        Whether more is better.

    Returns
    -------
    Worth
    """
    sign = 1 if better else -1
    found = crossing(galaxies, monotone(sign * np.asarray(curve)), sign * np.asarray(score))
    ends = int(galaxies[0]), int(galaxies[-1])
    if np.isnan(found[0]):
        return Worth(None, None, None, (None, None, None), 0.0, 0.0, *ends)
    draws = found[1:][~np.isnan(found[1:])]
    if not len(draws):
        draws = np.array([np.nan])
    # 0 and infinity are among the draws: no interpolation
    places = found[0], *np.quantile(draws, (0.16, 0.84), method="nearest")
    beyond = tuple(None if np.isnan(x) else int(np.isinf(x)) - int(x == 0) for x in places)
    inside = [float(x) if side == 0 else None for x, side in zip(places, beyond, strict=True)]
    return Worth(*inside, beyond, float((draws == 0).mean()), float(np.isinf(draws).mean()), *ends)
