# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which figures the page has, and what is said below each."""

from .doubt import draw_doubt
from .examples import map_panels
from .report_figures import (
    draw_maps,
    draw_profiles,
    draw_reliability,
    draw_strata,
    method_colors,
    quantity_label,
    stratum_label,
)
from .score_notes import judged_in, kinds_of, note_of

__all__ = ["draw_sections"]

#: Region -> quantities of its reliability diagrams, and the caption.
RELIABILITY = {
    "whole": (
        ("Ha", "N2", "O3", "Hb", "S2", "O2", "EW Ha", "N2/Ha", "O3/Hb", "pixels"),
        "Whole galaxies, all positions.",
    ),
    "off-centre": (("Ha", "N2", "O3", "EW Ha", "N2/Ha"), "Off-centre (0.7 to 1.6 Re), all positions."),
    "sum": (
        ("Ha", "N2", "O3", "Hb", "S2"),
        "Sums within 1 Re, errors correlated from position to position as the method says. If it says nothing they are "
        "taken as independent, and come out too small.",
    ),
    "sum, coherent errors": (
        ("Ha", "N2", "O3", "Hb", "S2"),
        "Sums within 1 Re, errors taken as the same everywhere, for methods that do not say how they correlate: they "
        "come out too large. The truth lies between.",
    ),
}
STRATA_SCORES = ("R2 log EW", "MAE log EW [dex]", "bias log flux [dex]")


def draw_sections(report, examples):
    """The figures of the page, one after the other.

    Parameters
    ----------
    report : dict
        meta, scores, reliability, and examples and profiles of `~fiberifu.validate.examples.review`.
    examples : dict of int to (`TruthMaps`, `PredictedMaps`)
        By their position among the held-out galaxies; those that are missing are not drawn.

    Yields
    ------
    (str, str, str, `~matplotlib.figure.Figure`)
        As `~fiberifu.validate.report.make_page` takes them.
    """
    kinds = kinds_of(report)
    colors = method_colors(kinds)
    few = {name: color for name, color in colors.items() if kinds[name] != "reference"}
    for region, (quantities, caption) in RELIABILITY.items():
        curves = [c for c in report["reliability"] if (c["region"], c["stratum"]) == (region, "all")]
        curves = [c for c in curves if c["quantity"] in quantities and c["predictor"] in few]
        if curves:
            yield "errors", f"Reliability diagrams, {caption}", caption, draw_reliability(curves, few, quantities)
    if report.get("doubt", {}).get("curves"):  # two galaxies have none
        caption = (
            "ROC curves of the oddity of images: failures that it finds, against false alarms, at every threshold."
        )
        yield "doubt", "Does the oddity of images find failures?", caption, draw_doubt(report["doubt"])
    for example in report.get("examples", ()):
        if example["position"] in examples:
            yield _example(example, judged_in(report), *examples[example["position"]])
    if panels := list(_strata_panels(report)):
        caption = (
            "Scores of Hα in whole galaxies, stratum by stratum, in brackets the number of galaxies that have chosen "
            "spaxels. Bars: 16 to 84 % of the bootstrap over galaxies."
        )
        yield "strata", "Scores of Hα by kind of galaxy", caption, draw_strata(panels, few)
    profiles = [profile for profile in report.get("profiles", ()) if profile["predictor"] in few]
    if profiles:
        caption = (
            "Above: true and predicted profiles, medians over galaxies. Below: prediction less truth, galaxy by "
            "galaxy, their median, and shaded where 68 % of galaxies lie, for the model."
        )
        yield "profiles", "Radial profiles, true and predicted", caption, draw_profiles(profiles, few)


def _strata_panels(report):
    """Scores that are known for more strata than one."""
    for score in STRATA_SCORES:
        rows = [r for r in report["scores"] if (r["quantity"], r["region"], r["score"]) == ("Ha", "whole", score)]
        if len({row["stratum"] for row in rows}) > 1:
            better = note_of(score).better
            limits = (-1.0, 1.05) if better == "high" else None
            yield {"rows": rows, "target": {"high": 1.0, "low": 0.0}.get(better, better), "limits": limits}


def _example(example, judged, galaxy, predicted):
    quantity = "N2/Ha" if example["stratum"] == "agn" else "Ha EW"
    label = quantity_label(quantity)
    kinds = ", ".join(stratum_label(name) for name, has in galaxy.strata.items() if has) or "none"
    title = f"{example['name']}, z = {galaxy.redshift:.3f}, mean absolute error {example['score']:.2f} dex"
    why = example["why"] + ("" if example["stratum"] == "all" else f" ({stratum_label(example['stratum'])})")
    caption = f"{example['name']}: {why}. Its kinds: {kinds}."
    figure = draw_maps(galaxy, map_panels(galaxy, predicted, quantity), method=judged, quantity=label, title=title)
    return "examples", f"{example['name']}: image, {label} true and predicted, and pull", caption, figure
