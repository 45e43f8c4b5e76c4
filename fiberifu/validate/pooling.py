# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""All galaxies in one row: ``TruthMaps -> Spaxels``, ``PredictedMaps -> Answers``; doublets are summed on the way.

N positions of G galaxies, Q quantities (lines and sums of doublets).
"""

import numpy as np

from .maps import LEVELS
from .quantiles import check_quantiles
from .spaxels import NAMES, QUANTITIES, RATIOS, Answers, Spaxels

__all__ = ["check_coherence", "pool_predictions", "pool_truths"]

INCLINED = 60.0  # degrees


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
        place=np.stack([row("east"), row("north")], 1),
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
        If number or shapes do not fit the galaxies, for quantiles of what is not known or that decrease, and for a
        coherence that is none.
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
    flux, ew = _add(whole["flux"], lines), _add(whole["ew"], lines)
    return Answers(
        flux=flux,
        flux_sigma=_add_errors(whole["flux_sigma"], correlation, lines),
        ew=ew,
        ew_sigma=_add_errors(whole["ew_sigma"], correlation, lines),
        covariance=np.concatenate(covariances),
        velocity=whole["velocity"],
        velocity_sigma=whole["velocity_sigma"],
        quantiles=_pool_quantiles(predictions, truths, flux, ew),
        coherence=_pool_coherence(predictions, truths),
    )


def _pool_quantiles(predictions, truths, flux, ew):
    """Quantiles of all galaxies; rows are whole, and only where there is a value, too."""
    given = [getattr(maps, "quantiles", None) or {} for maps in predictions]
    out = {}
    for truth, one in zip(truths, given, strict=True):
        check_quantiles(one, len(truth), truth.name)
    for key in dict.fromkeys(key for one in given for key in one):
        if key in RATIOS:
            values = flux[:, [NAMES.index(line) for line in RATIOS[key]]]
        else:
            values = (ew if key.startswith("EW ") else flux)[:, [NAMES.index(key.removeprefix("EW "))]]
        rows = np.full((len(flux), len(LEVELS)), np.nan, np.float32)
        start = 0
        for truth, one in zip(truths, given, strict=True):
            if key in one:
                rows[start : start + len(truth)] = one[key]
            start += len(truth)
        rows[~(np.isfinite(rows).all(1) & np.isfinite(values).all(1))] = np.nan
        out[key] = rows
    return out


def _pool_coherence(predictions, truths):
    given = [getattr(maps, "coherence", None) for maps in predictions]
    if all(one is None for one in given):
        return None
    pairs = zip(given, truths, strict=True)
    return np.array([(0.0, 1.0) if one is None else check_coherence(one, truth.name) for one, truth in pairs])


def check_coherence(coherence, of="the galaxy"):
    """Amplitude and length of a coherence.

    Raises
    ------
    ValueError
        If it is not two numbers, the first from 0 to 1, the second above 0.
    """
    given = np.asarray(coherence, float)
    if given.shape != (2,) or not (0 <= given[0] <= 1 and 0 < given[1] < np.inf):
        raise ValueError(
            f"coherence predicted for {of} is {coherence!r}; give an amplitude from 0 to 1 and a length above 0 arcsec"
        )
    return tuple(given.tolist())


def _parts():
    """Columns (Q,) of the first and of the second line of each quantity, and whether there is a second."""
    from ..model import LINES  # loads torch

    first = np.array([LINES.index(parts[0]) for parts in QUANTITIES.values()])
    second = np.array([LINES.index(parts[-1]) for parts in QUANTITIES.values()])
    return first, second, first != second


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
