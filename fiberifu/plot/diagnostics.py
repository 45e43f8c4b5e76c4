# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Diagnostic diagrams of line maps: the plane with its demarcations, and beside it the classes on the sky.

Classes -> points in the plane, some with errors -> curves -> the same colours on the sky, hatched where there is none.
"""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.visualization.wcsaxes import WCSAxes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch, Polygon

from ..lines.diagnostics import (
    BPT_DIAGRAMS,
    KAUFFMANN_2003,
    WHAN_LOG_N2,
    WHAN_PASSIVE,
    WHAN_STRONG,
    WHAN_YOUNG,
)
from .axes import PREDICTED, corners, draw_scale_bar, is_predicted, show_all, sky_axes, style

__all__ = ["plot_bpt", "plot_whan"]

# Okabe & Ito (2008): told apart with the common forms of colour blindness.
COLORS = {
    "star-forming": "#0072B2",
    "composite": "#009E73",
    "Seyfert": "#D55E00",
    "LINER": "#E69F00",
    "pure star-forming": "#0072B2",
    "strong AGN": "#D55E00",
    "weak AGN": "#E69F00",
    "retired": "#CC79A7",
    "passive": "#56B4E9",
}
N_ERRORS = 20  # points with an error bar
LIMITS = {  # of the planes, wider if points ask for it: log ratio, log [O III]/H-beta or log EW
    "N2": ((-1.7, 0.7), (-1.3, 1.4)),
    "S2": ((-1.3, 0.6), (-1.3, 1.4)),
    "O1": ((-2.4, 0.2), (-1.3, 1.4)),
    "WHAN": ((-1.2, 0.8), (-0.8, 2.5)),
}


def plot_bpt(maps, kind="N2", *, axes=None, snr=3, title=None):
    """BPT diagram, and the classes on the sky.

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
    kind : {'N2', 'S2', 'O1'}
    axes : sequence of axes, optional
        For the plane and for the sky (`~astropy.visualization.wcsaxes.WCSAxes`), or a single one for the plane alone.
        By default a new figure; of positions without a WCS it has the plane alone.
    snr : float
        Of all four lines, for a class; see `fiberifu.lines.LineMaps.bpt`.
    title : str, optional

    Returns
    -------
    tuple of `~matplotlib.axes.Axes`
        The plane, and the sky if it is drawn.

    Raises
    ------
    ValueError
        For an unknown ``kind``, maps without the lines, or axes of the wrong number or kind.
    """
    return _draw(maps, maps.bpt(kind, snr=snr), axes, title, _draw_bpt_plane)


def plot_whan(maps, *, axes=None, snr=3, title=None):
    """WHAN diagram: EW(H-alpha) against [N II]/H-alpha, and the classes on the sky.

    Positions with a width or a ratio that is not positive have no place in the plane; on the sky they have.
    Parameters, returned axes and errors as in `plot_bpt`; ``snr`` as in `fiberifu.lines.LineMaps.whan`.
    """
    return _draw(maps, maps.whan(snr=snr), axes, title, _draw_whan_plane)


def _draw(maps, classification, axes, title, draw_plane):
    with style():
        axes = _axes(axes, maps)
        draw_plane(axes[0], classification)
        if title:
            axes[0].set_title(title)
        if len(axes) > 1:
            _draw_classes(axes[1], maps, classification)
        if is_predicted(classification.classes.meta):
            for ax in axes:
                ax.set_title(PREDICTED, loc="right", fontsize=7, style="italic")
    return tuple(axes)


def _axes(axes, maps):
    """Axes for the plane and, where there is a WCS, for the sky."""
    if axes is None:
        if maps.wcs is None:
            return [plt.figure(figsize=(5.4, 4.4), layout="constrained").add_subplot()]
        figure = plt.figure(figsize=(10.2, 4.4), layout="constrained")
        return [figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection=maps.wcs)]
    axes = list(np.ravel(axes))
    if len(axes) not in (1, 2) or isinstance(axes[0], WCSAxes):
        raise ValueError(
            f"axes are {', '.join(type(ax).__name__ for ax in axes)}; give those of the plane, and WCSAxes for the sky"
        )
    if len(axes) == 2 and maps.wcs is None:
        raise ValueError("axes are two, but the maps have no WCS: give those of the plane alone")
    return axes


def _draw_bpt_plane(ax, classification):
    c, diagram = classification, BPT_DIAGRAMS[classification.kind]
    x_limits, _ = _draw_points(ax, c, c.y.data, c.y.uncertainty)
    x = np.linspace(*x_limits, 600)
    for curve in diagram.curves:
        left = x[x < curve.asymptote - 1e-3]
        ax.plot(left, curve(left), color="0.15", ls="--" if curve == KAUFFMANN_2003 else "-", lw=1.1)
    slope, intercept = diagram.seyfert
    y = slope * x + intercept
    beyond = y > diagram.curves[-1](x)
    ax.plot(x[beyond], y[beyond], color="0.15", ls=":", lw=1.3)
    ax.set_xlabel(f"log {diagram.label}")
    ax.set_ylabel(r"log [O III] $\lambda$5007 / H$\beta$")


def _draw_whan_plane(ax, classification):
    c = classification
    positive = c.y.data > 0
    width = np.log10(c.y.data, out=np.full(c.y.shape, np.nan), where=positive)
    error = None
    if c.y.uncertainty is not None:
        error = type(c.y.uncertainty)(
            np.divide(c.y.uncertainty.array, c.y.data * np.log(10), out=np.full(width.shape, np.nan), where=positive)
        )
    (left, right), (bottom, top) = _draw_points(ax, c, width, error)
    strong, young, passive = (np.log10(w.to_value(u.AA)) for w in (WHAN_STRONG, WHAN_YOUNG, WHAN_PASSIVE))
    line = {"color": "0.15", "lw": 1.1}
    ax.plot([left, right], [young, young], **line)
    ax.plot([WHAN_LOG_N2, WHAN_LOG_N2], [young, top], **line)
    ax.plot([WHAN_LOG_N2, right], [strong, strong], ls="--", **line)
    # Passive needs both lines weak: where [N II] is the stronger it sets the limit.
    ax.plot([left, 0, right], [passive, passive, passive - right], ls=":", **line)
    ax.set_ylim(bottom, top)
    ax.set_xlabel(r"log [N II] $\lambda$6583 / H$\alpha$")
    ax.set_ylabel(r"log EW(H$\alpha$) / Å")


def _draw_points(ax, classification, y, y_error):
    """Points in the colours of their classes, a few with errors; gives the limits of the plane."""
    c = classification
    x, index = c.x.data.ravel(), c.classes.data.ravel()
    y = np.ravel(y)
    shown = np.flatnonzero(c.once.ravel() & (index >= 0) & np.isfinite(x) & np.isfinite(y))
    limits = [_limits(values[shown], low, high) for values, (low, high) in zip((x, y), LIMITS[c.kind], strict=True)]
    for i, name in enumerate(c.names):
        rows = shown[index[shown] == i]
        ax.scatter(
            x[rows], y[rows], s=9, lw=0, alpha=0.75, color=COLORS[name], label=f"{name} ({c.counts[name]})", zorder=2
        )
    if shown.size and c.x.uncertainty is not None and y_error is not None:
        # Evenly through the points sorted along x, so that all parts of the plane are there.
        few = shown[np.argsort(x[shown], kind="stable")][:: max(shown.size // N_ERRORS, 1)]
        ax.errorbar(
            x[few],
            y[few],
            xerr=c.x.uncertainty.array.ravel()[few],
            yerr=y_error.array.ravel()[few],
            fmt="none",
            ecolor="0.2",
            elinewidth=0.5,
            zorder=3,
        )
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])
    corner = "upper right" if c.kind == "WHAN" else "lower left"  # where galaxies seldom are
    ax.legend(loc=corner, handletextpad=0.2, markerscale=1.8)
    return limits


def _limits(values, low, high):
    """Given limits, or wider so that all but the outermost hundredth is inside."""
    if values.size == 0:
        return low, high
    least, most = np.percentile(values, [0.5, 99.5])
    return min(low, least - 0.1), max(high, most + 0.1)


def _draw_classes(ax, maps, classification):
    """Classes on the sky, North up and East left."""
    classes = np.ma.masked_less(classification.classes.data, 0)
    n = len(classification.names)
    ax, transform = sky_axes(ax, maps.wcs, classes.shape)
    hatched = {"facecolor": "0.93", "edgecolor": "0.75", "hatch": "////", "lw": 0}
    ax.add_patch(Polygon(corners(classes.shape), transform=transform, zorder=0, **hatched))
    colors = ListedColormap([COLORS[name] for name in classification.names])
    norm = BoundaryNorm(np.arange(n + 1) - 0.5, n)
    ax.imshow(classes, cmap=colors, norm=norm, transform=transform, interpolation="nearest", zorder=1)
    show_all(ax, classes.shape, transform)
    draw_scale_bar(ax, maps.redshift, "0.15", "white")
    ax.legend(handles=[Patch(label="unclassified", **hatched)], loc="upper right", handlelength=1.4, frameon=True)
