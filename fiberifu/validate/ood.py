# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Does a score of odd images find the failures? ``scores, truth, predictions -> failures -> AUC and ROC curves``.

A failure is a galaxy off whose centre H-alpha is predicted worst, or with errors that are far too small. One row for
each kind of failure, and one for each stratum: galaxies of that kind against all others.
"""

import numpy as np

from .bootstrap import Bootstrap, interval
from .quantiles import gaussian_quantiles, quantile_pit
from .scores import auc
from .spaxels import EW_LIMIT, REGIONS, SNR_LIMIT

__all__ = ["find_failures", "ood_roc", "roc_curve"]

WORST = 0.1  # share of the galaxies that fail by the size of their errors
PULL = 2.0  # mean squared pull above which stated errors are far too small; 1 where they are right
FEWEST = 10  # positions of a galaxy with a strong line, or with a prediction
BEYOND = 1e-4  # probability at which a place in a distribution is cut off: 3.7 sigma


def find_failures(truths, answers, *, line="Ha", worst=WORST, pull=PULL):
    """Galaxies whose predictions off the centre (0.7 to 1.6 Re) failed.

    Parameters
    ----------
    truths : iterable of TruthMaps
    answers : iterable of PredictedMaps
        In the same order.
    line : str
        A single line, a key of ``fiberifu.model.LINES``.
    worst : float
        Share of galaxies called failures for the size of their errors.
    pull : float
        Mean squared pull above which a galaxy is called a failure for what it says of its errors.

    Returns
    -------
    dict of str to ndarray (G,)
        ``"error"``: whether the median absolute error of log flux, at positions where the true line is strong (EW > 1
        Angstrom, three times the error that MaNGA would have), is among the ``worst``. ``"pull"``: whether the mean
        square of the normal quantiles at which the true fluxes lie in the predicted distributions is above ``pull``.
        1, 0, or NaN for a galaxy with less than 10 such positions. ``"median error"`` [dex] and ``"mean square pull"``:
        the numbers themselves.
    """
    from scipy.special import ndtri

    from ..model import LINES

    i, numbers = LINES.index(line), []
    for truth, answer in zip(truths, answers, strict=True):
        flux, depth = truth.flux[:, i], truth.depth[i]
        low, high = REGIONS["off-centre"]
        there = (truth.radius >= low) & (truth.radius < high)
        known = there & np.isfinite(answer.flux[:, i])
        strong = known & (truth.ew[:, i] > EW_LIMIT) & (flux > SNR_LIMIT * depth)
        median = square = np.nan
        if strong.sum() >= FEWEST:
            # what is predicted to be absent counts as a tenth of what selects the truth, as in all scores
            predicted = np.maximum(answer.flux[strong, i], SNR_LIMIT / 10 * depth)
            median = np.median(np.abs(np.log10(predicted / flux[strong])))
        quantiles = (answer.quantiles or {}).get(line)
        if quantiles is None:
            quantiles = gaussian_quantiles(answer.flux[:, i], answer.flux_sigma[:, i])
        known &= np.isfinite(quantiles).all(1)
        if known.sum() >= FEWEST:
            place = quantile_pit(flux[known], quantiles[known])
            square = np.mean(ndtri(place.clip(BEYOND, 1 - BEYOND)) ** 2)
        numbers.append((median, square))
    error, square = np.array(numbers, float).reshape(-1, 2).T

    def above(values, limit):
        return np.where(np.isfinite(values), values > limit, np.nan)

    limit = np.nanquantile(error, 1 - worst) if np.isfinite(error).any() else np.nan
    return {"error": above(error, limit), "pull": above(square, pull), "median error": error,
            "mean square pull": square}  # fmt: skip


def roc_curve(scores, positive):
    """Shares of the positive found, and of the others called positive, at every threshold from the highest.

    Parameters
    ----------
    scores : ndarray (G,)
    positive : ndarray (G,) of bool

    Returns
    -------
    found, false : ndarray (T,)
        From 0 to 1; equal scores are passed together.
    """
    order = np.argsort(scores)[::-1]
    s, yes = scores[order], positive[order]
    last = np.r_[np.flatnonzero(np.diff(s)), len(s) - 1]
    return tuple(np.r_[0.0, np.cumsum(hit)[last] / max(hit.sum(), 1)] for hit in (yes, ~yes))


def ood_roc(scores, truths, answers, *, line="Ha", worst=WORST, pull=PULL, at=0.05, draws=200, seed=0):
    """How well a score of galaxies, large for odd ones, finds failures, and which strata it finds.

    Parameters
    ----------
    scores : array_like (G,)
        One number for each galaxy; NaN where there is none.
    truths : iterable of TruthMaps
    answers : iterable of PredictedMaps
    line, worst, pull
        As for `find_failures`.
    at : float
        False alarms at which ``found`` is given.
    draws, seed : int
        Of the bootstrap over galaxies.

    Returns
    -------
    list of dict
        ``what`` ("failure" or "stratum"), ``name``, ``auc`` with its ``low`` and ``high`` (16 and 84 % of the
        bootstrap; None where there are less than 5 galaxies), ``found`` (share of the positive above the score that
        ``at`` of the others exceed), ``positive`` and ``galaxies`` (numbers of them). An AUC of 0.5 is chance; None
        where all galaxies are alike.

    Raises
    ------
    ValueError
        When the numbers of scores and galaxies differ.
    """
    truths, scores = list(truths), np.asarray(scores, float)
    if scores.shape != (len(truths),):
        raise ValueError(f"scores: got an array of shape {scores.shape} for {len(truths)} galaxies; give one of each")
    failed = find_failures(truths, answers, line=line, worst=worst, pull=pull)
    asked = [("failure", name, failed[name]) for name in ("error", "pull")]
    asked += [
        ("stratum", name, np.array([float(truth.strata[name]) for truth in truths]))
        for name in (truths[0].strata if truths else ())
    ]
    rows = []
    for what, name, label in asked:
        known = np.flatnonzero(np.isfinite(label) & np.isfinite(scores))
        yes, own = label[known] > 0, scores[known]
        row = {"what": what, "name": name, "auc": None, "low": None, "high": None, "found": None,
               "positive": int(yes.sum()), "galaxies": len(known)}  # fmt: skip
        if yes.any() and not yes.all():
            weights = Bootstrap(len(known), draws, seed).weights
            values = auc(yes, own, np.arange(len(known)), weights)
            row |= dict(zip(("auc", "low", "high"), interval(values, min(yes.sum(), (~yes).sum())), strict=True))
            found, false = roc_curve(own, yes)
            row["found"] = float(found[np.searchsorted(false, at, side="right") - 1])
        rows.append(row)
    return rows
