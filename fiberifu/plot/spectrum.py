# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A spectrum with its error band and the names of its lines."""

import re

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.nddata import StdDevUncertainty
from scipy.optimize import isotonic_regression

from ..lines import line_table
from .axes import PREDICTED, is_predicted, style, unit_label

__all__ = ["line_label", "plot_spectrum"]


def plot_spectrum(spectrum, index=None, *, ax=None, lines="strong", redshift=None, color=None, label=None):
    """A spectrum with its 68 % band and the names of its emission lines.

    Parameters
    ----------
    spectrum : `~specutils.Spectrum`
        One spectrum, a list of them, or a cube.
    index : int or tuple of int, optional
        Which one: an index of the list, or ``(y, x)`` of the cube.  By default the middle one.
    ax : `~matplotlib.axes.Axes`, optional
        A new figure by default.
    lines : str, sequence of str or None
        Lines to name, as `~fiberifu.lines.line_table` takes them; None for no names.
    redshift : float, optional
        For the places of the lines; by default that in the spectrum's metadata, if any.
    color : color, optional
    label : str, optional
        For the legend.

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    ValueError
        If there is no such index.
    """
    wave = spectrum.spectral_axis.to_value(u.AA)
    flux, sigma = _one_spectrum(spectrum, index)
    redshift = _redshift(spectrum) if redshift is None else redshift
    with style():
        ax = plt.figure(figsize=(9, 3.2), layout="constrained").add_subplot() if ax is None else ax
        line = ax.plot(wave, flux, color=color, label=label, lw=0.7)[0]
        if sigma is not None:
            ax.fill_between(wave, flux - sigma, flux + sigma, color=line.get_color(), alpha=0.3, lw=0)
        ax.axhline(0, color="0.6", lw=0.5, zorder=0)
        ax.set_xlim(wave[0], wave[-1])
        low, high = np.nanmin(flux, initial=0), np.nanmax(flux, initial=0)
        if high > low:
            ax.set_ylim(low - 0.05 * (high - low), high + 0.12 * (high - low))
        medium = spectrum.meta.get("medium", "vacuum")
        ax.set_xlabel(f"{medium} wavelength (Å)")
        ax.set_ylabel(f"flux ({unit_label(spectrum.unit)})")
        if lines is not None and redshift is not None:
            _name_lines(ax, lines, redshift, medium)
        if is_predicted(spectrum.meta):
            ax.text(
                0.992,
                0.95,
                PREDICTED,
                transform=ax.transAxes,
                ha="right",
                va="top",
                fontsize=7,
                style="italic",
            )
    return ax


def _one_spectrum(spectrum, index):
    """Flux and sigma of one spectrum as arrays, NaN where masked; sigma is None without uncertainty."""
    axis = spectrum.spectral_axis_index
    shape = np.delete(spectrum.shape, axis)
    index = tuple(n // 2 for n in shape) if index is None else tuple(np.atleast_1d(index))
    if len(index) != len(shape) or any(not -n <= i < n for i, n in zip(index, shape, strict=True)):
        raise ValueError(
            f"index is {tuple(map(int, index))}; the spectra have the shape {tuple(int(n) for n in shape)}"
        )

    def pick(array):
        return np.moveaxis(np.asarray(array), axis, -1)[index]

    bad = np.zeros(spectrum.shape[axis], bool) if spectrum.mask is None else pick(spectrum.mask) != 0
    flux, sigma = np.where(bad, np.nan, pick(spectrum.flux.value)), None
    if spectrum.uncertainty is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            one = type(spectrum.uncertainty)(pick(spectrum.uncertainty.array).astype(float))
            sigma = np.asarray(one.represent_as(StdDevUncertainty).array)
        sigma = np.where(np.isfinite(sigma) & ~bad, sigma, np.nan)
    return flux, sigma


def _redshift(spectrum):
    places = (
        getattr(spectrum.meta.get("prediction"), "redshift", None),
        spectrum.meta.get("redshift"),
        getattr(spectrum.meta.get("provenance"), "redshift", None),
    )
    return next((float(z) for z in places if z is not None), None)


def line_label(key, wavelength=True):
    """A line's name as printed: ``Ha`` is Hα, ``O3_5007`` is [O III] 5007 (or without its wavelength)."""
    greek = {"Ha": "Hα", "Hb": "Hβ", "Hg": "Hγ", "Hd": "Hδ"}
    match = re.fullmatch(r"([A-Z][a-z]?)(\d)_(\d+)", key)
    if not match:
        return greek.get(key, key)
    ion = f"{match[1]} {['', 'I', 'II', 'III', 'IV', 'V'][int(match[2])]}"
    ion = ion if match[1] == "He" else f"[{ion}]"
    return f"{ion} {match[3]}" if wavelength else ion


def _name_lines(ax, lines, redshift, medium):
    """Names above the spectrum, moved apart where they would touch, each with a leader to its line."""
    table = line_table(lines, medium)
    table.sort("wavelength")
    low, high = ax.get_xlim()
    labels = []  # [text, [wavelengths]]; neighbours of one ion share a name
    for key, wave in zip(table["key"], table["wavelength"].to_value(u.AA) * (1 + redshift), strict=True):
        text = line_label(key, wavelength=False)
        if not low < wave < high:
            continue
        if labels and labels[-1][0] == text and wave - labels[-1][1][-1] < 100:
            labels[-1][1].append(wave)
        else:
            labels.append([text, [wave]])
    if not labels:
        return
    size = 7.0  # points
    width, height = ax.get_position().size * ax.figure.get_size_inches() * 72
    places = _spread([np.mean(waves) for _, waves in labels], 1.35 * size / width * (high - low))
    transform = ax.get_xaxis_transform()
    for (text, waves), place in zip(labels, places, strict=True):
        for wave in waves:
            ax.plot(
                [wave, wave, place],
                [0, 1, 1 + 7 / height],
                transform=transform,
                color="0.7",
                lw=0.5,
                zorder=0,
                clip_on=False,
            )
        ax.text(
            place,
            1 + 8 / height,
            text,
            transform=transform,
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=size,
        )


def _spread(places, gap):
    """Increasing ``places`` moved as little as possible (least squares), neighbours ``gap`` apart or more."""
    offset = gap * np.arange(len(places))
    return isotonic_regression(np.asarray(places) - offset).x + offset
