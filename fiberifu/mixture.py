# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One-dimensional mixtures of Gaussians: what any line flux, width or ratio of a prediction is distributed like.

Shapes: ``...`` anything, J components on the last axis.
"""

import numpy as np
from scipy.special import ndtr

__all__ = ["mixture_cdf", "mixture_quantiles", "ratio_cdf", "ratio_quantiles"]

STEPS = 60  # bisections: to 1e-17 of the bracket


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

    ``a / b < t`` is ``a - t b < 0``, and that is linear: no expansion. What little probability ``b < 0`` has counts on
    the wrong side (Hinkley 1969, Biometrika 56, 635); where it is not little, the ratio is noise over noise.

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
    return (weight * ndtr((t * b - a) / np.sqrt(variance))).sum(-1)


def ratio_quantiles(levels, weight, mean, covariance):
    """Quantiles of ``a / b``, see `ratio_cdf`; NaN where b, in the mean, is not positive by three of its errors.

    Returns
    -------
    ndarray (Q, ...)
    """
    (a, b), (aa, bb, _) = mean, covariance
    sure = (b > 3 * np.sqrt(bb)).all(-1)
    safe = np.where(sure[..., None], b, 1.0)
    levels = np.asarray(levels, float)
    reach = np.sqrt(2 * np.log(2 / np.minimum(levels, 1 - levels).min())) + 1
    # a within its own reach, over b at its smallest: a ratio beyond has no probability left
    width = reach * np.sqrt(aa)
    least = np.where(sure[..., None], np.maximum(b - reach * np.sqrt(bb), 0.05 * safe), 1.0)
    low, high = np.minimum((a - width) / least, 0).min(-1), np.maximum((a + width) / least, 0).max(-1)
    found = _bisect(lambda t: ratio_cdf(t, weight, mean, covariance), levels, low, high)
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
