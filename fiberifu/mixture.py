# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One-dimensional mixtures of Gaussians: what any line flux, width or ratio of a prediction is distributed like.

Shapes: ``...`` anything, J components on the last axis.
"""

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["mixture_cdf", "mixture_quantiles", "ratio_cdf", "ratio_quantiles"]

STEPS = 100  # at most; some five are enough but for mixtures of far peaks
UNSURE = 0.1  # probability of a denominator below zero, above which a ratio is noise over noise
CLOSE = 1e-5  # of the narrowest component: a step of Newton's method so small leaves an error of its square


def mixture_cdf(x, weight, mean, sigma):
    """Probability of less than ``x``.

    Parameters
    ----------
    x : ndarray (...)
    weight, mean, sigma : ndarray (..., J)
        Weights sum to 1; sigma above 0.

    Returns
    -------
    ndarray (...)
    """
    return (weight * ndtr((np.asarray(x)[..., None] - mean) / sigma)).sum(-1)


def mixture_quantiles(levels, weight, mean, sigma):
    """Values below which the mixture has the probability ``levels``.

    Parameters
    ----------
    levels : ndarray (Q,)
        Inside (0, 1).
    weight, mean, sigma : ndarray (..., J)

    Returns
    -------
    ndarray (Q, ...)
        NaN where some sigma is not above 0.
    """
    levels = np.asarray(levels, float)
    weight, mean, sigma = np.broadcast_arrays(weight, mean, sigma)
    known = (sigma > 0).all(-1)
    shape, (weight, mean, sigma) = known.shape, (x[known] for x in (weight, mean, sigma))
    # each component has less than any level below its own quantile, so the mixture lies between the outermost
    reach = _reach(levels)
    low, high = (mean - reach * sigma).min(-1), (mean + reach * sigma).max(-1)

    def law(x, at):
        pull = (x[:, None] - mean[at]) / sigma[at]
        return (weight[at] * ndtr(pull)).sum(-1), (weight[at] * _normal(pull) / sigma[at]).sum(-1)

    out = np.full((len(levels), *shape), np.nan)
    out[:, known] = _invert(law, levels, low, high, _moments(weight, mean, sigma), sigma.min(-1))
    return out


def ratio_cdf(t, weight, mean, covariance):
    """Probability that a ratio ``a / b`` of jointly Gaussian components is below ``t``, for ``b`` that is positive.

    ``a / b < t`` is ``a - t b < 0``, and that is linear: no expansion (Hinkley 1969, Biometrika 56, 635). It is divided
    by the probability of ``b > 0``; what the Gaussians give to both below zero is neglected, so it is for quantities
    that are positive but for their tails, and for ``t`` from 0.

    Parameters
    ----------
    t : ndarray (...)
    weight : ndarray (..., J)
    mean : tuple of ndarray (..., J)
        Of a and of b.
    covariance : tuple of ndarray (..., J)
        Variance of a, of b, and their covariance.

    Returns
    -------
    ndarray (...)
    """
    t = np.asarray(t)[..., None]
    (a, b), (aa, bb, ab) = mean, covariance
    variance = np.maximum(aa - 2 * t * ab + t**2 * bb, 1e-30)
    below = (weight * ndtr((t * b - a) / np.sqrt(variance))).sum(-1)
    lost = (weight * ndtr(-b / np.sqrt(bb))).sum(-1)  # what the sum lacks to 1 far above
    return below / (1 - lost)


def ratio_quantiles(levels, weight, mean, covariance):
    """Quantiles of ``a / b``, see `ratio_cdf`; none below 0.

    NaN where b is below zero with a probability above `UNSURE`.

    Returns
    -------
    ndarray (Q, ...)
    """
    levels = np.asarray(levels, float)
    weight, a, b, aa, bb, ab = np.broadcast_arrays(weight, *mean, *covariance)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = (weight * ndtr(-b / np.sqrt(bb))).sum(-1)
    sure = lost < UNSURE  # False for the NaN of nothing
    shape, lost = sure.shape, lost[sure]
    weight, a, b, aa, bb, ab = (x[sure] for x in (weight, a, b, aa, bb, ab))  # those that have a ratio in one row

    def law(t, at):
        t, rest = t[:, None], 1 - lost[at]
        variance = np.maximum(aa[at] - 2 * t * ab[at] + t**2 * bb[at], 1e-30)
        excess, root = t * b[at] - a[at], np.sqrt(variance)
        pull = excess / root
        slope = b[at] / root - excess * (t * bb[at] - ab[at]) / (variance * root)
        below, density = (weight[at] * ndtr(pull)).sum(-1), (weight[at] * _normal(pull) * slope).sum(-1)
        return below / rest, density / rest

    over = (weight * b).sum(-1)  # of all components: one alone may be faint
    # far enough for the faintest of denominators
    bound = 10 * (8 * np.sqrt(aa).max(-1) + np.abs(a).max(-1)) / over / (1 - levels.max())
    middle, over = ((weight * a).sum(-1) / over)[:, None], over[:, None]
    sigma = np.sqrt(np.maximum(aa - 2 * middle * ab + middle**2 * bb, 1e-30)) / over
    start = _moments(weight, middle + (a - middle * b) / over, sigma)  # first order: a start, not a result
    out = np.full((len(levels), *shape), np.nan)
    out[:, sure] = _invert(law, levels, 0 * bound, bound, start, sigma.min(-1))
    return out


def _reach(levels):
    """Standard deviations from its mean within which a Gaussian has all the quantiles."""
    return np.sqrt(2 * np.log(2 / np.minimum(levels, 1 - levels).min())) + 1


def _normal(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _moments(weight, mean, sigma):
    """Mean and standard deviation (P,) of mixtures (P, J)."""
    middle = (weight * mean).sum(-1)
    return middle, np.sqrt((weight * (sigma**2 + (mean - middle[:, None]) ** 2)).sum(-1))


def _invert(law, levels, low, high, moments, scale):
    """Where the probabilities of P distributions reach the levels, by Newton's method in their normal quantiles.

    A Gaussian is a straight line there, done in one step. The root stays between bounds that every step narrows; what
    would leave them, and every fifth step, is a bisection.

    Parameters
    ----------
    law : callable
        ``(x, at)``, values and numbers (k,) of distributions, to probability below ``x`` and its density, (k,) each.
    levels : ndarray (Q,)
    low, high : ndarray (P,)
        With all quantiles between them.
    moments : tuple of ndarray (P,)
        Mean and standard deviation, for the start.
    scale : ndarray (P,)
        The smallest width in a distribution.

    Returns
    -------
    ndarray (Q, P)
    """
    shape = (len(levels), len(low))
    low, high, mean, sigma, scale = (np.broadcast_to(x, shape).ravel() for x in (low, high, *moments, scale))
    low, high = low.copy(), high.copy()
    wanted = np.repeat(ndtri(levels), shape[1])
    x = np.clip(mean + wanted * sigma, low, high)
    left = np.arange(len(x))  # not found yet
    for step in range(1, STEPS + 1):
        here = x[left]
        probability, density = law(here, left % shape[1])
        place = ndtri(np.clip(probability, 0.0, 1.0))  # but for rounding it is
        over = place > wanted[left]
        high[left[over]], low[left[~over]] = here[over], here[~over]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shift = (wanted[left] - place) * _normal(place) / density
        done = np.abs(shift) <= CLOSE * scale[left]
        new = here + shift
        inside = (new > low[left]) & (new < high[left]) & (step % 5 > 0)
        x[left] = np.where(done | inside, new, (low[left] + high[left]) / 2)
        left = left[~done]
        if not len(left):
            break
    return x.reshape(shape)
