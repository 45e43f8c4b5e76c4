# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One-dimensional mixtures of Gaussians: what any line flux, width or ratio of a prediction is distributed like.

Shapes: ``...`` anything, J components on the last axis.
"""

import numpy as np
from scipy.special import ndtr

__all__ = ["mixture_cdf", "mixture_quantiles", "ratio_cdf", "ratio_quantiles"]

STEPS = 50  # bisections: to 1e-15 of the bracket
UNSURE = 0.1  # probability of a denominator below zero, above which a ratio is noise over noise


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
    """
    levels = np.asarray(levels, float)
    # each component has less than any level below its own quantile, so the mixture lies between the outermost
    reach = np.sqrt(2 * np.log(2 / np.minimum(levels, 1 - levels).min())) + 1
    low, high = (mean - reach * sigma).min(-1), (mean + reach * sigma).max(-1)
    return _bisect(lambda x: mixture_cdf(x, weight, mean, sigma), levels, low, high)


def ratio_cdf(t, weight, mean, covariance):
    """Probability that a ratio ``a / b`` of jointly Gaussian components is below ``t``, for ``b`` that is positive.

    ``a / b < t`` is ``a - t b < 0``, and that is linear: no expansion (Hinkley 1969, Biometrika 56, 635). What little
    probability the Gaussians give to ``b < 0`` is taken off at both ends.

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
    lost = (weight * ndtr(-b / np.sqrt(bb))).sum(-1)  # what the sum is far below, and lacks to 1 far above
    return (below - lost) / (1 - 2 * lost)


def ratio_quantiles(levels, weight, mean, covariance):
    """Quantiles of ``a / b``, see `ratio_cdf`; NaN where b is below zero with a probability above `UNSURE`.

    Returns
    -------
    ndarray (Q, ...)
    """
    (a, b), (aa, bb, _) = mean, covariance
    sure = (weight * ndtr(-b / np.sqrt(bb))).sum(-1) < UNSURE
    b = np.where(sure[..., None], b, 1.0)
    levels = np.asarray(levels, float)
    # far enough for the faintest of denominators
    reach = 8 * np.sqrt(aa).max(-1) + np.abs(a).max(-1)
    bound = 10 * reach / np.where(sure, np.maximum((weight * b).sum(-1), 1e-30), 1.0) / (1 - levels.max())
    mean = (a, b)
    found = _bisect(lambda t: ratio_cdf(t, weight, mean, covariance), levels, -bound, bound)
    return np.where(sure, found, np.nan)


def _bisect(cdf, levels, low, high):
    """Where a rising function of values between ``low`` and ``high`` (...) reaches the levels (Q,)."""
    shape = (len(levels), *np.shape(low))
    low, high = (np.broadcast_to(x, shape).copy() for x in (low, high))
    wanted = levels.reshape(-1, *(1,) * (len(shape) - 1))
    for _ in range(STEPS):
        middle = (low + high) / 2
        below = cdf(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
