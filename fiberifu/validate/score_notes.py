# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What each score means, which direction is better, and which method is best beyond its errors."""

import dataclasses
import itertools
import math

__all__ = [
    "GATES",
    "IGNORANT",
    "NULL_GATES",
    "SCORES",
    "UNSEEN_SCATTER",
    "ScoreNote",
    "best",
    "loss_interval",
    "loss_of",
    "is_void",
    "note_of",
    "null_verdicts",
    "place_of",
    "select",
    "verdicts",
]

#: What a model has to beat its rivals in: quantity, regions, scores.
GATES = (
    ("Ha", "N2"),
    ("whole", "off-centre"),
    ("R2 log EW", "r after r-band", "MAE log EW [dex]", "MAE log flux [dex]"),
)
#: Scatter of log EW(H-alpha) that an image cannot tell, dex, below which all comparisons are void: a simulator without
#: it makes scores easy.
UNSEEN_SCATTER = 0.25
FEWEST = 500  # galaxies for a verdict
#: What a method that sees the wrong image, or none, may not know better than redshift and position do.
NULL_GATES = ("Ha", "N2"), ("whole", "off-centre"), ("R2 log EW", "R2 log flux", "MAE log EW [dex]", "r after r-band")

#: How the names of scores start in which who knows nothing, a constant or noise, has 0: no limit is below that.
IGNORANT = ("R2", "r after")


@dataclasses.dataclass(frozen=True)
class ScoreNote:
    """A score in words.

    Attributes
    ----------
    better : {'high', 'low'}, float or None
        A number is a target, such as 0 for a bias; None where more is neither better nor worse by itself.
    text : str
        What it is; an empty text is not printed.
    """

    better: str | float | None
    text: str = ""


#: Score -> note, in the order of the page. Definitions: the documentation, "How predictions are judged".
SCORES = {
    "R2 log EW": ScoreNote(
        "high",
        "Share of the variance of log EW that is explained, all chosen spaxels of all galaxies pooled: 1 is perfect, 0 "
        "no better than one value for all, negative worse than that.",
    ),
    "R2 log EW within galaxies": ScoreNote(
        "high",
        "The same after the mean of each galaxy is taken out of truth and prediction: structure inside galaxies alone. "
        "One EW for all of a galaxy scores 0.",
    ),
    "R2 log flux": ScoreNote(
        "high", "As R2 log EW, of the line flux. Light alone explains much of it: compare with light x constant EW."
    ),
    "R2 log flux within galaxies": ScoreNote("high", "R2 log flux after the mean of each galaxy is taken out."),
    "MAE log EW [dex]": ScoreNote("low", "Mean absolute error of log EW. 0.1 dex is 26 %."),
    "bias log EW [dex]": ScoreNote(0.0, "Mean of log (predicted / true EW): + is too strong."),
    "MAE log flux [dex]": ScoreNote("low", "Mean absolute error of the log of the absolute flux."),
    "bias log flux [dex]": ScoreNote(0.0, "Mean of log (predicted / true flux): + is too bright."),
    "R2 log ratio": ScoreNote("high", "As R2 log EW, of the ratio of two lines, where both are strong in truth."),
    "R2 log ratio within galaxies": ScoreNote("high", "R2 log ratio after the mean of each galaxy is taken out."),
    "MAE log ratio [dex]": ScoreNote("low", "Mean absolute error of the log of the ratio of two lines."),
    "bias log ratio [dex]": ScoreNote(0.0, "Mean of log (predicted / true ratio)."),
    "RMS asinh EW": ScoreNote(
        "low",
        "Root mean square error of asinh(EW / 1 A) over all spaxels, those without the line among them: nothing is "
        "chosen, so that false lines count.",
    ),
    "AUC EW > 3 A": ScoreNote(
        "high",
        "Detection: chance that a spaxel with EW above 3 A is predicted stronger than one below. 0.5 is a coin.",
    ),
    "Spearman EW, median": ScoreNote(
        "high", "Rank correlation of predicted and true EW inside each galaxy; the median galaxy."
    ),
    "Spearman EW, 10 %": ScoreNote("high", "The same, of the galaxy at the 10th percentile: how bad the bad ones are."),
    "r after r-band": ScoreNote(
        "high",
        "Correlation of log flux, prediction with truth, after the r-band light is regressed out of both: what is "
        "known beyond the light in r. Light x constant EW is not 0: its light is that under the line, whose colour "
        "against r goes with the true EW (blue galaxies have strong lines): below 0 for lines redder than r, above for "
        "bluer ones.",
    ),
    "bias of sum [dex]": ScoreNote(0.0, "Mean over galaxies of log (predicted / true flux within 1 Re)."),
    "MAE of sum [dex]": ScoreNote("low", "Mean over galaxies of its absolute value."),
    "R2 log sum": ScoreNote("high", "Share of the variance of the log of these sums, from galaxy to galaxy."),
    "no answer": ScoreNote(
        None,
        "Share of the chosen spaxels where a method has no answer. Of the model and its rivals these count as a line "
        "that is absent (a tenth of the limit of selection), a ratio without both lines as a dex below the median of "
        "the true ones; the others are judged on the rest.",
    ),
    "cosine (published)": ScoreNote(
        "high",
        "Cosine of maps shifted by their median and scaled by their inter-quartile range, as published (Peng et al. "
        "2026), for comparison: it forgives wrong levels and scales.",
    ),
    "kappa BPT": ScoreNote(
        "high",
        "Agreement of classes in [N II] BPT (star-forming, composite, AGN) beyond chance (Cohen's kappa): 1 "
        "is perfect, 0 what chance gives. With linear weights a neighbouring class is half an error.",
    ),
    "bias of profile log SB [dex]": ScoreNote(0.0, "Mean over galaxies of log (predicted / true) mean flux in a ring."),
    "spread of profile log SB [dex]": ScoreNote("low", "Scatter of this from galaxy to galaxy, flux."),
    "bias of profile log EW [dex]": ScoreNote(0.0, "Mean over galaxies of log (predicted / true) EW in a ring."),
    "spread of profile log EW [dex]": ScoreNote("low", "Scatter of this from galaxy to galaxy, EW."),
    "bias of gradient [dex/Re]": ScoreNote(
        0.0, "Metallicity gradient (O3N2, Marino et al. 2013) of star-forming spaxels: mean of prediction less truth."
    ),
    "spread of gradient [dex/Re]": ScoreNote("low", "The scatter of this difference."),
    "R2 of gradient": ScoreNote(
        "high", "Share of the variance of gradients, from galaxy to galaxy, that is explained."
    ),
    "sense of rotation agrees": ScoreNote(
        "high", "Share of galaxies whose gas is predicted to turn the right way. 0.5 is a coin: images do not know."
    ),
    "amplitude of rotation, median": ScoreNote(1.0, "Slope of predicted against true velocity; the median galaxy."),
    "R2 velocity within galaxies": ScoreNote("high", "Share of the variance of the velocity inside galaxies."),
    "RMS velocity [km/s]": ScoreNote("low", "Root mean square error of the velocity."),
    "coverage 68 %": ScoreNote(0.68, "Share of truths inside the predicted 68 % interval; more is errors too large."),
    "coverage 95 %": ScoreNote(0.95, "Share of truths inside the predicted 95 % interval."),
    "below 16 %": ScoreNote(0.16, "Share of truths below the predicted 16 % quantile; more: predictions too high."),
    "below 50 %": ScoreNote(0.5, "Share of truths below the predicted median; more: predictions too high."),
    "below 84 %": ScoreNote(0.84, "Share of truths below the predicted 84 % quantile."),
    "CRPS": ScoreNote(
        "low", "Continuous ranked probability score: error of the whole predicted distribution, in its unit."
    ),
    "sharpness [dex]": ScoreNote(
        None,
        "Predicted error over the prediction (which counts as the floor of the scores below that), in dex; geometric "
        "mean. It knows nothing of the truth. Small is good only where the coverage is right: never read it alone.",
    ),
    "answered": ScoreNote(
        None,
        "Share of the positions where a method gives a value and its error: errors are judged there. Below 90 % "
        "the verdict on them is void.",
    ),
    "PIT KS": ScoreNote(
        "low",
        "Largest distance of the distribution of the PIT (where truths fall in predictions) from the uniform one; "
        "never below the noise. The interval holds the true distance in at least 68 % of samples, and 0 if all may be "
        "noise.",
    ),
}


def note_of(score):
    """The note of a score; of variants such as ``CRPS [dex]`` or ``kappa BPT, linear weights`` that of their family."""
    families = score, score.split(", ")[0], score.split(" [")[0]
    return next((SCORES[name] for name in families if name in SCORES), ScoreNote(None))


def place_of(score):
    """Place of a score in the order of the page; unknown ones come last."""
    known = list(SCORES)
    families = score, score.split(", ")[0], score.split(" [")[0]
    return next((known.index(name) for name in families if name in SCORES), len(known))


def loss_of(score, value):
    """A value as a loss: smaller is better; NaN for scores without a direction."""
    better = note_of(score).better
    signs = {"low": value, "high": -value, None: math.nan}
    return signs[better] if better in signs else abs(value - better)


def loss_interval(row):
    """Interval of a row as a loss: smaller is better.

    Parameters
    ----------
    row : dict
        Of the tidy table.

    Returns
    -------
    (float, float) or None
        None where the score has no direction, no value or no interval.
    """
    better = note_of(row["score"]).better
    if better is None or None in (row["value"], row["low"], row["high"]):
        return None
    low, high = row["low"], row["high"]
    if better == "low":
        return low, high
    if better == "high":
        return -high, -low
    low, high = low - better, high - better
    return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


def best(rows):
    """Which of the rows of one score, one of each method, is best beyond its errors.

    Parameters
    ----------
    rows : sequence of dict

    Returns
    -------
    int or None
        None unless its interval is disjoint from every other one, and for fewer than two methods.
    """
    losses = [(loss_interval(row), i) for i, row in enumerate(rows)]
    losses = sorted((loss, i) for loss, i in losses if loss is not None)
    if len(losses) < 2 or losses[0][0][1] >= losses[1][0][0]:
        return None
    return losses[0][1]


def verdicts(report):
    """Whether the judged model beats its rivals beyond the errors, score by score.

    Parameters
    ----------
    report : dict

    Returns
    -------
    list of dict
        The row of the model, with rival (the best one's row) and verdict: "better" or "worse" where the 95 % interval
        of the paired difference of the two (rows "<score>, minus <model>") does not hold 0, else, or without such an
        interval, "undecided". Whatever the scores, "too few galaxies" below 500, and "void" where `is_void`. What was
        not measured is left out. In "r after r-band" light x constant EW is no rival.
    """
    kinds = kinds_of(report)
    roles = _roles(report)
    judged = judged_in(report)
    none = "too few galaxies" if (report["meta"].get("galaxies") or 0) < FEWEST else "void" if is_void(report) else None
    out = []
    for quantity, region, score in itertools.product(*GATES):
        rows = {(row["predictor"], row["score"]): row for row in select(report, quantity, region)}
        mine = rows.get((judged, score))
        rivals = [row for (name, own), row in rows.items() if own == score and kinds.get(name) == "rival"]
        rivals = [row for row in rivals if loss_interval(row) is not None]
        if score == "r after r-band":
            rivals = [row for row in rivals if roles[row["predictor"]] != "light only"]
        if mine is None or loss_interval(mine) is None or not rivals:
            continue
        rival = min(rivals, key=lambda row: loss_of(row["score"], row["value"]))
        difference = rows.get((rival["predictor"], f"{score}, minus {judged}"))
        sign = _sign(difference, score)  # of the loss of the rival - that of the model
        verdict = none or {1: "better", -1: "worse", 0: "undecided"}[sign]
        out.append({**mine, "rival": rival, "difference": difference, "verdict": verdict})
    return out


def _sign(difference, score):
    """Of a difference of losses that is sure at 95 %, else 0."""
    low, high = (None, None) if difference is None else (difference.get(key) for key in ("low95", "high95"))
    if low is None or high is None or low <= 0 <= high:
        return 0
    return (1 if low > 0 else -1) * (1 if note_of(score).better == "low" else -1)


def null_verdicts(report):
    """Whether methods shown the wrong image, or none, know no more than redshift and position tell.

    Parameters
    ----------
    report : dict

    Returns
    -------
    list of dict
        The row of the null, with limit (the row of the method that knows redshift and position), difference (null less
        limit, which counts as 0 at least in scores of `IGNORANT`) and verdict: "fails" where the null is better and the
        95 % interval of the paired difference does not hold 0, "holds" where it is worse, "undecided" between.
    """
    roles = _roles(report)
    limit = next((name for name, role in roles.items() if role == "null limit"), None)
    out = []
    for quantity, region, score in itertools.product(*NULL_GATES):
        rows = {(row["predictor"], row["score"]): row for row in select(report, quantity, region)}
        for null in (name for name, role in roles.items() if role == "null"):
            own, other = rows.get((null, score)), rows.get((limit, score))
            against = f"max(0, {limit})" if score.startswith(IGNORANT) else limit
            difference = rows.get((null, f"{score}, minus {against}"))
            if own is None or other is None or difference is None:
                continue
            verdict = {1: "holds", -1: "fails", 0: "undecided"}[_sign(difference, score)]
            out.append({**own, "limit": other, "difference": difference, "verdict": verdict})
    return out


def is_void(report):
    """Whether the galaxies may hide too little from an image for comparisons to mean anything.

    They may if the lower end of the 95 % interval of the unseen scatter is below 0.25 dex, and if it is not known.
    """
    low, _ = report.get("unseen_scatter_interval") or (None, None)
    return low is None or low < UNSEEN_SCATTER


def _roles(report):
    return {method["name"]: method.get("role") or "" for method in report["meta"]["predictors"]}


def kinds_of(report):
    """Kind of each method ("judged", "rival", "reference"), by its name."""
    return {method["name"]: method["kind"] for method in report["meta"]["predictors"]}


def judged_in(report):
    """Name of the method that is judged; None if there is none."""
    return next((name for name, kind in kinds_of(report).items() if kind == "judged"), None)


def select(report, quantity, region, stratum="all"):
    """Rows of a report, in their order."""
    return [
        row
        for row in report["scores"]
        if row["quantity"] == quantity and row["region"] == region and row["stratum"] == stratum
    ]
