# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redshifts, with their errors, as nodes to marginalise over."""

from dataclasses import dataclass, field

import astropy.constants as const
import astropy.units as u
import numpy as np
from astropy.uncertainty import Distribution

from fiberifu.flags import Flag

__all__ = ["RedshiftNodes", "resolve_redshift"]

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
    sigma : float
        Redshift error *at each node*: the narrow error when there is one node, else 0
        (the nodes carry the spread).
    source : str
        Where the redshift came from, for the headers.
    flags : Flag
        REDSHIFT_RANGE if the mean is outside the training range.
    """

    z: np.ndarray
    weights: np.ndarray
    sigma: float = 0.0
    source: str = "argument"
    flags: Flag = field(default=Flag(0))

    @property
    def mean(self):
        """Weighted mean redshift."""
        return float(np.sum(self.weights * self.z))

    def __len__(self):
        return len(self.z)


def resolve_redshift(redshift=None, image_meta=None):
    """Turn a redshift, with or without its error, into nodes.

    Parameters
    ----------
    redshift : float, (mean, sigma), `astropy.uncertainty.Distribution` or None
        An error below 300 km/s stays with a single node; above, a normal error gives 5
        Gauss-Hermite nodes and a distribution 7 equal-weight quantiles (nodes at or below
        zero are dropped). None takes ``image_meta["REDSHIFT"]``.
    image_meta : mapping, optional
        Header of the image.

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
        return _distribution_nodes(redshift, source)
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
        return RedshiftNodes(np.array([mean]), np.ones(1), sigma, source, _range_flag(mean))
    # Probabilists' Hermite nodes integrate against exp(-x^2 / 2).
    x, weights = np.polynomial.hermite_e.hermegauss(5)
    return _nodes(mean + sigma * x, weights, source)


def _distribution_nodes(redshift, source):
    samples = np.ravel(getattr(redshift.distribution, "value", redshift.distribution)).astype(float)
    if redshift.shape != ():
        raise ValueError(f"redshift: one Distribution is needed, got one of shape {redshift.shape}")
    if not np.all(np.isfinite(samples)):
        raise ValueError("redshift: the Distribution holds samples that are not finite")
    median, spread = np.median(samples), np.std(samples)
    _check_redshift(median, source)
    if spread * _C < _NARROW.value:
        return RedshiftNodes(np.array([median]), np.ones(1), float(spread), source, _range_flag(median))
    return _nodes(np.quantile(samples, (np.arange(7) + 0.5) / 7), np.ones(7), source)


def _nodes(z, weights, source):
    keep = (z > 0) & (z <= MAX_REDSHIFT)
    if not keep.any():
        raise ValueError(f"redshift: no part of the distribution lies within 0 and {MAX_REDSHIFT}")
    z, weights = z[keep], weights[keep] / weights[keep].sum()
    return RedshiftNodes(z, weights, 0.0, source, _range_flag(float(np.sum(weights * z))))


def _number(value, name):
    if isinstance(value, u.Quantity):
        # Both u.one and astropy.cosmology.units.redshift are pure numbers.
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
        raise ValueError(f"{where} must be finite, got {z}; pass redshift=None to infer it")
    if z <= 0:
        raise ValueError(f"{where} must be positive, got {z}; pass redshift=None to infer it")
    if z > MAX_REDSHIFT:
        low, high = TRAINED_REDSHIFTS
        raise ValueError(
            f"{where} = {z} cannot be rendered (limit {MAX_REDSHIFT}); the models are trained for {low} to {high}"
        )


def _range_flag(z):
    low, high = TRAINED_REDSHIFTS
    return Flag(0) if low <= z <= high else Flag.REDSHIFT_RANGE
