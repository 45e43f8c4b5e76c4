# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Predictions against the truth: ``truth, mean, sigma or quantiles -> PIT, CRPS -> Tally per galaxy -> coverage``.

The probability integral transform (PIT) of a truth is its place in the predicted distribution: uniform from 0 to 1 if
the errors are right, at the ends if they are too small, in the middle if too large. N values of G galaxies.
"""

import dataclasses

import numpy as np
from scipy.special import ndtr

from .bootstrap import galaxy_sums
from .quantiles import quantile_crps, quantile_pit, quantile_sigma
from .spaxels import MEDIAN

__all__ = [
    "NOMINAL",
    "PIT_BINS",
    "QUANTILES",
    "Tally",
    "below",
    "covered",
    "gaussian_crps",
    "gaussian_pit",
    "tally",
    "verdict",
]

FINE = 200  # bins of PIT: central intervals of every whole per cent are exact
PIT_BINS = 20  # in a reliability curve

#: Probabilities of the central intervals of a reliability curve.
NOMINAL = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())

#: Departures of the coverage of the central 68 and 95 % that matter: those of a sigma that is wrong by 6 %.
TOLERANCE = {0.68: 0.03, 0.95: 0.015}
#: Quantiles whose shares of truths below them tell a bias, which central intervals do not see.
QUANTILES = (0.16, 0.5, 0.84)
#: Departures of the share below the median, and of that below 16 less that above 84 %, that matter: those of a mean
#: that is wrong by a tenth of sigma.
LEANING = (0.04, 0.05)
SIGNIFICANT = 3.0  # errors: a table has dozens of verdicts
UNKNOWN = 0.05  # error of the coverage of 68 % above which nothing can be said


def _pull(truth, mean, sigma):
    """(truth - mean) / sigma; +-inf, or 0 where they agree, for a sigma of zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pull = (truth - mean) / sigma
    return np.where((sigma == 0) & (truth == mean), 0.0, pull)


def gaussian_pit(truth, mean, sigma):
    """Probability that a Gaussian prediction gives to what is below the truth; arrays of one shape."""
    return ndtr(_pull(truth, mean, sigma))


def gaussian_crps(truth, mean, sigma):
    """Continuous ranked probability score of a Gaussian prediction, in the unit of the truth; smaller is better.

    ``sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))``, z = (truth - mean) / sigma (Gneiting & Raftery 2007,
    J. Am. Stat. Assoc. 102, 359, section 4.2, with the sign turned). abs(truth - mean) for a sigma of zero.
    """
    z = (truth - mean) / np.where(sigma > 0, sigma, 1)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    score = sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(sigma > 0, score, np.abs(truth - mean))


@dataclasses.dataclass(frozen=True, eq=False)
class Tally:
    """Sums per galaxy of all that calibration needs; `Tally.results` makes numbers of them.

    Attributes
    ----------
    pit : ndarray (G, 200)
        Values in bins of PIT.
    crps : ndarray (G,)
        Summed.
    width, n_width : ndarray (G,)
        Sum of ln sigma / dex, and how many there are in it.
    """

    pit: np.ndarray
    crps: np.ndarray
    width: np.ndarray
    n_width: np.ndarray

    @property
    def values(self):
        """How many, (G,)."""
        return self.pit.sum(1)

    @property
    def arrays(self):
        return self.pit, self.crps, self.width, self.n_width

    def of(self, members):
        """The same of some galaxies (G,) of bool; the others are empty."""
        return Tally(*(np.where(members.reshape(-1, *[1] * (a.ndim - 1)), a, 0) for a in self.arrays))

    def total(self):
        """All galaxies as one."""
        return Tally(*(a.sum(0, keepdims=True) for a in self.arrays))

    def results(self, weights, unit):
        """Scores of all draws, dict of name to ndarray (D,) ("PIT KS": value, low, high); PIT fractions (D, 200)."""
        counts = weights @ self.pit
        total = counts.sum(1)
        total = np.where(total > 0, total, np.nan)
        fractions = counts / total[:, None]
        n = weights @ self.n_width
        found = {f"coverage {round(100 * p)} %": covered(fractions, p) for p in TOLERANCE}
        found |= {f"below {round(100 * q)} %": below(fractions, q) for q in QUANTILES}
        found |= {
            f"CRPS [{unit}]": weights @ self.crps / total,
            "sharpness [dex]": np.exp(weights @ self.width / np.where(n > 0, n, np.nan)),
            "PIT KS": _kolmogorov(fractions),
        }
        return found, fractions


def _kolmogorov(fractions):
    """Largest distance of the cumulative PIT from uniform, low, high.

    A largest distance is never below the noise, and that of a draw has the noise twice: its percentiles lie too high,
    those of perfect errors above 0 for ever. The interval is the value -+ what 68 % of the draws differ from the sample
    at most, at any edge: by the triangle inequality it holds the true distance as often, or more often. It reaches 0
    where nothing but noise was seen.
    """
    cumulative = np.cumsum(fractions, axis=1)
    value = float(np.abs(cumulative[0] - np.arange(1, FINE + 1) / FINE).max())
    noise = np.abs(cumulative[1:] - cumulative[0]).max(1)
    noise = noise[np.isfinite(noise)]
    if not len(noise) or not np.isfinite(value):
        return value if np.isfinite(value) else None, None, None
    reach = float(np.percentile(noise, 68))
    return value, max(value - reach, 0.0), min(value + reach, 1.0)


def covered(fractions, nominal):
    """Part of the truths inside the central interval of probability ``nominal`` (whole per cent), (D,)."""
    out = round(FINE * (1 - nominal) / 2)
    return fractions[:, out : FINE - out].sum(1)


def below(fractions, q):
    """Part of the truths below the predicted quantile ``q`` (whole per cent), (D,)."""
    return fractions[:, : round(FINE * q)].sum(1)


def tally(truth, mean, sigma, galaxy, n, *, log=False, floor=np.nan, quantiles=None):
    """Sum up the values of each of n galaxies.

    Parameters
    ----------
    truth, mean, sigma : ndarray (N,)
        Finite.
    galaxy : ndarray (N,) of int
    n : int
        Galaxies, G.
    log : bool
        Values are log10 already: sigma is in dex. Else that is sigma / (ln 10 x max(mean, floor)), known without truth.
    floor : float or ndarray (N,)
        What a smaller prediction counts as there; NaN where dex make no sense.
    quantiles : ndarray (N, K), optional
        Finite, at `~fiberifu.validate.maps.LEVELS`: judged in place of the Gaussians. Mean and sigma are then their
        median and half of their range from 16 to 84 % (`~fiberifu.validate.quantiles.quantile_sigma`).

    Returns
    -------
    Tally
    """
    if quantiles is None:
        pit, score = gaussian_pit(truth, mean, sigma), gaussian_crps(truth, mean, sigma)
    else:
        quantiles = np.asarray(quantiles, float)
        pit, score = quantile_pit(truth, quantiles), quantile_crps(truth, quantiles)
        mean, sigma = quantiles[:, MEDIAN], quantile_sigma(quantiles)
    place = np.minimum((pit * FINE).astype(int), FINE - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.log(sigma if log else sigma / np.maximum(mean, floor) / np.log(10))
    known = np.isfinite(width)
    crps, width, n_width = galaxy_sums(galaxy, n, score, np.where(known, width, 0), known.astype(float))
    pit = np.bincount(galaxy * FINE + place, minlength=n * FINE).reshape(n, FINE).astype(float)
    return Tally(pit, crps, width, n_width)


def verdict(coverage, values, shares=None):
    """Whether errors are right.

    Parameters
    ----------
    coverage : dict of float to ndarray (D,)
        Of the central 0.68 and 0.95: itself, then in the draws of a bootstrap over galaxies.
    values : int
        How many there are. An error is never less than that of so many independent ones, which a bootstrap of few
        galaxies, all inside or all outside, would not know.
    shares : dict of float to ndarray (D,), optional
        Of truths below the quantiles of `QUANTILES` (`below`): central intervals alone do not see a bias.

    Returns
    -------
    {'calibrated', 'biased', 'overconfident', 'underconfident', 'wrong shape', 'undecided'}
        Or one of the third to fifth with ", biased". Overconfident: intervals cover too little, by more than 3 errors
        **and** by more than a sigma that is 6 % too small would. Wrong shape: too little at one probability, too much
        at the other. Biased: too few or too many truths below the predicted median, or the tails below 16 and above
        84 % differ, by more than 3 errors and more than a mean that is wrong by a tenth of sigma would make. Undecided:
        no departure, but too few galaxies to see a small one (error of the 68 % coverage above 0.05).
    """
    departures = [
        _departure(found, nominal, nominal * (1 - nominal) / values, TOLERANCE[nominal])
        for nominal, found in coverage.items()
    ]
    leans = []
    if shares is not None:
        low, middle, high = (shares[q] for q in QUANTILES)
        # the variance of a difference of two shares p of N values that exclude each other: 2 p / N
        leans = [
            _departure(middle, 0.5, 0.25 / values, LEANING[0]),
            _departure(low + high - 1, 0.0, 2 * QUANTILES[0] / values, LEANING[1]),
        ]
    if not np.isfinite([error for _, error in departures + leans]).all():
        return "undecided"
    signs = [sign for sign, _ in departures]
    words = []
    if min(signs) < 0 < max(signs):
        words.append("wrong shape")
    elif any(signs):
        words.append("overconfident" if min(signs) < 0 else "underconfident")
    if any(sign for sign, _ in leans):
        words.append("biased")
    return ", ".join(words) or ("calibrated" if departures[0][1] <= UNKNOWN else "undecided")


def _departure(found, nominal, variance, tolerance):
    """Sign of a departure that is sure and matters, else 0, and the error of what was found, NaN if unknown."""
    draws = found[1:][np.isfinite(found[1:])]
    error = max(draws.std(), np.sqrt(variance)) if len(draws) > 1 else np.nan
    departure = found[0] - nominal
    return np.sign(departure) if abs(departure) > max(SIGNIFICANT * error, tolerance) else 0, error
