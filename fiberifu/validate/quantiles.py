# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Distributions known by some of their quantiles: ``quantiles, truth -> place of the truth, CRPS``; Gaussians as such.

Quantiles are at the K `~fiberifu.validate.maps.LEVELS`. Between them, value and normal quantile z of the probability
go together in a straight line; beyond the outermost, that of the outer pair goes on: Gaussians are exact, and so is the
coverage of intervals between stored levels.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from .maps import LEVELS
from .spaxels import MEDIAN, NAMES, RATIOS

__all__ = [
    "KEYS",
    "check_quantiles",
    "gaussian_quantiles",
    "quantile_crps",
    "quantile_pit",
    "quantile_sigma",
    "quantiles_at",
    "widen_quantiles",
]

#: What may have quantiles: line fluxes, equivalent widths, ratios of fluxes.
KEYS = (*NAMES, *(f"EW {name}" for name in NAMES), *RATIOS)

_LEVELS = np.array(LEVELS)
_Z = ndtri(_LEVELS)
_LOW, _HIGH = LEVELS.index(0.16), LEVELS.index(0.84)
_K = len(LEVELS)
_LEFT = np.clip(np.arange(_K + 1) - 1, 0, _K - 2)  # of the pair of quantiles on whose line each of K + 1 segments lies
_ENDS = np.r_[-np.inf, _Z, np.inf]  # of the segments
DISORDER = 1e-4  # of the range of the quantiles: what rounding to single precision may leave


def check_quantiles(quantiles, n, of="the galaxy"):
    """Quantiles as they should be: dict of known names to arrays (n, K) that do not decrease, or None.

    Parameters
    ----------
    quantiles : dict of str to array_like, or None
    n : int
        Positions.
    of : str
        For messages.

    Raises
    ------
    ValueError
        If they are not.
    """
    for key, values in (quantiles or {}).items():
        if key not in KEYS:
            raise ValueError(f"quantiles predicted for {of} have the key {key!r}; known are {', '.join(KEYS)}")
        values = np.asarray(values, float)
        if values.shape != (n, _K):
            raise ValueError(f"quantiles[{key!r}] predicted for {of} has the shape {values.shape}; {(n, _K)} fits")
        known = values[np.isfinite(values).all(1)]
        if (np.diff(known) < -DISORDER * np.ptp(known, axis=1)[:, None]).any():
            raise ValueError(f"quantiles[{key!r}] predicted for {of} decrease; give them in the order of LEVELS")


def gaussian_quantiles(mean, sigma):
    """Quantiles (N, K) of Gaussians (N,)."""
    return np.asarray(mean)[:, None] + np.asarray(sigma)[:, None] * _Z


def widen_quantiles(quantiles, variance):
    """Quantiles (N, K) of a truth that was measured with known errors: Gaussian noise of ``variance`` (N,) added.

    Each goes away from the median as if the distribution on its side were half a Gaussian: distances add in quadrature.
    Exact for Gaussians; for skewed ones the median should move a little towards the mean, and does not.
    """
    middle = quantiles[:, MEDIAN, None]
    away = np.hypot(quantiles - middle, np.sqrt(np.broadcast_to(variance, len(quantiles)))[:, None] * _Z)
    return middle + np.sign(_Z) * away


def quantile_sigma(quantiles):
    """Half of the range from 16 to 84 %, (N,), over 0.9945: sigma, for a Gaussian."""
    return (quantiles[:, _HIGH] - quantiles[:, _LOW]) / (_Z[_HIGH] - _Z[_LOW])


def quantiles_at(z, quantiles):
    """Values (N, D) at normal quantiles ``z`` (N, D) of distributions with the quantiles (N, K)."""
    left = _LEFT[np.searchsorted(_Z, z)]
    quantiles = np.asarray(quantiles, float)
    first, step = (np.take_along_axis(x, left, 1) for x in (quantiles, np.diff(quantiles, axis=1) / np.diff(_Z)))
    return first + step * (z - _Z[left])


def quantile_pit(truth, quantiles):
    """Probability (N,) that predictions give to what is below the truth.

    Where quantiles are equal, and the truth with them, it is the middle of their levels.
    """
    return _locate(np.asarray(truth, float), np.asarray(quantiles, float))[0]


def quantile_crps(truth, quantiles):
    """Continuous ranked probability score (N,) in the unit of the truth; smaller is better.

    The integral over all levels p of twice the pinball loss, ``2 int (1[y < q(p)] - p) (q(p) - y) dp`` (Gneiting &
    Raftery 2007, J. Am. Stat. Assoc. 102, 359; Laio & Tamea 2007, Hydrol. Earth Syst. Sci. 11, 1267, eq. 7), in closed
    form for the straight lines of this module: with ``q = a + b z``, ``int q dp = a Phi - b phi`` and ``int p q dp =
    a Phi^2 / 2 + b (Phi(sqrt(2) z) / (2 sqrt(pi)) - Phi phi)``.
    """
    truth, quantiles = np.asarray(truth, float), np.asarray(quantiles, float)
    middle = quantiles[:, MEDIAN]
    y, q = truth - middle, quantiles - middle[:, None]  # so that nothing cancels
    pit, z, segment = _locate(y, q)
    left = _LEFT[segment]
    rows = np.arange(len(q))
    slope = (q[rows, left + 1] - q[rows, left]) / (_Z[left + 1] - _Z[left])
    level = q[rows, left] - slope * _Z[left]
    end = _ENDS[segment + 1]
    above = (q * _ABOVE[segment]).sum(1) + level * (ndtr(end) - pit) - slope * (_normal(end) - _normal(z))
    return 2 * (above - q @ _WEIGHTED) - y * (1 - 2 * pit)


def _locate(y, q):
    """Probability below y, its normal quantile, and the segment (from 0 to K) that y lies in, each (N,)."""
    at_most, less = (q <= y[:, None]).sum(1), (q < y[:, None]).sum(1)
    left, rows = _LEFT[at_most], np.arange(len(q))
    first, step = q[rows, left], q[rows, left + 1] - q[rows, left]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = _Z[left] + (y - first) / step * (_Z[left + 1] - _Z[left])
    pit, segment = ndtr(z), at_most
    tied = np.flatnonzero(at_most - less > 1)
    pit[tied] = (_LEVELS[less[tied]] + _LEVELS[at_most[tied] - 1]) / 2
    segment[tied], z[tied] = np.searchsorted(_LEVELS, pit[tied], side="right"), ndtri(pit[tied])
    return pit, z, segment


def _normal(z):
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def _weights():
    """Weights of the quantiles (K + 1, K) in the integral of q over all segments above each; (K,) in that of p q."""
    below, phi = ndtr(_ENDS), _normal(_ENDS)
    # antiderivatives of 1 and z at the ends, for the weights 1 and p
    plain = np.stack([below, -phi])
    weighted = np.stack([below**2 / 2, ndtr(np.sqrt(2) * _ENDS) / (2 * np.sqrt(np.pi)) - below * phi])
    out = []
    for integral in (np.diff(plain), np.diff(weighted)):  # (2, K + 1)
        w = np.zeros((_K + 1, _K))
        s = np.arange(_K + 1)
        width = _Z[_LEFT + 1] - _Z[_LEFT]
        w[s, _LEFT] = (_Z[_LEFT + 1] * integral[0] - integral[1]) / width
        w[s, _LEFT + 1] = (integral[1] - _Z[_LEFT] * integral[0]) / width
        out.append(w)
    return out[0].sum(0) - np.cumsum(out[0], axis=0), out[1].sum(0)


_ABOVE, _WEIGHTED = _weights()
