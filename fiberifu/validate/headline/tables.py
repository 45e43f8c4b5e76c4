# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The tables of the page of the experiment: curves as numbers, trainings with their cost, coverage by kind."""

from html import escape

from ..report import _cell
from ..report_figures import quantity_label, stratum_label
from .score import CURVES, REGIONS

__all__ = ["arms_table", "coverage_table", "curve_tables", "methods_table"]

LINES = ("Ha", "Hb", "O3", "N2", "S2", "O2")
COLUMNS = ("name", "galaxies", "off_centre", "steps", "batch", "spectra", "simulated_visits", "seed", "seconds",
           "cpu_seconds", "device", "recipe_sha256", "weights_sha256")  # fmt: skip


def curve_tables(report):
    """A table of each line, all but that of Hα on a click."""
    out = []
    for quantity in LINES:
        rows = [row for row in report["curves"] if row["quantity"] == quantity]
        title = f"<summary>{escape(quantity_label(quantity))}</summary>"
        out.append(f"<details{' open' if quantity == 'Ha' else ''}>{title}{methods_table(rows)}</details>")
    return "".join(out)


def methods_table(rows):
    """Methods as rows, regions and scores as columns."""
    places = [(region, score) for region in REGIONS for score in CURVES]
    found = {(row["predictor"], row["region"], row["score"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["predictor"] for row in rows):
        cells = (found.get((name, *place)) for place in places)
        cells = "".join(f"<td>{'' if row is None else _cell(row, 3)}</td>" for row in cells)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(score)}<br>{region}</th>" for region, score in places)
    return f"<table><thead><tr><th>method</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def arms_table(arms):
    """What was trained on what, for how long, and what came out."""
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in COLUMNS)
    lines = []
    for arm in arms:
        cells = (str(arm[key])[:12] if key.endswith("sha256") else arm[key] for key in COLUMNS)
        texts = (f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in cells)
        lines.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return (
        "<p>Seconds by the clock and of all processors, those of the processes that simulate included. Visits of a "
        "galaxy are simulated once and used for several steps, in other orientations and behind other masks.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def coverage_table(report):
    """Coverage of the flux of Hα by kind of galaxy, of the methods that are shown."""
    wanted = ("coverage 68 %", "coverage 95 %")
    rows = [row for row in report["scores"] if (row["quantity"], row["region"]) == ("Ha", "whole")]
    rows = [row for row in rows if row["score"] in wanted]
    methods = list(dict.fromkeys(row["predictor"] for row in rows))
    if not rows:
        return ""
    found = {(row["predictor"], row["stratum"], row["score"]): row for row in rows}
    lines = []
    for stratum in dict.fromkeys(row["stratum"] for row in rows):
        here = [found.get((name, stratum, score)) for name in methods for score in wanted]
        cells = "".join(f"<td>{'' if row is None else _cell(row, 2)}</td>" for row in here)
        galaxies = max(row["galaxies"] for row in here if row is not None)
        lines.append(f"<tr><th>{escape(stratum_label(stratum))}</th><td>{galaxies:,}</td>{cells}</tr>")
    head = "".join(f"<th>{escape(name)}<br>{score}</th>" for name in methods for score in wanted)
    return (
        "<p>Share of the true Hα fluxes inside the stated 68 % and 95 % intervals, by kind. Where a method fails, its "
        "errors should say so: coverage stays where it is.</p>"
        f"<table><thead><tr><th>kind</th><th>galaxies</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
