# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Are the errors right: ``predictions with errors, truths -> tallies per galaxy -> rows and reliability curves``.

A posterior is calibrated over what was **predicted** alike, not over what turned out alike: where positions are picked
because their true line is strong, even perfect errors cover too little. So calibration takes all positions of a region;
those that the scores select, on truth, are a stratum of their own ("selected on truth"), with this in mind. Labels of
galaxies that the image does not show (an active nucleus) are such a selection too.
"""

import numpy as np

from .bootstrap import Bootstrap
from .maps import CONTINUUM
from .metrics import STRATIFIED
from .pooling import pool_predictions, pool_truths
from .profiles import coherent_quantiles, coherent_sigma, sums_in_re, truth_sigma
from .quantiles import gaussian_quantiles, widen_quantiles
from .reliability import FINE, NOMINAL, PIT_BINS, QUANTILES, TOLERANCE, Tally, below, covered, tally, verdict
from .spaxels import MEDIAN, QUANTITIES, RATIOS, REGIONS, SNR_LIMIT
from .table import ScoreTable

__all__ = ["measure_calibration"]

TAIL = 0.01  # of the median: no quantile of a ratio is less, for its logarithm
ANSWERED = 0.9  # share of positions below which a verdict is void
FLUX_UNIT = "1e-17 erg/s/cm2"


def measure_calibration(predictions, truths, *, seed=0, draws=200, masks=None, noise=None):
    """Coverage, CRPS, sharpness and PIT of every quantity that comes with errors.

    Parameters
    ----------
    predictions, truths, seed, draws, masks, noise
        See `~fiberifu.validate.measure_scores`. Known errors of the truth (``noise``) are added to those predicted:
        quantiles go away from their median in quadrature (`~fiberifu.validate.quantiles.widen_quantiles`).

    Returns
    -------
    rows : list of dict
        As of `~fiberifu.validate.measure_scores`: "coverage 68 %", "coverage 95 %", "below 16 %", "below 50 %",
        "below 84 %" (of truths, below these predicted quantiles), "CRPS [unit]", "sharpness [dex]" (geometric mean of
        sigma / max(prediction, floor) in dex; the floor is that of the scores; none for velocities), "PIT KS" (largest
        distance of the cumulative PIT from uniform, at 200 edges), "answered" (share of positions with a truth where
        the method gives value and error). ``spaxels`` counts values: pixels for "pixels", galaxies for sums.
    curves : list of dict
        ``predictor, quantity, region, stratum, nominal, covered, pit`` (20 fractions)``, galaxies, values, answered,
        verdict``; `~fiberifu.validate.reliability.verdict` says what the verdicts mean. "void" where less than 90 % is
        answered: who answers where it is easy only would be calibrated there.

    Notes
    -----
    Quantities: line fluxes ("Ha"), equivalent widths ("EW Ha"), log ratios ("N2/Ha"; errors from the covariance of the
    fluxes, first order; only positions where the method itself claims 3 sigma for both lines, so that first order is
    enough), "velocity", and "pixels" of the spectra (all pixels, each by itself). Lines, widths and ratios are judged
    by the quantiles of a method that gives them (ratios by their logarithms, of not less than a hundredth of the
    median: tails may reach zero); all else, and positions where quantiles are missing, as Gaussian. The sharpness of
    quantiles is half of their range from 16 to 84 %, over the median.

    Errors of sums over 1 Re (region "sum") are correlated from position to position as a method says
    (``PredictedMaps.coherence``), and as skewed as its quantiles, if it gives them (a Gaussian copula,
    `~fiberifu.validate.profiles.coherent_quantiles`). Without coherence, they are taken as independent: neither
    apertures that overlap nor errors of the model that a galaxy shares are in there; region "sum, coherent errors",
    for these methods only, assumes the opposite, errors that are the same everywhere: the truth lies between.

    Each method is judged on its own positions, whatever the others answer; those without errors have no rows.
    """
    if not predictions:
        raise ValueError("predictions is empty; give at least one method")
    spaxels = pool_truths(truths, masks=masks, noise=noise)
    answers = {name: pool_predictions(maps, truths) for name, maps in predictions.items()}
    book = _Book(Bootstrap(len(truths), draws, seed).weights)
    for quantity in QUANTITIES:
        _judge_line(book, spaxels, answers, quantity, "flux", quantity, FLUX_UNIT)
        _judge_line(book, spaxels, answers, quantity, "ew", f"EW {quantity}", "A")
        _judge_sums(book, spaxels, answers, quantity)
    for ratio, lines in RATIOS.items():
        _judge_ratio(book, spaxels, answers, ratio, lines)
    _judge_velocity(book, spaxels, answers)
    for name, maps in predictions.items():
        _judge_pixels(book, spaxels, truths, name, maps, masks)
    return book.table.rows, book.curves


class _Book:
    """Rows and curves."""

    def __init__(self, weights):
        self.table, self.curves = ScoreTable(weights), []

    def add(self, predictor, quantity, region, stratum, tallied, unit, answered):
        """``answered``: share of what was asked, from 0 to 1."""
        n, galaxies, answered = int(tallied.values.sum()), int((tallied.values > 0).sum()), float(answered)
        if not n:
            return
        found, fractions = tallied.results(self.table.weights, unit)
        found["answered"] = answered, None, None
        self.table.add(predictor, quantity, region, stratum, found, galaxies, n)
        pit = fractions[0].reshape(PIT_BINS, FINE // PIT_BINS).sum(1)
        word = verdict({p: covered(fractions, p) for p in TOLERANCE}, n, {q: below(fractions, q) for q in QUANTILES})
        word = word if answered >= ANSWERED else "void"
        self.curves.append(
            dict(predictor=predictor, quantity=quantity, region=region, stratum=stratum, nominal=list(NOMINAL),
                 covered=[float(covered(fractions[:1], p)[0]) for p in NOMINAL], pit=pit.tolist(), galaxies=galaxies,
                 values=n, answered=answered, verdict=word)
        )  # fmt: skip


def _with_errors(answers, field, i=None):
    """Yield each method that gives errors, and its positions (N,) of bool with value and error."""
    for name, answer in answers.items():
        value, sigma = (getattr(answer, part) for part in (field, f"{field}_sigma"))
        if i is not None:
            value, sigma = value[:, i], sigma[:, i]
        there = np.isfinite(value) & (sigma >= 0)
        if there.any():
            yield name, there


def _share(there, asked):
    """Of what is asked, (N,) of bool, how much is there."""
    return (there & asked).sum() / max(asked.sum(), 1)


# ---------------------------------------------------------------- positions
def _judge_line(book, spaxels, answers, quantity, field, label, unit):
    i = spaxels.column(quantity)
    truth = getattr(spaxels, field)[:, i]
    known = np.isfinite(truth)
    extra = 0.0 if spaxels.variance is None else spaxels.variance[field == "ew"][:, i]
    floor = np.broadcast_to(spaxels.floor(quantity)[0 if field == "ew" else 1], len(truth))
    parts = [(region, "all", spaxels.region(region)) for region in REGIONS]
    parts += [("whole", "selected on truth", spaxels.selected(quantity) & spaxels.region("whole"))]
    if quantity in STRATIFIED:
        parts += [("whole", stratum, members & spaxels.region("whole")) for stratum, members in spaxels.strata()]
    for name, there in _with_errors(answers, field, i):
        mean, sigma = (getattr(answers[name], part)[:, i] for part in (field, f"{field}_sigma"))
        quantiles = _quantiles(answers[name].quantiles.get(label), mean, sigma, extra)
        sigma = np.sqrt(sigma**2 + extra)
        for region, stratum, place in parts:
            asked = known & place
            found = _tally_at(spaxels, there & asked, truth, mean, sigma, floor=floor, quantiles=quantiles)
            book.add(name, label, region, stratum, found, unit, _share(there, asked))


def _quantiles(given, mean, sigma, extra):
    """Quantiles (N, K) with known errors of the truth, Gaussian where there are none; None for a method without any."""
    if given is None:
        return None
    missing = np.flatnonzero(np.isnan(given[:, 0]))
    out = given.astype(float)
    out[missing] = gaussian_quantiles(mean[missing], sigma[missing])
    return widen_quantiles(out, extra) if np.any(extra) else out


def _tally_at(spaxels, where, truth, mean, sigma, *, log=False, floor=None, quantiles=None):
    where = np.flatnonzero(where)
    floor = np.nan if floor is None else floor[where]
    quantiles = None if quantiles is None else quantiles[where]
    galaxy = spaxels.galaxy[where]
    return tally(
        truth[where], mean[where], sigma[where], galaxy, spaxels.size, log=log, floor=floor, quantiles=quantiles
    )


def _judge_ratio(book, spaxels, answers, ratio, lines):
    top, bottom = (spaxels.column(line) for line in lines)
    known = (spaxels.flux[:, top] > 0) & (spaxels.flux[:, bottom] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        truth = np.log10(spaxels.flux[:, top] / spaxels.flux[:, bottom])
        extra = 0.0
        if spaxels.variance is not None:
            extra = sum(spaxels.variance[0][:, i] / spaxels.flux[:, i] ** 2 for i in (top, bottom))
        for name, answer in answers.items():
            flux, c = answer.flux, answer.covariance
            sure = np.logical_and.reduce([flux[:, i] > SNR_LIMIT * np.sqrt(c[:, i, i]) for i in (top, bottom)])
            variance = sum(c[:, i, i] / flux[:, i] ** 2 for i in (top, bottom))
            variance = variance - 2 * c[:, top, bottom] / (flux[:, top] * flux[:, bottom])
            mean, sigma = np.log10(flux[:, top] / flux[:, bottom]), np.sqrt(np.maximum(variance, 0)) / np.log(10)
            quantiles = answer.quantiles.get(ratio)
            if quantiles is not None:
                quantiles = _quantiles(_log_quantiles(quantiles), mean, sigma, extra / np.log(10) ** 2)
            sigma = np.sqrt(sigma**2 + extra / np.log(10) ** 2)
            there = np.logical_and.reduce([np.isfinite(flux[:, i]) & (c[:, i, i] >= 0) for i in (top, bottom)])
            for region in REGIONS:
                asked = known & spaxels.region(region)
                where = asked & sure & np.isfinite(mean + sigma)
                found = _tally_at(spaxels, where, truth, mean, sigma, log=True, quantiles=quantiles)
                book.add(name, ratio, region, "all", found, "dex", _share(there, asked))


def _log_quantiles(quantiles):
    """log10 of quantiles (N, K) of ratios; NaN where the median is not positive."""
    middle = quantiles[:, MEDIAN, None]
    middle = np.where(middle > 0, middle, np.nan)
    return np.log10(np.maximum(quantiles, TAIL * middle))


def _judge_velocity(book, spaxels, answers):
    for name, there in _with_errors(answers, "velocity"):
        asked = np.isfinite(spaxels.velocity) & spaxels.selected("Ha") & spaxels.region("whole")
        answer = answers[name]
        found = _tally_at(spaxels, there & asked, spaxels.velocity, answer.velocity, answer.velocity_sigma)
        book.add(name, "velocity", "whole", "all", found, "km/s", _share(there, asked))


# ---------------------------------------------------------------- galaxies and pixels
def _judge_sums(book, spaxels, answers, quantity):
    i = spaxels.column(quantity)
    for name, there in _with_errors(answers, "flux", i):
        known = np.isfinite(spaxels.flux[:, i])
        ok, answered = there & known, _share(there, known & (spaxels.radius < 1))
        truth = sums_in_re(spaxels, spaxels.flux[:, i], ok)
        galaxy = np.flatnonzero(np.isfinite(truth))
        extra = truth_sigma(spaxels, quantity, ok)
        floor = sums_in_re(spaxels, spaxels.floor(quantity)[1], ok)
        mean, sigma = (getattr(answers[name], part)[:, i] for part in ("flux", "flux_sigma"))
        mean = sums_in_re(spaxels, mean, ok)
        coherence, quantiles = answers[name].coherence, answers[name].quantiles.get(quantity)
        if coherence is not None:
            errors = {"sum": coherent_sigma(spaxels, sigma, ok, coherence)}
        else:
            apart, same = np.sqrt(sums_in_re(spaxels, sigma**2, ok, power=2)), sums_in_re(spaxels, sigma, ok)
            errors = {"sum": apart, "sum, coherent errors": same}
        if coherence is None or quantiles is None:
            quantiles = None
        else:
            quantiles = _quantiles(quantiles, *(getattr(answers[name], x)[:, i] for x in ("flux", "flux_sigma")), 0.0)
            quantiles = coherent_quantiles(spaxels, quantiles, ok, coherence)[galaxy]
            quantiles = widen_quantiles(quantiles, extra[galaxy] ** 2)
        for region, error in errors.items():
            error = np.hypot(error, extra)
            found = tally(truth[galaxy], mean[galaxy], error[galaxy], galaxy, spaxels.size, floor=floor[galaxy],
                          quantiles=quantiles)  # fmt: skip
            book.add(name, quantity, region, "all", found, FLUX_UNIT, answered)


def _judge_pixels(book, spaxels, truths, name, maps, masks):
    """Pixels are many: galaxy by galaxy, kept as tallies."""
    parts, asked = ({region: [] for region in REGIONS} for _ in range(2))
    for i, (truth, predicted) in enumerate(zip(truths, maps, strict=True)):
        found, pixels = _tally_spectra(truth, predicted, None if masks is None else np.asarray(masks[i], bool))
        radius = truth.radius[truth.spectrum_at]
        for region, (low, high) in REGIONS.items():
            inside = (radius >= low) & (radius < high)
            parts[region].append(found.of(inside).total())
            asked[region].append(pixels[inside].sum())
    for region, tallies in parts.items():
        whole = Tally(*(np.concatenate(part) for part in zip(*(t.arrays for t in tallies), strict=True)))
        strata = [("all", np.ones(len(truths), bool)), *(spaxels.labels.items() if region == "whole" else ())]
        for stratum, members in strata:
            found = whole.of(members)
            answered = found.values.sum() / max(np.array(asked[region])[members].sum(), 1)
            book.add(name, "pixels", region, stratum, found, f"{FLUX_UNIT}/A", answered)


def _tally_spectra(truth, predicted, mask):
    """Tally with a row for each of the M spectra of a galaxy, empty without a prediction; true pixels (M,) of each."""
    m = len(truth.spectrum_at)
    true = np.isfinite(truth.spectrum)
    if mask is not None and mask.ndim == 1:
        true &= ~mask[truth.spectrum_at][:, None]
    spectrum, sigma = (getattr(predicted, part, None) for part in ("spectrum", "spectrum_sigma"))
    if spectrum is None or sigma is None:
        return tally(*[np.zeros(0)] * 3, np.zeros(0, int), m), true.sum(1)
    pixels = np.stack([np.asarray(a, float) for a in (truth.spectrum, spectrum, sigma)])
    known = true & np.isfinite(pixels).all(0) & (pixels[2] >= 0)
    return tally(*pixels[:, known], np.nonzero(known)[0], m, floor=CONTINUUM), true.sum(1)
