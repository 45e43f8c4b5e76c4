# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Arguments with units as plain numbers, checked: what is wrong is named, with what came and what would do."""

import math
import operator

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

__all__ = [
    "exposure_seconds",
    "fwhm_arcsec",
    "icrs_positions",
    "plain_number",
    "radius_choice",
    "true_or_false",
    "unitless_number",
    "whole_number",
]


def plain_number(value, unit, name, plain=False):
    """One number in ``unit``; None stays None. With ``plain`` a number without a unit will do."""
    if value is None:
        return None
    try:
        value = u.Quantity(value)
        value = value * unit if plain and value.unit == u.one else value
        number = float(value.to_value(unit))
    except (TypeError, ValueError, u.UnitConversionError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: got {value}; {'a number or ' * plain}one finite quantity in {unit} is needed")
    return number


def unitless_number(value, name, what="a"):
    """A number without a unit; None stays None."""
    if value is None:
        return None
    try:
        value = u.Quantity(value)
        if str(value.unit) == "redshift":  # of astropy.cosmology
            value = value.value * u.one
        return float(value.to_value(u.one))
    except (TypeError, ValueError, u.UnitConversionError):
        raise ValueError(f"{name}: got {value}; {what} number without a unit is needed") from None


def whole_number(value, name):
    """A whole number, 0 or more."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"{name}: got {value!r}; a whole number, 0 or more, is needed")
    return number


def true_or_false(labels):
    """Labels as a dict of str to bool."""
    if labels is None:
        return {}
    if not isinstance(labels, dict) or not all(isinstance(v, bool | np.bool_) for v in labels.values()):
        raise ValueError(f"labels: got {labels!r}; a dict of names and True or False, as {{'agn': True}}, is needed")
    return {name: bool(value) for name, value in labels.items()}


def fwhm_arcsec(value, name):
    """A FWHM in arcsec that the simulator's grid can hold; None stays None."""
    fwhm = plain_number(value, u.arcsec, name)
    if fwhm is not None and not 0.3 <= fwhm <= 5:
        raise ValueError(f"{name}: got {fwhm:g} arcsec; a FWHM of 0.3 to 5 arcsec is needed")
    return fwhm


def exposure_seconds(value, longest):
    """An exposure time in s."""
    seconds = plain_number(value, u.s, "exposure")
    if seconds is None or not 0 < seconds <= longest:
        raise ValueError(f"exposure: got {value}; more than 0 s, at most {longest:.0f} s, is needed")
    return seconds


def radius_choice(value):
    """An effective radius, a length or an angle, as `choose` takes it."""
    if value is None:
        return {}
    for name, unit in (("radius_kpc", u.kpc), ("radius_arcsec", u.arcsec)):
        if getattr(value, "unit", u.one).is_equivalent(unit):
            return {name: plain_number(value, unit, "effective_radius")}
    raise ValueError(f"effective_radius: got {value}; a length or an angle is needed")


def icrs_positions(positions):
    """Positions in the frame of `Galaxy.center`, without attributes of another frame."""
    try:
        positions = positions.transform_to("icrs")
        return SkyCoord(positions.ra, positions.dec)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"positions: got {positions!r:.80}; a SkyCoord that turns into ICRS is needed") from None
