# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How many cubes are fibres worth? ``a curve over galaxies, a score -> where the curve reaches it, draw by draw``."""

import dataclasses

import numpy as np

__all__ = ["Worth", "crossing", "worth_of"]


@dataclasses.dataclass(frozen=True)
class Worth:
    """How many galaxies with cubes train as well as some fibres.

    Attributes
    ----------
    galaxies : float or None
        Where the curve reaches the score; None if it does not between its ends.
    low, high : float or None
        16 and 84 % of the draws; None beyond an end of the curve.
    fewer, more : float
        Shares of the draws in which the curve is there at its smallest number already, or not even at its largest.
    smallest, largest : int
        Ends of the curve.
    """

    galaxies: float | None
    low: float | None
    high: float | None
    fewer: float
    more: float
    smallest: int
    largest: int

    @property
    def text(self):
        """In words."""
        if self.galaxies is None:
            end = f"more than {self.largest:,}" if self.more >= self.fewer else f"fewer than {self.smallest:,}"
            return f"{end} ({100 * max(self.more, self.fewer):.0f} % of the draws)"
        low = f"fewer than {self.smallest:,}" if self.low is None else f"{self.low:,.0f}"
        high = f"more than {self.largest:,}" if self.high is None else f"{self.high:,.0f}"
        return f"{self.galaxies:,.0f} ({low} to {high})"


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
        part = (score - low) / np.where(high > low, high - low, 1.0)
        out = np.where(here, np.exp(x[i] + part * (x[i + 1] - x[i])), out)
    return np.where(np.isfinite(curve).all(0) & np.isfinite(score), out, np.nan)


def worth_of(galaxies, curve, score, better=True):
    """Number of cubes that are worth a score, with its interval over the draws of a bootstrap.

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
    found = crossing(galaxies, sign * np.asarray(curve), sign * np.asarray(score))
    value, draws = found[0], found[1:][~np.isnan(found[1:])]
    ends = int(galaxies[0]), int(galaxies[-1])
    if np.isnan(value) or not len(draws):
        draws = np.array([value])
    fewer, more = float((draws == 0).mean()), float(np.isinf(draws).mean())
    low, high = np.quantile(draws, (0.16, 0.84), method="nearest")  # 0 and infinity are among them
    inside = [float(end) if 0 < end < np.inf else None for end in (value, low, high)]
    return Worth(*inside, fewer, more, *ends)
