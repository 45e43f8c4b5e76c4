# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The page of scores: ``scores.json -> figures, tables -> maps.html``, one file, no scripts, nothing from outside."""

import base64
from html import escape
from io import BytesIO

from .score_notes import best, is_void, judged_in, kinds_of, note_of, null_verdicts, place_of, select, verdicts

__all__ = ["KINDS", "make_page"]

#: Kinds of methods: what a score of theirs may be compared with.
KINDS = {
    "judged": "the model that is judged",
    "rival": "sees the same image, trained on the same fibres",
    "reference": "sees or was trained on more, or less, than the model: no rival, a scale to read scores with",
}

REGIONS = {
    "whole": "whole galaxies (R < 1.6 Re)",
    "off-centre": "off-centre (0.7 Re < R < 1.6 Re)",
    "centre": "centre (R < 0.7 Re)",
    "sum": "sums within 1 Re (intervals: errors correlated as the method says; independent if it says nothing)",
    "sum, coherent errors": "sums within 1 Re (intervals: errors the same everywhere)",
    "gradient": "metallicity gradients",
}

FOLDED = ("centre", "sum, coherent errors")  # on a click

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222; }
nav ol { columns: 3 18em; padding-left: 1.6em; margin: 0.4em 0; } nav a { color: #0b5394; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; border-radius: 50%; }
h1 { font-size: 1.7em; margin-bottom: 0.2em; } h2 { font-size: 1.25em; margin: 2em 0 0.4em; }
table { border-collapse: collapse; font-size: 13px; margin: 0.6em 0 1.4em; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { background: #f4f4f4; vertical-align: bottom; }
tbody th { font-weight: 600; text-align: left; vertical-align: top; }
td:first-child, th:first-child { text-align: left; } .left td, .left th { text-align: left; }
.reference { color: #777; } .judged { background: #eef5fb; } b { color: #000; }
small { color: #777; font-size: 11px; white-space: nowrap; display: block; }
img { max-width: 100%; } figure { margin: 1.5em 0; } figcaption { color: #444; max-width: 75em; }
details { margin: 0.5em 0; } summary { cursor: pointer; font-weight: 600; }
.better { color: #1c6b3a; font-weight: 600; }
.worse { color: #a3172c; font-weight: 600; } .undecided { color: #8a6100; }
.label { border: 2px solid #d55e00; padding: 0.5em 1em; } dt { font-weight: 600; } dd { margin: 0 0 0.6em 1.5em; }
code { overflow-wrap: anywhere; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  * { print-color-adjust: exact; }
  body { margin: 0; max-width: none; font-size: 11px; } table { font-size: 9.5px; } th, td { padding: 2px 5px; }
  figure, tr { break-inside: avoid; } h2, h2 + p, summary { break-after: avoid; }
  thead { display: table-header-group; }
  img { max-height: 165mm; width: auto; } small { font-size: 8.5px; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""


def make_page(report, figures):
    """HTML of a report.

    Parameters
    ----------
    report : dict
        Of `read_scores`.
    figures : sequence of (str, str, str, `~matplotlib.figure.Figure`)
        Section ("errors", "doubt", "examples", "strata", "profiles"), alternative text, caption, and the figure.

    Returns
    -------
    str
    """
    meta = report["meta"]
    pictures = {section: "" for section in ("errors", "doubt", "examples", "strata", "profiles")}
    for section, alt, caption, figure in figures:
        pictures[section] += _picture(alt, caption, figure)
    sections = [
        ("judged", "What was judged", _facts(meta) + _methods(meta["predictors"])),
        ("verdicts", "Does it beat what is simpler?", _verdict_table(report)),
        ("halpha", "Scores: Hα", _BOLD + _score_tables(report, "Ha")),
        ("others", "Scores: other lines, ratios and spectra", _other_scores(report)),
        ("errors", "Are the errors right?", f"<p>{_ERRORS}</p>{_calibration_table(report)}{pictures['errors']}"),
        ("doubt", "Does it know when it fails?", _doubt(report) + pictures["doubt"]),
        ("examples", "Examples", f"<p>{_EXAMPLES}</p>{pictures['examples']}"),
        ("strata", "Kinds of galaxies", f"<p>{_STRATA}</p>{pictures['strata']}"),
        ("profiles", "Radial profiles", f"<p>{_PROFILES}</p>{pictures['profiles']}"),
        ("meaning", "What each score means", _explanations(report)),
        ("limits", "What limits these numbers", _limits(report)),
    ]
    sections = [section for section in sections if pictures.get(section[0], "all")]  # none without its figures
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>How good are predicted maps?</title>',
        *_cards(meta),
        f"<style>{_STYLE}</style></head><body>",
        "<h1>How good are predicted maps?</h1>",
        f"<p>{_lead(report)}</p>",
        '<p class="label"><b>Predicted from image: nothing on this page was observed.</b> The galaxies and the truth '
        "are simulated, the maps are predictions from their images. Scores tell how well predictions work in the "
        "simulated universe; real galaxies differ from it.</p>",
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>',
    ]
    for name, title, text in sections:
        parts += [f'<h2 id="{name}">{title}</h2>', text]
    return "\n".join([*parts, "</body></html>", ""])


_BOLD = (
    "<p>Below each number: its 16 to 84 % interval from a bootstrap over galaxies. <b>Bold</b>: best of the model "
    "and its rivals, with an interval disjoint from all of theirs. Grey: no rivals, but scales to read the others "
    "with.</p>"
)
_ERRORS = (
    "Upper panels: of intervals that should hold a stated share of the truths, the share they do hold. Above the "
    "dashed line errors are too large, below it too small. Lower panels: where truths fall in the predicted "
    "distribution (PIT). Flat is right; a hump: errors too large; a bowl: too small; a slope: a bias. Bins above "
    "3.5 are cut off. Rivals without errors are not in it. Verdicts: <i>overconfident</i> (intervals hold too few "
    "truths), <i>underconfident</i> (too many), <i>wrong shape</i> (too few at 68 %, too many at 95 %, or the "
    "reverse), <i>biased</i> (too many truths on one side of the predicted median, or in one tail), beyond three "
    "errors and beyond what matters: a sigma wrong by 6 %, a mean wrong by a tenth of sigma; <i>void</i> where less "
    "than 90 % of the positions were answered. Each method is judged where it has an answer."
)
_EXAMPLES = (
    "Chosen by rule, not by beauty: of the galaxies with at least 30 chosen spaxels, those at 10, 50 and 90 % of "
    "the mean absolute error of log EW(Hα), and the median one of each kind. Truth and prediction share one colour "
    "scale. North is up, East to the left."
)
_STRATA = (
    "A galaxy may belong to several kinds, or to none. The intervals of small kinds are wide, and differences "
    "within them mean nothing. R² compares with the scatter inside the kind: where that is small, as among quenched"
    " galaxies, it is soon negative, and the absolute error tells more."
)
_PROFILES = (
    "Logarithms of the mean in rings of deprojected radius, all positions counted (of EW: weighted by the light), "
    "where the true mean EW(Hα) is above 1 Å."
)


def _cards(meta):
    """Where the page comes from, as in the headers of files."""
    cards = {
        "DATATYPE": "PREDICTED",
        "ORIGIN": "fiberifu",
        "MODELID": meta.get("model"),
        "WSHA256": meta.get("weights_sha256"),
        "TRAINSET": meta.get("training_data"),
        "FIBIFUV": meta.get("version"),
    }
    return [f'<meta name="{key}" content="{escape(str(value))}">' for key, value in cards.items() if value is not None]


def _lead(report):
    meta = report["meta"]
    counts = [(row["galaxies"] or 0, row["spaxels"] or 0) for row in select(report, "Ha", "whole")]
    galaxies, positions = max(counts, default=(0, 0))
    text = (
        f"The model <b>{escape(str(meta.get('model')))}</b> predicted maps of emission lines for "
        f"{meta.get('galaxies', galaxies):,} simulated galaxies that it was not trained on, and is judged at "
        f"{meta.get('positions', positions):,} positions. "
    )
    chosen = meta.get("chosen_spaxels")
    if chosen is None:
        return text + "Most scores are of spaxels that show the line, chosen on the truth alone."
    return text + f"{chosen:,} of them show Hα and are the spaxels of most scores: chosen on the truth alone."


FACTS = (
    *("model", "weights_sha256", "training_data", "training_galaxies", "recipe_sha256", "galaxies", "positions"),
    "chosen_spaxels",
    *("held-out seed", "held-out key", "simulator", "templates", "fibers", "draws", "date", "version", "versions"),
    "command",
)


FACT_WORDS = {
    "chosen_spaxels": "of these, spaxels chosen for Hα",
    "fibers": "fibres for the baselines",
    "draws": "bootstrap samples",
}


def _facts(meta):
    """What was judged, on what, by what."""
    held_out = meta.get("held_out", {})
    facts = meta | {f"held-out {key}": held_out.get(key) for key in ("seed", "key")}
    facts |= {key: held_out.get(key) for key in ("simulator", "templates")}
    rows = []
    for key in FACTS:
        value = facts.get(key)
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items() if version)
        if value is None:
            continue
        words = FACT_WORDS.get(key, key.replace("_", " "))
        text = f"{value:,}" if isinstance(value, int) and "seed" not in key else escape(str(value))
        rows.append(f"<tr><th>{words}</th><td><code>{text}</code></td></tr>")
    return f'<table class="left"><tbody>{"".join(rows)}</tbody></table>'


def _methods(methods):
    """The methods, with their colours in the figures."""
    from .report_figures import method_colors

    rows, colors = [], method_colors([one["name"] for one in methods])
    for one in methods:
        cells = one.get("about") or "", KINDS[one["kind"]], one.get("failed", ""), one.get("seconds_per_galaxy", "")
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in (*cells, str(one.get("key", ""))[:12]))
        drawn = one["kind"] != "reference"
        swatch = f'<span class="swatch" style="background:{colors[one["name"]]}"></span>' if drawn else ""
        rows.append(f'<tr class="{one["kind"]}"><th>{swatch}{escape(one["name"])}</th>{cells}</tr>')
    names = ("method", "what it does", "what it is for", "galaxies failed", "s / galaxy", "key")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<table class="left"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _verdict_table(report):
    from .report_figures import quantity_label

    found = verdicts(report)
    if not found:
        return "<p>Not known: neither a rival nor an interval was measured.</p>"
    counts = {word: sum(row["verdict"] == word for row in found) for word in ("better", "undecided", "worse")}
    rows = []
    for row in found:
        rival = row["rival"]
        rows.append(
            f"<tr><td>{escape(quantity_label(row['quantity']))}</td><td>{row['region']}</td>"
            f"<td>{escape(row['score'])}</td><td>{_cell(row, 3)}</td><td>{_cell(rival, 3)}</td>"
            f"<td>{'' if row['difference'] is None else _cell(row['difference'], 3)}</td>"
            f'<td>{escape(rival["predictor"])}</td><td class="{row["verdict"]}">{row["verdict"]}</td></tr>'
        )
    names = ("quantity", "region", "score", "model", "best rival", "rival - model", "which rival", "verdict")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<p>Of {len(found)} comparisons with the best rival, the model is better in {counts['better']}, worse in "
        f"{counts['worse']}; {counts['undecided']} are undecided. Decided means: the 95 % interval of the "
        "difference, both on the same bootstrap samples, does not hold 0. (Below the numbers: 16 to 84 %.)</p>"
        f"{_NO_VERDICT.get(found[0]['verdict'], '')}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{_null_table(report)}"
    )


_NO_VERDICT = {
    "void": "<p><b>All are void</b>: the galaxies hide too little from an image, or it is not known how much.</p>",
    "too few galaxies": "<p><b>Too few galaxies</b> for any verdict.</p>",
}


def _null_table(report):
    """Shuffled and blank images against position alone; nothing where they were not judged."""
    from .report_figures import quantity_label

    rows = [
        f"<tr><td>{escape(row['predictor'])}</td><td>{escape(quantity_label(row['quantity']))}</td>"
        f"<td>{row['region']}</td><td>{escape(row['score'])}</td><td>{_cell(row, 3)}</td>"
        f"<td>{_cell(row['limit'], 3)}</td><td>{_cell(row['difference'], 3)}</td>"
        f'<td class="{NULL_CLASSES[row["verdict"]]}">{row["verdict"]}</td></tr>'
        for row in null_verdicts(report)
    ]
    if not rows:
        return ""
    names = ("null", "quantity", "region", "score", "null", "position only", "null - limit", "verdict")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<p>The wrong image, or none, may tell no more than redshift and position, or than nothing (0 in R² and r): "
        "<i>fails</i> where the 95 % interval of the difference says that it does.</p>"
        f"<table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


NULL_CLASSES = {"holds": "better", "fails": "worse", "undecided": "undecided"}


def _calibration_table(report):
    """Verdicts on the errors of the model, for all galaxies."""
    from .report_figures import quantity_label

    judged, rows = judged_in(report), []
    for curve in report["reliability"]:
        if (curve["predictor"], curve["stratum"]) == (judged, "all") and curve.get("verdict"):
            counts = f"<td>{curve['galaxies']:,}</td><td>{curve['values']:,}</td>"
            region = escape(REGIONS.get(curve["region"], curve["region"]))
            label = escape(quantity_label(curve["quantity"]))
            rows.append(f"<tr><td>{label}</td><td>{region}</td>{counts}<td>{curve['verdict']}</td></tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("quantity", "region", "galaxies", "values", "errors are"))
    return (
        "<details><summary>Verdicts on the errors of the model</summary>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></details>"
    )


def _other_scores(report):
    """Tables of all but Hα, on a click."""
    from .report_figures import QUANTITY_LABELS, quantity_label

    quantities = dict.fromkeys([*QUANTITY_LABELS, *(row["quantity"] for row in report["scores"])])
    tables = {name: _score_tables(report, name) for name in quantities if name != "Ha"}
    return "\n".join(
        f"<details><summary>{escape(quantity_label(name))}</summary>{table}</details>"
        for name, table in tables.items()
        if table
    )


def _doubt(report):
    from .doubt import doubt_table

    return doubt_table(report["doubt"]) if report.get("doubt") else ""


def _score_tables(report, quantity):
    """One table of each region: scores as rows, methods as columns."""
    tables, known = [], list(REGIONS)
    kinds = kinds_of(report)
    regions = dict.fromkeys(row["region"] for row in report["scores"] if row["quantity"] == quantity)
    for region in sorted(regions, key=lambda name: known.index(name) if name in known else len(known)):
        rows = [row for row in select(report, quantity, region) if row["predictor"] in kinds]
        if rows := [row for row in rows if ", minus " not in row["score"]]:
            galaxies, spaxels = (max((row[key] or 0) for row in rows) for key in ("galaxies", "spaxels"))
            title = escape(REGIONS.get(region, region))
            title = f"<b>{title}</b>: up to {galaxies:,} galaxies, {spaxels:,} positions"
            table = _score_table(rows, kinds)
            folded = f"<details><summary>{title}</summary>{table}</details>"
            tables.append(folded if region in FOLDED else f"<p>{title}</p>{table}")
    return "".join(tables)


def _score_table(rows, kinds):
    kinds = {name: kind for name, kind in kinds.items() if any(row["predictor"] == name for row in rows)}
    scores = sorted(dict.fromkeys(row["score"] for row in rows), key=place_of)
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in kinds.items())
    lines = []
    for score in scores:
        row_of = {row["predictor"]: row for row in rows if row["score"] == score}
        racing = [name for name, kind in kinds.items() if kind != "reference" and name in row_of]
        winner = best([row_of[name] for name in racing])
        digits = _digits(row_of.values())
        bold = None if winner is None else racing[winner]
        cells = []
        for name, kind in kinds.items():
            text = _cell(row_of[name], digits, bold=name == bold) if name in row_of else ""
            cells.append(f'<td class="{kind}">{text}</td>')
        lines.append(f"<tr><td>{escape(score)}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th>score</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _digits(rows):
    """Decimals that the intervals are worth: 2 or 3."""
    widths = [row["high"] - row["low"] for row in rows if None not in (row["low"], row["high"])]
    return 2 if not widths or sorted(widths)[len(widths) // 2] >= 0.015 else 3


def _cell(row, digits, bold=False):
    if row["value"] is None:
        return "&ndash;"
    if abs(row["value"]) >= 100:
        digits = 0
    text = f"{row['value']:.{digits}f}"
    text = f"<b>{text}</b>" if bold else text
    if None in (row["low"], row["high"]):
        return text
    return f"{text}<small>{row['low']:.{digits}f} to {row['high']:.{digits}f}</small>"


def _explanations(report):
    names = dict.fromkeys(row["score"] for row in report["scores"] if ", minus " not in row["score"])
    notes = {}
    for name in sorted(names, key=place_of):
        if note_of(name).text:
            notes.setdefault(note_of(name).text, []).append(name)
    items = (f"<dt>{escape(', '.join(names))}</dt><dd>{escape(text)}</dd>" for text, names in notes.items())
    return f"<dl>{''.join(items)}</dl>"


def _limits(report):
    """What has to be said beside the numbers, some of it depending on them."""
    meta = report["meta"]
    galaxies = meta.get("galaxies") or 0
    items = [
        "Truth is simulated. A simulator that is simpler than the sky makes scores better than real ones would be: the "
        "documentation (How realistic it is) tells what was compared with real galaxies, and where it differs.",
        "Spaxels are chosen on the truth (EW and S/N at MaNGA depth), so that no method chooses its own. What happens "
        "where there is no line is told by the AUC and by asinh EW alone.",
        "Positions lie closer together than the aperture is wide: neighbouring spaxels are not independent. The "
        "intervals are from galaxies, which are.",
        "Intervals tell how the scores of these methods would change with other galaxies, not with another training "
        "run or another seed.",
        "Correlation after light is compared with trees and ridge: of methods that know no more than the light it is "
        "the colour of the continuum under the line, not skill, and may have either sign.",
    ]
    if 0 < galaxies < 500:
        items.insert(0, f"<b>{galaxies} galaxies are too few</b>: intervals need 500, claims about coverage 2000.")
    elif 0 < galaxies < 2000:
        items.insert(0, f"{galaxies} galaxies: enough for the intervals, not for claims about coverage (2000).")
    scatter = report.get("unseen_scatter")
    if scatter is not None:
        verdict = "<b>not surely enough: comparisons are void</b>" if is_void(report) else "enough"
        low, high = report.get("unseen_scatter_interval") or (None, None)
        ends = "" if low is None else f" ({low:.2f} to {high:.2f} at 95 %)"
        items.append(
            f"Scatter of the true log EW(Hα) at fixed colours, surface brightness and redshift, which no method that "
            f"looks at single positions can foresee: {scatter:.2f} dex{ends}; at least 0.25 needed: {verdict}."
        )
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _picture(alt, caption, figure):
    """A figure as PNG inside the page, closed."""
    import matplotlib.pyplot as plt

    width, buffer = round(figure.get_figwidth() * 95), BytesIO()  # 13 inches fill the page
    figure.savefig(buffer, format="png", dpi=130, metadata={"Title": "fiberifu: predicted from image"})
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img width="{width}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
