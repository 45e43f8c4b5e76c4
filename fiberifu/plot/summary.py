# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A prediction on one page."""

import textwrap

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.wcs.utils import proj_plane_pixel_area
from matplotlib.ticker import FixedLocator, NullLocator

from ..flags import Flag, describe
from ..output import atomic_path
from .axes import PREDICTED, hide_ticks, style, unit_label
from .maps import plot_map, usable
from .pointing import mark_fibers, plot_pointing
from .spectrum import line_label, plot_spectrum

__all__ = ["plot_summary"]

COLORS = ("#D55E00", "#56B4E9", "#009E73")  # light peak, half way, outer
RATIO_ERROR = 0.7  # relative error (0.3 dex) above which a ratio is not drawn
# Places with these flags tell about something else than the galaxy.
UNFIT = Flag.OUTSIDE_IMAGE | Flag.SATURATED | Flag.CONTAMINATED | Flag.MASKED_PIXELS | Flag.BAD_SPAXEL
TABLE_LINES = ("O2_3726", "O2_3729", "Hb", "O3_5007", "O1_6300", "Ha", "N2_6583", "S2_6716", "S2_6731")


def plot_summary(prediction, path=None, *, title=None):
    """A prediction on one page: pointing, line maps (or a table of lines), three spectra, checks and flags.

    The spectra are those of the nucleus and of spaxels bright in H-alpha, half way and far out in its light;
    their places are marked in the image and in the first map, in the same colours.  Of a list of positions the
    first, the middle and the last are shown.

    Parameters
    ----------
    prediction : `~fiberifu.Prediction`
    path : str or path-like, optional
        Where to save it (PNG, PDF ...).
    title : str, optional
        Name of the galaxy.

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    p = prediction
    maps = p.line_maps("strong")
    is_cube = p.wcs is not None
    spectra = p.cube() if is_cube else p.spectrum()
    line = next((key for key in ("Ha", "Hb", "O2_3729") if usable(maps.flux[key]).any()), "Ha")
    places = _cube_places(p, maps, line) if is_cube else _list_places(p.shape)
    with style():
        figure = plt.figure(figsize=(13, 9.4))
        grid = figure.add_gridspec(
            2, 1, height_ratios=[1.25, 1], left=0.055, right=0.985, top=0.905, bottom=0.055, hspace=0.2
        )
        top = grid[0].subgridspec(1, 3, width_ratios=[1.17, 1.6, 0.8], wspace=0.06)
        _draw_pointing(figure, top[0], p, places)
        if is_cube:
            _draw_maps(figure, top[1], p, maps, line, places)
        else:
            _draw_table(figure.add_subplot(top[1]), p, maps, places)
        _draw_notes(figure.add_subplot(top[2]), p)
        _draw_spectra(figure, grid[1], p, spectra, places)
        figure.text(
            0.055,
            0.965,
            f"{title}: {PREDICTED}" if title else PREDICTED.capitalize(),
            fontsize=14,
            weight="bold",
        )
        figure.text(0.985, 0.965, "not an observation", fontsize=14, weight="bold", ha="right", color="#D55E00")
        figure.text(0.055, 0.944, _subtitle(p), fontsize=9)
    if path is not None:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, metadata={"Title": f"fiberifu: {PREDICTED}, not an observation"})
    return figure


def _inferred(p):
    """Whether the redshift is a guess from the image."""
    return bool(np.any(np.asarray(p.flags) & int(Flag.REDSHIFT_INFERRED)))


def _formal(p):
    """Whether lines are fitted to predicted pixels, and not predicted themselves."""
    return bool(np.any(np.asarray(p.flags) & int(Flag.FORMAL_ERRORS)))


def _redshift_in_words(p):
    if _inferred(p):
        return f"z = {p.redshift:.2f} ± {p.provenance.redshift_sigma:.2f}, a guess from the image: lines are smeared"
    return f"z = {p.redshift:.4f}"


def _subtitle(p):
    center = p.image.center if p.wcs is None else p.wcs.pixel_to_world((p.shape[1] - 1) / 2, (p.shape[0] - 1) / 2)
    parts = [
        center.to_string("hmsdms", precision=1),
        _redshift_in_words(p),
        f"model {p.provenance.model_id}",
        f"beam {p.beam.to_value(u.arcsec):.2f}″",
    ]
    if p.wcs is not None:
        parts.insert(2, f"{p.shape[1]}×{p.shape[0]} spaxels of {abs(p.wcs.wcs.cdelt[1]) * 3600:.2g}″")
    return "   ·   ".join(parts)


# ---------------------------------------------------------------- places
def _cube_places(p, maps, line):
    """Indices (y, x) of three spaxels: the nucleus, and the brightest in the line half way out and far out."""
    good = usable(maps.flux[line]) & ((np.asarray(p.flags) & int(UNFIT)) == 0)
    flux = np.where(good, maps.flux[line].data, -np.inf)
    half = min(p.shape) / 2
    y, x = np.indices(p.shape) - (np.array(p.shape).reshape(2, 1, 1) - 1) / 2
    near = np.hypot(y, x) <= max(0.15 * half, 1)
    # Where nothing is usable: the spaxel nearest to the middle.
    brightness = np.where(near & good, np.nan_to_num(maps.continuum[line].data), -np.hypot(y, x) - 1e9)
    places = [np.unravel_index(np.argmax(brightness), p.shape)]
    y, x = y - y[places[0]], x - x[places[0]]
    distance, angle = np.hypot(y, x), np.arctan2(y, x)
    # The radius that holds most of the light, faint sky and the cube's corners left out.
    light = np.where((flux > 0.03 * flux.max()) & (distance < half), np.maximum(flux, 0), 0)
    order = np.argsort(distance, axis=None)
    growth = np.cumsum(light.flat[order])
    reach = distance.flat[order[np.searchsorted(growth, 0.95 * growth[-1])]] if growth[-1] > 0 else half
    for low, high in ((0.4, 0.6), (0.85, 1.0)):
        ring = (distance >= low * reach) & (distance <= high * reach)
        for y, x in places[1:]:  # not twice in the same arm
            ring &= np.cos(angle - angle[y, x]) < 0.5
        inside = np.flatnonzero(ring & np.isfinite(flux))
        if inside.size:  # bright, but not the very brightest: that is often a star or a companion
            ranked = inside[np.argsort(flux.flat[inside])]
            places.append(np.unravel_index(ranked[int(0.9 * (len(ranked) - 1))], p.shape))
    return places


def _list_places(shape):
    n = int(np.prod(shape, dtype=int))
    return [np.unravel_index(i, shape) for i in sorted({0, n // 2, n - 1})]


def _where(p, place):
    """Offset of a place from the middle of the cube, or of the image, in words."""
    middle_of = "image" if p.wcs is None else "cube"
    middle = p.image.center if p.wcs is None else p.wcs.pixel_to_world((p.shape[1] - 1) / 2, (p.shape[0] - 1) / 2)
    east, north = (offset.to_value(u.arcsec) for offset in middle.spherical_offsets_to(p.positions[place]))
    return (f"{abs(east):.1f}″ {'E' if east >= 0 else 'W'}, {abs(north):.1f}″ {'N' if north >= 0 else 'S'} "
            f"of the {middle_of}'s centre")  # fmt: skip


# ---------------------------------------------------------------- panels
def _aperture(p):
    """Diameter that stands for a position in the picture."""
    aperture = p.aperture
    size = next(
        (getattr(aperture, name) for name in ("diameter", "side", "fwhm") if hasattr(aperture, name)),
        aperture,
    )
    return size if isinstance(size, u.Quantity) else 1.5 * u.arcsec


def _draw_pointing(figure, place, p, places):
    ax = figure.add_subplot(place, projection=p.image.wcs)
    whole = max(p.image.sb.shape[1:]) * np.sqrt(proj_plane_pixel_area(p.image.wcs)) * 3600
    if p.wcs is not None:
        side = max(p.shape) * abs(p.wcs.wcs.cdelt[1]) * 3600
        size = max(min(1.6 * side, whole), 1.02 * side) * u.arcsec
        plot_pointing(p.image, p.wcs, ax=ax, shape=p.shape, size=size, redshift=p.redshift)
    else:
        fibres = p.positions.reshape(-1)
        reach = fibres.separation(fibres[0]).max().to_value(u.arcsec)
        size = min(max(2.5 * reach, 30), whole) * u.arcsec
        plot_pointing(p.image, fibres, ax=ax, aperture=_aperture(p), size=size, redshift=p.redshift)
    _draw_places(ax, p, places)
    hide_ticks(ax)
    ax.set_anchor("NW")
    bands = [band for band, present in zip(p.image.bands, p.image.present, strict=True) if present]
    ax.set_title(f"image ({('' if max(map(len, bands)) == 1 else ' ').join(bands)})")


def _draw_places(ax, p, places):
    for place, color in zip(places, COLORS, strict=False):
        mark_fibers(ax, p.positions[place], max(_aperture(p), 1.5 * u.arcsec), color)


def _draw_maps(figure, place, p, maps, line, places):
    grid = place.subgridspec(2, 2, wspace=0.2, hspace=0.13)
    name = line_label(line)
    top, bottom = ("N2_6583", "Ha") if line == "Ha" else ("O3_5007", "Hb")
    ratio = maps.ratio(top, bottom)
    if ratio.uncertainty is not None:
        # without light to speak of there is no ratio either, however well the model believes to know it
        dark = ~usable(maps.ew[top]) | ~usable(maps.ew[bottom])
        ratio.mask = dark | ~usable(ratio) | ~(ratio.uncertainty.array < RATIO_ERROR * np.abs(ratio.data))
    panels = (
        (maps.flux[line], "flux", f"{name} flux per spaxel"),
        (maps.ew[line], "ew", f"{name} equivalent width"),
        (maps.snr[line], "snr", f"{name} flux / {'formal error' if _formal(p) else 'error'}"),
        (ratio, "ratio", f"{line_label(top)} / {line_label(bottom)}"),
    )
    for cell, (data, kind, title) in zip(grid, panels, strict=True):
        ax = figure.add_subplot(cell, projection=p.wcs)
        plot_map(data, ax=ax, kind=kind, title=title, scale_bar=kind == "flux")
        ax.set_title("", loc="right")  # the page says it
        hide_ticks(ax)
        if kind == "flux":
            _draw_places(ax, p, places)


def _draw_table(ax, p, maps, places):
    """Fluxes and equivalent widths of the main lines at the places."""
    ax.set_axis_off()
    flux, ew = maps.flux, maps.ew
    keys = [key for key in TABLE_LINES if key in flux]
    step = 0.94 / (len(keys) + 2)
    for row, key in enumerate(keys):
        ax.text(0.07, 0.98 - (row + 2) * step, line_label(key))
    errors = "; formal errors" if _formal(p) else ""
    ax.text(0.07, 0.0, f"fluxes in 10$^{{-17}}$ erg s$^{{-1}}$ cm$^{{-2}}$, in the aperture{errors}", fontsize=8)
    for left, place, color in zip((0.25, 0.51, 0.77), places, COLORS, strict=False):
        number = np.ravel_multi_index(place, maps.shape) if maps.shape else 0
        ax.text(left, 0.98, f"position {number}", color=color, weight="bold")
        for column, data, name in ((left, flux, "flux"), (left + 0.12, ew, "EW (Å)")):
            ax.text(column, 0.98 - step, name, fontsize=8)
            for row, key in enumerate(keys):
                if usable(data[key])[place]:
                    ax.text(column, 0.98 - (row + 2) * step, _with_error(data[key], place), fontsize=8)


def _with_error(data, place):
    """Value and error, with as many digits as the error is worth."""
    value, sigma = data.data[place], np.nan if data.uncertainty is None else data.uncertainty.array[place]
    digits = int(np.clip(np.ceil(-np.log10(sigma / 2)), 0, 3)) if 0 < sigma < np.inf else 1
    return f"{value:.{digits}f}±{sigma:.{digits}f}"


def _draw_notes(ax, p):
    """The self-check against the photometry, and the flags in words."""
    ax.set_axis_off()
    check = ["band  residual   scatter"]
    for row in p.self_check:
        if not row["n"]:  # no position is measured in this band
            continue
        residual, scatter = (u.Quantity(row[name], u.mag).value for name in ("residual", "scatter"))
        cells = (
            f"{value:{form}}" if value == value else "       –"
            for value, form in ((residual, "+8.3f"), (scatter, "8.3f"))
        )
        check.append(f"{row['band']:<4}  {'  '.join(cells)}")
    text = [textwrap.fill(words, 42, initial_indent="• ", subsequent_indent="   ") for words in flags_in_words(p.flags)]
    blocks = (
        (0, "self-check: image / prediction", "bold", 9),
        (0.05, "\n".join(check), "monospace", 8),
        (0.07 + 0.045 * len(check), "mag; + where the image is fainter", "", 8),
        (0.19 + 0.045 * len(check), "flags", "bold", 9),
        (0.24 + 0.045 * len(check), "\n".join(text) or "none", "", 7.5),
    )
    for down, words, kind, size in blocks:
        ax.text(
            0.12,
            1 - down,
            words,
            va="top",
            transform=ax.transAxes,
            fontsize=size,
            linespacing=1.35,
            weight="bold" if kind == "bold" else "normal",
            family="monospace" if kind == "monospace" else None,
        )


def flags_in_words(flags):
    """Sentences, one per flag that occurs, with the share of the positions unless it is all of them."""
    sentences = []
    for bit in Flag:
        share = np.mean((np.asarray(flags) & int(bit)) != 0)
        if share:
            words = describe(bit)[0].split(": ", 1)[1]
            sentences.append(words if share == 1 else f"{words} ({max(100 * share, 1):.0f} % of positions)")
    return sentences


def _show_continuum_and_lines(ax):
    """Linear up to a few times the continuum, compressed above, so that strong lines do not flatten it."""
    flux = max((line.get_ydata() for line in ax.lines), key=len)
    level = np.nanmedian(np.abs(flux))
    if np.isfinite(level) and level > 0 and np.nanmax(flux) > 8 * level:
        ax.set_yscale("asinh", linear_width=2 * level)
        ticks = [float(f"{x:.0e}") for x in (2 * level, np.sqrt(2 * level * np.nanmax(flux)), np.nanmax(flux))]
        ax.yaxis.set_major_locator(FixedLocator([0, *ticks]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylim(-0.2 * level, 1.3 * np.nanmax(flux))


def _draw_spectra(figure, place, p, spectra, places):
    names = ("light peak", "half way", "outer") if p.wcs is not None else ("",) * 3
    axes = place.subgridspec(len(places), 1, hspace=0.06).subplots(sharex=True, squeeze=False)[:, 0]
    for ax, spot, color, name in zip(axes, places, COLORS, names, strict=False):
        named = ax is axes[0] and not _inferred(p)  # where lines are is not known then
        plot_spectrum(spectra, spot, ax=ax, color=color, lines="strong" if named else None, redshift=p.redshift)
        ax.set_ylabel("")
        _show_continuum_and_lines(ax)
        ax.text(
            0.008,
            0.9,
            f"{name}  {_where(p, spot)}".strip(),
            transform=ax.transAxes,
            va="top",
            color=color,
            weight="bold",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
        if ax is not axes[-1]:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
    middle = (axes[0].get_position().y1 + axes[-1].get_position().y0) / 2
    scale = ", asinh scale" if any(ax.get_yscale() == "asinh" for ax in axes) else ""
    figure.text(0.012, middle, f"flux ({unit_label(spectra.unit)}), shaded: 68 %{scale}", rotation=90, va="center")
