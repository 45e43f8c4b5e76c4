# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Any specutils cube as rows of numbers: wavelengths, data and weights in one unit, and the resolution.

Shapes: N spectra, P pixels, L lines.
"""

import astropy.units as u
import numpy as np
from specutils import Spectrum

from fiberifu.lines.maps import CONTINUUM_UNIT

__all__ = ["Rows"]

LOWEST = 50  # resolving power: what is less was meant as something else
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in sigma
POWERS = {"std": 1, "var": 2, "ivar": -2}  # of the error, by the names of astropy.nddata
WEIGHTS = {1: lambda x: 1 / (x * x), 2: lambda x: 1 / x, -2: lambda x: x + 0.0}
BLOCK = 64  # pixels
NAMED = ("spaxel", "pix", "pixel", "fiber", "fibre", "beam")  # taken as they are: 'per spaxel' stays so


class Rows:
    """A cube as rows, in rising wavelength and 1e-17 erg/(s cm2 Angstrom).

    Parameters
    ----------
    cube : `~specutils.Spectrum`
        Of any shape, in a flux density per wavelength, with an uncertainty.

    Attributes
    ----------
    wave, step : ndarray (P,)
        Pixel centres and widths, Angstrom; gaps do not make pixels wide.
    segment : ndarray (P,) of int
        Number of the part between gaps that a pixel belongs to.
    shape : tuple
        Spatial shape of the cube.

    Raises
    ------
    ValueError
        For another type, no uncertainty, or another unit.
    """

    def __init__(self, cube):
        if not isinstance(cube, Spectrum):
            raise ValueError(f"cube is a {type(cube).__name__}; give a specutils.Spectrum")
        if cube.uncertainty is None:
            raise ValueError("cube has no uncertainty; errors of lines need one (set cube.uncertainty)")
        self.cube, self.axis = cube, cube.spectral_axis_index
        wave = cube.spectral_axis.to_value(u.AA)
        if len(wave) < 3:
            raise ValueError(f"cube has {len(wave)} wavelengths; a spectrum is needed")
        self.order = np.arange(len(wave)) if wave[0] < wave[-1] else np.arange(len(wave))[::-1]
        self.wave = np.ascontiguousarray(wave[self.order], dtype=float)
        gap = np.diff(self.wave)
        left, right = np.append(gap[0], gap), np.append(gap, gap[-1])
        self.step = np.where(np.maximum(left, right) > 3 * np.minimum(left, right), np.minimum(left, right),
                             (left + right) / 2)  # fmt: skip
        self.segment = np.append(0, np.cumsum(gap > 3 * np.minimum(self.step[1:], self.step[:-1])))
        self.factor = _to_flux_density(cube.flux.unit)
        self.shape = tuple(int(n) for n in np.delete(cube.shape, self.axis))

    def __len__(self):
        return int(np.prod(self.shape))

    def read(self, mask=None, pixels=slice(None)):
        """Data and inverse variance (N, P) at ``pixels``, counted in rising wavelength; 0 and 0 where bad.

        Real cubes have pixels with errors a thousand times too small, which would rule a fit: one whose error is less
        than a tenth of what its surroundings have is bad, too.

        Parameters
        ----------
        mask : array_like of bool, optional
            True = bad, broadcast to the shape of the cube; in addition to the cube's own mask.
        pixels : ndarray of int or slice
        """
        cube = self.cube
        data, weight = self(cube.flux.value, pixels) * self.factor, self._weight(cube.uncertainty, pixels)
        good = np.isfinite(data) & np.isfinite(weight) & (weight > 0)
        if cube.mask is not None:
            good &= ~self(np.asarray(cube.mask, bool), pixels)
        if mask is not None:
            try:
                good &= ~self(np.broadcast_to(np.asarray(mask, bool), cube.shape), pixels)
            except ValueError:
                raise ValueError(
                    f"mask has the shape {np.shape(mask)}; it must be that of the cube, {cube.shape}"
                ) from None
        weight = _believable(np.where(good, weight, 0.0))
        return np.where(weight > 0, data, 0.0), weight

    def __call__(self, array, pixels=slice(None)):
        """(N, P) from an array of the cube's shape."""
        last = np.moveaxis(np.asarray(array), self.axis, -1)
        last = np.take(last, self.order[pixels], axis=-1)  # row by row in memory, as indexing would not be
        return last.reshape(-1, last.shape[-1]).astype(bool if last.dtype == bool else float, copy=False)

    def back(self, rows, pixels):
        """An array of the cube's shape from rows (N, P'), NaN at other pixels."""
        out = np.full((len(rows), len(self.order)), np.nan, np.float32)
        out[:, self.order[pixels]] = rows
        return np.moveaxis(out.reshape(*self.shape, -1), -1, self.axis)

    def model(self, model, pixels):
        """Rows (N, P') of a model of the continuum, given as a Spectrum or as an array of the cube's shape."""
        if isinstance(model, Spectrum):
            model = model.flux
        unit = self.cube.flux.unit
        model = model.to_value(unit) if isinstance(model, u.Quantity) else np.asarray(model, float)
        if model.shape != self.cube.shape:
            raise ValueError(f"continuum has the shape {model.shape}; it must be that of the cube, {self.cube.shape}")
        return self(model, pixels) * self.factor

    def _weight(self, uncertainty, pixels):
        """Inverse variance of the pixels read; the methods of astropy.nddata would copy the whole cube."""
        if uncertainty.uncertainty_type not in POWERS:
            raise ValueError(
                f"cube has an uncertainty of the type {uncertainty.uncertainty_type!r}; give one of {', '.join(POWERS)}"
            )
        power = POWERS[uncertainty.uncertainty_type]
        array, unit = uncertainty.array, uncertainty.unit
        if isinstance(array, u.Quantity):
            array, unit = array.value, array.unit
        factor = self.factor if unit is None else _to_flux_density(unit ** (1 / power))
        error = self(array, pixels)
        if factor != 1:
            error = error * factor**power
        with np.errstate(divide="ignore", invalid="ignore"):
            return WEIGHTS[power](error)

    def resolution(self, lsf, wave=None):
        """Instrumental sigma, Angstrom, at every pixel, or at observed wavelengths ``wave`` (L,).

        Parameters
        ----------
        lsf : None, float, `~astropy.units.Quantity` or callable
            See `fit_line_maps`.
        wave : ndarray (L,), optional

        Returns
        -------
        ndarray
            (P,) or (L,), or with one row per spectrum.
        """
        wave = self.wave if wave is None else wave
        if lsf is None:
            return np.zeros(len(wave))
        if callable(lsf) and not isinstance(lsf, u.Quantity):
            sigma = np.asarray(lsf(wave), float)
        else:
            value = u.Quantity(lsf)
            if value.unit.is_equivalent(u.one):
                with np.errstate(divide="ignore"):
                    curve = self.wave / self._along(value.to_value(u.one)) / FWHM
            elif value.unit.is_equivalent(u.AA):
                curve = self._along(value.to_value(u.AA))
            else:
                raise ValueError(f"lsf is in {value.unit}; give sigma as a length, or a resolving power without unit")
            if curve.ndim == 1:
                sigma = np.interp(wave, self.wave, np.broadcast_to(curve, self.wave.shape))
            else:
                place = np.interp(wave, self.wave, np.arange(len(self.wave)))
                low = np.minimum(place.astype(int), len(self.wave) - 2)
                part = place - low
                sigma = curve[:, low] * (1 - part) + curve[:, low + 1] * part
                sigma = np.where(np.isfinite(sigma), sigma, np.nanmedian(sigma, 0))
        if sigma.shape[-1:] != wave.shape or not (np.isfinite(sigma).all() and (sigma >= 0).all()):
            raise ValueError(f"lsf={lsf!r}: sigma must be finite and not negative, of shape {wave.shape}, got {sigma}")
        if np.median(sigma / wave) > 1 / LOWEST / FWHM:
            raise ValueError(
                f"lsf={lsf!r}: that is a resolving power lambda/FWHM below {LOWEST}; give sigma with its unit, such as "
                "1.2 * u.AA, or a resolving power"
            )
        return sigma

    def _along(self, value):
        """A number, a curve (P,), or a cube as rows (N, P); in rising wavelength."""
        if np.ndim(value) == 0:
            return np.full(len(self.wave), float(value))
        if np.shape(value) == self.wave.shape:
            return np.asarray(value, float)[self.order]
        if np.shape(value) == self.cube.shape:
            return self(value)
        raise ValueError(
            f"lsf has the shape {np.shape(value)}; give one value, one per wavelength {self.wave.shape}, or one per "
            f"pixel {self.cube.shape}"
        )


def _believable(weight):
    """Weights (N, P) without those that exceed a hundred times the median of their block of pixels."""
    blocks = np.pad(weight, ((0, 0), (0, -weight.shape[1] % BLOCK)), mode="edge").reshape(len(weight), -1, BLOCK)
    odd = blocks.max(2) > 20 * blocks.mean(2)  # quicker than medians; one in 64 can exceed the mean 64 times
    if not odd.any():
        return weight
    middle = np.median(blocks[odd], 1, keepdims=True)
    blocks[odd] = np.where((blocks[odd] > 100 * middle) & (middle > 0), 0.0, blocks[odd])
    return blocks.reshape(len(weight), -1)[:, : weight.shape[1]]


def _to_flux_density(unit):
    """Factor to 1e-17 erg/(s cm2 Angstrom)."""
    kept = [(base, power) for base, power in zip(unit.bases, unit.powers, strict=True) if str(base) not in NAMED]
    try:
        return u.CompositeUnit(unit.scale, *map(list, zip(*kept, strict=True))).to(CONTINUUM_UNIT)
    except (u.UnitConversionError, TypeError):
        raise ValueError(
            f"cube has the unit {unit}; line fluxes need a flux density per wavelength, such as "
            "1e-17 erg/(s cm2 Angstrom)"
        ) from None
