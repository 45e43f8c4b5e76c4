# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Calibration of one image: unit, noise, saturation and PSF out of a CCDData and its header.

Every function takes a ``label`` such as ``image['r']`` with which its errors begin.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.stats import sigma_clipped_stats

from fiberifu.flags import Flag

__all__ = [
    "PSF_KEYS",
    "ZERO_POINT_KEYS",
    "background_variance",
    "check_psf",
    "header_fwhm",
    "pixel_area",
    "read_saturated",
    "read_variance",
    "surface_brightness_factor",
]

#: Header keywords that hold an AB zero point, in the order in which they are looked for.
ZERO_POINT_KEYS = ("MAGZERO", "ZEROPOINT", "MAGZP", "MAGZPT", "PHOTZP", "ZP")
#: Header keywords that hold the FWHM of the PSF in arcsec.
PSF_KEYS = ("PSF_FWHM", "PSFSIZE", "SEEING", "FWHM")

_NMGY_JY = 3631e-9  # one nanomaggy: AB zero point 3631 Jy (Oke & Gunn 1983) times 1e-9


def pixel_area(wcs, shape, label):
    """Solid angle of the central pixel in arcsec2, from the WCS itself (any projection)."""
    cy, cx = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    corner = wcs.pixel_to_world([cx, cx + 0.5, cx - 0.5, cx, cx], [cy, cy, cy, cy + 0.5, cy - 0.5])
    lon, lat = corner[0].spherical_offsets_to(corner[1:])
    east, north = lon.arcsec, lat.arcsec
    area = abs((east[0] - east[1]) * (north[2] - north[3]) - (east[2] - east[3]) * (north[0] - north[1]))
    if not (np.isfinite(area) and area > 0):
        raise ValueError(f"{label} has a WCS that maps its central pixel to no area on the sky")
    return area


def surface_brightness_factor(unit, meta, area, label):
    """Factor from image values to nanomaggy / arcsec2."""
    # Magnitudes are excluded: negative pixels cannot be told in them.
    linear = isinstance(unit, u.UnitBase)
    for target, value in ((u.nmgy, 1.0), (u.Jy, 1 / _NMGY_JY)):
        if linear and unit.is_equivalent(target):
            return unit.to(target) * value / area
        if linear and unit.is_equivalent(target / u.arcsec**2):
            return unit.to(target / u.arcsec**2) * value
    if linear and _is_counts(unit):
        for key in ZERO_POINT_KEYS:
            if meta.get(key) is None:
                continue
            try:
                zero_point = float(getattr(meta[key], "value", meta[key]))
            except (TypeError, ValueError):
                zero_point = np.nan
            if not np.isfinite(zero_point):
                raise ValueError(f"{label}.meta[{key!r}] must be an AB magnitude, got {meta[key]!r}")
            # 22.5 is the AB zero point of a nanomaggy.
            return 10 ** (-0.4 * (zero_point - 22.5)) / area
        raise ValueError(
            f"{label} has unit {_say(unit)} and no zero point; set meta['MAGZERO'] to the AB magnitude of "
            "one unit, or convert to u.nmgy"
        )
    raise ValueError(
        f"{label} has unit {_say(unit)}; give u.nmgy (AB 22.5), a flux density such as u.Jy, a surface "
        "brightness such as u.MJy / u.sr, or counts with meta['MAGZERO']"
    )


def _say(unit):
    return repr(unit.to_string()) if unit.to_string() else "'' (dimensionless)"


def _is_counts(unit):
    for count in (u.one, u.adu, u.electron, u.ct, u.DN):
        if unit.is_equivalent(count) or unit.is_equivalent(count / u.s):
            return True
    return False


def read_variance(ccd, label):
    """Variance in the square of the image's unit; nan or inf where there is no information."""
    uncertainty = ccd.uncertainty
    if uncertainty is None:
        return None
    power = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}.get(type(uncertainty))
    if power is None:
        raise ValueError(
            f"{label}.uncertainty must be StdDevUncertainty, VarianceUncertainty or InverseVariance, "
            f"got {type(uncertainty).__name__}"
        )
    array = np.broadcast_to(uncertainty.array, ccd.shape).astype(np.float64)
    if uncertainty.unit is not None:
        try:
            array = array * uncertainty.unit.to(ccd.unit**power)
        except u.UnitConversionError:
            raise ValueError(
                f"{label}.uncertainty has unit {_say(uncertainty.unit)}, which does not match the image's "
                f"{_say(ccd.unit)}"
            ) from None
    # Where the array is zero or negative there is no information, whatever its kind.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = {1: np.square, 2: np.positive, -2: np.reciprocal}[power](array)
    return np.where(array > 0, variance, np.inf)


def background_variance(data, bad):
    """Variance of the sky from the sigma-clipped scatter of all pixels."""
    if bad.all():
        return np.zeros(data.shape)
    good = data[~bad]
    _, _, std = sigma_clipped_stats(good, sigma=3.0, maxiters=10, stdfunc="mad_std")
    if not std > 0:  # a noiseless model image: a thousandth of its own scatter
        std = 1e-3 * np.std(good) or 1e-3 * max(abs(float(good[0])), 1e-6)
    return np.full(data.shape, float(std) ** 2)


def read_saturated(ccd, data, meta):
    """Pixels at the header's SATURATE level, or marked in ``ccd.flags`` by a survey reader."""
    out = np.zeros(ccd.shape, bool)
    level = meta.get("SATURATE")
    if isinstance(level, (int, float)) and level > 0:
        out |= data >= level
    if isinstance(ccd.flags, np.ndarray) and np.issubdtype(ccd.flags.dtype, np.integer):
        out |= (ccd.flags & int(Flag.SATURATED)) != 0
    return out


def check_psf(psf, label):
    psf = np.asarray(psf, dtype=np.float64)
    if psf.ndim != 2 or min(psf.shape) < 3 or not np.all(np.isfinite(psf)) or not psf.sum() > 0:
        raise ValueError(
            f"{label}.psf must be a finite image (y, x) with a positive sum on the pixels of the image, "
            f"got shape {psf.shape}"
        )
    return psf / psf.sum()


def header_fwhm(meta, band, label):
    for key in (*(f"{key}_{band.upper()}" for key in PSF_KEYS), *PSF_KEYS):
        value = meta.get(key)
        if value is None:
            continue
        try:
            fwhm = u.Quantity(value, u.arcsec).value  # a bare number is in arcsec
        except (TypeError, ValueError, u.UnitConversionError):
            fwhm = np.nan
        if not (np.isfinite(fwhm) and 0.05 < fwhm < 10):
            raise ValueError(f"{label}.meta[{key!r}] must be the FWHM of the PSF in arcsec (0.05 to 10), got {value!r}")
        return float(fwhm)
    return None
