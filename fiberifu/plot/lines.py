# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Line maps on one page: flux, width, kinematics, ratios and classes."""

import matplotlib.pyplot as plt
import numpy as np

from ..output import atomic_path
from .axes import PREDICTED, hide_ticks, is_predicted, style
from .diagnostics import plot_bpt
from .maps import plot_map, usable
from .spectrum import line_label

__all__ = ["plot_line_maps"]

NEEDED = {"N2": ("Hb", "O3_5007", "N2_6583", "Ha"), "S2": ("Hb", "O3_5007", "S2_6716", "S2_6731", "Ha")}
SURE = 3.0  # S/N for a ratio to be drawn


def plot_line_maps(maps, path=None, *, line=None, title=None):
    """Maps of one line's flux, equivalent width, velocity, intrinsic dispersion and S/N, a ratio, and the BPT diagram.

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
        With a celestial WCS.
    path : str or path-like, optional
        Where to save it.
    line : str, optional
        H-alpha by default, or the line of the highest S/N if that is not there.
    title : str, optional

    Returns
    -------
    `~matplotlib.figure.Figure`

    Raises
    ------
    ValueError
        For maps without a WCS.
    """
    if maps.wcs is None:
        raise ValueError("maps have no celestial WCS; lists of positions have no map to draw")
    line = line or _brightest(maps)
    name = line_label(line)
    panels = [
        ("flux", maps.flux[line], f"{name} flux"),
        ("ew", maps.ew[line], f"{name} equivalent width"),
        ("snr", maps.snr[line], f"{name} S/N"),
        ("velocity", maps.velocity[line], "velocity"),
        ("dispersion", maps.intrinsic_dispersion[line], "dispersion, without the instrument"),
    ]
    if "N2_6583" in maps.flux and "Ha" in maps.flux:
        ratio = maps.ratio("N2_6583", "Ha")
        ratio.mask = ~usable(ratio) | ~(maps.snr["N2_6583"].data > SURE) | ~(maps.snr["Ha"].data > SURE)
        panels.append(("ratio", ratio, "[N II] 6583 / Hα"))
    kind = next((kind for kind, keys in NEEDED.items() if all(key in maps.flux for key in keys)), None)
    with style():
        figure = plt.figure(figsize=(15.5, 8.4))
        grid = figure.add_gridspec(2, 5, left=0.03, right=0.985, top=0.88, bottom=0.07, wspace=0.32, hspace=0.22,
                                   width_ratios=[1, 1, 1, 0.1, 1])  # fmt: skip
        for i, (what, data, words) in enumerate(panels):
            ax = figure.add_subplot(grid[divmod(i, 3)], projection=maps.wcs)
            plot_map(data, ax=ax, kind=what, title=words, redshift=maps.redshift, scale_bar=i == 0)
            ax.set_title("", loc="right")  # the page says it
            hide_ticks(ax)
        if kind:
            plane, sky = figure.add_subplot(grid[0, 4]), figure.add_subplot(grid[1, 4], projection=maps.wcs)
            plot_bpt(maps, kind, axes=(plane, sky))
            for ax in (plane, sky):
                ax.set_title("", loc="right")
            hide_ticks(sky)
        predicted = is_predicted(maps.flux[line].meta)
        words = "emission lines, fitted" + (f"; {PREDICTED}, not an observation" if predicted else "")
        figure.text(0.03, 0.95, f"{title}: {words}" if title else words.capitalize(), fontsize=14, weight="bold",
                    color="#D55E00" if predicted else "black")  # fmt: skip
        figure.text(0.03, 0.92, f"z = {maps.redshift:.5f}   ·   {maps.shape[1]}×{maps.shape[0]} spaxels", fontsize=9)
    if path is not None:
        with atomic_path(path) as temporary:
            figure.savefig(temporary)
    return figure


def _brightest(maps):
    if "Ha" in maps.flux and usable(maps.flux["Ha"]).any():
        return "Ha"
    best = {key: np.nanmax(np.where(usable(data), data.data, -np.inf)) for key, data in maps.snr.items()}
    return max(best, key=best.get)
