# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The starlight under the lines: non-negative sums of template spectra with velocity and dispersion.

``templates -> ladder of dispersions -> light, polynomial, velocity and dispersion of each spectrum -> model``

Given velocity and dispersion the light of each template follows by non-negative least squares (Lawson & Hanson 1974)
with a multiplicative polynomial for dust and flux calibration (as in Cappellari 2017, MNRAS 466, 798, section 2);
velocity and dispersion follow by Gauss-Newton steps, with a wide Gaussian prior around those of the co-added spectrum
that holds them where the noise says nothing.  Emission lines are left out.  Templates are broadened to the
resolution of the data and never sharpened: where the data are sharper than they are, the model is not.

Shapes: N spectra, P pixels, T templates, R pixels of the rest-frame grid, V levels of dispersion.
"""

from dataclasses import dataclass, field
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

from fiberifu.constants import C_KMS
from fiberifu.lines.ppxf import PPXF
from fiberifu.lines.table import line_table
from fiberifu.lines.threads import in_threads

__all__ = ["StellarFit", "StellarTemplates", "fit_starlight"]

STEP = 1e-4  # of ln(wavelength) on the rest-frame grid: 30 km/s
LEVELS = np.array([0, 30, 45, 60, 75, 90, 105, 120, 140, 160, 180, 205, 230, 260, 290, 330, 370, 420, 500.0])  # km/s
MASKED = 600.0  # km/s on either side of emission lines
MAX_VELOCITY, MAX_SIGMA = 1000.0, 450.0  # km/s
CLIP = 4.0  # sigma
PRIOR = np.array([200.0, 80.0])  # km/s, around velocity and dispersion of the co-added spectrum
METHODS = ("nnls", "ppxf")
SCAN = np.arange(-400.0, 401.0, 50.0)  # km/s, where a spectrum is looked for before the steps


@dataclass(frozen=True, eq=False)
class StellarTemplates:
    """Rest-frame spectra of stars or stellar populations.

    Parameters
    ----------
    wave : `~astropy.units.Quantity`, shape (R,)
        Vacuum, rising.
    flux : ndarray (T, R)
        Flux density per wavelength, in any unit: each is divided by its median.
    resolution : float or ndarray (R,)
        Resolving power lambda / FWHM.
    names : sequence of str, optional
    """

    wave: u.Quantity
    flux: np.ndarray
    resolution: np.ndarray
    names: tuple = ()
    levels: np.ndarray = field(init=False, repr=False)  # (V, R', T)
    log_wave: np.ndarray = field(init=False, repr=False)
    variance: np.ndarray = field(init=False, repr=False)  # (R',) of the templates' resolution, (km/s)^2

    def __post_init__(self):
        wave, flux = u.Quantity(self.wave).to_value(u.AA), np.atleast_2d(np.asarray(self.flux, float))
        if wave.ndim != 1 or flux.shape[1:] != wave.shape or not (np.diff(wave) > 0).all():
            raise ValueError(f"flux has the shape {flux.shape} and wave {wave.shape}; give (T, R) and rising (R,)")
        if not np.isfinite(flux).all() or (np.median(flux, 1) <= 0).any():
            raise ValueError("flux: templates must be finite, with medians above zero")
        power = np.broadcast_to(np.asarray(self.resolution, float), wave.shape)
        if not (np.isfinite(power) & (power > 0)).all():
            raise ValueError("resolution must be a resolving power above zero, one or one per wavelength")
        grid = np.arange(np.log(wave[0]), np.log(wave[-1]), STEP)
        fine = CubicSpline(np.log(wave), (flux / np.median(flux, 1, keepdims=True)).T)(grid)
        ladder = [gaussian_filter1d(fine, s / C_KMS / STEP, axis=0, mode="nearest") if s else fine for s in LEVELS]
        object.__setattr__(self, "levels", np.stack(ladder).astype(np.float32))
        object.__setattr__(self, "log_wave", grid)
        sigma = C_KMS / np.interp(grid, np.log(wave), power) / np.sqrt(8 * np.log(2))
        object.__setattr__(self, "variance", sigma**2)

    def __len__(self):
        return self.levels.shape[2]

    def __repr__(self):
        low, high = np.exp(self.log_wave[[0, -1]])
        return f"<StellarTemplates: {len(self)} spectra, {low:.0f}-{high:.0f} Angstrom>"

    @classmethod
    def read_mastar(cls, folder=None):
        """The MaStar populations of Maraston et al. 2020 (MNRAS 496, 2962), as the MaNGA DAP has them.

        The 54 files, 1.6 MB in all, are in the public repository of the DAP, https://github.com/sdss/mangadap, in the
        folder ``mangadap/data/spectral_templates/mastar_ssp_v1.0``; they are BSD-licensed SDSS data.

        Parameters
        ----------
        folder : path-like, optional
            With files ``MaStar-SSP-*.fits.gz`` (extensions: flux, on log10 wavelengths in vacuum, and SRES); by default
            ``templates/mastar_ssp_v1.0`` in the folder that the environment variable ``FIBERIFU_DATA`` names.

        Raises
        ------
        FileNotFoundError
            When there are none.
        """
        if folder is None:
            from fiberifu.data_dir import find_data_dir

            try:
                folder = find_data_dir() / "templates" / "mastar_ssp_v1.0"
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    "no MaStar templates: copy mangadap/data/spectral_templates/mastar_ssp_v1.0 of "
                    "https://github.com/sdss/mangadap to FOLDER/templates/mastar_ssp_v1.0, and set the environment "
                    "variable FIBERIFU_DATA to FOLDER; or give any StellarTemplates"
                ) from error
        files = sorted(Path(folder).glob("MaStar-SSP-*.fits*"))
        if not files:
            raise FileNotFoundError(
                f"folder: no MaStar-SSP-*.fits in {str(folder)!r}; they are in the public repository sdss/mangadap, "
                "mangadap/data/spectral_templates/mastar_ssp_v1.0"
            )
        spectra, power = [], None
        for file in files:
            with fits.open(file) as hdus:
                header = hdus[0].header
                spectra.append(np.array(hdus[0].data, float))
                power = np.array(hdus["SRES"].data, float)
        pixel = np.arange(len(power)) + 1 - header["CRPIX1"]
        wave = 10 ** (header["CRVAL1"] + header["CDELT1"] * pixel)
        names = tuple(file.name.split(".fits")[0].removeprefix("MaStar-SSP-") for file in files)
        return cls(wave * u.AA, np.stack(spectra), power, names)


@dataclass(eq=False, repr=False)
class StellarFit:
    """What `fit_starlight` found, for N spectra of P pixels.

    Attributes
    ----------
    model : ndarray (N, P)
        In the unit of the data; NaN beyond the templates, and where there was nothing to fit: no pixels, or a spectrum
        below zero in a cube without light. Where the best is no light at all it is 0.
    velocity, dispersion, velocity_sigma, dispersion_sigma : ndarray (N,)
        km/s. Where errors come near the prior's, 200 and 80 km/s, the values are those of the co-added spectrum.
    weights : ndarray (N, T)
        Light of each template, at its median, in the unit of the data.
    chi2, n_pixels : ndarray (N,)
        Over the pixels fitted: emission lines and outliers left out.
    """

    model: np.ndarray
    velocity: np.ndarray
    dispersion: np.ndarray
    velocity_sigma: np.ndarray
    dispersion_sigma: np.ndarray
    weights: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray

    def __repr__(self):
        return f"<StellarFit of {len(self.velocity)} spectra, {self.weights.shape[1]} templates>"


def fit_starlight(templates, wave, data, weight, *, redshift, sigma=None, degree=8, masked=MASKED, method="nnls",
                  threads=None):  # fmt: skip
    """Fit the starlight of spectra on a common grid.

    Parameters
    ----------
    templates : StellarTemplates
    wave : ndarray (P,)
        Vacuum, Angstrom, observed, rising; gaps do no harm.
    data, weight : ndarray (N, P)
        Flux densities and inverse variances; pixels of weight 0 are never read.
    redshift : float
        Systemic; velocities are within +-1000 km/s of it.
    sigma : ndarray (P,), optional
        Instrumental sigma of the data, Angstrom; that of the templates by default.
    degree : int
        Of the multiplicative polynomial, over all of the spectrum; 0 for none.
    masked : float
        km/s on either side of the emission lines of ``line_table("all")`` that are left out.
    method : {'nnls', 'ppxf'}
        The solver of this module; or pPXF, where it is installed, which takes twice as long and has no prior.
    threads : int, optional
        All cores by default.

    Returns
    -------
    StellarFit
    """
    if method not in METHODS:
        raise ValueError(f"starlight is {method!r}; use one of {METHODS}")
    rest = np.log(wave / (1 + redshift))
    reach = (MAX_VELOCITY + 30) / C_KMS
    inside = (rest - reach > templates.log_wave[0]) & (rest + reach < templates.log_wave[-1])
    if inside.sum() < 100:
        raise ValueError(
            f"redshift is {redshift}: only {inside.sum()} pixels lie on the templates' wavelengths; check both"
        )
    extra = np.zeros(inside.sum())
    if sigma is not None:
        own = np.interp(rest[inside], templates.log_wave, templates.variance)
        extra = np.clip((np.broadcast_to(sigma, wave.shape)[inside] / wave[inside] * C_KMS) ** 2 - own, 0, None)
    renderer = _Renderer(templates, rest[inside], extra)
    lines = np.log(line_table("all")["wavelength"].to_value(u.AA))
    beside = (np.abs(rest[inside][:, None] - lines) > masked / C_KMS).all(1)
    data, weight = data[:, inside], weight[:, inside] * beside
    good = (weight > 0).sum(1) > 100
    poly = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(extra)), degree)[:, 1:]
    n = len(data)
    model = np.full((n, len(wave)), np.nan, np.float32)
    out = StellarFit(model, *np.full((4, n), np.nan), np.zeros((n, len(templates))), np.full(n, np.nan),
                     np.zeros(n, int))  # fmt: skip
    if not good.any():
        return out
    centre, curve, mixture = _coadded(renderer, poly, data[good], weight[good])
    if not mixture.any():  # spectra far below zero outweigh the light: without them
        good &= (weight * np.where(weight > 0, data, 0)).sum(1) > 0
        if good.any():
            centre, curve, mixture = _coadded(renderer, poly, data[good], weight[good])
        if not mixture.any():
            return out

    if method == "ppxf":
        own = np.interp(templates.log_wave, rest[inside], extra)
        broad = _Renderer(templates, templates.log_wave[:-1], own[:-1])(0.0, 0.0)
        ppxf = PPXF(templates.log_wave[:-1], broad, rest[inside], degree, MAX_VELOCITY)

    def work(i):
        if method == "ppxf":
            return ppxf.fit(data[i], weight[i], centre)
        velocity = _scan(renderer, poly, data[i], weight[i], centre, mixture)
        return _fit_one(renderer, poly, data[i], weight[i], (velocity, centre[1]), curve, centre)

    rows = np.flatnonzero(good)
    for i, (model, *numbers) in zip(rows, in_threads(work, rows, threads), strict=True):
        out.model[i, inside] = model
        (out.velocity[i], out.dispersion[i], out.velocity_sigma[i], out.dispersion_sigma[i], out.weights[i],
         out.chi2[i], out.n_pixels[i]) = numbers  # fmt: skip
    return out


class _Renderer:
    """Templates at the pixels of the data, for any velocity and dispersion."""

    def __init__(self, templates, rest, extra, levels=None):
        self.templates, self.rest, self.extra = templates, rest, extra
        self.levels = templates.levels if levels is None else levels  # (V, R, T)

    def only(self, used):
        """The same with some of the templates."""
        return _Renderer(self.templates, self.rest, self.extra, np.ascontiguousarray(self.levels[..., used]))

    def __call__(self, velocity, sigma, stack=None):
        """Templates (P, T), or mixtures of them ``stack`` (V, R) as (P,)."""
        stack = self.levels if stack is None else stack
        place = (self.rest - np.log1p(velocity / C_KMS) - self.templates.log_wave[0]) / STEP
        pixel = place.astype(int)
        part = (place - pixel).astype(np.float32)
        variance = (sigma**2 + self.extra).clip(0, 0.999 * LEVELS[-1] ** 2)
        level = np.searchsorted(LEVELS**2, variance, side="right") - 1
        rise = ((variance - LEVELS[level] ** 2) / np.diff(LEVELS**2)[level]).astype(np.float32)
        shape = (-1,) + (1,) * (stack.ndim - 2)
        part, rise = part.reshape(shape), rise.reshape(shape)
        low, high = (stack[index, pixel] * (1 - part) + stack[index, pixel + 1] * part for index in (level, level + 1))
        return low * (1 - rise) + high * rise


def _light(design, poly, data, weight, curve, rounds=2):
    """Non-negative light (T,) and multiplicative polynomial (P,), each in turn."""
    for _ in range(rounds):
        scaled = design * curve[:, None]
        weighted = scaled * weight[:, None]
        gram = (weighted.T @ scaled).astype(float)
        scale = np.sqrt(gram.diagonal())
        chol = np.linalg.cholesky(gram / scale[:, None] / scale + 1e-9 * np.eye(len(gram)))
        target = np.linalg.solve(chol, (weighted.T @ data) / scale)
        light = nnls(chol.T, target)[0] / scale
        if not poly.shape[1] or not light.any():
            break
        shape = design @ light
        columns = poly * shape[:, None]
        normal = (columns * weight[:, None]).T @ columns
        normal += 1e-10 * np.trace(normal) * np.eye(len(normal))
        curve = 1 + poly @ np.linalg.solve(normal, columns.T @ (weight * (data - shape)))
        curve = curve.clip(0.1, 10)
    return light, curve


def _coadded(renderer, poly, data, weight):
    """Velocity, dispersion and polynomial of the sum of all spectra, from a grid of velocities."""
    usable = weight > 0
    share = usable.mean(0)
    total = np.where(usable, data, 0).sum(0) / np.maximum(share, 1e-9)
    variance = np.divide(1, weight, out=np.zeros_like(weight), where=usable).sum(0) / np.maximum(share, 1e-9) ** 2
    w = np.where(share > 0.5, 1 / np.maximum(variance, 1e-300), 0.0)
    flat, best = np.ones(data.shape[1]), None
    for velocity in np.arange(-600, 601, 100.0):
        design = renderer(velocity, 100.0)
        light, curve = _light(design, poly, total, w, flat)
        chi2 = (w * (total - design @ light * curve) ** 2).sum()
        if best is None or chi2 < best[0]:
            best = chi2, velocity, curve
    start = np.array([best[1], 100.0])
    _, velocity, sigma, *_, light, _, _ = _fit_one(renderer, poly, total, w, start, best[2], start)
    return np.array([velocity, sigma]), best[2], renderer.templates.levels @ light.astype(np.float32)


def _scan(renderer, poly, data, weight, centre, mixture):
    """Velocity where the co-added spectrum, times a polynomial, fits best."""
    columns = np.column_stack([np.ones(len(poly)), poly])
    best = None
    for velocity in centre[0] + SCAN:
        design = columns * renderer(velocity, centre[1], mixture)[:, None]
        weighted = design * weight[:, None]
        normal = weighted.T @ design
        normal += 1e-10 * np.trace(normal) * np.eye(len(normal))
        target = weighted.T @ data
        gain = target @ np.linalg.solve(normal, target) - ((velocity - centre[0]) / PRIOR[0]) ** 2
        if best is None or gain > best[0]:
            best = gain, velocity
    return float(np.clip(best[1], -MAX_VELOCITY, MAX_VELOCITY))


def _fit_one(renderer, poly, data, weight, start, curve, centre):
    """Model (P,), velocity, dispersion, their errors, light (T,), chi2 and pixels of one spectrum."""
    data = np.where(weight > 0, data, 0.0)
    place, model, light, error, chi2 = _settle(renderer, poly, data, weight, start, curve, centre)
    far = weight * (data - model) ** 2 > CLIP**2 * max(chi2 / max((weight > 0).sum(), 1), 1)
    if far.any():  # outliers, once; they may have led it astray: from the start again
        weight = np.where(far, 0.0, weight)
        place, model, light, error, chi2 = _settle(renderer, poly, data, weight, start, curve, centre)
    return model, *place, *error, light, chi2, int((weight > 0).sum())


def _settle(renderer, poly, data, weight, start, curve, centre, max_steps=15):
    """Steps to the best velocity and dispersion: (these, model (P,), light (T,), errors, chi2)."""
    place, best, step = np.array(start, float), np.inf, np.zeros(2)
    design = renderer(*place)
    light, curve = _light(design, poly, data, weight, curve)
    # velocity and dispersion from the few templates that are in use; all have their turn again at the end
    used = np.flatnonzero(light)
    if not used.size:
        return place, design @ light, light, np.full(2, np.nan), (weight * data**2).sum()
    whole, renderer = renderer, renderer.only(used)
    for _ in range(max_steps):
        design = renderer(*(place + step))
        light, new_curve = _light(design, poly, data, weight, curve)
        model = design @ light * new_curve
        chi2 = (weight * (data - model) ** 2).sum()
        value = chi2 + (((place + step - centre) / PRIOR) ** 2).sum()
        if value > best:
            step = step / 4
            if np.abs(step).max() < 0.1:
                break
            continue
        gain, best, place, curve = best - value, value, place + step, new_curve
        step, error = _step(renderer, data, weight, place, centre, curve, model, light, design)
        if gain < 0.01:
            break
    design = whole(*place)
    light, curve = _light(design, poly, data, weight, curve)
    model = design @ light * curve
    return place, model, light, error, (weight * (data - model) ** 2).sum()


def _step(renderer, data, weight, place, centre, curve, model, light, design):
    """Gauss-Newton step of velocity and dispersion, and their errors, with the light of the templates in use free."""
    velocity, sigma = place
    mixture = renderer.levels @ light.astype(np.float32)
    h, lower = 10.0, max(sigma - 10, 0.0)
    by = np.stack([
        (renderer(velocity + h, sigma, mixture) - renderer(velocity - h, sigma, mixture)) / (2 * h),
        (renderer(velocity, sigma + h, mixture) - renderer(velocity, lower, mixture)) / (sigma + h - lower),
    ], 1) * curve[:, None]  # fmt: skip
    used = design[:, light > 0] * curve[:, None]
    root = np.sqrt(weight)[:, None]
    q, _ = np.linalg.qr(used * root)
    by = by * root
    by = by - q @ (q.T @ by)
    normal = by.T @ by + np.diag(PRIOR**-2.0)
    step = np.linalg.solve(normal, by.T @ (root[:, 0] * (data - model)) + (centre - place) / PRIOR**2)
    step = np.clip(step, [-150, -60], [150, 60])
    step = np.clip(place + step, [-MAX_VELOCITY, 0.0], [MAX_VELOCITY, MAX_SIGMA]) - place
    return step, np.sqrt(np.diag(np.linalg.inv(normal)))
