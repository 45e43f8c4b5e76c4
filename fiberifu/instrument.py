"""The virtual instrument: its wavelength grid, line-spread function, aperture and the WCS of its spaxels."""

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from .pointing import Fiber, Spaxel

__all__ = ["aperture_points", "beam_fwhm", "grid_wcs", "resolve_lsf", "resolve_wavelength"]

GAUSS = 2.354820045  # FWHM of a Gaussian in sigma


def grid_wcs(center, counts, spaxel):
    """Celestial WCS of a cube: TAN, North up, East left, ``center`` in the middle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [center.ra.deg, center.dec.deg]
    wcs.wcs.crpix = [(counts[0] + 1) / 2, (counts[1] + 1) / 2]
    step = u.Quantity(spaxel).to_value(u.deg)
    wcs.wcs.cdelt = [-step, step]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def resolve_wavelength(wavelength):
    wave = u.Quantity(wavelength)
    if not wave.unit.is_equivalent(u.AA) or wave.ndim != 1 or len(wave) < 2:
        raise ValueError(
            f"wavelength: give a 1-D Quantity of lengths with 2 pixels or more, got {wave.unit} {wave.shape}"
        )
    wave = np.ascontiguousarray(wave.to_value(u.AA), dtype=np.float64)
    if not (np.isfinite(wave).all() and (np.diff(wave) > 0).all() and wave[0] > 0):
        raise ValueError("wavelength: must be finite, positive and strictly rising")
    if wave[0] < 2650 or wave[-1] > 20000:
        raise ValueError(f"wavelength: {wave[0]:.0f}-{wave[-1]:.0f} A; the models cover parts of 2650-20000 A")
    return wave


def resolve_lsf(lsf, wave):
    """A function of observed wavelength (Tensor) -> sigma (Tensor), angstrom; None for the default."""
    import torch

    if lsf is None:
        return None
    if callable(lsf) and not isinstance(lsf, u.Quantity):
        return lambda x: torch.as_tensor(np.asarray(lsf(x.numpy()), dtype=np.float32))
    value = u.Quantity(lsf)
    if value.unit.is_equivalent(u.AA):
        sigma = np.broadcast_to(value.to_value(u.AA), wave.shape) if value.shape in ((), wave.shape) else None
    elif value.unit.is_equivalent(u.one) and value.shape in ((), wave.shape):
        sigma = wave / np.broadcast_to(value.to_value(u.one), wave.shape) / GAUSS
    else:
        sigma = None
    if sigma is None or not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError(
            f"lsf={lsf!r}: give sigma as a length, a resolving power (lambda/FWHM), one value or one per pixel of "
            "`wavelength`, positive and finite; or a function of wavelength [angstrom]"
        )
    sigma = sigma.astype(np.float32)
    return lambda x: torch.as_tensor(np.interp(x.numpy(), wave, sigma), dtype=torch.float32)


def aperture_points(aperture, trained):
    """Points [arcsec] at which the trained aperture is laid, the factor to its mean flux, and whether it is larger
    than the aperture asked for.

    What is larger than the trained aperture is the average over points within it, each seen through the trained
    aperture, spread so that the second moments add up to those of the aperture asked for. A smaller spaxel is the mean
    surface brightness in the trained aperture x the spaxel's area.
    """
    area, moment = np.pi / 4 * trained**2, trained**2 / 16  # variance of a disc per axis: diameter^2 / 16
    if isinstance(aperture, Spaxel):
        side = aperture.side.to_value(u.arcsec)
        wanted, factor, fill = side**2 / 12, side**2 / area, _square
    elif isinstance(aperture, Fiber):
        diameter = aperture.diameter.to_value(u.arcsec)
        wanted, factor, fill = diameter**2 / 16, np.pi / 4 * diameter**2 / area, _disc
    else:
        sigma = aperture.fwhm.to_value(u.arcsec) / GAUSS
        wanted, factor, fill = sigma**2, 2 * np.pi * sigma**2 / area, _disc
    excess = wanted - moment
    if excess < 1e-6:
        return np.zeros((1, 2)), factor, excess < -1e-6
    return fill(np.sqrt(excess), trained), factor, False


def _disc(sigma, trained):
    """Points of nearly equal area in a disc with variance ``sigma^2`` per axis, at most half an aperture apart."""
    rings = max(3, int(np.ceil(2 * sigma / (trained / 2))) + 1)
    points = [np.zeros((1, 2))]
    for ring in range(1, rings):
        angle = 2 * np.pi * (np.arange(6 * ring) + 0.5 * (ring % 2)) / (6 * ring)
        points.append(ring * np.stack([np.cos(angle), np.sin(angle)], -1))
    points = np.concatenate(points)
    return points * sigma / np.sqrt(np.mean(points[:, 0] ** 2))


def _square(sigma, trained):
    """A grid of points in a square with variance ``sigma^2`` per axis, at most half an aperture apart."""
    n = max(2, int(np.ceil(np.sqrt(12) * sigma / (trained / 2))))
    axis = np.arange(n) - (n - 1) / 2
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x.ravel(), y.ravel()], -1)
    return points * sigma / np.sqrt(np.mean(points[:, 0] ** 2))


def beam_fwhm(aperture, trained):
    """FWHM [arcsec] of a Gaussian with the second moment of the aperture that is really used."""
    points, _, _ = aperture_points(aperture, trained)
    return GAUSS * np.sqrt(trained**2 / 16 + np.mean(points[:, 0] ** 2))
