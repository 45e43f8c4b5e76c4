# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Positions of all galaxies in one row, what is judged there, and which of them count: `Spaxels`, `Answers`.

Selection is on **truth only**: equivalent width above 1 Angstrom (0.5 for H-beta), flux above 3 sigma at MaNGA's depth.
N positions of G galaxies, Q quantities (lines and sums of doublets).
"""

import dataclasses

import numpy as np

from .maps import LEVELS

__all__ = [
    "EW_LIMIT",
    "EW_LIMIT_HB",
    "MEDIAN",
    "NAMES",
    "QUANTITIES",
    "RATIOS",
    "REGIONS",
    "SNR_LIMIT",
    "Answers",
    "Spaxels",
    "complete",
    "log_ratio",
    "predicted_ratio",
    "shared",
    "strong_lines",
]

#: What is judged, and the lines whose fluxes and equivalent widths add up to it.
QUANTITIES = {
    "Ha": ("Ha",),
    "Hb": ("Hb",),
    "O3": ("O3_5007",),
    "N2": ("N2_6583",),
    "S2": ("S2_6716", "S2_6731"),
    "O2": ("O2_3726", "O2_3729"),
}
NAMES = tuple(QUANTITIES)  # order of the columns

#: Line ratios: numerator and denominator.
RATIOS = {"N2/Ha": ("N2", "Ha"), "O3/Hb": ("O3", "Hb"), "S2/Ha": ("S2", "Ha"), "Ha/Hb": ("Ha", "Hb")}

#: Smallest and largest radius, effective radii.
REGIONS = {"whole": (0.0, 1.6), "centre": (0.0, 0.7), "off-centre": (0.7, 1.6)}

EW_LIMIT, EW_LIMIT_HB = 1.0, 0.5  # Angstrom, rest frame
SNR_LIMIT = 3.0
NEAR = 1.5  # arcsec from a peak of the light: one aperture
MEDIAN = LEVELS.index(0.5)  # its column among quantiles


@dataclasses.dataclass(frozen=True, eq=False)
class Spaxels:
    """Truth at the positions of all galaxies.

    Attributes
    ----------
    galaxy : ndarray (N,) of int
    size : int
        Galaxies, G.
    radius : ndarray (N,)
        Effective radii.
    light : ndarray (N,)
        True flux in r, nanomaggy in the aperture.
    peak_distance, velocity : ndarray (N,)
        arcsec; km/s.
    flux, ew, depth : ndarray (N, Q)
        As in `~fiberifu.validate.TruthMaps`; NaN where masked.
    variance : tuple of ndarray (N, Q), optional
        Of known errors of ``flux`` and ``ew``.
    labels : dict of str to ndarray (G,) of bool
        Strata that are whole galaxies.
    cell : ndarray (G,)
        Area of a position of the grid, arcsec2.
    place : ndarray (N, 2)
        East and north of the centre of the stamp, arcsec.
    """

    galaxy: np.ndarray
    size: int
    radius: np.ndarray
    light: np.ndarray
    peak_distance: np.ndarray
    velocity: np.ndarray
    flux: np.ndarray
    ew: np.ndarray
    depth: np.ndarray
    variance: tuple | None
    labels: dict
    cell: np.ndarray
    place: np.ndarray

    def column(self, quantity):
        """Column of a quantity, by name."""
        return NAMES.index(quantity)

    def region(self, name):
        """Positions (N,) of bool in a region of `REGIONS`."""
        low, high = REGIONS[name]
        return (self.radius >= low) & (self.radius < high)

    def floor(self, quantity):
        """Equivalent width and flux (N,) below which a prediction counts as this, a tenth of what selects the truth.

        So a line that is predicted to be absent costs a dex, in place of an infinity.
        """
        limit = EW_LIMIT_HB if quantity == "Hb" else EW_LIMIT
        return limit / 10, SNR_LIMIT / 10 * self.depth[:, self.column(quantity)]

    def selected(self, quantity):
        """Positions (N,) of bool whose true line is strong enough."""
        i = self.column(quantity)
        limit = EW_LIMIT_HB if quantity == "Hb" else EW_LIMIT
        return (self.ew[:, i] > limit) & (self.flux[:, i] > SNR_LIMIT * self.depth[:, i])

    def strata(self, quantity=None):
        """Yield name and positions (N,) of bool of every stratum; those of S/N only with a quantity."""
        for name, label in self.labels.items():
            yield name, label[self.galaxy]
        yield "near a peak", self.peak_distance < NEAR
        yield "away from peaks", self.peak_distance >= NEAR
        if quantity is not None:
            signal, sigma = self.flux[:, self.column(quantity)], self.depth[:, self.column(quantity)]
            yield "S/N 3-10", (signal > 3 * sigma) & (signal < 10 * sigma)
            yield "S/N 10-30", (signal >= 10 * sigma) & (signal < 30 * sigma)
            yield "S/N > 30", signal >= 30 * sigma


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What one method says, at the positions of `Spaxels`.

    Attributes
    ----------
    flux, flux_sigma, ew, ew_sigma : ndarray (N, Q)
        NaN where not predicted.
    covariance : ndarray (N, Q, Q)
        Of the fluxes; diagonal for a method that gives none.
    velocity, velocity_sigma : ndarray (N,)
        NaN where not predicted.
    quantiles : dict of str to ndarray (N, len(LEVELS))
        As of `~fiberifu.validate.PredictedMaps`, only what the method has; rows of NaN where not predicted.
    coherence : ndarray (G, 2), optional
        Amplitude and length, arcsec; an amplitude of 0 for galaxies without.
    missing : ndarray (N, Q) of bool, optional
        Fluxes that were not predicted, and that `complete` filled in.
    """

    flux: np.ndarray
    flux_sigma: np.ndarray
    ew: np.ndarray
    ew_sigma: np.ndarray
    covariance: np.ndarray
    velocity: np.ndarray
    velocity_sigma: np.ndarray
    quantiles: dict = dataclasses.field(default_factory=dict)
    coherence: np.ndarray | None = None
    missing: np.ndarray | None = None


def complete(spaxels, answers):
    """Answers with the floor where there is none, but for quantities that are answered nowhere.

    So a method that fails where it is hard is not rewarded: no answer is as wrong as a line predicted to be absent.
    """
    filled = {}
    for field in ("ew", "flux"):
        values = getattr(answers, field).copy()
        for i, quantity in enumerate(NAMES):
            there = np.isfinite(values[:, i])
            if there.any():
                floor = spaxels.floor(quantity)[field == "flux"]
                values[:, i] = np.where(there, values[:, i], floor)
        filled[field] = values
    return dataclasses.replace(answers, **filled, missing=~np.isfinite(answers.flux))


def shared(answers, field, index=None):
    """Yield positions (N,) of bool with answers, and the names of all methods that have theirs exactly there.

    Parameters
    ----------
    answers : dict of str to Answers
    field : {'flux', 'ew', 'velocity'}
    index : int or tuple of int, optional
        Columns, for a field that has them: a position counts if all are there. A method without any answer takes no
        part.
    """
    groups = {}
    for name, answer in answers.items():
        there = np.isfinite(getattr(answer, field))
        there = there if index is None else there[:, np.atleast_1d(index)].all(1)
        if there.any():
            groups.setdefault(there.tobytes(), (there, []))[1].append(name)
    yield from groups.values()


def strong_lines(spaxels, answers, lines):
    """Yield as `shared` does, but only where all the lines are strong."""
    strong = np.logical_and.reduce([spaxels.selected(line) for line in lines])
    for there, names in shared(answers, "flux", tuple(spaxels.column(line) for line in lines)):
        yield there & strong, names


def log_ratio(spaxels, flux, ratio, where):
    """log10 of a ratio at positions ``where``; lines below their floor count as that."""
    top, bottom = (np.maximum(flux[where, spaxels.column(line)], spaxels.floor(line)[1][where]) for line in ratio)
    return np.log10(top / bottom)


def predicted_ratio(spaxels, answers, ratio, where, truth):
    """As `log_ratio` of a method's fluxes; where it answers neither line, a dex below the median of ``truth``.

    Two floors would make a ratio near 1, which for [O III]/H-beta is a good guess. One that is answered is taken as it
    is, the other at its floor. ``truth`` : log ratios at positions ``where``.
    """
    found = log_ratio(spaxels, answers.flux, ratio, where)
    if answers.missing is None or not len(where):
        return found
    neither = answers.missing[np.ix_(where, [spaxels.column(line) for line in ratio])].all(1)
    return np.where(neither, np.median(truth) - 1, found)
