# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The realism page: one HTML file with its figures inside, no scripts."""

import base64
from html import escape

from .figures import CAPTIONS
from .tuned import BASES

__all__ = ["make_page", "make_table"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1320px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 3px 7px; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { background: #f4f4f4; }
td:nth-child(1), td:nth-child(2), td:last-child, th:nth-child(1), th:nth-child(2), th:last-child { text-align: left; }
.differs { color: #a3172c; font-weight: 600; } .agrees { color: #1c6b3a; } .undecided { color: #8a6100; }
.context { color: #666; } img { max-width: 100%; } figure { margin: 2em 0; } figcaption { color: #444; }
td:nth-child(n+3):nth-child(-n+7), td:nth-child(10) { white-space: nowrap; }

th:nth-child(2) { width: 32%; }
th:last-child { width: 17%; }
td:nth-child(9) { white-space: nowrap; }
td:nth-child(8), th:nth-child(8) { text-align: left; }
.note { color: #666; font-size: 12px; }
"""

_COLUMNS = (
    *("verdict", "what", "simulated", "real", "difference", "threshold", "ratio", "unit", "n sim, real"),
    *("tuned?", "against"),
)


def make_page(report, pictures):
    """HTML of a report.

    Parameters
    ----------
    report : dict
        Of `~fiberifu.validate.realism.measure_realism`.
    pictures : dict of str to path
        Of `~fiberifu.validate.realism.figures.draw_figures`.

    Returns
    -------
    str
    """
    summary = report["summary"]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>How realistic are simulated galaxies?</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>How realistic are simulated galaxies?</h1>",
        f"<p>{report['galaxies']} simulated galaxies (seed {report['seed']}, fiberifu {escape(report['version'])}) "
        f"against the sky: {summary['agrees']} comparisons agree, {summary['differs']} differ, "
        f"{summary['undecided']} are undecided, {summary['context']} are for context. The largest differences come "
        "first, counted in units of a threshold that is stated before each comparison: the largest difference that "
        "counts as agreement. <i>Undecided</i>: beyond the threshold by less than one standard error. Errors are 1 "
        "sigma (bootstrap over the objects); a dash where none is known or none was measured.</p>",
        f"<p>{escape(_by_basis(report))} {escape(_halves(report))}</p>",
        f'<p class="note">{escape(report["command"])}<br>simulator {report["simulator"]}<br>templates '
        f"{report['pack']}</p>",
        f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in _COLUMNS)}</tr></thead><tbody>",
        *(_row(row) for row in report["comparisons"]),
        "</tbody></table>",
    ]
    for name, caption in CAPTIONS.items():
        data = base64.b64encode(pictures[name].read_bytes()).decode()
        parts.append(
            f'<figure id="{name}"><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "\n".join([*parts, "</body></html>", ""])


def _counts(summary):
    return ", ".join(f"{number} {verdict}" for verdict, number in summary.items())


def _by_basis(report):
    """Verdicts of the rows that the simulator was tuned with, and of the others."""
    parts = (f"{basis}: {_counts(report['summary_by_basis'][basis])}" for basis in BASES)
    return (
        f"{'; '.join(parts)}. Tuned: constants of the simulator were set with this very comparison, so that agreement "
        "is no test of it. Held out: none was."
    )


def _halves(report):
    """Which real galaxies were used."""
    if report["half"] == "all":
        return "All galaxies of SDSS and of the atlas are used."
    return (
        f"Of SDSS and the atlas, the {report['half']} half is used, split by a hash of each galaxy. The present "
        "constants were set with both halves: the split is of use from the next change of them on."
    )


def _number(value, error=None):
    if value is None:
        return "&ndash;"
    text = f"{value:.3g}" if abs(value) >= 100 else f"{value:.3f}"
    return text if error is None else f"{text} &plusmn; {error:.3f}"


def _row(row):
    sign = {"at least": "&ge; ", "at most": "&le; "}.get(row["kind"], "")
    note = f'<br><span class="note">{escape(row["note"])}</span>' if row["note"] else ""
    note += f'<br><span class="note">{row["basis"]}: {escape(row["constants"])}</span>' if row["constants"] else ""
    what = f'<a href="#{row["figure"]}">{escape(row["name"])}</a>' if row["figure"] else escape(row["name"])
    n_real = row["n_real"] or "&ndash;"
    return (
        f'<tr><td class="{row["verdict"]}">{row["verdict"]}</td><td>{what}{note}</td>'
        f"<td>{_number(row['simulated'], row['simulated_error'])}</td>"
        f"<td>{sign}{_number(row['real'], row['real_error'])}</td><td>{_number(row['difference'])}</td>"
        f"<td>{row['threshold']:g}</td><td>{_number(row['excess'])}</td><td>{escape(row['unit'])}</td>"
        f"<td>{row['n_simulated']}, {n_real}</td><td>{row['basis']}</td>"
        f"<td>{escape(row['against'])}</td></tr>"
    )


def make_table(report):
    """The comparisons as a table in reStructuredText, for the documentation."""
    lines = [
        f"{report['galaxies']} simulated galaxies, seed {report['seed']}; {_counts(report['summary'])}.",
        "",
        _by_basis(report),
        "",
        _halves(report),
        "",
        f"Made by ``{report['command']}`` with version {report['version']}, simulator ``{report['simulator'][:16]}``, "
        f"templates ``{report['pack'][:16]}`` (SHA-256, shortened).",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 9 9 26 15 16 10 8 21",
        "",
    ]
    rows = [("verdict", "tuned?", "what", "simulated", "real", "threshold", "n", "against")]
    for row in report["comparisons"]:
        sign = {"at least": "≥ ", "at most": "≤ "}.get(row["kind"], "")
        pairs = []
        for key in ("simulated", "real"):
            value, error = row[key], row[f"{key}_error"]
            text = "–" if value is None else f"{value:.3f}"
            pairs.append(text if error is None else f"{text} ± {error:.3f}")
        numbers = pairs[0], sign + pairs[1], f"{row['threshold']:g} {row['unit']}".strip()
        numbers = [text.replace(" ± ", "\u00a0±\u00a0") for text in numbers]  # not to be broken
        rows.append(
            (
                row["verdict"],
                row["basis"],
                row["name"],
                *numbers,
                f"{row['n_simulated']}, {row['n_real']}",
                row["against"],
            )
        )
    for row in rows:
        lines += [f"   {' ' if i else '*'} - {cell or '–'}" for i, cell in enumerate(row)]
    return "\n".join([*lines, ""])
