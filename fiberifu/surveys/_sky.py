# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Places and angles that readers are asked for, checked once."""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

__all__ = ["one_angle", "one_position"]


def one_position(position, name="position"):
    """One `~astropy.coordinates.SkyCoord`, ICRS, of shape (); ValueError, naming the argument, for anything else."""
    if not isinstance(position, SkyCoord) or position.size != 1:
        size = f" of {position.size}" if isinstance(position, SkyCoord) else ""
        raise ValueError(f"{name} must be one SkyCoord, got {type(position).__name__}{size}")
    position = position.icrs.reshape(())
    if not (np.isfinite(position.ra.deg) and np.isfinite(position.dec.deg)):
        raise ValueError(f"{name} is not finite; give a place on the sky")
    return SkyCoord(position.ra, position.dec, frame="icrs")  # without distance and velocity


def one_angle(angle, name):
    """One positive angle, arcsec; ValueError, naming the argument, for anything else."""
    try:
        angle = u.Quantity(angle).to(u.arcsec)
    except (TypeError, ValueError, u.UnitConversionError):
        angle = u.Quantity(np.nan, u.arcsec)
    if angle.ndim or not (np.isfinite(angle) and angle > 0):
        raise ValueError(f"{name} must be one positive angle, such as 60 * u.arcsec")
    return angle
