# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The figures of the experiment: score against number of galaxies, placements, what fibres are worth.

Colours are those of a method in all figures; shaded and bars are 16 to 84 % over held-out galaxies.
"""

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from ..report_figures import _plain_style, quantity_label, score_label
from .score import CURVES, REGIONS

__all__ = ["FIGURE_COLORS", "draw_curves", "draw_placements", "draw_worth"]

FIGURE_COLORS = {"fibres": "#0072B2", "cubes": "#D55E00", "control": "#009E73", "given": "#CC79A7"}
FLAT = {"constant": ("0.45", "light x constant EW"), "ridge": ("#8c564b", "ridge (fibres)"),
        "central": ("#E69F00", "central spectrum x light"), "wide-trees": ("#56B4E9", "trees, 7 x 7 patch (fibres)"),
        "position": ("0.7", "position alone, no image (fibres)")}  # fmt: skip
LEAST_R2 = -1.0  # end of the axis: below, it does not matter any more
REGION_WORDS = {"whole": "whole galaxies", "off-centre": "off-centre"}


def _pick(rows, quantity, region, score, **wanted):
    """Rows of a place that have a value, by number of training galaxies."""
    here = [row for row in rows if (row["quantity"], row["region"], row["score"]) == (quantity, region, score)]
    here = [row for row in here if all(row.get(key) == value for key, value in wanted.items())]
    return sorted((row for row in here if row["value"] is not None), key=lambda row: row["training_galaxies"])


def _ends(rows):
    return [[row["value"] if row[end] is None else row[end] for row in rows] for end in ("low", "high")]


def _panels(quantity, height=2.7):
    """A figure, and (ax, region, score) of each of its panels."""
    figure, axes = plt.subplots(
        *(len(REGIONS), len(CURVES)), figsize=(12.5, height * len(REGIONS) + 0.9), layout="constrained", sharex="col"
    )
    panels = []
    for i, region in enumerate(REGIONS):
        for j, score in enumerate(CURVES):
            ax = axes[i, j]
            ax.set_title(f"{quantity_label(quantity)}, {REGION_WORDS[region]}")
            ax.set_ylabel(score_label(score))
            ax.grid(axis="y", color="0.9", lw=0.5)
            ax.set_axisbelow(True)
            panels.append((ax, region, score))
    return figure, panels


def draw_curves(report, quantity="Ha"):
    """Scores against the number of galaxies trained on, of fibres and cubes, of the network and of trees.

    Parameters
    ----------
    report : dict
        Of `~fiberifu.validate.headline.judging.judge_arms`: curves, control.
    quantity : str

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    rows, handles = report["curves"], {}
    first = report["meta"]["placement"]
    with _plain_style():
        figure, panels = _panels(quantity)
        for ax, region, score in panels:
            for kind, placement in (("fibres", first), ("cubes", "")):
                for method, look in (("network", {"ls": "-", "marker": "o"}), ("trees", {"ls": ":", "marker": "^"})):
                    line = _pick(rows, quantity, region, score, kind=kind, placement=placement, method=method)
                    if line:
                        x, color = [row["training_galaxies"] for row in line], FIGURE_COLORS[kind]
                        label = f"{method}, {'one fibre' if kind == 'fibres' else 'a cube'} per galaxy"
                        ax.plot(x, [row["value"] for row in line], color=color, ms=5, label=label, **look)
                        ax.fill_between(x, *_ends(line), color=color, alpha=0.15, lw=0)
            for method, (color, label) in FLAT.items():
                for row in _pick(rows, quantity, region, score, method=method):
                    ax.axhline(row["value"], color=color, ls="--", lw=1, label=label)
            for row in _pick(rows, quantity, region, score, kind="given"):
                ax.axhline(row["value"], color=FIGURE_COLORS["given"], lw=1.3, label=row["predictor"])
            for row in _pick(report["control"]["rows"], quantity, region, score, method="network"):
                ax.axhline(row["value"], color=FIGURE_COLORS["control"], ls="-.", lw=1.3, label="network, control")
            ax.set_xscale("log")
            if score.startswith("R2"):
                ax.set_ylim(bottom=max(ax.get_ylim()[0], LEAST_R2))
            if region == REGIONS[-1]:
                ax.set_xlabel("galaxies in the training set")
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_placements(report, quantity="Ha"):
    """Scores of the largest number of fibres by where they were placed.

    Returns
    -------
    `~matplotlib.figure.Figure` or None
        None where no network is trained on fibres.
    """
    rows = [row for row in report["curves"] if (row["kind"], row["method"]) == ("fibres", "network")]
    if not rows:
        return None
    most = max(row["training_galaxies"] for row in rows)
    rows = [row for row in rows if row["training_galaxies"] == most]
    placements = list(dict.fromkeys(row["placement"] for row in rows))
    order = sorted(placements, key=lambda name: ("central", "DESI-like", "scattered").index(name)
                   if name in ("central", "DESI-like", "scattered") else 9)  # fmt: skip
    with _plain_style():
        figure, panels = _panels(quantity, 2.3)
        for ax, region, score in panels:
            for x, placement in enumerate(order):
                for row in _pick(rows, quantity, region, score, placement=placement):
                    (low,), (high,) = _ends([row])
                    error = [[row["value"] - low], [high - row["value"]]]
                    ax.bar(x, row["value"], width=0.6, color=FIGURE_COLORS["fibres"], alpha=0.35 + 0.2 * x, yerr=error,
                           error_kw={"lw": 1.2, "capsize": 3})  # fmt: skip
            ax.set_xticks(range(len(order)), order)
            ax.axhline(0, color="0.4", lw=0.8)
    return figure


def draw_worth(report, quantity="Ha"):
    """How many cubes the fibres are worth, by score and region: points with 16 to 84 %, arrows beyond the ends.

    Returns
    -------
    `~matplotlib.figure.Figure` or None
        None where nothing is known.
    """
    found = [one for one in report["worth"] if one["quantity"] == quantity]
    names = list(dict.fromkeys(one["fibers"] for one in found))
    if not found:
        return None
    with _plain_style():
        figure, axes = plt.subplots(1, len(REGIONS), figsize=(12.5, 1.4 + 0.55 * len(names)), layout="constrained",
                                    sharey=True, squeeze=False)  # fmt: skip
        colors = dict(zip(CURVES, ("#0072B2", "#D55E00", "#009E73"), strict=True))
        for ax, region in zip(axes[0], REGIONS, strict=True):
            for one in (one for one in found if one["region"] == region):
                y = names.index(one["fibers"]) + 0.22 * (list(CURVES).index(one["score"]) - 1)
                _draw_one(ax, one, y, colors[one["score"]])
            smallest, largest = found[0]["smallest"], found[0]["largest"]
            ax.axvspan(smallest, largest, color="0.95", zorder=0)
            ax.set(xscale="log", xlim=(smallest / 1.8, largest * 1.8), title=REGION_WORDS[region])
            ax.set_xlabel("galaxies with a cube that train as well")
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(len(names) - 0.4, -0.6)
            ticks = [10**k * m for k in range(8) for m in (1, 2, 3, 5) if smallest <= 10**k * m <= largest]
            ax.minorticks_off()
            ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        handles = [Line2D([], [], color=color, marker="o", label=score_label(score)) for score, color in colors.items()]
        handles.append(Line2D([], [], color="0.4", marker=">", ls="", label="beyond the largest / smallest"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_one(ax, one, y, color):
    """A point or an arrow where all galaxies have it, a bar over the draws; nothing where nothing is known."""
    ends = {-1: one["smallest"] / 1.4, 1: one["largest"] * 1.4}
    side, *sides = one["beyond"]
    if side is None:
        return
    if None not in sides:
        bar = [ends.get(where, one[name]) for name, where in zip(("low", "high"), sides, strict=True)]
        ax.plot(bar, [y, y], color=color, lw=1.4)
    ax.plot(
        ends.get(side, one["galaxies"]), y, marker={-1: "<", 0: "o", 1: ">"}[side], color=color, ms=6 if side else 5
    )
