# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One galaxy as a figure: ``comparison -> image | predicted | observed | residual, by line``; North up, East left."""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.nddata import CCDData
from matplotlib.ticker import FixedLocator, NullLocator

from ...output import atomic_path
from ...plot import plot_map, plot_pointing, style
from ...plot.axes import draw_scale_bar, hide_ticks
from ..maps import APERTURE_AREA
from ..spaxels import EW_LIMIT, EW_LIMIT_HB, SNR_LIMIT

__all__ = ["DRAWN", "draw_galaxy"]

#: Lines of the figure and their labels.
DRAWN = {"Ha": "Hα", "N2_6583": "[N II] 6583", "O3_5007": "[O III] 5007", "Hb": "Hβ"}
UNIT = u.Unit("1e-17 erg / (s cm2 arcsec2)")
REACH = 0.6  # dex, of the residuals' colours


def draw_galaxy(comparison, observed, image, model, path, about):
    """Draw the maps of a galaxy and write the figure.

    Parameters
    ----------
    comparison : Comparison
    observed : `~fiberifu.validate.manga.observed.Observed`
        For the places of the positions.
    image : dict of str to `~astropy.nddata.CCDData`
        That was predicted from.
    model : str
    path : `~pathlib.Path`
        PNG.
    about : dict
        truth, image: where they are from, in words; and provenance, cards of headers.
    """
    from ...model import LINES

    truth, maps = comparison.truth, comparison.answers["model"]
    lines = {key: label for key, label in DRAWN.items() if np.isfinite(truth.flux[:, LINES.index(key)]).any()}
    datatype = "simulated" if observed.simulated else "observed"
    with style():
        figure = plt.figure(figsize=(13, 3.15 * max(len(lines), 1) + 0.4), layout="constrained")
        rows = max(len(lines), 1)
        _draw_image(figure, rows, image, observed, about)
        for row, (key, label) in enumerate(lines.items()):
            i = LINES.index(key)
            flux, predicted = truth.flux[:, i] / APERTURE_AREA, maps.flux[:, i] / APERTURE_AREA
            chosen = _chosen(truth, i, key)
            if row:
                _draw_points(figure.add_subplot(rows, 4, 4 * row + 1), flux, predicted, chosen, f"{datatype} {label}")
            _draw_maps(figure, rows, row, observed, label, flux, predicted, chosen, datatype)
        figure.suptitle(
            f"{truth.name}   z = {truth.redshift:.4f}   {datatype}: {about['truth']}   predicted from image by {model}",
            x=0.008, ha="left", fontsize=10,
        )  # fmt: skip
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=100, metadata=_text(about))
        plt.close(figure)


def _text(about):
    """Of the PNG."""
    cards = {key: str(value) for key, value in about["provenance"].items()}
    return {"Title": "fiberifu: predicted from image", **cards}


def _chosen(truth, i, key):
    limit = EW_LIMIT_HB if key == "Hb" else EW_LIMIT
    with np.errstate(invalid="ignore"):
        return (truth.ew[:, i] > limit) & (truth.flux[:, i] > SNR_LIMIT * truth.depth[i])


def _draw_image(figure, rows, image, observed, about):
    ax = figure.add_subplot(rows, 4, 1, projection=observed.wcs)
    shape = observed.group.shape
    side = max(shape) * observed.spaxel * 1.1
    plot_pointing(image, observed.wcs, ax=ax, shape=shape, size=side * u.arcsec, redshift=observed.redshift)
    ax.set_title(f"image: {about['image']}", fontsize=8)
    hide_ticks(ax)


def _draw_points(ax, flux, predicted, chosen, label):
    """Predicted against true surface brightness where the line counts; ``label``: of the truth."""
    chosen = chosen & np.isfinite(predicted)
    x, y = flux[chosen], np.maximum(predicted[chosen], 1e-3)
    if not chosen.any():
        ax.text(
            0.5, 0.5, f"{label}: no strong line, or no prediction", transform=ax.transAxes, ha="center", va="center"
        )
        ax.set_axis_off()
        return
    ends = np.percentile(np.concatenate([x, y]), (0.5, 99.5)) * (0.8, 1.25)
    ax.loglog(x, y, ".", ms=2.5, alpha=0.5, color="#0072B2", rasterized=True)
    ax.loglog(ends, ends, "--", lw=0.8, color="0.3")
    ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel=label, ylabel="predicted")
    ticks = [m * 10.0**k for k in range(-3, 5) for m in (1, 2, 5) if ends[0] <= m * 10.0**k <= ends[1]]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    ax.set_title("surface brightness, same unit", fontsize=8)


def _draw_maps(figure, rows, row, observed, label, flux, predicted, chosen, datatype):
    """Predicted, observed or simulated, residual, the first two with one colour scale."""
    shown = flux[np.isfinite(flux)]
    limits = tuple(np.percentile(shown, (1, 99.5))) if shown.size else (0.0, 1.0)
    limits = limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = np.where(chosen, np.log10(np.maximum(predicted, 1e-4) / flux), np.nan)
    panels = (
        (predicted, f"predicted: {label}", "flux", limits, UNIT, True),
        (flux, f"{datatype}: {label}", "flux", limits, UNIT, False),
        (residual, f"log predicted / {datatype}", "velocity", (-REACH, REACH), u.dimensionless_unscaled, True),
    )
    for i, (values, title, kind, scale, unit, is_predicted) in enumerate(panels):
        grid = observed.grid(values)
        data = CCDData(grid, unit=unit, wcs=observed.wcs, mask=~np.isfinite(grid),
                       meta={"DATATYPE": "PREDICTED"} if is_predicted else {})  # fmt: skip
        ax = figure.add_subplot(rows, 4, 4 * row + i + 2, projection=observed.wcs)
        plot_map(data, ax=ax, kind=kind, limits=scale, colorbar=False, scale_bar=False)
        ax.set_title("", loc="right")
        ax.set_title(f"{title}, from image" if title.startswith("predicted") else title, fontsize=8)
        hide_ticks(ax)
        draw_scale_bar(ax, observed.redshift, "0.15", "white")
        if ax.images:
            bar = figure.colorbar(ax.images[-1], ax=ax, fraction=0.046, pad=0.02, extend="both")
            bar.minorticks_off()
            bar.set_label("10⁻¹⁷ erg s⁻¹ cm⁻² arcsec⁻²" if kind == "flux" else "dex")
            if kind == "flux":
                bar.set_ticks([value for value in _round(limits)])
                bar.ax.yaxis.set_major_formatter("{x:g}")


def _round(limits):
    """Round values in a range, for an asinh scale."""
    values = [0, *(sign * m * 10.0**k for k in range(-3, 5) for m in (1, 3) for sign in (-1, 1))]
    inside = sorted(value for value in values if limits[0] <= value <= limits[1])
    near = 0.03 * (limits[1] - limits[0])
    return [value for value in inside if value == 0 or abs(value) > near]
