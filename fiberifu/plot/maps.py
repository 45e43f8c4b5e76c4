# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A map on the sky."""

import astropy.units as u
import numpy as np
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.patches import Polygon

from ..lines import DAPMask
from .axes import PREDICTED, corners, draw_scale_bar, is_predicted, show_all, sky_axes, style, unit_label

__all__ = ["plot_map", "usable"]

# Quantity -> colour map, label; all colour maps are perceptually even and safe for colour-blind readers.
KINDS = {
    "flux": ("inferno", "flux"),
    "ew": ("viridis", "equivalent width"),
    "velocity": ("RdBu_r", "velocity"),
    "dispersion": ("magma", "dispersion"),
    "snr": ("cividis", "S/N"),
    "ratio": ("plasma", "ratio"),
    "chi2": ("viridis", "reduced χ²"),
    "number": ("viridis", ""),
}
# Bits with which a value is still worth drawing.
HARMLESS = DAPMask.LOWCOV | DAPMask.NEARBOUND | DAPMask.NOCORRECTION | DAPMask.MULTICOMP


def plot_map(
    data,
    *,
    ax=None,
    kind=None,
    limits=None,
    percentiles=(1, 99.5),
    title=None,
    redshift=None,
    colorbar=True,
    scale_bar=True,
):
    """A map on the sky, North up, East left.

    Parameters
    ----------
    data : `~astropy.nddata.NDData`, shape (ny, nx)
        With a celestial WCS, such as ``maps.flux["Ha"]``.  Masked and non-finite spaxels are hatched; of the
        bits of an integer mask (`~fiberifu.lines.DAPMask`) those that leave a usable value do not count.
    ax : `~astropy.visualization.wcsaxes.WCSAxes`, optional
        A new figure by default.  Empty axes are turned North up, East left; others keep their frame.
    kind : {'flux', 'ew', 'velocity', 'dispersion', 'snr', 'ratio', 'chi2', 'number'}, optional
        Sets colours and stretch: flux by asinh, velocity symmetric about 0.  By default chosen from the unit.
    limits : (float, float), optional
        Of the colour scale; by default the ``percentiles`` of the good spaxels.
    percentiles : (float, float)
        Ignored where there are ``limits``.
    title : str, optional
    redshift : float, optional
        For a scale bar in kpc (Planck 2018 cosmology).
    colorbar, scale_bar : bool

    Returns
    -------
    `~astropy.visualization.wcsaxes.WCSAxes`

    Raises
    ------
    ValueError
        If ``data`` is no map on the sky, ``kind`` is unknown or ``ax`` is not WCSAxes.
    """
    if getattr(data, "wcs", None) is None or np.ndim(data.data) != 2:
        raise ValueError(
            f"data is a {type(data).__name__} of {np.ndim(data)} axes, wcs {getattr(data, 'wcs', None)!r}; a map is "
            "NDData with 2 axes and a celestial WCS (for lists of positions use plot_pointing)"
        )
    kind = _kind(data.unit) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    values = np.ma.masked_invalid(np.ma.array(np.asarray(data.data, float), mask=~usable(data)))
    norm = _norm(values.compressed(), kind, limits, percentiles)
    cmap, name = KINDS[kind]
    with style():
        ax, transform = sky_axes(ax, data.wcs, values.shape)
        # Hatched where the map above it has holes.
        ax.add_patch(
            Polygon(
                corners(values.shape),
                transform=transform,
                facecolor="0.93",
                edgecolor="0.75",
                hatch="////",
                lw=0,
                zorder=0,
            )
        )
        image = ax.imshow(values, cmap=cmap, norm=norm, transform=transform, interpolation="nearest", zorder=1)
        show_all(ax, values.shape, transform)
        if values.count() == 0:
            ax.text(0.5, 0.5, "no usable value", transform=ax.transAxes, ha="center", va="center", color="0.4")
        elif colorbar:
            bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02)
            if kind == "flux":  # matplotlib's own ticks crowd near zero
                bar.set_ticks(_round_values(norm))
                bar.ax.yaxis.set_major_formatter("{x:g}")
                bar.minorticks_off()
            unit = unit_label(data.unit)
            bar.set_label(f"{name} ({unit})" if unit else name)
        if scale_bar:
            light = kind == "velocity" or np.ma.getmaskarray(values).mean() > 0.3
            draw_scale_bar(ax, redshift, *(("0.15", "white") if light else ()))
        if title:
            ax.set_title(title)
        if is_predicted(data.meta):
            ax.set_title(PREDICTED, loc="right", fontsize=7, style="italic")
    return ax


def _kind(unit):
    if unit in (None, u.dimensionless_unscaled):
        return "number"
    if u.Unit(unit).is_equivalent(u.AA):
        return "ew"
    return "velocity" if u.Unit(unit).is_equivalent(u.km / u.s) else "flux"


def usable(data):
    """Where a map may be drawn, as an array of bool."""
    mask = np.zeros(np.shape(data.data), bool) if data.mask is None else np.asarray(data.mask)
    return ~mask if mask.dtype == bool else (mask & ~int(HARMLESS)) == 0


def _norm(good, kind, limits, percentiles):
    """Colour scale: given limits, or percentiles of the good values."""
    low, high = limits or (np.percentile(good, percentiles) if good.size else (0.0, 1.0))
    if limits is None and kind == "velocity":
        high = max(abs(low), abs(high))
        low = -high
    elif limits is None and kind in ("ew", "snr"):
        low = min(low, 0.0)
    if not high > low:  # a constant map
        low, high = low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)
    if kind == "flux":
        return AsinhNorm(linear_width=0.1 * max(abs(low), abs(high)), vmin=low, vmax=high)
    return Normalize(low, high)


def _round_values(norm):
    """A few round values, evenly spread over the colours and none beyond them."""
    spread = norm.inverse(np.array([0.1, 0.3, 0.5, 0.7, 0.9]))
    for digits in range(1, 8):  # more for a map of nearly one value
        found = {float(f"{value:.{digits}g}") for value in spread}
        found = sorted(value for value in found if norm.vmin <= value <= norm.vmax)
        if len(found) > 2:
            break
    return found
