# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The scores: numbers of pooled spaxels, ``truth, predicted, galaxy (, weights) -> score``.

N spaxels in G galaxies: ``truth`` and ``predicted`` are ndarrays (N,), ``galaxy`` (N,) of int says whose each is.
``weights`` (D, G), see `~fiberifu.validate.bootstrap.Bootstrap`, gives an ndarray (D,) with the scores of all draws;
without, the score is a float. What is not defined is NaN.
"""

import numpy as np

from .bootstrap import galaxy_quantile, galaxy_ranks, galaxy_sums, weighted_quantile

__all__ = [
    "auc",
    "bias",
    "correlation_after",
    "cosine",
    "galaxy_mean",
    "galaxy_spearman",
    "kappa",
    "mae",
    "median",
    "quantile",
    "r2",
    "r2_within",
    "rms",
    "rotation",
    "spread",
]

FEWEST = 10  # spaxels of a galaxy for a correlation, a cosine or a rotation of its own
BINS = 128  # ranks are cut into so many bins for the errors of the AUC
ROUNDING = 1e-9  # part of a variance that is nothing but rounding


def _weights(galaxy, weights):
    return np.ones((1, int(galaxy.max(initial=0)) + 1)) if weights is None else weights


def _give(values, weights):
    return float(values[0]) if weights is None else values


def _divide(a, b):
    """a / b, NaN where b is not positive."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _mean(values, galaxy, weights):
    w = _weights(galaxy, weights)
    total, n = galaxy_sums(galaxy, w.shape[1], values, 1) @ w.T
    return _divide(total, n)


# ---------------------------------------------------------------- residuals
def r2(truth, predicted, galaxy, weights=None, *, variance=0.0):
    """1 - sum (predicted - truth)^2 / sum (truth - mean truth)^2 over all spaxels.

    ``variance`` (N,) of known errors of the truth is taken out of both sums, so that the score is the expectation of
    that with errorless truth (selection and errors of the errors apart).
    """
    w = _weights(galaxy, weights)
    t = truth - (truth.mean() if len(truth) else 0.0)
    noise = np.broadcast_to(variance, t.shape)
    n, first, second, residual, noise = (
        galaxy_sums(galaxy, w.shape[1], 1, t, t**2, (predicted - truth) ** 2, noise) @ w.T
    )
    total = second - _divide(first**2, n) - noise
    return _give(1 - _divide(residual - noise, total), weights)


def r2_within(truth, predicted, galaxy, weights=None, *, variance=0.0):
    """R2 after the mean of each galaxy is taken from its truth and from its prediction.

    Scores the pattern inside galaxies; offsets between them neither help nor harm.
    """
    w = _weights(galaxy, weights)
    t, d = truth - (truth.mean() if len(truth) else 0.0), predicted - truth
    noise = np.broadcast_to(variance, t.shape)
    n, first, second, shift, residual, noise = galaxy_sums(galaxy, w.shape[1], 1, t, t**2, d, d**2, noise)
    n = np.maximum(n, 1)
    noise = noise * (n - 1) / n
    sums = np.stack([residual - shift**2 / n - noise, np.maximum(second - first**2 / n, 0) - noise]) @ w.T
    return _give(1 - _divide(*sums), weights)


def bias(truth, predicted, galaxy, weights=None):
    """Mean of predicted - truth."""
    return _give(_mean(predicted - truth, galaxy, weights), weights)


def mae(truth, predicted, galaxy, weights=None):
    """Mean of abs(predicted - truth)."""
    return _give(_mean(np.abs(predicted - truth), galaxy, weights), weights)


def rms(truth, predicted, galaxy, weights=None, *, variance=0.0):
    """Root of the mean square of predicted - truth, less the ``variance`` of known errors of the truth; 0 at least."""
    return _give(np.sqrt(np.maximum(_mean((predicted - truth) ** 2 - variance, galaxy, weights), 0)), weights)


# ---------------------------------------------------------------- order
def auc(positive, predicted, galaxy, weights=None):
    """Area under the ROC curve: the chance that a true spaxel has the larger prediction than a false one.

    ``positive`` (N,) of bool. Exact (Mann & Whitney 1947, Ann. Math. Stat. 18, 50; ties count half); only the spread
    over the draws comes from 128 bins of rank.
    """
    positive = np.asarray(positive, bool)
    yes, no = positive.sum(), (~positive).sum()
    if not yes or not no:
        return _give(np.full(len(_weights(galaxy, weights)), np.nan), weights)
    ranks = galaxy_ranks(predicted, np.zeros(len(predicted), int))
    exact = (ranks[positive].sum() - yes * (yes - 1) / 2) / (yes * no)
    if weights is None:
        return float(exact)
    n = weights.shape[1]
    cell = galaxy * BINS + (ranks * BINS / len(ranks)).astype(int)
    counts = [weights @ np.bincount(cell[m], minlength=n * BINS).reshape(n, BINS) for m in (positive, ~positive)]
    below = np.cumsum(counts[1], axis=1) - counts[1] / 2
    binned = _divide((counts[0] * below).sum(1), counts[0].sum(1) * counts[1].sum(1))
    return exact + binned - binned[0]


def galaxy_spearman(truth, predicted, galaxy, n, *, ranked=False):
    """Rank correlation in each of n galaxies, ndarray (n,).

    NaN below 10 spaxels or where the truth is constant; a constant prediction knows no order: 0. ``ranked``: truth is
    `~fiberifu.validate.bootstrap.galaxy_ranks` already, made once for many methods.
    """
    a, b = (truth if ranked else galaxy_ranks(truth, galaxy)), galaxy_ranks(predicted, galaxy)
    count, sa, sb, aa, bb, ab = galaxy_sums(galaxy, n, 1, a, b, a * a, b * b, a * b)
    count = np.where(count >= FEWEST, count, np.nan)
    aa, bb, ab = aa - sa**2 / count, bb - sb**2 / count, ab - sa * sb / count
    return np.where(bb > ROUNDING * aa, _divide(ab, np.sqrt(np.maximum(aa * bb, 0))), np.where(aa > 0, 0.0, np.nan))


def quantile(values, q, weights=None):
    """Quantile of numbers of galaxies (G,), NaN left out."""
    values = np.asarray(values, float)
    return _give(weighted_quantile(values, np.ones((1, len(values))) if weights is None else weights, q), weights)


def median(values, weights=None):
    """Median of numbers of galaxies (G,), NaN left out."""
    return quantile(values, 0.5, weights)


def galaxy_mean(values, weights=None):
    """Mean of numbers of galaxies (G,), NaN left out."""
    some = np.flatnonzero(np.isfinite(values))
    return _give(_mean(values[some], some, weights), weights)


def spread(values, weights=None):
    """Half the central 68 % of numbers of galaxies (G,)."""
    high, low = (quantile(values, q, weights) for q in (0.84, 0.16))
    return (high - low) / 2


# ---------------------------------------------------------------- patterns
def correlation_after(truth, predicted, light, galaxy, weights=None):
    """Correlation of what a straight line on ``light`` (N,), fitted in each galaxy, leaves of truth and prediction.

    Galaxies of 10 spaxels or more; sums run over all of them. A prediction that is light times a constant (all three
    as logarithms) has nothing left: 0 by construction, also where rounding leaves something. NaN if one is given.
    """
    w = _weights(galaxy, weights)
    x, t, p = (v - (v.mean() if len(v) else 0.0) for v in (light, truth, predicted))
    n, *sums = galaxy_sums(galaxy, w.shape[1], 1, x, t, p, x * x, t * t, p * p, x * t, x * p, t * p)
    sx, st, sp, xx, tt, pp, xt, xp, tp = sums
    many, n = n >= FEWEST, np.maximum(n, 1)
    xx, tt, pp = xx - sx**2 / n, tt - st**2 / n, pp - sp**2 / n
    xt, xp, tp = xt - sx * st / n, xp - sx * sp / n, tp - st * sp / n
    slopes = _divide(xt, xx), _divide(xp, xx)
    left = np.stack([tt - slopes[0] * xt, pp - slopes[1] * xp, tp - slopes[0] * xp, pp])
    left = np.where(many & ~(xx <= 0), left, 0.0)  # a NaN that was given stays
    tt, pp, tp, whole = left @ w.T
    r = _divide(tp, np.sqrt(np.maximum(tt * pp, 0)))
    return _give(np.where((pp <= ROUNDING * whole) & (tt > 0), 0.0, r), weights)


def cosine(truth, predicted, galaxy, n):
    """The published score of each of n galaxies, ndarray (n,): cosine of two maps, shifted and scaled.

    Each map (linear fluxes) is shifted by its median and divided by its inter-quartile range, then
    ``sum a b / sqrt(sum a^2 sum b^2)`` (Peng et al. 2026, arXiv:2606.10197). A positive scale cancels, so absolute
    fluxes do not count. NaN below 10 spaxels and for a constant truth; a constant prediction has 0.
    """
    a, b = (_standard(v, galaxy, n) for v in (truth, predicted))
    count, aa, bb, ab = galaxy_sums(galaxy, n, 1, a * a, b * b, a * b)
    aa = np.where(count >= FEWEST, aa, np.nan)
    return np.where(bb > 0, _divide(ab, np.sqrt(aa * bb)), np.where(aa > 0, 0.0, np.nan))


def _standard(values, galaxy, n):
    low, middle, high = (galaxy_quantile(values, galaxy, n, q) for q in (0.25, 0.5, 0.75))
    scale = np.where(high > low, high - low, 1.0)
    return (values - middle[galaxy]) / scale[galaxy]


# ---------------------------------------------------------------- classes and motion
def kappa(truth, predicted, galaxy, classes, weights=None, *, linear=False):
    """Cohen's kappa of classes 0 ... ``classes`` - 1: agreement beyond chance (1960, Educ. Psych. Meas. 20, 37).

    ``1 - sum w observed / sum w expected`` with w = 1 off the diagonal; with ``linear`` the distance between the
    classes, for classes in an order. NaN where both know one class only.
    """
    w = _weights(galaxy, weights)
    cell = (galaxy * classes + truth) * classes + predicted
    counts = w @ np.bincount(cell, minlength=w.shape[1] * classes**2).reshape(w.shape[1], -1)
    counts = counts.reshape(-1, classes, classes)
    i = np.arange(classes)
    cost = np.abs(i[:, None] - i) if linear else 1 - np.eye(classes)
    expected = counts.sum(2)[:, :, None] * counts.sum(1)[:, None, :]
    wrong, chance = (counts * cost).sum((1, 2)) * counts.sum((1, 2)), (expected * cost).sum((1, 2))
    return _give(1 - _divide(wrong, chance), weights)


def rotation(truth, predicted, galaxy, n):
    """Slope of predicted on true velocities about the mean of each of n galaxies, ndarray (n,).

    1 is the true rotation, negative the wrong sense, 0 none. NaN below 10 spaxels and where truth moves by less than
    10 km/s (rms): there is no sense to tell.
    """
    count, st, sp, tt, tp = galaxy_sums(galaxy, n, 1, truth, predicted, truth**2, truth * predicted)
    count = np.where(count >= FEWEST, count, np.nan)
    tt, tp = tt - st**2 / count, tp - st * sp / count
    return np.where(tt / count > 100.0, _divide(tp, tt), np.nan)
