# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The figures of the page of scores: maps of examples, reliability, strata, radial profiles.

Every map is North up, East left; truth and prediction share one colour scale; what was predicted says so.
"""

from contextlib import contextmanager

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.nddata import CCDData
from astropy.wcs import WCS
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter

from ..plot.axes import PREDICTED, draw_scale_bar, hide_ticks, rim, style
from ..plot.maps import plot_map
from ..plot.pointing import plot_pointing

__all__ = [
    "QUANTITY_LABELS",
    "draw_maps",
    "draw_profiles",
    "draw_reliability",
    "draw_strata",
    "image_data",
    "map_data",
    "method_colors",
    "quantity_label",
    "stratum_label",
]

#: Quantity of the table of scores -> how it is printed.
QUANTITY_LABELS = {
    "Ha": "Hα",
    "Hb": "Hβ",
    "O3": "[O III] 5007",
    "N2": "[N II] 6583",
    "S2": "[S II] 6716+31",
    "O2": "[O II] 3726+29",
    "N2/Ha": "[N II] / Hα",
    "O3/Hb": "[O III] / Hβ",
    "S2/Ha": "[S II] / Hα",
    "Ha/Hb": "Hα / Hβ",
    "bpt": "BPT class",
    "pixels": "spectra, pixel by pixel",
    "velocity": "velocity of the gas",
}
PULL = 3.0  # colour scale of pulls ends here
PIT_TOP = 3.5  # density at which histograms of the PIT are cut
COLUMNS = 5  # panels side by side
HATCHED = {"facecolor": "0.93", "edgecolor": "0.75", "hatch": "////", "lw": 0}  # as plot_map has it
DIFFERENCE = 1.0  # and that of differences, for methods without errors: dex


#: Strata in groups, for figures; what is in none comes last.
STRATUM_GROUPS = {
    "kind of galaxy": (
        *("quenched", "green", "spheroid", "post_starburst", "agn", "outflow", "decoupled"),
        *("ring", "off_centre_hii", "merger", "neighbour"),
    ),
    "view": ("face-on", "inclined", "edge_on"),
    "place": ("near a peak", "away from peaks", "0.0-0.4 Re", "0.4-0.8 Re", "0.8-1.2 Re", "1.2-1.6 Re"),
    "S/N of the true line": ("S/N 3-10", "S/N 10-30", "S/N > 30"),
}


def quantity_label(name):
    """How a quantity is printed: "Ha", "EW Ha" or "Ha EW", "N2/Ha"; unknown ones as they are."""
    known = [part for part in name.split(" ") if part in QUANTITY_LABELS]
    label = QUANTITY_LABELS[known[0]] if known else name
    return f"EW of {label}" if "EW" in name.split(" ") else f"flux of {label}" if name.endswith(" flux") else label


def stratum_label(name):
    """How a kind of galaxies is printed."""
    return {"agn": "AGN", "off_centre_hii": "off-centre H II", "edge_on": "edge-on"}.get(name, name.replace("_", " "))


def score_label(name):
    """How a score is printed on an axis: "MAE log EW (dex)"; what has no unit has none."""
    return name.replace("[", "(").replace("]", ")").replace("R2", "R²")


@contextmanager
def _plain_style():
    """The style without minor ticks, which crowd small panels and take half of the time of drawing."""
    with style(), plt.rc_context({f"{axis}tick.minor.visible": False for axis in "xy"}):
        yield


def method_colors(methods):
    """A colour of each method, the same in every figure.

    Parameters
    ----------
    methods : sequence of str
        In the order of the page.

    Returns
    -------
    dict of str to str
    """
    palette = (
        "#0072B2",
        "#D55E00",
        "#009E73",
        "#CC79A7",
        "#56B4E9",
        "#E69F00",
        "#555555",
        "#8c564b",
        "#b3b300",
        "#999999",
    )
    return {method: palette[i % len(palette)] for i, method in enumerate(methods)}


# ---------------------------------------------------------------- maps
def map_data(galaxy, values, *, predicted=False):
    """Values at the positions of a galaxy as a map on the sky.

    Parameters
    ----------
    galaxy : `~fiberifu.validate.TruthMaps`
    values : ndarray (n,)
        NaN where there is none.
    predicted : bool
        Whether the figure has to say that it was predicted.

    Returns
    -------
    `~astropy.nddata.CCDData`
        Columns to the East, as the galaxy's grid; the centre of the stamp lies at RA 180, Dec 0 degrees, since
        simulated galaxies have no place on the sky.
    """
    grid = galaxy.grid(np.asarray(values, float))
    east, north = galaxy.east[0], galaxy.north[0]
    wcs = _sky(galaxy.spaxel, galaxy.column[0] - east / galaxy.spaxel, galaxy.row[0] - north / galaxy.spaxel)
    meta = {"DATATYPE": "PREDICTED" if predicted else "SIMULATED"}
    return CCDData(grid, unit=u.dimensionless_unscaled, wcs=wcs, mask=~np.isfinite(grid), meta=meta)


def image_data(galaxy):
    """The image of a galaxy, band by band, for `~fiberifu.plot.plot_pointing`."""
    middle = (galaxy.image.shape[-1] - 1) / 2
    wcs = _sky(galaxy.pixel_scale, middle, middle)
    planes = zip("griz", galaxy.image, galaxy.present, strict=True)
    return {band: CCDData(plane, unit="nmgy / arcsec2", wcs=wcs) for band, plane, present in planes if present}


def _sky(scale, x, y):
    """TAN WCS with North up and East to the right, steps of ``scale`` arcsec, pixel (x, y) on the centre."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.radesys = ["RA---TAN", "DEC--TAN"], ["deg", "deg"], "ICRS"
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [180, 0], [x + 1, y + 1], [scale / 3600, scale / 3600]
    wcs.wcs.set()
    return wcs


def draw_maps(galaxy, panels, *, method, quantity, title=None):
    """Image, truth, prediction and pull of one galaxy side by side.

    Parameters
    ----------
    galaxy : `~fiberifu.validate.TruthMaps`
    panels : dict
        truth, predicted : ndarray (n,), such as log EW, NaN where undefined; pull : ndarray (n,), or difference for a
        method without errors; label : str, of the colour bar, with the unit; limits : (float, float), optional;
        empty : str, optional, what hatching means.
    method, quantity : str
        What is printed above the maps.
    title : str, optional

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    both = np.concatenate([panels["truth"], panels["predicted"]])
    shown = np.isfinite(both)
    limits = panels.get("limits") or (tuple(np.percentile(both[shown], (2, 98))) if shown.any() else (0.0, 1.0))
    if not limits[1] > limits[0]:
        limits = limits[0] - 0.5, limits[0] + 0.5
    pull, reach, pull_label = panels.get("pull"), PULL, "(prediction - truth) / error"
    if pull is None:
        pull, reach, pull_label = panels["predicted"] - panels["truth"], DIFFERENCE, "prediction - truth (dex)"
    image, present = image_data(galaxy), [band for band, has in zip("griz", galaxy.present, strict=True) if has]
    cells = (
        (panels["truth"], f"truth: {quantity}", "ew", limits, panels["label"], False),
        (panels["predicted"], f"{method}: {quantity}", "ew", limits, panels["label"], True),
        (pull, "pull" if reach == PULL else "difference", "velocity", (-reach, reach), pull_label, True),
    )
    with style():
        figure = plt.figure(figsize=(13, 3.7), layout="constrained")
        first = map_data(galaxy, cells[0][0])
        ax = figure.add_subplot(1, 4, 1, projection=first.wcs)
        side = max(first.shape) * galaxy.spaxel
        whole = galaxy.image.shape[-1] * galaxy.pixel_scale
        plot_pointing(
            *(image, first.wcs),
            ax=ax,
            shape=first.shape,
            size=min(1.1 * side, whole) * u.arcsec,
            redshift=galaxy.redshift,
        )
        ax.set_title(f"image ({''.join(present)}), simulated")
        hide_ticks(ax)
        for i, (values, name, kind, scale, label, predicted) in enumerate(cells):
            data = map_data(galaxy, values, predicted=predicted)
            ax = figure.add_subplot(1, 4, i + 2, projection=data.wcs)
            plot_map(data, ax=ax, kind=kind, limits=scale, title=name, colorbar=False, scale_bar=False)
            hide_ticks(ax)
            if predicted:  # inside, where no long title is in its way
                ax.set_title("", loc="right")
                both = {"fontsize": 7.5, "style": "italic", "ha": "right", "va": "bottom", "color": "0.1"}
                ax.text(0.97, 0.03, PREDICTED, transform=ax.transAxes, path_effects=rim(2.0, "white"), **both)
            _square(ax, first.shape)
            _contours(ax, galaxy, image)
            _arrows(ax)
            draw_scale_bar(ax, galaxy.redshift, "0.1", "white")
            if ax.images:
                bar = figure.colorbar(ax.images[-1], ax=ax, fraction=0.046, pad=0.02, extend="both")
                bar.set_label(label)
        if title:
            figure.suptitle(title, x=0.008, ha="left", fontsize=10)
        handles = {
            "field of the maps": (Line2D([], [], color="0.25", lw=5), Line2D([], [], color="white", ls="--", lw=1)),
            f"isophotes of the image ({'r' if 'r' in image else next(iter(image))}), 1.2 mag apart": Line2D(
                [], [], color="white", lw=0.8, path_effects=rim(1.6, "0.3")
            ),
            panels.get("empty", "no value"): Patch(**HATCHED),
            "outside of the field": Patch(facecolor="0.93", edgecolor="0.75", lw=0.5),
        }
        figure.legend(
            *(handles.values(), handles), loc="outside lower left", ncols=len(handles), handlelength=2.2, frameon=False
        )
    return figure


def _contours(ax, galaxy, image):
    """Isophotes of r, or of the first band there is, 1.2 mag apart, those above the noise."""
    band = "r" if "r" in image else next(iter(image))
    light = gaussian_filter(np.nan_to_num(image[band].data), 1.0)  # of the shape, not of the noise
    sigma = galaxy.sigma["griz".index(band)]
    noise = float(np.median(sigma[np.isfinite(sigma)])) if np.isfinite(sigma).any() else 0.0
    levels = np.sort(light.max() * 0.75 / 3.0 ** np.arange(6))
    levels = levels[levels > 2 * noise]
    if len(levels):
        limits = ax.get_xlim(), ax.get_ylim()
        ax.contour(
            *(light, levels),
            transform=ax.get_transform(image[band].wcs),
            colors="white",
            linewidths=0.6,
        ).set_path_effects(rim(1.1, "0.3"))
        ax.set(xlim=limits[0], ylim=limits[1])


def _arrows(ax):
    """North up, East left, legible on any colour."""
    for name, (x, y) in {"N": (0, 1), "E": (-1, 0)}.items():
        ax.annotate(
            name,
            (0.93, 0.81),
            (0.93 + 0.13 * x, 0.81 + 0.13 * y),
            xycoords="axes fraction",
            color="0.1",
            fontsize=8,
            ha="center",
            va="center",
            path_effects=rim(2.0, "white"),
            arrowprops={"arrowstyle": "<-", "color": "0.1", "shrinkA": 1, "shrinkB": 0},
        )


def _square(ax, shape):
    """A square field about the whole map, the same for all maps of a galaxy."""
    ax.set_facecolor("0.93")
    half = 0.55 * max(shape)
    for limits, set_limits in ((ax.get_xlim(), ax.set_xlim), (ax.get_ylim(), ax.set_ylim)):
        set_limits(np.mean(limits) - half, np.mean(limits) + half)


# ---------------------------------------------------------------- reliability
def draw_reliability(curves, colors, quantities):
    """Reliability diagrams above histograms of the PIT, one column for each quantity.

    Parameters
    ----------
    curves : sequence of dict
        Reliability curves of one region and stratum: predictor, quantity, nominal, covered, pit.
    colors : dict of str to str
        Of `method_colors`; the first is drawn above the others.
    quantities : sequence of str
        Columns, in their order; those without a curve are left out.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    quantities = [name for name in quantities if any(c["quantity"] == name for c in curves)]
    columns = min(len(quantities), COLUMNS)
    blocks = -(-len(quantities) // COLUMNS)
    with _plain_style():
        figure, axes = plt.subplots(
            *(2 * blocks, columns),
            figsize=(max(2.55 * columns, 4.5), 4.5 * blocks),
            layout="constrained",
            squeeze=False,
            height_ratios=[1.25, 1] * blocks,
        )
        for i, quantity in enumerate(quantities):
            row, column = divmod(i, COLUMNS)
            top, bottom = axes[2 * row, column], axes[2 * row + 1, column]
            bottom.axhline(1, color="0.4", ls="--", lw=1)
            here = {c["predictor"]: c for c in curves if c["quantity"] == quantity}
            for k, name in enumerate(name for name in colors if name in here):
                curve = here[name]
                look = {"color": colors[name], "lw": 1.2 if k else 2.0, "zorder": 3 - 0.1 * k}
                top.plot(curve["nominal"], curve["covered"], label=name, **look)
                pit = np.asarray(curve["pit"], float)
                bottom.stairs(pit * len(pit), np.linspace(0, 1, len(pit) + 1), baseline=None, **look)
            top.plot([0, 1], [0, 1], color="0.4", ls="--", lw=1, label="right errors", zorder=1)
            quarters = np.linspace(0, 1, 5)
            top.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=quantity_label(quantity))
            top.set(xticks=quarters, yticks=quarters, xlabel="stated share")
            bottom.set(xlim=(0, 1), ylim=(0, min(bottom.get_ylim()[1], PIT_TOP)), xticks=quarters)
            bottom.set_xlabel("place in the prediction (PIT)")
            if not column:
                top.set_ylabel("share of truths inside")
                bottom.set_ylabel("density (flat: 1)")
        for ax in axes.flat:
            if not ax.has_data():
                ax.set_axis_off()
        _legend(figure, axes.flat)
    return figure


def _legend(figure, axes):
    """One legend below for all panels."""
    pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    if handles := {label: handle for handle, label in reversed(pairs)}:
        names = list(dict.fromkeys(label for _, label in pairs))
        wide = 6 if figure.get_figwidth() > 9 else 3
        figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=wide, frameon=False)


# ---------------------------------------------------------------- strata
def draw_strata(panels, colors):
    """Scores by stratum, side by side: one row of points for each stratum, with their intervals.

    Parameters
    ----------
    panels : sequence of dict
        rows: of one score, quantity and region, all strata; target, optional: the value of a perfect score, a dashed
        line; limits (float, float), optional: of the axis; what lies beyond is a triangle at its end.
    colors : dict of str to str
        Of `method_colors`; methods that it lacks are not drawn.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    panels = [
        panel | {"rows": [r for r in panel["rows"] if r["predictor"] in colors and r["value"] is not None]}
        for panel in panels
    ]
    rows = [row for panel in panels for row in panel["rows"]]
    places = _places(row["stratum"] for row in rows)
    methods = [method for method in colors if any(row["predictor"] == method for row in rows)]
    height = max(places.values(), default=0) + 1
    counts = {name: max([r["galaxies"] or 0 for r in rows if r["stratum"] == name], default=0) for name in places}
    with _plain_style():
        figure, axes = plt.subplots(
            *(1, len(panels)),
            figsize=(max(3.1 * len(panels) + 2.6, 6.5), 1.4 + 0.3 * height),
            layout="constrained",
            squeeze=False,
            sharey=True,
        )
        for ax, panel in zip(axes[0], panels, strict=True):
            _draw_panel(ax, panel, places, methods, colors)
        first = axes[0, 0]
        first.set_yticks(list(places.values()), [f"{stratum_label(name)}  ({counts[name]:,})" for name in places])
        first.set_ylim(height - 0.4, -0.6)
        for name, group in STRATUM_GROUPS.items():
            if there := [places[stratum] for stratum in group if stratum in places]:
                where = {"transform": first.get_yaxis_transform(), "ha": "right", "va": "center"}
                first.text(-0.03, min(there) - 0.85, name, weight="bold", fontsize=8, **where)
        handles = [Line2D([], [], marker="o", ms=5, lw=1.4, color=colors[name], label=name) for name in methods]
        handles.append(Line2D([], [], color="0.4", ls="--", lw=1, label="perfect"))
        if any(panel.get("limits") for panel in panels):
            handles.append(Line2D([], [], color="0.4", marker="<", ms=5, ls="", label="beyond the axis"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
    return figure


def _places(strata):
    """Row of each stratum: "all" first, then group by group, with a row between them for the name of the group."""
    found = dict.fromkeys(strata)
    grouped = {name for group in STRATUM_GROUPS.values() for name in group}
    places, row = {"all": 0}, 1
    rest = [name for name in found if name not in grouped and name != "all"]
    for group in (*STRATUM_GROUPS.values(), rest):
        if there := [name for name in group if name in found]:
            row += 1
            for name in there:
                places[name] = row
                row += 1
    return places


def _draw_panel(ax, panel, places, methods, colors):
    """One score: points of the methods, one below the other in the row of each stratum."""
    rows, limits, target = panel["rows"], panel.get("limits"), panel.get("target")
    step = 0.64 / max(len(methods), 1)
    for name, place in places.items():
        ax.axhspan(
            place - 0.5, place + 0.5, color="0.88" if name == "all" else ("0.97", "0.93")[place % 2], lw=0, zorder=0
        )
    for row in rows:
        y = places[row["stratum"]] + (methods.index(row["predictor"]) - (len(methods) - 1) / 2) * step
        low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
        value, marker, color = row["value"], "o", colors[row["predictor"]]
        if limits is not None and not limits[0] <= value <= limits[1]:
            value, marker = (limits[0], "<") if value < limits[0] else (limits[1], ">")
        ax.plot([low, high], [y, y], color=color, lw=1.4, solid_capstyle="butt")
        ax.plot(value, y, marker=marker, ms=3.6, color=color, ls="", clip_on=False, zorder=3)
    if limits is not None:
        ax.set_xlim(limits)
    if target is not None:
        ax.axvline(target, color="0.4", ls="--", lw=1)
    ax.set_xlabel(score_label(rows[0]["score"]) if rows else "")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.8", lw=0.5)
    ax.set_axisbelow(True)


# ---------------------------------------------------------------- radial profiles
def draw_profiles(profiles, colors):
    """Radial profiles, truth in black; below, what each method differs by.

    Parameters
    ----------
    profiles : sequence of dict
        predictor, quantity, radius (in Re), truth, value (both the median over galaxies of the log of the mean in a
        ring), difference, low, high (median and 16-84 % of galaxies of value - truth).
    colors : dict of str to str
        Of `method_colors`.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    quantities = list(dict.fromkeys(profile["quantity"] for profile in profiles))
    with _plain_style():
        figure, axes = plt.subplots(
            2,
            len(quantities),
            figsize=(max(3.6 * len(quantities), 4.5), 4.8),
            layout="constrained",
            squeeze=False,
            sharex=True,
            height_ratios=[1.3, 1],
        )
        for (top, bottom), quantity in zip(axes.T, quantities, strict=True):
            here = [p for p in profiles if p["quantity"] == quantity and p["predictor"] in colors]
            for i, profile in enumerate(here):
                x, color = _floats(profile["radius"]), colors[profile["predictor"]]
                if not i:
                    top.plot(x, _floats(profile["truth"]), color="k", lw=2.2, label="truth")
                top.plot(x, _floats(profile["value"]), color=color, lw=1.4, label=profile["predictor"])
                bottom.plot(x, _floats(profile["difference"]), color=color, lw=1.4)
                if not i:
                    ends, label = (_floats(profile[end]) for end in ("low", "high")), profile["predictor"]
                    bottom.fill_between(x, *ends, color=color, alpha=0.18, lw=0, label=f"{label}: 68 % of galaxies")
            bottom.axhline(0, color="0.4", ls="--", lw=1)
            unit = "log flux (10$^{-17}$ erg/s/cm$^2$)"
            if quantity.endswith(" EW"):
                unit = "log EW (Å)"
            elif "/" in quantity:
                unit = f"log ({quantity_label(quantity)})"
            top.set(title=quantity_label(quantity), ylabel=unit)
            bottom.set(xlabel="radius / R$_e$, deprojected", ylabel="prediction - truth (dex)")
        _legend(figure, axes.flat)
    return figure


def _floats(values):
    """A list of JSON, in which None stands for what is not known, as floats."""
    return np.array([np.nan if value is None else value for value in values], float)
