# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every score of every method, as a tidy table: ``truths, predictions -> pooled spaxels -> scores -> rows``.

Scores are named once, with their unit (`measure_scores`); what each means is in `fiberifu.validate.scores`.
"""

import numpy as np

from . import scores
from .bootstrap import Bootstrap, galaxy_ranks
from .galaxy_metrics import score_diagram, score_profiles, score_sums, score_velocity
from .pooling import pool_predictions, pool_truths
from .score_notes import IGNORANT
from .spaxels import QUANTITIES, RATIOS, REGIONS, complete, log_ratio, predicted_ratio, shared, strong_lines
from .table import ScoreTable

__all__ = ["STRATIFIED", "measure_scores"]

STRATIFIED = ("Ha", "N2")  # quantities with strata and profiles: all would make the table unreadable
STRATA_REGIONS = ("whole", "off-centre")
DETECTED = 3.0  # Angstrom of equivalent width
LABELS = {"ew": "EW", "flux": "flux"}

LOG_SCORES = {
    "R2 log {}": scores.r2,
    "R2 log {} within galaxies": scores.r2_within,
    "MAE log {} [dex]": scores.mae,
    "bias log {} [dex]": scores.bias,
}
DENOISED = ("R2 log {}", "R2 log {} within galaxies")


def measure_scores(
    predictions, truths, *, seed=0, draws=200, masks=None, noise=None, reference=None, competing=None, nulls=None
):
    """Score methods on the same positions of the same galaxies.

    Parameters
    ----------
    predictions : dict of str to list of `~fiberifu.validate.PredictedMaps`
        By name of the method; one for each galaxy, None for one that failed.
    truths : list of `~fiberifu.validate.TruthMaps`
    seed, draws : int
        Of the bootstrap over galaxies; the draws are the same for all methods.
    masks, noise
        See `~fiberifu.validate.pooling.pool_truths`. With ``noise``, rows named "..., truth noise removed" come beside
        R2 and RMS.
    reference : str, optional
        A method: rows named "<score>, minus <reference>" have paired differences to it.
    competing : sequence of str, optional
        Methods that are compared with each other, by default all: where one has no answer, it counts as a line that is
        absent. The others are judged where they have answers.
    nulls : dict of str to str, optional
        Methods, and the one that each may not exceed: rows "<score>, minus <that>" as of ``reference``; of R2 and
        correlations, where who knows nothing has 0, "<score>, minus max(0, <that>)". Both count as ``competing`` in
        where they are judged.

    Returns
    -------
    list of dict
        Tidy rows ``predictor, quantity, region, stratum, score, value, low, high, galaxies, spaxels``; low and high are
        16 and 84 % of the bootstrap. Differences have ``low95, high95``, too, 2.5 and 97.5 %. None for what is not
        defined.

    Raises
    ------
    ValueError
        Without methods or galaxies, for lists that do not fit them, or an unknown method in ``reference`` or
        ``competing``.

    Notes
    -----
    Spaxels are selected on truth only (`~fiberifu.validate.spaxels`), but for "RMS asinh EW", "AUC EW > 3 A" and the
    published cosine, which take all of a region. Predictions below a tenth of the limits of selection count as that,
    and so does an answer that a method of ``competing`` does not give: all of them are scored on the same positions,
    and who fails where it is hard gains nothing. "no answer, EW" and "no answer, flux" are the shares of chosen
    positions without one. Of a ratio, a line that is not answered counts as its floor, too, and where neither is, the
    ratio is taken as a dex below the median of the true ones; a class without an answer is the one furthest from the
    true one. A method without any answer for a quantity takes no part in it. Velocities are scored where a method has
    them.

    What is scored is the value that a method gives, as its maps hold it: a mean, where it says so. Its quantiles, where
    it gives them, are judged by `measure_calibration`.

    "log flux" is the flux in the aperture; all apertures are equal, so it is log surface brightness but for a constant.
    "r after r-band" regresses on the true light in r. r times a constant has nothing left, 0; light at the line times a
    constant has its colour against r left, which goes with the true EW: that is not 0.
    """
    if not predictions:
        raise ValueError("predictions is empty; give at least one method")
    if reference is not None and reference not in predictions:
        raise ValueError(f"reference is {reference!r}; it must be one of {sorted(predictions)}")
    competing = set(predictions if competing is None else competing)
    if unknown := competing - set(predictions):
        raise ValueError(f"competing has {sorted(unknown)}; it may have {sorted(predictions)}")
    nulls = dict(nulls or {})
    if unknown := {*nulls, *nulls.values()} - set(predictions):
        raise ValueError(f"nulls has {sorted(unknown)}; it may have {sorted(predictions)}")
    competing |= {*nulls, *nulls.values()}
    spaxels = pool_truths(truths, masks=masks, noise=noise)
    answers = {name: pool_predictions(maps, truths) for name, maps in predictions.items()}
    table = ScoreTable(Bootstrap(len(truths), draws, seed).weights)
    for quantity in QUANTITIES:
        _count_missing(table, spaxels, answers, quantity)
    answers = {name: complete(spaxels, one) if name in competing else one for name, one in answers.items()}
    for quantity in QUANTITIES:
        _score_line(table, spaxels, answers, quantity)
        score_sums(table, spaxels, answers, quantity)
    for quantity in STRATIFIED:
        score_profiles(table, spaxels, answers, quantity)
    for ratio, lines in RATIOS.items():
        _score_ratio(table, spaxels, answers, ratio, lines)
    score_diagram(table, spaxels, answers)
    score_velocity(table, spaxels, answers)
    pairs = [(limit, [name for name in nulls if nulls[name] == limit]) for limit in dict.fromkeys(nulls.values())]
    for limit, methods in pairs:
        table.compare(limit, methods, IGNORANT)
    if reference is not None:
        table.compare(reference)
    return table.rows


# ---------------------------------------------------------------- lines
def _score_line(table, spaxels, answers, quantity):
    i = spaxels.column(quantity)
    strong = spaxels.selected(quantity)
    for field, floor in zip(("ew", "flux"), spaxels.floor(quantity), strict=True):
        known = np.isfinite(getattr(spaxels, field)[:, i])
        floor = np.broadcast_to(floor, len(strong))
        for there, names in shared(answers, field, i):
            for region, stratum, place in _places(spaxels, quantity):
                place = place & there & known
                for part, where in ((_score_strong, place & strong), (_score_all, place)):
                    if field == "flux" and part is _score_all and (region, stratum) != ("whole", "all"):
                        continue
                    where = np.flatnonzero(where)
                    if not len(where):
                        continue
                    galaxies = len(np.unique(spaxels.galaxy[where]))
                    predicted = {name: getattr(answers[name], field)[where, i] for name in names}
                    for name, found in part(spaxels, predicted, field, i, where, floor[where], table.weights):
                        table.add(name, quantity, region, stratum, found, galaxies, len(where))


def _count_missing(table, spaxels, answers, quantity):
    """Share of the chosen positions of whole galaxies where a method, as it is, has no answer."""
    i, galaxy = spaxels.column(quantity), spaxels.galaxy
    for field, label in LABELS.items():
        wanted = spaxels.selected(quantity) & spaxels.region("whole") & np.isfinite(getattr(spaxels, field)[:, i])
        for name, answer in answers.items():
            there = np.isfinite(getattr(answer, field)[:, i])
            if there.any() and wanted.any():
                share = scores.bias(np.zeros(wanted.sum()), ~there[wanted], galaxy[wanted], table.weights)
                found = {f"no answer, {label}": share}
                table.add(name, quantity, "whole", "all", found, len(np.unique(galaxy[wanted])), wanted.sum())


def _places(spaxels, quantity):
    """Region, stratum and positions of each of the parts of a sample that are scored apart."""
    for region in REGIONS:
        yield region, "all", spaxels.region(region)
    if quantity in STRATIFIED:
        for stratum, members in spaxels.strata(quantity):
            for region in STRATA_REGIONS:
                yield region, stratum, members & spaxels.region(region)


def _score_strong(spaxels, predictions, field, i, where, floor, weights):
    """Name and scores of each method at selected positions, in logarithms."""
    label, galaxy = LABELS[field], spaxels.galaxy[where]
    value = getattr(spaxels, field)[where, i]
    truth, variance = np.log10(value), None
    if spaxels.variance is not None:
        variance = spaxels.variance[field == "ew"][where, i] / (value * np.log(10)) ** 2  # first order
    ranks = galaxy_ranks(truth, galaxy) if field == "ew" else None
    lit = spaxels.light[where] > 0
    light = np.log10(spaxels.light[where][lit])
    for name, predicted in predictions.items():
        predicted = np.log10(np.maximum(predicted, floor))
        found = _log_scores(label, truth, predicted, galaxy, weights, variance)
        if field == "ew":
            order = scores.galaxy_spearman(ranks, predicted, galaxy, spaxels.size, ranked=True)
            found["Spearman EW, median"] = scores.median(order, weights)
            found["Spearman EW, 10 %"] = scores.quantile(order, 0.1, weights)
        else:
            found["r after r-band"] = scores.correlation_after(truth[lit], predicted[lit], light, galaxy[lit], weights)
        yield name, found


def _log_scores(label, truth, predicted, galaxy, weights, variance=None):
    found = {name.format(label): score(truth, predicted, galaxy, weights) for name, score in LOG_SCORES.items()}
    if variance is not None:
        for name in DENOISED:
            found[f"{name.format(label)}, truth noise removed"] = LOG_SCORES[name](
                truth, predicted, galaxy, weights, variance=variance
            )
    return found


def _score_all(spaxels, predictions, field, i, where, floor, weights):
    """Name and scores of each method at all positions, strong or not."""
    galaxy = spaxels.galaxy[where]
    truth = getattr(spaxels, field)[where, i]
    for name, predicted in predictions.items():
        if field == "flux":  # for comparison with the paper only
            like = scores.cosine(truth, predicted, galaxy, spaxels.size)
            found = {
                "cosine (published)": scores.median(like, weights),
                "cosine (published), mean": scores.galaxy_mean(like, weights),
            }
        else:
            pair = np.arcsinh(truth), np.arcsinh(predicted)
            found = {
                "RMS asinh EW": scores.rms(*pair, galaxy, weights),
                "AUC EW > 3 A": scores.auc(truth > DETECTED, predicted, galaxy, weights),
            }
            if spaxels.variance is not None:
                variance = spaxels.variance[1][where, i] / (1 + truth**2)  # first order
                found["RMS asinh EW, truth noise removed"] = scores.rms(*pair, galaxy, weights, variance=variance)
        yield name, found


# ---------------------------------------------------------------- ratios
def _score_ratio(table, spaxels, answers, ratio, lines):
    for strong, names in strong_lines(spaxels, answers, lines):
        for region in REGIONS:
            where = np.flatnonzero(strong & spaxels.region(region))
            galaxy = spaxels.galaxy[where]
            truth = log_ratio(spaxels, spaxels.flux, lines, where)
            for name in names if len(where) else ():
                predicted = predicted_ratio(spaxels, answers[name], lines, where, truth)
                found = _log_scores("ratio", truth, predicted, galaxy, table.weights)
                table.add(name, ratio, region, "all", found, len(np.unique(galaxy)), len(where))
