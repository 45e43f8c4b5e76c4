# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The page of the experiment: ``headline.json -> curves, tables, sections of the page of maps -> headline.html``."""

import json
import logging
from html import escape
from pathlib import Path

from ...output import atomic_path
from ..report import (
    _BOLD,
    _ERRORS,
    _EXAMPLES,
    _STRATA,
    _STYLE,
    _calibration_table,
    _cards,
    _facts,
    _methods,
    _other_scores,
    _picture,
    _score_tables,
)
from .curves import draw_curves, draw_placements, draw_worth
from .score import ONLY_LIGHT
from .tables import arms_table, coverage_table, curve_tables, methods_table

__all__ = ["PAGE", "make_page", "write_page"]

log = logging.getLogger(__name__)

PAGE = "headline.html"
NONSENSE = (
    '<p class="label"><b>Smoke test: the numbers on this page mean nothing.</b> It shows that everything runs.</p>'
)
FEW_STEPS = 4000  # of the first stage of the bundled network; below, the page says that networks are far from done


def write_page(folder, *, held_out=None, extra=()):
    """Draw the page from the numbers in a folder.

    Parameters
    ----------
    folder : path-like
    held_out : path-like, optional
        Where the galaxies are; ``truth`` in the folder by default. Without them the page has no maps.
    extra : sequence of (str, str, str)
        More sections: identifier, title, HTML.

    Returns
    -------
    `~pathlib.Path`

    Raises
    ------
    FileNotFoundError
        Without ``headline.json``.
    """
    from ..maps_job import _read_examples
    from ..report_sections import draw_sections

    folder = Path(folder)
    path = folder / "headline.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run without --page-only first, which makes it")
    report = json.loads(path.read_text())
    try:
        examples = _read_examples(folder, report, held_out)
    except (OSError, ValueError) as error:
        log.warning("no maps on the page: %s", error)
        examples = {}
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(make_page(report, draw_sections(report, examples), extra), encoding="utf-8")
    return folder / PAGE


def make_page(report, figures, extra=()):
    """HTML of the experiment.

    Parameters
    ----------
    report : dict
        Of `~fiberifu.validate.headline.judging.judge_arms`.
    figures : iterable of (str, str, str, Figure)
        As of `~fiberifu.validate.report_sections.draw_sections`.
    extra : sequence of (str, str, str)
        More sections: identifier, title, HTML.

    Returns
    -------
    str
    """
    meta = report["meta"]
    pictures = {}
    for section, alt, caption, figure in figures:
        pictures[section] = pictures.get(section, "") + _picture(alt, caption, figure)
    shown = escape(str(meta.get("model")))
    report = report | {"scores": _comparable(report)}
    sections = [
        ("curves", "Score against data", _curves(report)),
        ("worth", "How many cubes are the fibres worth?", _worth(report)),
        ("placements", "Where the fibres are", _placements(report)),
        ("control", "What the network could do at best", _control(report)),
        ("table", "All curves as numbers", curve_tables(report)),
        ("arms", "The trainings", arms_table(meta["arms"])),
        ("judged", "What was judged", _facts(meta) + _methods(meta["predictors"])),
        ("halpha", "All scores of some: Hα", _BOLD + _score_tables(report, "Ha")),
        ("others", "All scores of some: other lines, ratios and spectra", _other_scores(report)),
        ("strata", "Kinds of galaxies, views, places", f"<p>{_STRATA}</p>{pictures.get('strata', '')}"
         + coverage_table(report)),
        ("errors", f"Are the errors right? {shown}", f"<p>{_ERRORS}</p>{_calibration_table(report)}"
         + pictures.get("errors", "")),
        ("examples", f"Examples: {shown}", f"<p>{_EXAMPLES}</p>{pictures.get('examples', '')}"),
        *extra,
        ("limits", "What limits these numbers", _limits(report)),
    ]  # fmt: skip
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    nonsense = NONSENSE if meta["title"] == "smoke test" or meta["analytic"] else ""
    analytic = "<p><b>Templates from a few formulae stand in for stars and gas.</b></p>" if meta["analytic"] else ""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Does it work? Fibres against cubes</title>',
        *_cards(meta),
        f"<style>{_STYLE}</style></head><body>",
        "<h1>Does it work? One fibre per galaxy against cubes</h1>",
        nonsense + analytic,
        f"<p>{_lead(report)}</p>",
        '<p class="label"><b>Predicted from image: nothing on this page was observed.</b> Galaxies, fibres, cubes and '
        "the truth are simulated.</p>",
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>',
    ]
    for name, title, text in sections:
        parts += [f'<h2 id="{name}">{title}</h2>', text]
    return "\n".join([*parts, "</body></html>", ""])


def _comparable(report):
    """Scores without those that are none by construction, see `fiberifu.validate.headline.score.ONLY_LIGHT`."""
    light = {row["predictor"] for row in report["curves"] if row.get("method") in ONLY_LIGHT}
    return [row for row in report["scores"]
            if row["predictor"] not in light or not row["score"].startswith("r after r-band")]  # fmt: skip


def _lead(report):
    meta = report["meta"]
    arms = [arm for arm in meta["arms"] if arm["kind"] != "control"]
    if not arms:
        return (
            "<b>No network is trained yet</b>: what follows is of simpler methods alone, judged on "
            f"{meta['galaxies']:,} held-out galaxies, seen as an IFU survey would."
        )
    steps, batch = arms[0]["steps"], arms[0]["batch"]
    minutes = sum(arm["cpu_seconds"] for arm in meta["arms"]) / 60
    text = (
        f"The same network was trained {len(arms)} times from the same random weights, {steps:,} steps of {batch} "
        f"galaxies each: on one fibre per galaxy, and on cubes. All were judged on the same {meta['galaxies']:,} "
        f"held-out galaxies, seen as an IFU survey would, beside simpler methods. Size: {escape(meta['title'])}; all "
        f"trainings took {minutes:,.0f} minutes of processor time. "
    )
    if meta["untrained"]:
        text += f"<b>Not trained yet: {escape(', '.join(meta['untrained']))}.</b> "
    if steps < FEW_STEPS:
        text += (
            f"<b>{steps:,} steps are few</b> (the bundled network has taken 15,000 in four stages of other sizes):"
            " the networks are far from what more training makes of them, and with so few steps the trees may be the "
            "better judges of what the data are worth."
        )
    return text


def _figure(draw, report, alt, caption):
    figure = draw(report)
    return "" if figure is None else _picture(alt, caption, figure)


def _curves(report):
    caption = (
        "Hα. Against the number of galaxies that were trained on, one fibre or one cube each; shaded: 16 to 84 % over "
        "held-out galaxies (what another training would give is not in it). Dashed: methods that were trained on the "
        "largest number of fibres; central spectrum x light has seen a spectrum of each galaxy, position alone no "
        "image. Light x constant EW and the central spectrum have nothing but the light's shape, and are left out of r "
        "after r-band. The control has other galaxies, without noise and unseen scatter."
    )
    return _figure(draw_curves, report, "Scores of Hα against the number of galaxies", caption)


def _worth(report):
    """The figure, and the sentence of each number."""
    caption = (
        "Where the curve of cubes, made monotone (isotonic regression), reaches the score of the fibres, linear in the "
        "logarithm of the number of galaxies; grey: numbers that were trained. Points and arrows: of all held-out "
        "galaxies; bars: 16 to 84 % of the bootstrap over them, all curves on the same samples."
    )
    rows = []
    for one in report["worth"]:
        if one["quantity"] == "Ha":
            cells = (one["fibers"], one["method"], one["region"], one["score"], one["text"])
            rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    if not rows:
        return "<p>Not known: there are fewer than two numbers of cubes.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("trained on", "method", "region", "score", "worth, in cubes"))
    text = (
        "<p>The number of galaxies with a cube on which the same method, with as many steps, scores as on the fibres. "
        "Beyond the numbers that were trained there is no number.</p>"
    )
    table = f'<table class="left"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    figure = _figure(draw_worth, report, "How many cubes the fibres are worth", caption)
    return f"{text}{figure}<details open><summary>Hα, in numbers</summary>{table}</details>"


def _placements(report):
    caption = (
        "Hα, the largest number of fibres. Central: all on the light peak (0.14 arcsec of scatter); DESI-like: 15 % of "
        "them anywhere within 1.5 effective radii; scattered: all anywhere. Bars: 16 to 84 % over held-out galaxies."
    )
    return _figure(draw_placements, report, "Scores of Hα by placement of the fibres", caption)


def _control(report):
    control = report["control"]
    if not control["rows"]:
        return "<p>Not part of this plan.</p>"

    def scatter(found):
        ends = found.get("unseen_scatter_interval")
        if found.get("unseen_scatter") is None:
            return "not known (too few galaxies)"
        return f"{found['unseen_scatter']:.2f} dex ({ends[0]:.2f} to {ends[1]:.2f} at 95 %)"

    rows = [row for row in control["rows"] if row["quantity"] == "Ha"]
    return (
        f"<p>Trained and judged ({control['galaxies']:,} galaxies) in a universe without noise, active nuclei, winds, "
        "decoupled gas and without scatter of the lines that no image shows. Scatter of log EW(Hα) at fixed colours, "
        f"surface brightness and redshift: there {scatter(control)}, in the universe of all other arms "
        f"{scatter(report)}. What is missing to a perfect score here is the network's, its training's and the "
        "seeing's.</p>" + methods_table(rows)
    )


def _limits(report):
    meta = report["meta"]
    items = [
        "Simulated fibres, cubes and galaxies, all of one universe: real surveys see one in which neither kind of "
        "training set is simulated.",
        "Each arm was trained once: intervals say what other held-out galaxies would change, not what another seed "
        "would.",
        "All arms take the same number of steps: a smaller set is seen more often. Cubes read several apertures of a "
        "galaxy in each step, so networks on cubes see more spectra than those on fibres, and a step costs more.",
        "Cubes have no calibration errors and no covariance of spaxels: they are somewhat better than real ones. "
        "Fibres have seeing of their own, misplacement, sky residuals and calibration as DESI's.",
        "Errors are those of the training: <code>fiberifu calibrate</code> was not applied to any arm.",
    ]
    if meta["galaxies"] < 500:
        items.insert(0, f"<b>{meta['galaxies']} galaxies</b>: intervals need 500, claims about coverage 2000.")
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
