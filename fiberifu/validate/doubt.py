# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Does the model know when it fails? ``held-out images -> Prediction.oddity, kept -> failures -> ROC curves, table``.

Odd images are what the score was made for; that it finds failures among ordinary ones is asked, not assumed.
"""

import logging
from html import escape

import numpy as np

from ..output import atomic_path, prepare_output_folder
from .judge import prediction_folder, read_predictions
from .ood import PULL, WORST, find_failures, ood_roc, roc_curve
from .predictors import observed_image, sky_positions

__all__ = ["doubt_table", "draw_doubt", "measure_doubt", "oddity_scores"]

log = logging.getLogger(__name__)

FALSE = np.linspace(0, 1, 101)  # where curves are kept
WORDS = {
    "error": f"failure: the {WORST:.0%} with the largest median error of log flux(Hα)".replace("%", " %"),
    "pull": f"failure: mean squared pull of Hα above {PULL:g}",
}


def oddity_scores(held_out, predictor, folder, *, progress=False):
    """Oddity of the image of each held-out galaxy, as `fiberifu.Prediction` has it; kept beside the predictions.

    Parameters
    ----------
    held_out : HeldOutSet
    predictor : NetworkPredictor
    folder : path-like
        Of the scores.
    progress : bool

    Returns
    -------
    ndarray (G,)
        0 at the median of training images, 1 at their 99th percentile; NaN for a galaxy on which the model fails.
    """
    from tqdm import tqdm

    place = prediction_folder(folder, f"{predictor.name} oddity")
    settings = {"kind": "oddity", "key": predictor.key, "held_out": held_out.key}
    try:
        prepare_output_folder(place, resume=True, settings=settings)
    except ValueError:  # of other weights or galaxies
        for old in place.glob("*.npy"):
            old.unlink()
        prepare_output_folder(place, overwrite=True, settings=settings)
    out = []
    for number in tqdm(range(held_out.shards), unit="shard", desc="oddity", disable=not progress, leave=False):
        path = place / f"{number:05d}.npy"
        if not path.is_file():
            with atomic_path(path) as temporary:
                np.save(temporary, np.array([_oddity(predictor.ifu, galaxy) for galaxy in held_out.shard(number)]))
        out.append(np.load(path, allow_pickle=False))
    return np.concatenate(out)[: len(held_out)]


def _oddity(ifu, galaxy):
    try:
        image = observed_image(galaxy)
        where = sky_positions(galaxy, image, np.zeros(1), np.zeros(1))
        return float(ifu.predict(image, where, redshift=galaxy.redshift).oddity.score[0])
    except Exception as error:  # one bad galaxy: the rest goes on
        log.warning("galaxy %s has no oddity: %s", galaxy.name, error)
        return np.nan


def measure_doubt(held_out, predictor, folder, *, draws=200, seed=0, progress=False):
    """How well the oddity of images finds failures of a model, and kinds of galaxies.

    Parameters
    ----------
    held_out : HeldOutSet
    predictor : Predictor
        Whose predictions are in the folder.
    folder : path-like
    draws, seed : int
        Of the bootstrap over galaxies.
    progress : bool

    Returns
    -------
    dict or None
        ``rows`` of `ood_roc`; ``curves``: name of the failure, ``false`` and ``found`` (101,). None for a method that
        is no network, or weights that know nothing of odd images.
    """
    ifu = getattr(predictor, "ifu", None)
    if "oddity" not in (getattr(ifu, "passport", None) or {}):
        return None
    scores = oddity_scores(held_out, predictor, folder, progress=progress)
    truths, answers = held_out.truths(), read_predictions(folder, predictor.name, held_out)
    rows = ood_roc(scores, truths, answers, draws=draws, seed=seed)
    failed, curves = find_failures(truths, answers), []
    for name in WORDS:
        known = np.isfinite(failed[name]) & np.isfinite(scores)
        yes = failed[name][known] > 0
        if yes.any() and not yes.all():
            found, false = roc_curve(scores[known], yes)
            curves.append({"name": name, "false": FALSE.tolist(), "found": np.interp(FALSE, false, found).tolist()})
    return {"rows": rows, "curves": curves}


def draw_doubt(doubt):
    """ROC curves of the failures.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    import matplotlib.pyplot as plt

    from .report_figures import _plain_style

    auc = {row["name"]: row["auc"] for row in doubt["rows"] if row["what"] == "failure"}
    with _plain_style():
        figure, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
        ax.plot([0, 1], [0, 1], color="0.6", ls="--", lw=1, label="chance")
        for curve, color in zip(doubt["curves"], ("#0072B2", "#D55E00"), strict=False):
            label = f"{WORDS[curve['name']].removeprefix('failure: ')}: area {auc[curve['name']]:.2f}"
            ax.plot(curve["false"], curve["found"], color=color, label=label)
        ax.set(xlabel="share of other galaxies called odd", ylabel="share of failures called odd", xlim=(0, 1),
               ylim=(0, 1))  # fmt: skip
        figure.legend(loc="outside lower center", frameon=False)
    return figure


def doubt_table(doubt):
    """What the areas are, as HTML."""
    from .report_figures import stratum_label

    def number(row, digits=2):
        if row["auc"] is None:
            return "not known"
        ends = "" if row["low"] is None else f"<br><small>{row['low']:.{digits}f} to {row['high']:.{digits}f}</small>"
        return f"{row['auc']:.{digits}f}{ends}"

    lines = []
    for row in doubt["rows"]:
        name = WORDS[row["name"]] if row["what"] == "failure" else f"kind: {stratum_label(row['name'])}"
        found = "" if row["found"] is None else f"{100 * row['found']:.0f} %"
        cells = number(row), found, f"{row['positive']:,} of {row['galaxies']:,}"
        lines.append(f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{x}</th>" for x in ("found by oddity", "area under ROC", "found at 5 % false", "galaxies"))
    return (
        "<p>The oddity of an image (<code>Prediction.oddity</code>) tells how unlike training images it is. Does it "
        "find galaxies off whose centre (0.7 to 1.6 Re) the model is wrong, or states errors that are far too small? "
        "Area under the ROC curve: 0.5 is chance, 1 perfect; below it 16 to 84 % of the bootstrap over galaxies. Where "
        "areas of failures are near 0.5, an image that does not look odd is no sign of a good prediction: stated "
        "errors tell how wrong a line may be.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
