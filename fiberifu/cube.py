# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From arrays back to the sky: cubes (wave, y, x) and lists of spectra as `specutils.Spectrum`.

Importing this module registers the file formats of `fiberifu.formats`, so that ``Spectrum.read(path)`` knows
our files without being told.
"""

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.wcs import WCS
from specutils import Spectrum

from fiberifu.formats import (
    FLUX_UNIT,
    ErrorFactors,
    inverse_variance,
    read_cube,
    read_spectra,
    write_cube,
    write_spectra,
)

__all__ = [
    "FLUX_UNIT",
    "ErrorFactors",
    "cube_wcs",
    "inverse_variance",
    "make_cube",
    "make_spectra",
    "read_cube",
    "read_spectra",
    "spaxel_positions",
    "subcube",
    "write_cube",
    "write_spectra",
]


def cube_wcs(center, shape, spaxel, wavelength):
    """World coordinates of a cube (wave, y, x): North up, East left, ``center`` in the middle of the array.

    Parameters
    ----------
    center : `~astropy.coordinates.SkyCoord`
        Scalar; written as ICRS.
    shape : tuple of int
        ``(ny, nx)`` or ``(n_wave, ny, nx)``.
    spaxel : `~astropy.units.Quantity`
        Side of a spaxel (angle).
    wavelength : `~astropy.units.Quantity` or array_like of float, shape (n_wave,)
        Vacuum wavelength, Angstrom if there is no unit; linear or logarithmic steps (to 1e-3 of a pixel).

    Returns
    -------
    `~astropy.wcs.WCS`
        RA---TAN, DEC--TAN and WAVE, or WAVE-LOG (Greisen et al. 2006, A&A 446, 747), in Angstrom,
        ``array_shape`` set.
    """
    wave = np.atleast_1d(u.Quantity(wavelength, u.AA).value.astype(float))
    if len(shape) == 2:
        shape = (wave.size, *shape)
    if len(shape) != 3 or shape[0] != wave.size or min(shape) < 1:
        raise ValueError(f"shape is {tuple(shape)}; it must be (ny, nx) or ({wave.size}, ny, nx)")
    if not center.isscalar:
        raise ValueError(f"center has the shape {center.shape}; it must be one position")
    ctype, step = _spectral_axis(wave)
    center, side = center.icrs, u.Quantity(spaxel).to_value(u.deg)
    if not side > 0:
        raise ValueError(f"spaxel is {spaxel}; it must be positive")
    header = fits.Header()
    axes = (
        ("RA---TAN", "deg", center.ra.deg, (shape[2] + 1) / 2, -side),
        ("DEC--TAN", "deg", center.dec.deg, (shape[1] + 1) / 2, side),
        (ctype, "Angstrom", wave[0], 1.0, step),
    )
    for i, (ctype, unit, crval, crpix, cdelt) in enumerate(axes, start=1):
        header.update(
            {
                f"CTYPE{i}": ctype,
                f"CUNIT{i}": unit,
                f"CRVAL{i}": crval,
                f"CRPIX{i}": crpix,
                f"CDELT{i}": cdelt,
            }
        )
    header["RADESYS"] = "ICRS"
    wcs = WCS(header, preserve_units=True)
    wcs.array_shape = tuple(int(n) for n in shape)
    return wcs


def _spectral_axis(wave):
    """CTYPE and CDELT of a wavelength grid."""
    if wave.size == 1:
        return "WAVE", 1.0
    pixel = np.arange(wave.size)
    if not (np.isfinite(wave).all() and wave[0] > 0 and (np.diff(wave) > 0).all()):
        raise ValueError("wavelength must be finite, positive and increasing")
    linear = (wave[-1] - wave[0]) / pixel[-1]
    if np.allclose(wave, wave[0] + linear * pixel, rtol=0, atol=1e-3 * linear):
        return "WAVE", linear
    ratio = np.log(wave[-1] / wave[0]) / pixel[-1]
    if np.allclose(np.log(wave), np.log(wave[0]) + ratio * pixel, rtol=0, atol=1e-3 * ratio):
        return "WAVE-LOG", ratio * wave[0]
    raise ValueError(
        "wavelength has neither linear nor logarithmic steps; a cube's FITS WCS needs one of them "
        "(lists of spectra take any grid)"
    )


def spaxel_positions(cube):
    """Centres of the spaxels of a cube, or of a WCS with ``array_shape``.

    Returns
    -------
    `~astropy.coordinates.SkyCoord`, shape (ny, nx)
    """
    wcs = getattr(cube, "wcs", cube) if isinstance(cube, Spectrum) else cube
    shape = cube.shape if isinstance(cube, Spectrum) else wcs.array_shape
    if shape is None:
        raise ValueError("cube is a WCS without array_shape; set it, or give the cube")
    y, x = np.indices(shape[-2:])
    return wcs.celestial.pixel_to_world(x, y)


def make_cube(flux, ivar, mask, *, wcs, unit=FLUX_UNIT, meta=None):
    """A cube as `specutils.Spectrum`: flux per spaxel, inverse variance and mask.

    Parameters
    ----------
    flux, ivar : array_like, shape (n_wave, ny, nx)
        Flux in ``unit`` and inverse variance in ``unit**-2``; stored as float32.
    mask : array_like of bool or None
        True = bad, broadcast to the shape of ``flux``.  Pixels that are not finite, or of negative ivar, are
        bad in addition, with ivar 0.
    wcs : `~astropy.wcs.WCS`
        As from `cube_wcs`.
    unit : `~astropy.units.Unit`
        Default 1e-17 erg/(s cm2 Angstrom), per spaxel.
    meta : dict, optional
        ``provenance`` (needed to write), ``header`` (further cards), ``factors``, ``flags`` (ny, nx) ...

    Returns
    -------
    `~specutils.Spectrum`
    """
    if wcs.naxis != 3 or np.ndim(flux) != 3:
        raise ValueError(f"flux has {np.ndim(flux)} axes and wcs {wcs.naxis}; both must have 3: (wave, y, x)")
    return Spectrum(**_arrays(flux, ivar, mask, unit), wcs=wcs, spectral_axis_index=0, meta=dict(meta or {}))


def make_spectra(flux, ivar, mask, *, wavelength, positions, unit=FLUX_UNIT, meta=None):
    """Spectra at positions as one row-stacked `specutils.Spectrum`: flux in the aperture.

    Parameters
    ----------
    flux, ivar : array_like, shape positions.shape + (n_wave,)
    mask : array_like of bool or None
        True = bad, broadcast to the shape of ``flux``.
    wavelength : `~astropy.units.Quantity` or array_like of float, shape (n_wave,)
        Any increasing grid; Angstrom if there is no unit.
    positions : `~astropy.coordinates.SkyCoord`
        Of any shape; kept in ``meta["positions"]``.
    unit, meta
        As for `make_cube`.

    Returns
    -------
    `~specutils.Spectrum`
    """
    wave = u.Quantity(wavelength, u.AA)
    if np.shape(flux) != positions.shape + wave.shape:
        raise ValueError(
            f"flux has the shape {np.shape(flux)}; positions and wavelength ask for {positions.shape + wave.shape}"
        )
    return Spectrum(
        **_arrays(flux, ivar, mask, unit),
        spectral_axis=wave,
        spectral_axis_index=len(positions.shape),
        meta={**(meta or {}), "positions": positions},
    )


def _arrays(flux, ivar, mask, unit):
    """Flux, uncertainty and mask for a Spectrum, checked; what is not finite is masked."""
    flux, ivar = np.asarray(flux, dtype=np.float32), np.asarray(ivar, dtype=np.float32)
    if flux.shape != ivar.shape:
        raise ValueError(f"ivar has the shape {ivar.shape} and flux {flux.shape}; they must be the same")
    bad = ~np.isfinite(flux) | ~np.isfinite(ivar) | (ivar < 0)
    if bad.any():
        ivar = np.where(bad, np.float32(0), ivar)
    if mask is not None:
        bad |= np.broadcast_to(np.asarray(mask) != 0, flux.shape)
    unit = u.Unit(unit)
    return {
        "flux": u.Quantity(flux, unit, copy=False),
        "uncertainty": InverseVariance(ivar, unit=unit**-2),
        "mask": bad,
    }


def subcube(cube, *, wave_range=None, region=None):
    """Part of a cube, its celestial WCS kept (a slice of a `~specutils.Spectrum` loses it).

    Parameters
    ----------
    cube : `specutils.Spectrum`, shape (n_wave, ny, nx)
    wave_range : (low, high), optional
        Quantities (or Angstrom); pixels with centres inside are kept.
    region : `regions.SkyRegion` or `regions.PixelRegion`, optional
        The cube is cut to its bounding box; spaxels with centres outside are masked.

    Returns
    -------
    `specutils.Spectrum`
        With ``meta["flags"]`` cut too, and those of ``meta["factors"]`` whose axes are known
        (`~fiberifu.formats.ErrorFactors`).
    """
    wave = cube.spectral_axis.to_value(u.AA)
    _, ny, nx = cube.shape
    cut_wave, cut_y, cut_x, outside = slice(0, len(wave)), slice(0, ny), slice(0, nx), None
    if wave_range is not None:
        low, high = (u.Quantity(edge, u.AA).value for edge in wave_range)
        inside = np.flatnonzero((wave >= low) & (wave <= high))
        if not inside.size:
            raise ValueError(f"wave_range is {low} to {high} Angstrom; the cube has {wave[0]} to {wave[-1]}")
        cut_wave = slice(int(inside[0]), int(inside[-1]) + 1)
    if region is not None:
        pixels = region.to_pixel(cube.wcs.celestial) if hasattr(region, "to_pixel") else region
        weights = pixels.to_mask(mode="center").to_image((ny, nx))
        if weights is None or not (weights > 0).any():
            raise ValueError(f"region {region} has no spaxel of the cube inside")
        rows, columns = np.nonzero(weights > 0)
        cut_y, cut_x = (slice(int(i.min()), int(i.max()) + 1) for i in (rows, columns))
        outside = ~(weights[cut_y, cut_x] > 0)
    cut = (cut_wave, cut_y, cut_x)
    wcs = cube.wcs.slice(cut)
    wcs.array_shape = tuple(s.stop - s.start for s in cut)
    mask = np.zeros(cube.shape, bool)[cut] if cube.mask is None else np.array(cube.mask[cut])
    if outside is not None:
        mask |= outside
    meta = dict(cube.meta)
    if "flags" in meta:
        meta["flags"] = np.asarray(meta["flags"])[cut_y, cut_x]
    if "factors" in meta:
        meta["factors"] = _cut_factors(meta["factors"], {"wave": cut_wave, "y": cut_y, "x": cut_x})
    ivar = inverse_variance(cube)[cut]
    return make_cube(cube.flux.value[cut], ivar, mask, wcs=wcs, unit=cube.unit, meta=meta)


def _cut_factors(factors, cuts):
    axes = getattr(factors, "axes", {})
    arrays = {
        name: array[tuple(cuts.get(axis, slice(None)) for axis in axes[name].split())]
        for name, array in factors.items()
        if name in axes
    }
    return ErrorFactors(arrays, axes={name: axes[name] for name in arrays}, cards=getattr(factors, "cards", {}))
