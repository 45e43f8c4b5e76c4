"""How far gas may rotate away from the systemic redshift: the width that a velocity unknown to an image adds."""

import numpy as np
from astropy.cosmology import Planck18

__all__ = ["rotation_amplitude", "systemic_prior", "velocity_prior"]

FLOOR = 25.0  # km/s, irregular motion and the error of a systemic redshift
UNKNOWN = 70.0  # km/s, where the image gives no shape: rms over discs of random inclination


def rotation_amplitude(g, r, redshift):
    """Rotation speed [km/s] of a disc of AB magnitudes ``g``, ``r`` (Galactic extinction corrected).

    Stellar mass from colour (Bell et al. 2003, ApJS 149, 289, table 7: log M/L_r = -0.306 + 1.097 (g - r), minus
    0.15 dex to a Kroupa IMF; M_sun,r = 4.65, Willmer 2018, ApJS 236, 47; no k-correction), speed from the stellar-mass
    Tully-Fisher relation (Reyes et al. 2011, MNRAS 417, 2347, eq. 3: log V80 = 2.142 + 0.278 (log M - 10.10)).
    """
    absolute = r - Planck18.distmod(redshift).value
    mass = -0.4 * (absolute - 4.65) - 0.306 + 1.097 * np.clip(g - r, 0.0, 1.0) - 0.15
    return float(10 ** (2.142 + 0.278 * (np.clip(mass, 7.0, 11.8) - 10.10)))


def velocity_prior(offsets, shape, speed):
    """Standard deviation [km/s] of the line-of-sight velocity at sky offsets; an image cannot tell its sign.

    Parameters
    ----------
    offsets : ndarray (N, 2)
        East, north, arcsec, from the galaxy's centre.
    shape : GalaxyShape or None
        With ``axis_ratio``, ``position_angle`` (degrees East of North) and ``half_light_radius`` (arcsec).
    speed : float
        Rotation speed, km/s.

    Returns
    -------
    ndarray (N,)
        ``V sin(i) |cos(azimuth)| R / sqrt(R^2 + (Re/3)^2)`` in quadrature with a floor; inclination from
        ``cos^2 i = (q^2 - q0^2) / (1 - q0^2)``, q0 = 0.2 (Hubble 1926, ApJ 64, 321).
    """
    if shape is None:
        return np.full(len(offsets), UNKNOWN)
    q2 = np.clip(shape.axis_ratio, 0.2, 1.0) ** 2
    cos_i = np.sqrt((q2 - 0.04) / 0.96)
    sin_i = np.sqrt(1 - cos_i**2)
    pa = np.deg2rad(shape.position_angle)
    major = offsets[:, 0] * np.sin(pa) + offsets[:, 1] * np.cos(pa)
    minor = (offsets[:, 0] * np.cos(pa) - offsets[:, 1] * np.sin(pa)) / max(cos_i, 0.1)
    radius = np.hypot(major, minor)
    turn = max(shape.half_light_radius / 3, 0.3)
    speed = speed * sin_i * np.abs(major) / np.hypot(radius, turn)
    return np.hypot(FLOOR, speed)


def systemic_prior(prepared, offsets, z):
    """Prior at offsets (N, 2) of a prepared image, with mass, inclination and centre taken from the image."""
    galaxy = prepared.galaxy
    if galaxy is None:
        return velocity_prior(offsets, None, 0.0)
    flux = {}
    for i, band in enumerate(prepared.bands):
        if prepared.present[i]:
            flux[band] = max(float(prepared.sb[i][galaxy.segment].sum()) * prepared.pixel_scale**2, 1e-3)
    r = flux.get("r", next(iter(flux.values())))
    colour = -2.5 * np.log10(flux["g"] / flux["r"]) if {"g", "r"} <= set(flux) else 0.6
    speed = rotation_amplitude(22.5 - 2.5 * np.log10(r) + colour, 22.5 - 2.5 * np.log10(r), z)
    return velocity_prior(offsets - np.array(galaxy.offset), galaxy, speed)
