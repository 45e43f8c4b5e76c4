# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How far from the centres of galaxies a survey's fibres are: what a network can learn about the rest of a galaxy."""

import matplotlib.pyplot as plt
import numpy as np

from .axes import style

__all__ = ["plot_offset_census"]

# kind of fibre -> (label, colour); the colours are of Okabe & Ito, told apart by all
_GROUPS = {
    "central": ("central", "#999999"),
    "off-centre": ("off-centre", "#0072B2"),
    "moving": ("off-centre, at another velocity", "#D55E00"),
}


def plot_offset_census(matches, *, ax=None, radii=True, bins=None):
    """The offset census: numbers of fibres by their distance from the centre of their galaxy.

    Parameters
    ----------
    matches : `~astropy.table.QTable`
        Of `~fiberifu.surveys.match_fibers`.
    ax : `~matplotlib.axes.Axes`, optional
        A new figure by default.
    radii : bool
        Elliptical radius in half-light radii; else the separation in arcsec.
    bins : array_like, optional
        Edges of the bins.

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    ValueError
        If ``matches`` is not such a table.
    """
    names = getattr(matches, "colnames", ())
    if missing := [name for name in ("kind", "radius", "separation", "moving") if name not in names]:
        raise ValueError(f"matches has no column {', '.join(missing)}; give what fiberifu.surveys.match_fibers returns")
    value = np.asarray(matches["radius"]) if radii else matches["separation"].value
    kind = np.asarray(matches["kind"], str)
    moving = (kind == "off-centre") & np.asarray(matches["moving"], bool)
    groups = {"central": kind == "central", "off-centre": (kind == "off-centre") & ~moving, "moving": moving}
    shown = np.isin(kind, ["central", "off-centre"]) & np.isfinite(value)
    if bins is None:
        bins = np.linspace(0, 3 if radii else max(6.0, np.nanmax(value[shown], initial=0)), 25)
    with style():
        if ax is None:
            ax = plt.figure(figsize=(5.4, 3.6)).add_subplot()
        used = [name for name, rows in groups.items() if rows.any()]
        ax.hist(
            [value[groups[name] & shown] for name in used],
            bins=bins,
            histtype="step",  # not stacked: areas mean nothing on a logarithmic axis
            linewidth=1.6,
            color=[_GROUPS[name][1] for name in used],
            label=[f"{_GROUPS[name][0]} ({groups[name].sum()})" for name in used],
        )
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7)
        ax.set_xlim(bins[0], bins[-1])
        ax.set_xlabel("elliptical radius / half-light radius" if radii else "separation (arcsec)")
        ax.set_ylabel("fibres")
        galaxies = len(np.unique(np.asarray(matches["galaxy"])[groups["central"] | (kind == "off-centre")]))
        several = int((np.asarray(matches["reference"]) & (np.asarray(matches["n_fibers"]) > 1)).sum())
        ax.set_title(f"{galaxies} galaxies with fibres, {several} with two or more", fontsize=9)
        if used:
            ax.legend(fontsize=8)
    return ax
