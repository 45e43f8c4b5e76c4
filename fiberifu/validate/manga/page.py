# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""All galaxies together: ``comparisons, rows -> scores -> tables and one page``, no scripts, nothing from outside."""

import base64
from html import escape

import numpy as np
from astropy.table import Table

from ...output import atomic_path
from ..calibration import measure_calibration
from ..metrics import measure_scores
from ..report import _STYLE, _explanations, _score_tables
from ..report_figures import quantity_label
from .compare import LIGHT, known_errors
from .store import plain

__all__ = ["make_page", "pooled_report", "write_galaxy_table"]

SHOWN = 24  # figures inside the page: of more galaxies the others are linked
TABLE = ("Ha", "N2", "O3", "Hb")  # lines of the table of galaxies
COLUMNS = ("bias log flux [dex]", "MAE log flux [dex]", "R2 log flux", "R2 log flux, light")
HIDDEN = ("files", "provenance")  # of a row, not in the table
KEPT = ("reason", "redshift", "truth", "image", "spaxels", "positions", "r50", "psf_fwhm", "beam", "ebv", "notes")


def pooled_report(comparisons, rows, meta):
    """Scores of all galaxies together.

    Parameters
    ----------
    comparisons : list of Comparison
    rows : list of dict
        Of all galaxies, the skipped ones, too.
    meta : dict

    Returns
    -------
    dict
        meta, scores, reliability, galaxies; for `~fiberifu.validate.score_files.write_scores`.
    """
    truths = [one.truth for one in comparisons]
    answers = {name: [one.answers[name] for one in comparisons] for name in ("model", LIGHT)}
    keywords = known_errors(comparisons) | {"draws": meta["draws"]}
    # the reference answers only lines that the truth of a galaxy shows: it does not compete
    scores = measure_scores(answers, truths, reference="model", competing=["model"], **keywords)
    calibration, curves = measure_calibration({"model": answers["model"]}, truths, **keywords)
    return plain({"meta": meta, "scores": scores + calibration, "reliability": curves, "galaxies": rows})


def write_galaxy_table(path, rows, meta):
    """One row for each galaxy, ECSV; returns the path."""
    names = dict.fromkeys(["name", *KEPT, *(key for row in rows for key in row if key not in HIDDEN)])
    table = Table(meta={key: value for key, value in meta.items() if key != "predictors"})
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            table[name] = ["" if value is None else str(value) for value in values]
        else:
            table[name] = np.array([np.nan if value is None else value for value in values], float)
    with atomic_path(path) as temporary:
        table.write(temporary, format="ascii.ecsv")
    return path


def make_page(report, folder):
    """HTML of a report.

    Parameters
    ----------
    report : dict
        Of `pooled_report`.
    folder : `~pathlib.Path`
        Of the figures.

    Returns
    -------
    str
    """
    meta, rows = report["meta"], report["galaxies"]
    good, skipped = ([row for row in rows if bool(row["reason"]) == bad] for bad in (False, True))
    simulated = sum(row["simulated"] for row in good)
    own = sum("own" in row["image"] for row in good)
    cards = {"DATATYPE": "PREDICTED", "ORIGIN": "fiberifu", "MODELID": meta["model"], "WSHA256": meta["weights_sha256"],
             "FIBIFUV": meta["version"]}  # fmt: skip
    kind = "simulated" if simulated == len(good) else "observed" if not simulated else "observed and simulated"
    sections = [
        ("judged", "What was compared", _facts(meta, good, simulated, own)),
        ("galaxies", "Galaxy by galaxy", _galaxy_table(good)),
        ("skipped", "Skipped", _skipped(skipped)),
        ("scores", "All together: Hα", f"<p>{_NOTE.format(kind)}</p>{_score_tables(report, 'Ha')}"),
        ("others", "All together: other lines and ratios", _others(report)),
        ("maps", "Maps", _figures(good, folder)),
        ("meaning", "What each score means", _explanations(report)),
        ("limits", "What limits these numbers", _limits(good, simulated, own)),
    ]
    sections = [section for section in sections if section[2]]
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>' f'Predicted and {kind} maps</title>',
        *(f'<meta name="{key}" content="{escape(str(value))}">' for key, value in cards.items()),
        f"<style>{_STYLE}{_WIDE}</style></head><body><h1>Predicted and {kind} maps of lines</h1>",
        f"<p>Compared: {len(good)}, at {meta['positions']:,} positions. Skipped: {len(skipped)}.</p>",
        '<p class="label"><b>Maps called predicted are predicted from images by a model</b>: they are no observations. '
        + ("<b>What they are compared with is simulated.</b>" if simulated == len(good) else "") + "</p>",
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>',
        *(f'<h2 id="{name}">{title}</h2>{text}' for name, title, text in sections),
        "</body></html>\n",
    ])  # fmt: skip


_WIDE = ".wide { overflow-x: auto; } .wide td, .wide th { padding: 2px 6px; } .wide table { font-size: 12px; }"
_NOTE = (
    "Absolute flux, corrected for Galactic extinction on both sides, at the PSF of the cubes; spaxels are chosen on "
    "the truth, {}, alone (EW above 1 Å, 0.5 Å for Hβ; flux above three times the median error). Grey: the light of "
    "the image times one EW, told the mean of the true map: what the pattern of the light alone is worth. Below "
    "each number: its 16 to 84 % interval from a bootstrap over galaxies (of five or more)."
)


def _facts(meta, good, simulated, own):
    facts = {
        "model": f"{meta['model']}, weights {meta['weights_sha256'][:16]}, trained on {meta['training_data']}",
        "truth": "; ".join(sorted({row["truth"] for row in good})),
        "simulated": f"{simulated} of {len(good)} galaxies" if simulated else "",
        "images": "; ".join(sorted({row["image"] for row in good})),
        "redshifts": "{:.3f} to {:.3f}".format(*np.percentile([row["redshift"] for row in good], (0, 100))),
        "command": f"<code>{escape(str(meta['command']))}</code>" if meta.get("command") else "",
        "software": f"fiberifu {meta['version']}, "
        + ", ".join(f"{key} {value}" for key, value in meta["versions"].items())
        + f", {meta['date']}, seed {meta['seed']}",
    }  # fmt: skip
    rows = "".join(
        f"<tr><th>{key}</th><td>{value if key == 'command' else escape(value)}</td></tr>"
        for key, value in facts.items()
        if value
    )
    warning = f"<p><b>Of {own} of {len(good)} galaxies the image is their own cube or MAPS</b> (of a cube without the "
    warning += (
        "strong lines): no image of a survey, at the PSF and the depth of the cube, in fewer bands. A hard test, "
    )
    warning += "and no fair one.</p>"
    return f'<table class="left"><tbody>{rows}</tbody></table>{warning if own else ""}'


def _galaxy_table(rows):
    groups = "".join(f'<th colspan="4">{quantity_label(line)}</th>' for line in TABLE)
    head = f"<tr><th></th><th></th><th></th><th></th>{groups}</tr><tr><th>galaxy</th><th>z</th><th>positions</th>"
    head += "<th>continuum</th>" + "<th>chosen</th><th>bias</th><th>MAE</th><th>R²</th>" * len(TABLE) + "</tr>"
    lines = []
    for row in rows:
        cells = ""
        for line in TABLE:
            bias, mae, r2, light = (row.get(f"{line} {score}") for score in COLUMNS)
            small = "" if light is None else f"<small>({_number(light)})</small>"
            cells += f"<td>{row.get(f'{line} chosen') or 0:.0f}</td><td>{_number(bias, '+')}</td>"
            cells += f"<td>{_number(mae)}</td><td>{_number(r2)}{small}</td>"
        name = escape(row["name"])
        lines.append(
            f'<tr><td style="white-space: nowrap"><a href="#{name}">{name}</a></td><td>{row["redshift"]:.4f}</td>'
            f"<td>{row['positions']:,}</td><td>{_number(row['continuum [dex]'], '+')}</td>{cells}</tr>"
        )
    text = (
        "<p>Of log flux: bias and mean absolute error in dex, R² over the chosen positions and, in brackets,"
        " R² of the light times one EW, which was told the truth's mean. <i>continuum</i>: median of log predicted "
        "over true continuum at Hα within 1 Re, which tells of calibration, aperture and PSF without any line.</p>"
    )
    table = f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"
    return f'{text}<div class="wide">{table}</div>'


def _number(value, sign=""):
    return "&ndash;" if value is None or not np.isfinite(value) else f"{value:{sign}.2f}"


def _skipped(rows):
    lines = "".join(f"<tr><td>{escape(row['name'])}</td><td>{escape(row['reason'])}</td></tr>" for row in rows)
    return f'<table class="left"><tbody>{lines}</tbody></table>' if rows else ""


def _others(report):
    names = dict.fromkeys(row["quantity"] for row in report["scores"] if row["quantity"] != "Ha")
    tables = {name: _score_tables(report, name) for name in names}
    return "".join(
        f"<details><summary>{escape(quantity_label(name))}</summary>{table}</details>"
        for name, table in tables.items()
        if table
    )


def _figures(rows, folder):
    parts = []
    for number, row in enumerate(rows):
        name, file = escape(row["name"]), f"{row['name']}_predicted.png"
        words = f"{row['truth']}; image: {row['image']}; PSF {row['psf_fwhm']:.2f} arcsec; {row['notes']}"
        if number < SHOWN:
            data = base64.b64encode((folder / file).read_bytes()).decode()
            picture = f'<img alt="Maps of {name}" src="data:image/png;base64,{data}">'
        else:
            picture = f'<a href="galaxies/{escape(file)}">maps of {name}</a>'
        parts.append(f'<figure id="{name}">{picture}<figcaption>{name}: {escape(words)}</figcaption></figure>')
    note = (
        "Columns: the image (line: the field of the cube) and predicted against true surface brightness; the map "
        "predicted from the image; the map it is compared with, in the same colours; and the log of their ratio where "
        "the line counts. North is up, East to the left. Hatched: no value."
    )
    return f"<p>{note}</p>{''.join(parts)}"


def _limits(good, simulated, own):
    items = [
        "Neighbouring spaxels share fibres and PSF: they are not independent. Intervals are from galaxies, which are.",
        "Where a cube's flux calibration and an image's differ, so do fluxes; EW do not know of it. The column "
        "<i>continuum</i> tells how much.",
    ]
    if len(good) < 500:
        items.insert(0, f"<b>{len(good)} galaxies are too few</b> for verdicts: intervals need 500, coverage 2000.")
    if binned := sum(row["positions"] < row["spaxels"] for row in good):
        items.append(f"Positions of {binned} of the galaxies are bins of unlike size: sums in 1 Re leave these out.")
    if simulated:
        items.append("Simulated galaxies are of the universe that the bundled weights were trained in.")
    if own:
        items.append("A galaxy's own continuum is no image: its PSF, depth and bands are not those of the training.")
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
