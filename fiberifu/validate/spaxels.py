# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Positions of all galaxies in one row, and which of them count: ``TruthMaps, PredictedMaps -> Spaxels, Answers``.

Selection is on **truth only**: equivalent width above 1 Angstrom (0.5 for H-beta), flux above 3 sigma at MaNGA's depth.
N positions of G galaxies, Q quantities (lines and sums of doublets).
"""

import dataclasses

import numpy as np

__all__ = [
    "EW_LIMIT",
    "EW_LIMIT_HB",
    "QUANTITIES",
    "RATIOS",
    "REGIONS",
    "SNR_LIMIT",
    "Answers",
    "Spaxels",
    "common",
    "pool_predictions",
    "pool_truths",
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
NAMES = tuple(QUANTITIES)

#: Line ratios: numerator and denominator.
RATIOS = {"N2/Ha": ("N2", "Ha"), "O3/Hb": ("O3", "Hb"), "S2/Ha": ("S2", "Ha"), "Ha/Hb": ("Ha", "Hb")}

#: Smallest and largest radius, effective radii.
REGIONS = {"whole": (0.0, 1.6), "centre": (0.0, 0.7), "off-centre": (0.7, 1.6)}

EW_LIMIT, EW_LIMIT_HB = 1.0, 0.5  # Angstrom, rest frame
SNR_LIMIT = 3.0
INCLINED = 60.0  # degrees
NEAR = 1.5  # arcsec from a peak of the light: one aperture


def _parts():
    """Columns (Q,) of the first and of the second line of each quantity, and whether there is a second."""
    from ..model import LINES  # loads torch

    first = np.array([LINES.index(parts[0]) for parts in QUANTITIES.values()])
    second = np.array([LINES.index(parts[-1]) for parts in QUANTITIES.values()])
    return first, second, first != second


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
    """

    flux: np.ndarray
    flux_sigma: np.ndarray
    ew: np.ndarray
    ew_sigma: np.ndarray
    covariance: np.ndarray
    velocity: np.ndarray
    velocity_sigma: np.ndarray


def pool_truths(truths, *, masks=None, noise=None):
    """Put the truth of all galaxies in one row.

    Parameters
    ----------
    truths : list of `~fiberifu.validate.TruthMaps`
    masks : list of array_like of bool, (n,) or (n, 15), optional
        True = bad: not judged by.
    noise : list of (flux_sigma, ew_sigma), each (n, 15), optional
        Known 1-sigma errors of the truth (a survey's), independent from line to line.

    Returns
    -------
    Spaxels

    Raises
    ------
    ValueError
        Without galaxies, or if ``masks`` or ``noise`` do not fit them.
    """
    if not truths:
        raise ValueError("truths is empty; give at least one TruthMaps")
    for name, given in (("masks", masks), ("noise", noise)):
        if given is not None and len(given) != len(truths):
            raise ValueError(f"{name} has {len(given)} entries for {len(truths)} galaxies; give one for each")
    lines = _parts()
    parts = {name: [] for name in ("flux", "ew", "depth", "flux_variance", "ew_variance")}
    for i, truth in enumerate(truths):
        bad = np.zeros(len(truth), bool) if masks is None else np.asarray(masks[i], bool)
        if bad.shape not in ((len(truth),), truth.flux.shape):
            raise ValueError(
                f"masks[{i}] has the shape {bad.shape}; {truth.name} needs {(len(truth),)} or {truth.flux.shape}"
            )
        bad = bad[:, None] if bad.ndim == 1 else _add(bad, lines) > 0
        parts["flux"].append(np.where(bad, np.nan, _add(truth.flux, lines)))
        parts["ew"].append(np.where(bad, np.nan, _add(truth.ew, lines)))
        parts["depth"].append(np.broadcast_to(np.sqrt(_add(truth.depth[None] ** 2, lines)), (len(truth), len(NAMES))))
        if noise is not None:
            for name, sigma in zip(("flux_variance", "ew_variance"), noise[i], strict=True):
                if np.shape(sigma) != truth.flux.shape:
                    raise ValueError(
                        f"noise[{i}] has the shape {np.shape(sigma)}; {truth.name} needs {truth.flux.shape}"
                    )
                parts[name].append(_add(np.asarray(sigma) ** 2, lines))
    whole = {name: np.concatenate(part) for name, part in parts.items() if part}

    def row(name):
        return np.concatenate([getattr(truth, name) for truth in truths])

    return Spaxels(
        galaxy=np.repeat(np.arange(len(truths)), [len(truth) for truth in truths]),
        size=len(truths),
        radius=row("radius"),
        light=np.concatenate([truth.band[:, 1] for truth in truths]),
        peak_distance=row("peak_distance"),
        velocity=row("velocity"),
        flux=whole["flux"],
        ew=whole["ew"],
        depth=whole["depth"],
        variance=None if noise is None else (whole["flux_variance"], whole["ew_variance"]),
        labels=_labels(truths),
        cell=np.array([truth.spaxel**2 for truth in truths]),
    )


def pool_predictions(predictions, truths):
    """Put the answers of one method in one row.

    Parameters
    ----------
    predictions : list of `~fiberifu.validate.PredictedMaps` or None
        One for each galaxy; None for one that failed: nothing is predicted there.
    truths : list of `~fiberifu.validate.TruthMaps`

    Returns
    -------
    Answers

    Raises
    ------
    ValueError
        If number or shapes do not fit the galaxies.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"predictions has {len(predictions)} entries for {len(truths)} galaxies; give one for each")
    lines = first, second, _ = _parts()
    parts = {name: [] for name in ("flux", "flux_sigma", "ew", "ew_sigma", "velocity", "velocity_sigma")}
    covariances, correlations = [], []
    for truth, maps in zip(truths, predictions, strict=True):
        n, nothing = len(truth), np.full(truth.flux.shape, np.nan)
        for name, fill in zip(parts, (*[nothing] * 4, *[nothing[:, 0]] * 2), strict=True):
            value = getattr(maps, name, None)
            value = fill if value is None else np.asarray(value, float)
            if value.shape != fill.shape:
                raise ValueError(f"{name} predicted for {truth.name} has the shape {value.shape}; {fill.shape} fits")
            parts[name].append(value)
        covariance = getattr(maps, "covariance", None)
        if covariance is None:
            covariance = parts["flux_sigma"][-1][:, :, None] ** 2 * np.eye(len(nothing.T))
        elif np.shape(covariance) != (n, *[len(nothing.T)] * 2):
            raise ValueError(
                f"covariance predicted for {truth.name} has the shape {np.shape(covariance)}; "
                f"{(n, *[len(nothing.T)] * 2)} fits"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = np.sqrt(covariance[:, first, first] * covariance[:, second, second])
            correlations.append(np.nan_to_num(covariance[:, first, second] / norm, posinf=0, neginf=0))
        covariances.append(_add(np.swapaxes(_add(covariance, lines), 1, 2), lines).astype(np.float32))
    whole = {name: np.concatenate(part) for name, part in parts.items()}
    # Errors of the equivalent widths of a doublet are correlated as those of its fluxes.
    correlation = np.concatenate(correlations)
    return Answers(
        flux=_add(whole["flux"], lines),
        flux_sigma=_add_errors(whole["flux_sigma"], correlation, lines),
        ew=_add(whole["ew"], lines),
        ew_sigma=_add_errors(whole["ew_sigma"], correlation, lines),
        covariance=np.concatenate(covariances),
        velocity=whole["velocity"],
        velocity_sigma=whole["velocity_sigma"],
    )


def common(answers, field, index):
    """Positions (N,) of bool where all methods that predict a quantity at all have an answer.

    Parameters
    ----------
    answers : dict of str to Answers
    field : {'flux', 'ew'}
    index : int or tuple of int
        Columns: a position counts if all are there.

    Returns
    -------
    ndarray (N,) of bool
    names : list of str
        Methods that take part: with an answer anywhere.
    """
    finite = {name: np.isfinite(getattr(a, field)[:, np.atleast_1d(index)]).all(1) for name, a in answers.items()}
    names = [name for name, there in finite.items() if there.any()]
    n = len(next(iter(finite.values())))
    return np.logical_and.reduce([finite[name] for name in names]) if names else np.zeros(n, bool), names


def _add(values, lines):
    """Quantities from lines, along the second axis."""
    first, second, double = lines
    out = values[:, first]
    out[:, double] += values[:, second[double]]
    return out


def _add_errors(sigma, correlation, lines):
    """Errors of quantities from those of lines and the correlation (n, Q) of the two lines of a doublet."""
    first, second, double = lines
    out = sigma[:, first]
    a, b = out[:, double], sigma[:, second[double]]
    out[:, double] = np.sqrt(a**2 + b**2 + 2 * correlation[:, double] * a * b)
    return out


def _labels(truths):
    names = sorted({name for truth in truths for name in truth.strata})
    labels = {name: np.array([bool(truth.strata.get(name, False)) for truth in truths]) for name in names}
    inclination = np.array([truth.properties.get("inclination", np.nan) for truth in truths])
    if np.isfinite(inclination).any():
        labels["inclined"] = inclination > INCLINED
        labels["face-on"] = inclination < INCLINED / 2
    return labels
