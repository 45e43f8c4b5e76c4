# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Scores of galaxies as wholes: sums in 1 Re, radial profiles, classes and metallicity gradients, rotation.

Each function adds rows to a `~fiberifu.validate.table.ScoreTable`, for all methods on the same positions.
"""

import numpy as np

from ..lines.diagnostics import BPT_DIAGRAMS
from . import scores
from .profiles import BINS, galaxy_gradient, o3n2_metallicity, radial_profiles, selected_sums, sums_in_re, truth_sigma
from .spaxels import RATIOS, REGIONS, SNR_LIMIT, log_ratio, predicted_ratio, shared, strong_lines

__all__ = ["score_diagram", "score_profiles", "score_sums", "score_velocity"]

BPT_LINES = ("Ha", "Hb", "O3", "N2")
BPT_CLASSES = 3  # star-forming, composite, AGN


# ---------------------------------------------------------------- sums and profiles
def score_sums(table, spaxels, answers, quantity):
    """Sums in 1 Re (region "sum") of galaxies whose true sum is strong enough: R2, bias and MAE in dex."""
    i = spaxels.column(quantity)
    for there, names in shared(answers, "flux", i):
        ok = there & np.isfinite(spaxels.flux[:, i]) & np.isfinite(spaxels.ew[:, i])
        total, depth, strong = selected_sums(spaxels, quantity, ok)
        galaxy = np.flatnonzero(strong)
        if not len(galaxy):
            continue
        positions = (ok & (spaxels.radius < 1) & strong[spaxels.galaxy]).sum()
        truth = np.log10(total[galaxy])
        variance = (truth_sigma(spaxels, quantity, ok)[galaxy] / (total[galaxy] * np.log(10))) ** 2
        for name in names:
            predicted = sums_in_re(spaxels, answers[name].flux[:, i], ok)
            predicted = np.log10(np.maximum(predicted, SNR_LIMIT / 10 * depth)[galaxy])
            found = {
                "R2 log sum": scores.r2(truth, predicted, galaxy, table.weights),
                "MAE of sum [dex]": scores.mae(truth, predicted, galaxy, table.weights),
                "bias of sum [dex]": scores.bias(truth, predicted, galaxy, table.weights),
            }
            if spaxels.variance is not None:
                found["R2 log sum, truth noise removed"] = scores.r2(
                    truth, predicted, galaxy, table.weights, variance=variance
                )
            table.add(name, quantity, "sum", "all", found, len(galaxy), positions)


def score_profiles(table, spaxels, answers, quantity):
    """Bias and spread of radial profiles, bin by bin; bins as strata ("0.0-0.4 Re")."""
    i = spaxels.column(quantity)
    ew_floor, flux_floor = spaxels.floor(quantity)
    for field, label, floor, weight in (("flux", "SB", flux_floor, None), ("ew", "EW", ew_floor, spaxels.light)):
        for there, names in shared(answers, field, i):
            ok = there & np.isfinite(getattr(spaxels, field)[:, i]) & np.isfinite(spaxels.light)
            floors = radial_profiles(spaxels, np.broadcast_to(floor, len(ok)).astype(float), ok)
            truths = radial_profiles(spaxels, getattr(spaxels, field)[:, i], ok, weight)
            for name in names:
                values = radial_profiles(spaxels, getattr(answers[name], field)[:, i], ok, weight)
                for k, edges in enumerate(zip(BINS[:-1], BINS[1:], strict=True)):
                    galaxy = np.flatnonzero(truths[:, k] > 10 * floors[:, k])
                    error = np.full(spaxels.size, np.nan)
                    error[galaxy] = np.log10(np.maximum(values[galaxy, k], floors[galaxy, k]) / truths[galaxy, k])
                    found = {
                        f"bias of profile log {label} [dex]": scores.galaxy_mean(error, table.weights),
                        f"spread of profile log {label} [dex]": scores.spread(error, table.weights),
                    }
                    inside = ok & (spaxels.radius >= edges[0]) & (spaxels.radius < edges[1])
                    positions = (inside & np.isfinite(error)[spaxels.galaxy]).sum()
                    if len(galaxy):
                        table.add(name, quantity, "profile", "{}-{} Re".format(*edges), found, len(galaxy), positions)


# ---------------------------------------------------------------- classes
def score_diagram(table, spaxels, answers):
    """Classes in the [N II] BPT diagram, and gradients of the metallicity of what is star-forming there in truth.

    Three classes: star-forming (below Kauffmann et al. 2003), composite, AGN (above Kewley et al. 2001). Kappa counts
    all disagreements alike; with linear weights, star-forming taken for AGN counts twice. Without an answer for one of
    the four lines a class is the one furthest from the true one.
    """

    def classify(x, y):
        return np.minimum(BPT_DIAGRAMS["N2"].classify(x, y), BPT_CLASSES - 1).astype(int)

    ratios, columns = [RATIOS[name] for name in ("N2/Ha", "O3/Hb")], [spaxels.column(line) for line in BPT_LINES]

    for strong, names in strong_lines(spaxels, answers, BPT_LINES):
        for region in REGIONS:
            where = np.flatnonzero(strong & spaxels.region(region))
            if not len(where):
                continue
            galaxy = spaxels.galaxy[where]
            x, y = (log_ratio(spaxels, spaxels.flux, ratio, where) for ratio in ratios)
            truth = classify(x, y)
            forming = truth == 0
            for name in names:
                answer = answers[name]
                px = predicted_ratio(spaxels, answer, ratios[0], where, x)
                py = predicted_ratio(spaxels, answer, ratios[1], where, y)
                predicted = classify(px, py)
                if answer.missing is not None:
                    none = answer.missing[np.ix_(where, columns)].any(1)
                    predicted = np.where(none, np.where(forming, BPT_CLASSES - 1, 0), predicted)
                found = {
                    "kappa BPT": scores.kappa(truth, predicted, galaxy, BPT_CLASSES, table.weights),
                    "kappa BPT, linear weights": scores.kappa(
                        truth, predicted, galaxy, BPT_CLASSES, table.weights, linear=True
                    ),
                }
                table.add(name, "bpt", region, "all", found, len(np.unique(galaxy)), len(where))
                if region == "whole":
                    _score_gradient(table, spaxels, name, where[forming], (y - x)[forming], (py - px)[forming])


def _score_gradient(table, spaxels, name, where, log_o3n2, predicted):
    galaxy = spaxels.galaxy[where]
    truth, predicted = (
        galaxy_gradient(spaxels.radius[where], o3n2_metallicity(value), galaxy, spaxels.size)
        for value in (log_o3n2, predicted)
    )
    some = np.flatnonzero(np.isfinite(truth) & np.isfinite(predicted))
    if not len(some):
        return
    error = predicted - truth
    found = {
        "bias of gradient [dex/Re]": scores.galaxy_mean(error, table.weights),
        "spread of gradient [dex/Re]": scores.spread(error, table.weights),
        "R2 of gradient": scores.r2(truth[some], predicted[some], some, table.weights),
    }
    table.add(name, "12+log(O/H)", "gradient", "all", found, len(some), np.isin(galaxy, some).sum())


# ---------------------------------------------------------------- motion
def score_velocity(table, spaxels, answers):
    """Sense and amplitude of rotation where H-alpha is strong, for methods that predict velocities."""
    known = np.isfinite(spaxels.velocity) & spaxels.selected("Ha") & spaxels.region("whole")
    for there, names in shared(answers, "velocity"):
        where = np.flatnonzero(there & known)
        galaxy, truth = spaxels.galaxy[where], spaxels.velocity[where]
        for name in names if len(where) else ():
            predicted = answers[name].velocity[where]
            slope = scores.rotation(truth, predicted, galaxy, spaxels.size)
            found = {
                "sense of rotation agrees": scores.galaxy_mean(
                    np.where(np.isfinite(slope), slope > 0, np.nan), table.weights
                ),
                "amplitude of rotation, median": scores.median(slope, table.weights),
                "R2 velocity within galaxies": scores.r2_within(truth, predicted, galaxy, table.weights),
                "RMS velocity [km/s]": scores.rms(truth, predicted, galaxy, table.weights),
            }
            table.add(name, "velocity", "whole", "all", found, len(np.unique(galaxy)), len(where))
