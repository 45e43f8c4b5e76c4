# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redshifts, with their errors, as nodes to marginalise over."""

from dataclasses import dataclass, field

import astropy.constants as const
import astropy.units as u
import numpy as np
from astropy.uncertainty import Distribution
from scipy.stats import norm

from fiberifu.flags import Flag

__all__ = ["RedshiftNodes", "quantile_nodes", "resolve_redshift"]

#: Redshifts of the training set.
TRAINED_REDSHIFTS = (0.003, 0.6)
#: Beyond this nothing can be rendered: the basis ends at rest 10400 A.
MAX_REDSHIFT = 1.5
#: Spreads below this are a velocity error, above it a different galaxy: nodes are needed.
_NARROW = 300 * u.km / u.s
_C = const.c.to_value(u.km / u.s)


@dataclass(frozen=True)
class RedshiftNodes:
    """A redshift, or a weighted set of them to marginalise over.

    Attributes
    ----------
    z : ndarray, (K,)
        Nodes, all positive.
    weights : ndarray, (K,)
        Sum to 1.
    sigma : ndarray, (K,)
        Redshift error *at each node*: the error itself when there is one node, else the spread
        of the part of the distribution that the node stands for, so that lines become one
        smooth bump and not a comb.
    source : str
        Where the redshift came from, for the headers.
    flags : Flag
        REDSHIFT_RANGE if a node is outside the training range.
    """

    z: np.ndarray
    weights: np.ndarray
    sigma: np.ndarray
    source: str = "argument"
    flags: Flag = field(default=Flag(0))

    @property
    def spread(self):
        """Standard deviation of the whole distribution."""
        return float(np.sqrt(np.sum(self.weights * ((self.z - self.mean) ** 2 + self.sigma**2))))

    @property
    def mean(self):
        """Weighted mean redshift."""
        return float(np.sum(self.weights * self.z))

    def __len__(self):
        return len(self.z)


def resolve_redshift(redshift=None, image_meta=None, *, trained=TRAINED_REDSHIFTS):
    """Turn a redshift, with or without its error, into nodes.

    Parameters
    ----------
    redshift : float, (mean, sigma), `astropy.uncertainty.Distribution` or None
        An error below 300 km/s stays with a single node; above, 7 nodes of equal weight stand
        for sevenths of the distribution (those at or below zero are dropped). None takes ``image_meta["REDSHIFT"]``.
    image_meta : mapping, optional
        Header of the image.
    trained : (float, float)
        Redshifts of the model's training set.

    Returns
    -------
    RedshiftNodes or None
        None if there is no redshift anywhere: the caller then infers one.

    Raises
    ------
    ValueError
        If the redshift is not a number, not finite, not positive or above 1.5, or if its
        error is negative or not finite.
    """
    source = "argument"
    if redshift is None:
        redshift = (image_meta or {}).get("REDSHIFT")
        source = "image.meta['REDSHIFT']"
        if redshift is None:
            return None
    if isinstance(redshift, Distribution):
        return _distribution_nodes(redshift, source, trained)
    sigma = 0.0
    if isinstance(redshift, (tuple, list)):
        if len(redshift) != 2:
            raise ValueError(f"redshift must be a number, (mean, sigma) or a Distribution, got {len(redshift)} values")
        redshift, sigma = redshift
        sigma = _number(sigma, "redshift sigma")
        if not (np.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"redshift sigma must be finite and not negative, got {sigma}")
    mean = _number(redshift, "redshift")
    _check_redshift(mean, source)
    if sigma * _C < _NARROW.value:
        return _single(mean, sigma, source, trained)
    return quantile_nodes(norm.ppf((np.arange(700) + 0.5) / 700, mean, sigma), source, trained)


def _distribution_nodes(redshift, source, trained):
    samples = np.ravel(getattr(redshift.distribution, "value", redshift.distribution)).astype(float)
    if redshift.shape != ():
        raise ValueError(f"redshift: one Distribution is needed, got one of shape {redshift.shape}")
    if not np.all(np.isfinite(samples)):
        raise ValueError("redshift: the Distribution holds samples that are not finite")
    median, spread = np.median(samples), np.std(samples)
    _check_redshift(median, source)
    if spread * _C < _NARROW.value or len(samples) < 7:
        return _single(median, spread, source, trained)
    return quantile_nodes(samples, source, trained)


def quantile_nodes(samples, source, trained=TRAINED_REDSHIFTS, n=7):
    """Nodes of equal weight, each the mean and standard deviation of its share of the sorted samples."""
    parts = np.array_split(np.sort(samples[(samples > 0) & (samples <= MAX_REDSHIFT)]), n)
    if not len(parts[-1]) or not len(parts[0]):
        raise ValueError(f"redshift: no part of the distribution lies within 0 and {MAX_REDSHIFT}")
    z = np.array([part.mean() for part in parts])
    weights = np.array([len(part) for part in parts], float)
    # neighbouring bumps overlap when each is at least half as wide as the wider gap beside it
    gap = np.concatenate([[0.0], np.diff(z), [0.0]])
    sigma = np.maximum([part.std() for part in parts], np.maximum(gap[1:], gap[:-1]) / 2)
    return RedshiftNodes(z, weights / weights.sum(), sigma, source, _range_flag(z, trained))


def _single(z, sigma, source, trained):
    return RedshiftNodes(np.array([z]), np.ones(1), np.array([float(sigma)]), source, _range_flag(z, trained))


def _number(value, name):
    if isinstance(value, u.Quantity):
        # Both u.one and astropy.cosmology.units.redshift are pure numbers.
        if value.unit.physical_type != "dimensionless" and value.unit.to_string() != "redshift":
            raise ValueError(f"{name} must be a pure number, got {value}; z is v / c only for small velocities")
        value = value.value
    if isinstance(value, (bool, np.bool_)) or np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number, (mean, sigma) or a Distribution, got {value!r}; call once per galaxy"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None


def _check_redshift(z, source):
    where = "redshift" if source == "argument" else f"redshift (from {source})"
    if not np.isfinite(z):
        raise ValueError(f"{where} must be finite, got {z}")
    if z <= 0:
        raise ValueError(f"{where} must be positive, got {z}")
    if z > MAX_REDSHIFT:
        low, high = TRAINED_REDSHIFTS
        raise ValueError(
            f"{where} = {z} cannot be rendered (limit {MAX_REDSHIFT}); the models are trained for {low} to {high}"
        )


def _range_flag(z, trained):
    low, high = trained
    return Flag(0) if np.all((np.asarray(z) >= low) & (np.asarray(z) <= high)) else Flag.REDSHIFT_RANGE
