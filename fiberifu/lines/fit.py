# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a cube to maps of emission lines: what the engine needs to know, and what its numbers mean."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import astropy.units as u
import numpy as np
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from specutils import Spectrum

from fiberifu.constants import C_KMS
from fiberifu.flags import Flag
from fiberifu.lines.engine import LineProblem, fit_lines, line_spectra, polynomial_spectra
from fiberifu.lines.maps import CONTINUUM_UNIT, DAPMask, LineMaps
from fiberifu.lines.table import line_table
from fiberifu.provenance import Provenance

__all__ = ["fit_line_maps"]

FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in sigma
BAD = np.int32(DAPMask.DONOTUSE)
ROOM = 600.0  # km/s; a line is covered when all of this around it is
KINEMATICS = {"all": lambda groups: np.zeros(len(groups), int),
              "balmer+forbidden": lambda groups: (~np.isin(groups, ("balmer", "paschen"))).astype(int),
              "table": lambda groups: np.unique(groups, return_inverse=True)[1]}  # fmt: skip
POWERS = {"std": 1, "var": 2, "ivar": -2}  # of the error, by the names of astropy.nddata
SURE = 3.0  # S/N below which velocity and width are called unreliable


def fit_line_maps(
    cube,
    table="strong",
    *,
    redshift,
    lsf=None,
    continuum=2,
    window=60 * u.AA,
    kinematics="all",
    medium="vacuum",
    mask=None,
    threads=None,
    chunk=1024,
):
    """Fit emission lines in every spaxel of a cube, or in every spectrum of a list.

    Gaussians, integrated over pixels and widened by the instrument, on a continuum; lines of one kinematic group share
    velocity and intrinsic width, doublets of fixed ratio one flux. Fluxes may be negative: where there is no line they
    scatter around zero.

    Parameters
    ----------
    cube : `~specutils.Spectrum`
        Of any shape, in a flux density; with an uncertainty. Of any survey.
    table : str, sequence of str or `~astropy.table.QTable`
        Of lines, see `line_table`.
    redshift : float
        Systemic; velocities are c (z_obs - z) / (1 + z), within +-1000 km/s of it.
    lsf : float, `~astropy.units.Quantity` or callable, optional
        Instrumental resolution: a resolving power lambda / FWHM; sigma as a length, one number, one per wavelength or
        one per pixel of the cube; or a function of observed wavelength that returns sigma, both in Angstrom. None:
        widths are as observed, the instrument's included.
    continuum : int, `~specutils.Spectrum`, array_like or callable
        Degree of a polynomial in each window around the lines; or a model of the continuum, of the shape of the cube,
        to be subtracted; or a function that makes one of the cube. Stellar absorption needs a model: a polynomial under
        H-beta loses several Angstrom of equivalent width.
    window : `~astropy.units.Quantity`
        Rest-frame reach of the windows beyond their lines.
    kinematics : {'all', 'balmer+forbidden', 'table'}
        Which lines move together: all; hydrogen, and the rest; or by the column ``group`` of the table.
    medium : {'vacuum', 'air'}
        Of the cube's wavelengths (MaNGA, DESI: vacuum; SAMI, MUSE: air).
    mask : array_like of bool, optional
        True = bad, broadcast to the shape of the cube; in addition to the cube's own mask.
    threads : int, optional
        All cores by default.
    chunk : int
        Spectra fitted together; results do not depend on it.

    Returns
    -------
    `LineMaps`
        Dispersions are as observed, as in the DAP; ``meta["chi2"]`` and ``meta["n_pixels"]`` are maps of chi2 and of
        the pixels that it is summed over, ``meta["degrees_of_freedom"]`` these less the parameters.

    Raises
    ------
    ValueError
        Naming the argument, what came and what would do. A bad spaxel is flagged, never raised.

    Warns
    -----
    AstropyUserWarning
        For a predicted cube, whose pixels are correlated: the errors are flagged.
    """
    spectra = _Spectra(cube)
    lines = table if isinstance(table, QTable) else line_table(table, medium)
    if kinematics not in KINEMATICS:
        raise ValueError(f"kinematics is {kinematics!r}; use one of {sorted(KINEMATICS)}")
    if not (np.isscalar(redshift) and np.isfinite(redshift) and redshift > -0.01):
        raise ValueError(f"redshift is {redshift!r}; give the one systemic redshift")
    lines = lines[np.argsort(lines["wavelength"])]
    centres = lines["wavelength"].to_value(u.AA) * (1 + redshift)
    room = centres * ROOM / C_KMS
    wave = spectra.wave
    covered = np.flatnonzero((centres - room > wave[0]) & (centres + room < wave[-1]))
    if not covered.size:
        raise ValueError(
            f"redshift is {redshift}: no line of the table falls on {wave[0]:.0f}-{wave[-1]:.0f} Angstrom; "
            "check redshift and table"
        )
    fitted = lines[covered]
    windows = _windows(wave, centres[covered], u.Quantity(window).to_value(u.AA) * (1 + redshift))
    used = np.zeros(len(wave), bool)
    for low, high in windows:
        used[low:high] = True
    for band in np.concatenate([fitted[side].to_value(u.AA) for side in ("blue", "red")]) * (1 + redshift):
        used |= (wave > band[0]) & (wave < band[1])
    sigma = spectra.resolution(lsf, centres[covered])  # (L,) or (N, L)
    spectra.load(continuum, mask, np.flatnonzero(used))
    place = np.cumsum(used) - 1
    problem = LineProblem(
        spectra.wave,
        spectra.step,
        centres[covered],
        sigma if sigma.ndim == 1 else np.nan_to_num(np.nanmedian(sigma, 0)),
        _ties(fitted),
        KINEMATICS[kinematics](np.asarray(fitted["group"], str)),
        tuple((int(place[low]), int(place[high - 1]) + 1) for low, high in windows),
        degree=continuum if isinstance(continuum, int) else -1,
    )

    def work(rows):
        return _fit_rows(problem, spectra, rows, sigma if sigma.ndim == 1 else sigma[rows], fitted, redshift)

    parts = [slice(i, i + chunk) for i in range(0, len(spectra.data), chunk)]
    workers = min(threads or os.cpu_count() or 1, len(parts))
    if workers == 1:
        results = list(map(work, parts))
    else:
        with ThreadPoolExecutor(workers) as pool:
            results = list(pool.map(work, parts))
    found = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
    return _assemble(found, spectra, lines, covered, redshift, cube)


# ---------------------------------------------------------------- what goes in
class _Spectra:
    """A cube as rows: wavelengths and pixel widths (P,), data and weight (N, P), in 1e-17 erg/(s cm2 Angstrom)."""

    def __init__(self, cube):
        if not isinstance(cube, Spectrum):
            raise ValueError(f"cube is a {type(cube).__name__}; give a specutils.Spectrum")
        if cube.uncertainty is None:
            raise ValueError("cube has no uncertainty; errors of lines need one (set cube.uncertainty)")
        self.cube, self.axis = cube, cube.spectral_axis_index
        wave = cube.spectral_axis.to_value(u.AA)
        self.order = np.arange(len(wave)) if wave[0] < wave[-1] else np.arange(len(wave))[::-1]
        self.wave = np.ascontiguousarray(wave[self.order], dtype=float)
        self.step = np.gradient(self.wave)
        self.factor = _to_flux_density(cube.flux.unit)
        self.shape = tuple(np.delete(cube.shape, self.axis))

    def load(self, continuum, mask, pixels):
        """Read what is needed of the cube: ``pixels``, counted in rising wavelength."""
        cube = self.cube
        self.wave, self.step, self.order = self.wave[pixels], self.step[pixels], self.order[pixels]
        model = continuum(cube) if callable(continuum) else continuum
        self.data, self.model = self.rows(cube.flux.value) * self.factor, None
        if not isinstance(model, int | np.integer):
            self.model = self.rows(self._continuum(model, cube)) * self.factor
            self.data = self.data - self.model
        elif not 0 <= model <= 6:
            raise ValueError(f"continuum is {model}; a polynomial of degree 0 to 6, or a model of the cube's shape")
        weight = self._weight(cube.uncertainty)
        good = np.isfinite(self.data) & np.isfinite(weight) & (weight > 0)
        if cube.mask is not None:
            good &= ~self.rows(np.asarray(cube.mask, bool))
        if mask is not None:
            try:
                good &= ~self.rows(np.broadcast_to(np.asarray(mask, bool), cube.shape))
            except ValueError:
                raise ValueError(
                    f"mask has the shape {np.shape(mask)}; it must be that of the cube, {cube.shape}"
                ) from None
        self.weight = np.where(good, weight, 0.0)
        self.data = np.where(good, self.data, 0.0)

    def _weight(self, uncertainty):
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
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.rows(array) * factor**power) ** (-2.0 / power)

    def rows(self, array):
        """(N, P) from an array of the cube's shape."""
        last = np.moveaxis(np.asarray(array), self.axis, -1)[..., self.order]
        return last.reshape(-1, len(self.order)).astype(bool if last.dtype == bool else float)

    def _continuum(self, model, cube):
        if isinstance(model, Spectrum):
            model = model.flux
        model = model.to_value(cube.flux.unit) if isinstance(model, u.Quantity) else np.asarray(model, float)
        if model.shape != cube.shape:
            raise ValueError(f"continuum has the shape {model.shape}; it must be that of the cube, {cube.shape}")
        return model

    def resolution(self, lsf, centres):
        """Instrumental sigma at the lines, (L,) or (N, L), Angstrom."""
        if lsf is None:
            return np.zeros(len(centres))
        if callable(lsf) and not isinstance(lsf, u.Quantity):
            sigma = np.asarray(lsf(centres), float)
        else:
            value = u.Quantity(lsf)
            if value.unit.is_equivalent(u.one):
                with np.errstate(divide="ignore"):
                    curve = self.wave / _along(value.to_value(u.one), self) / FWHM
            elif value.unit.is_equivalent(u.AA):
                curve = _along(value.to_value(u.AA), self)
            else:
                raise ValueError(f"lsf is in {value.unit}; give sigma as a length, or a resolving power without unit")
            if curve.ndim == 1:
                sigma = np.interp(centres, self.wave, np.broadcast_to(curve, self.wave.shape))
            else:
                place = np.interp(centres, self.wave, np.arange(len(self.wave)))
                low = np.minimum(place.astype(int), len(self.wave) - 2)
                part = place - low
                sigma = curve[:, low] * (1 - part) + curve[:, low + 1] * part
                sigma = np.where(np.isfinite(sigma), sigma, np.nanmedian(sigma, 0))
        if sigma.shape[-1:] != centres.shape or not (np.isfinite(sigma).all() and (sigma >= 0).all()):
            raise ValueError(f"lsf={lsf!r}: sigma at the lines must be finite and not negative, got {sigma}")
        return sigma


def _along(value, spectra):
    """A number, a curve (P,), or a cube as rows (N, P); in rising wavelength."""
    if np.ndim(value) == 0:
        return np.full(len(spectra.wave), float(value))
    if np.shape(value) == spectra.wave.shape:
        return np.asarray(value, float)[spectra.order]
    if np.shape(value) == spectra.cube.shape:
        return spectra.rows(value)
    raise ValueError(
        f"lsf has the shape {np.shape(value)}; give one value, one per wavelength {spectra.wave.shape}, or one per "
        f"pixel {spectra.cube.shape}"
    )


def _to_flux_density(unit):
    """Factor to 1e-17 erg/(s cm2 Angstrom); 'per spaxel', 'per fibre' and the like are taken as they are."""
    named = ("spaxel", "pix", "pixel", "fiber", "fibre", "beam")
    kept = [(base, power) for base, power in zip(unit.bases, unit.powers, strict=True) if str(base) not in named]
    try:
        return u.CompositeUnit(unit.scale, *map(list, zip(*kept, strict=True))).to(CONTINUUM_UNIT)
    except (u.UnitConversionError, TypeError):
        raise ValueError(
            f"cube has the unit {unit}; line fluxes need a flux density per wavelength, such as "
            "1e-17 erg/(s cm2 Angstrom)"
        ) from None


def _ties(table):
    """Lines (L) by free fluxes (F): a line that is tied to another of the table has that one's flux times the ratio."""
    keys = [str(key) for key in table["key"]]
    parent = [str(name) if str(name) in keys else key for key, name in zip(keys, table["tied_to"], strict=True)]
    free = [key for key, name in zip(keys, parent, strict=True) if key == name]
    tie = np.zeros((len(keys), len(free)))
    for i, (key, name) in enumerate(zip(keys, parent, strict=True)):
        tie[i, free.index(name)] = 1.0 if key == name else float(table["ratio"][i])
    return tie


def _windows(wave, centres, reach):
    """Disjoint ranges of pixels around the lines."""
    low, high = (np.searchsorted(wave, centres + side * reach) for side in (-1, 1))
    merged = []
    for a, b in zip(low, high, strict=True):
        if merged and a <= merged[-1][1]:
            merged[-1][1] = max(b, merged[-1][1])
        else:
            merged.append([a, b])
    return tuple((int(a), int(b)) for a, b in merged)


# ---------------------------------------------------------------- one chunk
def _fit_rows(problem, spectra, rows, lsf, table, redshift):
    """All quantities of some spectra, per line (N, L) and per spectrum (N,)."""
    data, weight = spectra.data[rows], spectra.weight[rows]
    fit = fit_lines(problem, data, weight, lsf=lsf)
    n_free, n_groups, tie, group = problem.tie.shape[1], problem.n_groups, problem.tie, problem.group
    flux = np.nan_to_num(fit.flux) @ tie.T
    lost = np.isnan(fit.flux) @ (tie != 0).T
    covariance = tie @ fit.covariance[:, :n_free, :n_free] @ tie.T
    flux_sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    spread = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    centre = problem.centres * (1 + fit.velocity[:, group] / C_KMS)
    instrument = np.broadcast_to(lsf, flux.shape) / centre * C_KMS
    total = fit.variance[:, group] + instrument**2
    dispersion = np.sqrt(np.clip(total, 0, None))
    lines = line_spectra(problem, fit, lsf)
    level, level_sigma = _pseudo_continuum(problem, spectra, rows, data - lines, weight, table, redshift)
    ew = flux / np.where(level > 0, level, np.nan) / (1 + redshift)
    ew_sigma = np.hypot(flux_sigma / np.where(flux_sigma > 0, level, np.nan), flux * level_sigma / level**2) / (
        1 + redshift
    )
    mask = np.where(lost, np.int32(DAPMask.NOCOV) | BAD, np.int32(0))
    failed = ~(fit.converged & np.isfinite(fit.chi2) & np.isfinite(fit.flux).any(1))[:, None]
    mask |= np.where(failed, np.int32(DAPMask.FITFAILED) | BAD, np.int32(0))
    snr = np.where(flux_sigma > 0, flux / np.where(flux_sigma > 0, flux_sigma, 1), 0)
    member = group[:, None] == np.arange(n_groups)
    best = np.where(member, snr[..., None], -np.inf).max(1)[:, group]  # of the brightest line that moves along
    doubt = np.where(fit.bounded[:, group], np.int32(DAPMask.NEARBOUND) | BAD, np.int32(0))
    doubt |= np.where(best < SURE, np.int32(DAPMask.UNRELIABLE) | BAD, np.int32(0))
    return {
        "flux": flux, "flux_sigma": flux_sigma, "covariance": covariance,
        "ew": ew, "ew_sigma": np.abs(ew_sigma), "continuum": level, "continuum_sigma": level_sigma,
        "velocity": fit.velocity[:, group], "velocity_sigma": spread[:, n_free + group],
        "dispersion": dispersion,
        "dispersion_sigma": spread[:, n_free + n_groups + group] / 2 / np.maximum(dispersion, 10.0),
        "instrumental_dispersion": instrument, "mask": mask, "kinematic_mask": mask | doubt,
        "chi2": fit.chi2, "n_pixels": fit.n_pixels,
        "degrees_of_freedom": fit.n_pixels - n_free - 2 * n_groups - len(problem.windows) * (problem.degree + 1),
    }  # fmt: skip


def _pseudo_continuum(problem, spectra, rows, residual, weight, table, redshift):
    """Continuum at the lines and its error: between the means of the DAP's side bands, lines subtracted."""
    smooth = polynomial_spectra(problem, residual, weight) if problem.degree >= 0 else None
    model = 0.0 if spectra.model is None else spectra.model[rows]
    light = residual + model
    wave, z1 = spectra.wave, 1 + redshift
    level, sigma = (np.full((len(residual), len(table)), np.nan) for _ in range(2))
    for i, line in enumerate(table):
        sides = []
        for name in ("blue", "red"):
            low, high = line[name].to_value(u.AA) * z1
            inside = (wave > low) & (wave < high)
            if not inside.any():
                break
            good = weight[:, inside] > 0
            n = good.sum(1)
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = np.where(good, light[:, inside], 0).sum(1) / n
                noise = np.sqrt(np.where(good, 1 / weight[:, inside], 0).sum(1)) / n
            sides.append(((low + high) / 2, np.where(n > 0, mean, np.nan), noise))
        if len(sides) == 2:
            (a, mean_a, noise_a), (b, mean_b, noise_b) = sides
            part = (problem.centres[i] - a) / (b - a)
            level[:, i] = mean_a * (1 - part) + mean_b * part
            sigma[:, i] = np.hypot(noise_a * (1 - part), noise_b * part)
        elif smooth is not None:  # no side bands: the fitted continuum itself
            level[:, i] = smooth[:, np.searchsorted(wave, problem.centres[i])]
    return level, sigma


# ---------------------------------------------------------------- what comes out
def _assemble(found, spectra, lines, covered, redshift, cube):
    shape = spectra.shape

    def full(name, fill=np.nan):
        value = np.full((len(lines), len(spectra.data)), fill, dtype=found[name].dtype)
        value[covered] = found[name].T
        return value.reshape(len(lines), *shape)

    absent = np.int32(DAPMask.NOCOV) | BAD
    mask, kinematic = full("mask", absent), full("kinematic_mask", absent)
    n = len(lines)
    covariance = np.full((len(spectra.data), n, n), np.nan)
    covariance[:, covered[:, None], covered] = found["covariance"]
    wcs = getattr(cube, "wcs", None)
    celestial = wcs.celestial if hasattr(wcs, "celestial") and getattr(wcs, "has_celestial", False) else None
    provenance = cube.meta.get("provenance")
    provenance = provenance if isinstance(provenance, Provenance) else None
    flags = cube.meta.get("flags")
    flags = flags if flags is not None and np.shape(flags) == shape else None
    if provenance is not None and provenance.datatype == "PREDICTED":
        flags = np.int32(Flag.FORMAL_ERRORS) | (np.zeros(shape, np.int32) if flags is None else flags)
        warnings.warn(
            "cube: predicted pixels are correlated, and a fit takes them as independent: its errors are far too small, "
            "and flagged FORMAL_ERRORS; take lines of a prediction from Prediction.line_maps()",
            AstropyUserWarning,
            stacklevel=3,
        )
    return LineMaps(
        [str(key) for key in lines["key"]],
        full("flux"),
        full("flux_sigma"),
        full("ew"),
        full("ew_sigma"),
        full("continuum"),
        full("continuum_sigma"),
        redshift=redshift,
        velocity=full("velocity"),
        velocity_sigma=full("velocity_sigma"),
        dispersion=full("dispersion"),
        dispersion_sigma=full("dispersion_sigma"),
        instrumental_dispersion=full("instrumental_dispersion"),
        mask={"flux": mask, "ew": mask, "continuum": mask, "velocity": kinematic, "dispersion": kinematic,
              "instrumental_dispersion": mask},
        flags=flags,
        wcs=celestial if len(shape) == 2 else None,
        positions=cube.meta.get("positions") if celestial is None else None,
        covariance=covariance.reshape(*shape, n, n),
        provenance=provenance,
        meta={name: found[name].reshape(shape) for name in ("chi2", "n_pixels", "degrees_of_freedom")},
    )  # fmt: skip
