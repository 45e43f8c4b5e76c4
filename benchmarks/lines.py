# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The line engine against its peers, and against the truth, on mock cubes: speed, bias, pulls, capture.

    python benchmarks/lines.py --targets -o lines.json

The cube: 3600-9800 A at 1 A, cubic continuum, H-beta, [O III] x 2, [N II] x 2, H-alpha, [S II] x 2, velocities
+-150 km/s, sigma 60-120 km/s, R 1800-2200, known errors. Two halves, both of them the same mocks:

``mock -> prepare (not timed) -> fit (timed) -> Measured`` for each peer, on as many spaxels as fit in ``--seconds``, in
``--repeat`` rounds on different spaxels; a ratio is that of a peer to our own runs just before and after it. Times are
CPU seconds of one thread (wall seconds where processes are started); only ratios within a run mean something.

``mock -> fit_line_maps -> compare with the truth`` for bias, pulls, capture and spoilt spaxels, on ``--accuracy``
spaxels. Bins of S/N are in true flux over the Cramer-Rao error of the true parameters: not of what was measured, which
would select on the noise.

Peers that are not installed are named as such and left out.
"""

import argparse
import json
import os
import time
import warnings
from functools import cache
from importlib import metadata, util
from typing import NamedTuple

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import astropy.units as u  # noqa: E402
import numpy as np  # noqa: E402
from astropy.modeling import Fittable1DModel, Parameter, fitting, models  # noqa: E402
from astropy.nddata import InverseVariance, StdDevUncertainty  # noqa: E402
from astropy.table import Table  # noqa: E402
from scipy.optimize import least_squares  # noqa: E402
from scipy.special import erf  # noqa: E402
from specutils import Spectrum  # noqa: E402
from specutils.fitting import fit_lines as specutils_fit_lines  # noqa: E402

from fiberifu.constants import C_KMS  # noqa: E402
from fiberifu.lines import DAPMask, fit_line_maps, line_table  # noqa: E402
from fiberifu.lines.engine import LineProblem, fit_lines  # noqa: E402

KEYS = ["Hb", "O3_4959", "O3_5007", "N2_6548", "Ha", "N2_6583", "S2_6716", "S2_6731"]
HA = KEYS.index("Ha")
PARENT = {"O3_4959": "O3_5007", "N2_6548": "N2_6583"}  # doublets of fixed ratio
Z, DEGREE, REACH = 0.03, 3, 60.0  # REACH: rest-frame Angstrom, the default window of fit_line_maps
WAVE = np.arange(3600.0, 9800.0)
TABLE = line_table(KEYS)
CENTRES = TABLE["wavelength"].to_value(u.AA) * (1 + Z)
POWER = np.interp(WAVE, [3600, 9800], [1800, 2200])
LSF = CENTRES / np.interp(CENTRES, WAVE, POWER) / 2.354820045
BLUR2 = LSF**2 + 1 / 12  # with the integration over pixels of 1 A
UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
SQRT_2PI = np.sqrt(2 * np.pi)
FREE = [key for key in KEYS if key not in PARENT]
TIE = np.array([[(PARENT.get(key, key) == free) * (TABLE["ratio"][i] if key in PARENT else 1.0) for free in FREE]
                for i, key in enumerate(KEYS)])  # fmt: skip
BINS = {"3-5": (3, 5), "5-10": (5, 10), "10-30": (10, 30), ">30": (30, np.inf)}


def _fitted_pixels():
    """Indices of the pixels within REACH of a line, and the ranges of each window among them."""
    near = (abs(WAVE[:, None] - CENTRES) < REACH * (1 + Z)).any(1)
    pixels = np.flatnonzero(near)
    starts = np.append(0, 1 + np.flatnonzero(np.diff(pixels) > 1))
    return pixels, list(zip(starts.tolist(), [*starts[1:].tolist(), len(pixels)], strict=True))


PIXELS, WINDOWS = _fitted_pixels()
FITTED = WAVE[PIXELS]


class Mock(NamedTuple):
    """Spectra and truth of n spaxels: data, error (n, P); flux (n, L); velocity, sigma of the gas [km/s] (n,)."""

    data: np.ndarray
    error: np.ndarray
    flux: np.ndarray
    velocity: np.ndarray
    sigma: np.ndarray

    def take(self, rows):
        return Mock(*(x[rows] for x in self))

    def spectrum(self, data=None, uncertainty=None):
        data = self.data if data is None else data
        uncertainty = StdDevUncertainty(self.error) if uncertainty is None else uncertainty
        return Spectrum(flux=data * UNIT, spectral_axis=WAVE * u.AA, spectral_axis_index=1, uncertainty=uncertainty)


def mock(n, seed=0, *, reach=150.0, faintest=0.5):
    """Mock of ``n`` spaxels, velocities within ``reach`` km/s, H-alpha fluxes from 10^faintest to 10^2.5 UNIT A."""
    rng = np.random.default_rng(seed)
    v, s, ha = rng.uniform(-reach, reach, n), rng.uniform(60, 120, n), 10 ** rng.uniform(faintest, 2.5, n)
    draw = lambda low, high: ha * rng.uniform(low, high, n)  # noqa: E731
    free = np.stack([ha / 2.86, draw(0.2, 1.5), ha, draw(0.1, 0.6), draw(0.1, 0.3), draw(0.08, 0.25)], 1)
    flux = free @ TIE.T
    continuum = np.array([1, 0.3, -0.2, 0.1]) * rng.uniform(0.5, 2, n)[:, None]
    data = continuum @ np.vander((WAVE - 6700) / 3100, DEGREE + 1, increasing=True).T
    for j, centre in enumerate(CENTRES):
        at = centre * (1 + v / C_KMS)
        sigma = np.hypot(at * s / C_KMS, LSF[j])[:, None]
        near = slice(*np.searchsorted(WAVE, [at.min() - 10 * sigma.max(), at.max() + 10 * sigma.max()]))
        edges = np.append(WAVE[near] - 0.5, WAVE[near.stop - 1] + 0.5)
        data[:, near] += flux[:, j, None] * np.diff(erf((edges - at[:, None]) / sigma / np.sqrt(2)) / 2, axis=1)
    error = 0.1 * rng.uniform(0.8, 1.25, (1, len(WAVE))) * np.ones((n, 1))
    return Mock(data + error * rng.standard_normal(data.shape), error, flux, v, s)


class Measured(NamedTuple):
    """What a method found: fluxes (n, L); velocity and dispersion of H-alpha as observed [km/s] (n,); errors."""

    flux: np.ndarray
    flux_error: np.ndarray
    velocity: np.ndarray
    velocity_error: np.ndarray
    dispersion: np.ndarray
    dispersion_error: np.ndarray


def instrument(velocity):
    """Instrumental dispersion at H-alpha, km/s."""
    return LSF[HA] / (CENTRES[HA] * (1 + velocity / C_KMS)) * C_KMS


def truth(mocked):
    """The true values, as `Measured`, with the Cramer-Rao errors: no unbiased fit of this model has smaller ones."""
    full, flux_error, errors = Full(), np.empty(mocked.flux.shape), np.empty((2, len(mocked.flux)))
    for i, (flux, v, s, error) in enumerate(
        zip(mocked.flux, mocked.velocity, mocked.sigma, mocked.error[:, PIXELS], strict=True)
    ):
        p = np.concatenate([[v, s], flux[[KEYS.index(key) for key in FREE]], np.zeros(full.poly.shape[1])])
        white = full.jacobian(p) / error[:, None]
        sigma = np.sqrt(np.diag(np.linalg.inv(white.T @ white)))
        errors[:, i], flux_error[i] = sigma[:2], TIE @ sigma[2 : 2 + len(FREE)]
    observed = np.hypot(mocked.sigma, instrument(mocked.velocity))
    return Measured(mocked.flux, flux_error, mocked.velocity, errors[0], observed, errors[1] * mocked.sigma / observed)


# ---------------------------------------------------------------- ours
def _fit_maps(spectrum, lsf=POWER * u.one):
    return fit_line_maps(spectrum, KEYS, redshift=Z, lsf=lsf, continuum=DEGREE, window=REACH * u.AA, threads=1)


def _read_maps(maps):
    flux = [maps.flux[key] for key in KEYS]
    v, s = maps.velocity["Ha"], maps.dispersion["Ha"]
    return Measured(np.array([m.data for m in flux]).T, np.array([m.uncertainty.array for m in flux]).T,
                    v.data, v.uncertainty.array, s.data, s.uncertainty.array)  # fmt: skip


def prepare_engine(mocked):
    problem = LineProblem(
        FITTED, np.ones(len(FITTED)), CENTRES, LSF, TIE, np.zeros(len(KEYS), int), tuple(WINDOWS), DEGREE
    )
    return problem, mocked.data[:, PIXELS], mocked.error[:, PIXELS] ** -2.0


def read_engine(fit):
    n = len(FREE)
    error = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    v, variance = fit.velocity[:, 0], fit.variance[:, 0] + instrument(fit.velocity[:, 0]) ** 2
    dispersion = np.sqrt(variance)
    return Measured(
        fit.flux @ TIE.T, error[:, :n] @ TIE.T, v, error[:, n], dispersion, error[:, n + 1] / 2 / dispersion
    )


# ---------------------------------------------------------------- scipy
class Full:
    """The whole problem of one spaxel, for general solvers: v, s, free fluxes, polynomials; analytic Jacobian."""

    def __init__(self):
        self.poly = np.zeros((len(FITTED), (DEGREE + 1) * len(WINDOWS)))
        for i, (a, b) in enumerate(WINDOWS):
            legendre = np.polynomial.legendre.legvander(np.linspace(-1, 1, b - a), DEGREE)
            self.poly[a:b, i * (DEGREE + 1) : (i + 1) * (DEGREE + 1)] = legendre

    def profiles(self, v, s):
        at = CENTRES * (1 + v / C_KMS)
        sigma = np.sqrt((at * s / C_KMS) ** 2 + BLUR2)
        x = (FITTED[:, None] - at) / sigma
        return x, sigma, at, np.exp(-0.5 * x * x) / sigma / SQRT_2PI

    def linear(self, v, s):
        return np.column_stack([self.profiles(v, s)[-1] @ TIE, self.poly])

    def model(self, p):
        return self.linear(*p[:2]) @ p[2:]

    def jacobian(self, p):
        x, sigma, at, shape = self.profiles(*p[:2])
        flux = TIE @ p[2 : 2 + len(FREE)]
        by_v = (shape * x / sigma) @ (flux * (CENTRES / C_KMS)) + (shape * (x * x - 1) / sigma) @ (
            flux * CENTRES / C_KMS * at / sigma * (p[1] / C_KMS) ** 2
        )
        by_s = (shape * (x * x - 1) / sigma) @ (flux * (at / C_KMS) ** 2 * p[1] / sigma)
        return np.column_stack([by_v, by_s, shape @ TIE, self.poly])


def prepare_scipy(mocked):
    return mocked.data[:, PIXELS], mocked.error[:, PIXELS]


def fit_scipy(prepared):
    full, out = Full(), []
    start = full.linear(0, 90)
    for y, e in zip(*prepared, strict=True):
        first = np.linalg.lstsq(start / e[:, None], y / e)[0]
        fit = least_squares(lambda p, y=y, e=e: (full.model(p) - y) / e, np.append([0, 90], first), method="lm",
                            x_scale="jac", jac=lambda p, e=e: full.jacobian(p) / e[:, None])  # fmt: skip
        out.append((fit.x, np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))))
    return out


def read_scipy(out):
    p, e = (np.array(x) for x in zip(*out, strict=True))
    flux, v, s = slice(2, 2 + len(FREE)), p[:, 0], abs(p[:, 1])
    observed = np.hypot(s, instrument(v))
    return Measured(p[:, flux] @ TIE.T, e[:, flux] @ TIE.T, v, e[:, 0], observed, e[:, 1] * s / observed)


# ---------------------------------------------------------------- astropy and specutils
class WindowPolynomial(Fittable1DModel):
    """Cubic in one window, zero outside; astropy's polynomials have no window, and their ``domain`` breaks fits."""

    c0, c1, c2, c3 = (Parameter(default=value) for value in (1.0, 0.0, 0.0, 0.0))
    low, high = Parameter(default=0.0, fixed=True), Parameter(default=1.0, fixed=True)

    @staticmethod
    def evaluate(x, c0, c1, c2, c3, low, high):
        t = 2 * (x - low) / (high - low) - 1
        return np.where(abs(t) <= 1, c0 + t * (c1 + t * (c2 + t * c3)), 0.0)


def _blurred(stddev, j):
    """Width of line j [A] where that of H-alpha is ``stddev``, of gas that moves along."""
    return np.sqrt(np.maximum(stddev**2 - BLUR2[HA], 0) * (CENTRES[j] / CENTRES[HA]) ** 2 + BLUR2[j])


def _tied_line(j):
    """Gaussian j of the compound of all lines, tied to H-alpha in place and width, and in flux where its doublet is."""
    ha_mean, ha_stddev, key = f"mean_{HA}", f"stddev_{HA}", KEYS[j]
    tied = {}
    if j != HA:
        tied["mean"] = lambda m: getattr(m, ha_mean).value * CENTRES[j] / CENTRES[HA]
        tied["stddev"] = lambda m: _blurred(getattr(m, ha_stddev).value, j)
    if key in PARENT:
        i = KEYS.index(PARENT[key])
        tied["amplitude"] = lambda m: (TABLE["ratio"][j] * getattr(m, f"amplitude_{i}").value
                                       * _blurred(getattr(m, ha_stddev).value, i)
                                       / _blurred(getattr(m, ha_stddev).value, j))  # fmt: skip
    return models.Gaussian1D(3.0, CENTRES[j], _blurred(2.8, j), tied=tied)


@cache
def _tied_model(polynomials):
    model = sum((_tied_line(j) for j in range(1, len(KEYS))), start=_tied_line(0))
    for a, b in WINDOWS if polynomials else ():
        model = model + WindowPolynomial(low=FITTED[a] - 0.5, high=FITTED[b - 1] + 0.5)
    return model


def _free_model():
    lines = [models.Gaussian1D(3.0, centre, _blurred(2.8, j)) for j, centre in enumerate(CENTRES)]
    return sum(lines[1:], start=lines[0])


def prepare_specutils(mocked):
    """Spectra less a polynomial beside the lines, as the documentation of specutils has it.

    Over the whole spectrum and of the degree of the mock: kinder than polynomials of each window, whose errors would
    enter those of the lines, since the fit does not know of them.
    """
    t = np.linspace(-1, 1, len(WAVE))
    beside = (abs(WAVE[:, None] - CENTRES) > 25).all(1)
    level = np.polynomial.legendre.legfit(t[beside], mocked.data[:, beside].T, DEGREE)
    data = mocked.data[:, PIXELS] - np.polynomial.legendre.legval(t[PIXELS], level)
    return [Spectrum(flux=y * UNIT, spectral_axis=FITTED * u.AA, uncertainty=StdDevUncertainty(e))
            for y, e in zip(data, mocked.error[:, PIXELS], strict=True)]  # fmt: skip


def _fit_specutils(spectra, model, **options):
    fits = []
    for spectrum in spectra:
        fit = specutils_fit_lines(spectrum, model, fitter=fitting.TRFLSQFitter(calc_uncertainties=True),
                                  weights="unc", get_fit_info=True, **options)  # fmt: skip
        fits.append((model, fit.parameters, fit.meta["fit_info"]["param_cov"]))
    return fits


def fit_specutils_free(spectra):
    return _fit_specutils(spectra, _free_model())


def fit_specutils_tied(spectra):
    return _fit_specutils(spectra, _tied_model(False), estimate_jacobian=True)


def fit_astropy(prepared):
    model, fits = _tied_model(True), []
    for y, e in zip(*prepared, strict=True):
        fitter = fitting.TRFLSQFitter(calc_uncertainties=True)
        fit = fitter(model, FITTED, y, weights=1 / e, estimate_jacobian=True)
        fits.append((model, fit.parameters, fitter.fit_info.param_cov))
    return fits


def fit_dask(prepared):
    """By processes, the default; the fitted axis comes first: ``fitting_axes=-1`` raises."""
    from astropy.modeling.fitting import parallel_fit_dask

    data, error = prepared
    model, fitter = _tied_model(True), fitting.TRFLSQFitter(calc_uncertainties=True)
    fit = parallel_fit_dask(model=model, fitter=fitter, data=data.T, weights=1 / error.T, fitting_axes=0,
                            world=(FITTED,), fitter_kwargs={"estimate_jacobian": True}, fit_info=("param_cov",),
                            chunk_n_max=-(-len(data) // 2))  # fmt: skip
    parameters = np.array([getattr(fit, name).value for name in model.param_names]).T
    return list(zip([model] * len(data), parameters, fitter.fit_info.get_property_as_array("param_cov"), strict=True))


def read_gaussians(fits):
    """Fluxes, and errors propagated through all parameters that they depend on, ties included."""
    rows = []
    for model, parameters, covariance in fits:
        free = [name for name in model.param_names if not model.fixed[name] and not model.tied[name]]
        at = {name: i for i, name in enumerate(free)}
        value = dict(zip(model.param_names, parameters, strict=True))
        covariance = np.full((len(free),) * 2, np.nan) if covariance is None else covariance
        flux, error = np.empty(len(KEYS)), np.empty(len(KEYS))
        for j in range(len(KEYS)):
            i = KEYS.index(PARENT.get(KEYS[j], KEYS[j])) if f"amplitude_{j}" not in at else j
            ratio = 1.0 if i == j else TABLE["ratio"][j]
            high, width, slope = value[f"amplitude_{i}"], abs(value[f"stddev_{i}"]), np.zeros(len(free))
            slope[at[f"amplitude_{i}"]] = width
            if f"stddev_{i}" in at:
                slope[at[f"stddev_{i}"]] = high
            else:  # tied: width^2 = c (width of H-alpha)^2 + constant
                slope[at[f"stddev_{HA}"]] = high * value[f"stddev_{HA}"] / width * (CENTRES[i] / CENTRES[HA]) ** 2
            flux[j] = ratio * SQRT_2PI * high * width
            error[j] = ratio * SQRT_2PI * np.sqrt(slope @ covariance @ slope)
        mean, width = value[f"mean_{HA}"], abs(value[f"stddev_{HA}"])
        spread = np.sqrt(np.diag(covariance))
        dispersion = np.sqrt(max(width**2 - 1 / 12, 0)) / mean * C_KMS
        rows.append((flux, error, (mean / CENTRES[HA] - 1) * C_KMS, spread[at[f"mean_{HA}"]] / CENTRES[HA] * C_KMS,
                     dispersion, spread[at[f"stddev_{HA}"]] / mean * C_KMS))  # fmt: skip
    return Measured(*map(np.array, zip(*rows, strict=True)))


# ---------------------------------------------------------------- pPXF
def prepare_ppxf(mocked):
    """Logarithmic pixels, and templates of unit flux: one per free flux, of instrumental width."""
    from ppxf import ppxf_util

    cut = slice(PIXELS[0] - 100, PIXELS[-1] + 100)
    wave, step = WAVE[cut], C_KMS * np.log(WAVE[cut][-1] / WAVE[cut][0]) / (cut.stop - cut.start)
    rebinned = [[ppxf_util.log_rebin(wave[[0, -1]], x[cut], velscale=step) for x in (y, e**2)]
                for y, e in zip(mocked.data, mocked.error, strict=True)]  # fmt: skip
    log_wave = np.asarray(rebinned[0][0][1])
    half = np.diff(log_wave).mean() / 2
    edges = np.exp(np.append(log_wave - half, log_wave[-1] + half))
    lines = np.diff(erf((edges[:, None] - CENTRES) / LSF / np.sqrt(2)) / 2, axis=0) / np.diff(edges)[:, None]
    near = (abs(np.exp(log_wave)[:, None] - CENTRES) < REACH * (1 + Z)).any(1)
    return lines @ TIE, [(y[0], np.sqrt(e[0])) for y, e in rebinned], np.exp(log_wave), near, step


def fit_ppxf(prepared):
    from ppxf.ppxf import ppxf

    templates, spectra, wave, near, step = prepared
    gas = [0] * len(FREE)
    return [ppxf(templates, y, e, step, [0, 90], moments=2, degree=2 * DEGREE, lam=wave, lam_temp=wave,
                 component=gas, gas_component=[True] * len(FREE), gas_names=FREE, mask=near, quiet=True)
            for y, e in spectra]  # fmt: skip


def read_ppxf(fits):
    rows = []
    for fit in fits:
        flux = fit.weights[: len(FREE)]
        error = flux * fit.gas_flux_error / np.where(fit.gas_flux > 0, fit.gas_flux, np.nan)
        v, s = np.ravel(fit.sol)[:2]
        v_error, s_error = np.ravel(fit.error)[:2]
        v = C_KMS * np.expm1(v / C_KMS)  # its velocities are c ln(wavelength / rest), Cappellari 2017, eq. 8
        observed = np.hypot(s, instrument(v))
        rows.append((TIE @ flux, TIE @ error, v, v_error, observed, s_error * s / observed))
    return Measured(*map(np.array, zip(*rows, strict=True)))


# ---------------------------------------------------------------- speed
class Peer(NamedTuple):
    """A method: prepare and read outside the clock, fit inside; the least ratio to our time that is aimed at."""

    label: str
    prepare: object
    fit: object
    read: object
    target: float = 0.0
    needs: str = ""
    wall: bool = False


OURS = Peer("fiberifu.lines.fit_line_maps", Mock.spectrum, _fit_maps, _read_maps)
PEERS = {
    "engine": Peer("fiberifu.lines.engine.fit_lines", prepare_engine, lambda x: fit_lines(*x), read_engine),
    "scipy": Peer("scipy least_squares(lm), analytic Jacobian", prepare_scipy, fit_scipy, read_scipy, 15),
    "ppxf": Peer("pPXF, gas only", prepare_ppxf, fit_ppxf, read_ppxf, 33, "ppxf"),
    "specutils": Peer(
        "specutils fit_lines, 8 free Gaussians", prepare_specutils, fit_specutils_free, read_gaussians, 245
    ),
    "specutils-tied": Peer("specutils fit_lines, tied", prepare_specutils, fit_specutils_tied, read_gaussians, 456),
    "astropy": Peer("astropy TRFLSQFitter, tied", prepare_scipy, fit_astropy, read_gaussians),
    "dask": Peer("astropy parallel_fit_dask, wall", prepare_scipy, fit_dask, read_gaussians, 600, "dask", True),
}


def clock(peer, mocked):
    """Seconds per spaxel, and what was found."""
    prepared, now = peer.prepare(mocked), time.perf_counter if peer.wall else time.process_time
    begin = now()
    raw = peer.fit(prepared)
    return (now() - begin) / len(mocked.data), peer.read(raw)


def compare(peer, cube, true, seconds, repeat):
    """Time and score of a peer, against the median of our own runs just before and after it, and our fluxes."""
    n = len(cube.data)
    if peer is not OURS:  # how many fit in the time
        first, _ = clock(peer, cube.take(slice(4)))
        n = int(np.clip(seconds / repeat / first, 4, n))
    own, times, ours, found, rows = OURS._replace(wall=peer.wall), [], [], [], []
    for turn in range(repeat):
        here = (np.arange(n) + turn * n) % len(cube.data)
        beside = [clock(own, cube)[0] for _ in range(3)]
        taken, measured = clock(peer, cube.take(here))
        beside += [clock(own, cube)[0] for _ in range(3)]
        ours.append(np.median(beside))
        times.append(ours[-1] if peer is OURS else taken)
        found.append(measured)
        rows.append(here)
    rows, found = np.concatenate(rows), Measured(*map(np.concatenate, zip(*found, strict=True)))
    ratios = np.divide(times, ours)
    here = Measured(*(x[rows] for x in true))
    return {
        "method": peer.label, "spaxels": len(np.unique(rows)), "us": float(np.median(times) * 1e6),
        "ours us": float(np.median(ours) * 1e6), "ratio": float(np.median(ratios)), "ratios": ratios.tolist(),
        **score(found, here, OURS.read(_fit_maps(cube.take(rows).spectrum()))),
    }  # fmt: skip


def score(found, true, ours):
    """Numbers of the table of speed: pulls beyond 10 sigma are counted, not averaged."""
    bright, ha = true.flux / true.flux_error > 10, true.flux[:, HA] / true.flux_error[:, HA] > 10
    with np.errstate(invalid="ignore"):
        pull = (found.flux - true.flux) / found.flux_error
        off = ~(abs(pull) < 10)
        agree = abs(found.flux - ours.flux) / ours.flux_error < 0.03
    return {
        "pull mean": float(pull[~off].mean()), "pull std": float(pull[~off].std()),
        "Ha pull std": float(pull[:, HA][~off[:, HA]].std()), "lost %": float(100 * off.mean()),
        "bias %": float(100 * np.nanmedian((found.flux / true.flux - 1)[bright])),
        "v rms": float(np.sqrt(np.nanmedian((found.velocity - true.velocity)[ha] ** 2)) / 0.6745),
        "agree %": float(100 * agree.mean()),
    }  # fmt: skip


# ---------------------------------------------------------------- accuracy
def draws(n, lsf, **options):
    """Truth and what `fit_line_maps` finds, of ``n`` spaxels in chunks of 1024 with seeds of their own."""
    parts = []
    for seed, size in enumerate(np.diff([*range(0, n, 1024), n]), start=1):
        mocked = mock(int(size), 1000 + seed, **options)
        parts.append((truth(mocked), _read_maps(_fit_maps(mocked.spectrum(), lsf))))
    return tuple(Measured(*map(np.concatenate, zip(*part, strict=True))) for part in zip(*parts, strict=True))


def _row(what, where, found, error, true):
    pull, relative = (found - true) / error, 100 * (found / true - 1)
    row = {"quantity": what, "S/N": where, "n": len(true)}
    if what != "velocity":  # which has no relative bias
        row |= {"median bias %": float(np.median(relative)), "mean bias %": float(relative.mean()),
                "bias error %": float(relative.std() / len(true) ** 0.5)}  # fmt: skip
    return row | {"pull mean": float(pull.mean()), "pull std": float(pull.std())}


def accuracy(true, found):
    """Rows by quantity and bin of S/N, that of H-alpha for velocity and dispersion.

    Free fluxes only: the pulls of a tied line are those of its parent.
    """
    free = [KEYS.index(key) for key in FREE]
    snr = true.flux / true.flux_error
    columns = {f"flux {KEYS[j]}": (found.flux[:, j], found.flux_error[:, j], true.flux[:, j], snr[:, j]) for j in free}
    columns["flux, all lines"] = tuple(x[:, free].ravel() for x in (found.flux, found.flux_error, true.flux, snr))
    for what in ("velocity", "dispersion"):
        columns[what] = (*(getattr(found, what + end) for end in ("", "_error")), getattr(true, what), snr[:, HA])
    rows = []
    for what, (value, error, right, order) in columns.items():
        for where, (low, high) in {"all": (0, np.inf), **BINS, ">10": (10, np.inf)}.items():
            part = (order > low) & (order <= high)
            if part.sum() > 30:
                rows.append(_row(what, where, value[part], error[part], right[part]))
    return rows


def capture(n):
    """Share of spaxels with H-alpha S/N > 10, at velocities within +-600 km/s, whose velocity is within 5 sigma."""
    true, found = draws(n, POWER * u.one, reach=600.0)
    bright = true.flux[:, HA] / true.flux_error[:, HA] > 10
    near = abs(found.velocity - true.velocity) < 5 * found.velocity_error
    return {"spaxels": int(bright.sum()), "caught %": float(100 * near[bright].mean())}


def spoilt(n=60):
    """Spaxels all NaN, masked, of no weight, or without H-alpha: there is no exception, and the others stay."""
    clean = mock(n, 7)
    data, ivar = clean.data.copy(), clean.error**-2
    data[0], ivar[1], data[2, ::3] = np.nan, 0, np.inf
    data[3, abs(WAVE - CENTRES[HA]) < 30] = np.nan
    mask = np.zeros(data.shape, bool)
    mask[4] = True
    before = _fit_maps(clean.spectrum())
    try:
        after = fit_line_maps(clean.spectrum(data, InverseVariance(ivar)), KEYS, redshift=Z, lsf=POWER * u.one,
                              continuum=DEGREE, mask=mask, threads=1)  # fmt: skip
    except Exception as error:  # noqa: BLE001  (that there is none is what is measured)
        return {"exceptions": 1, "error": repr(error)}
    flags = np.asarray(after.flux["Ha"].flags)
    moved = abs(after.flux["Ha"].data - before.flux["Ha"].data)[5:] / before.flux["Ha"].uncertainty.array[5:]
    return {"exceptions": 0, "flagged": bool((flags[[0, 1, 3, 4]] & DAPMask.DONOTUSE).all()),
            "largest change of the others [sigma]": float(moved.max())}  # fmt: skip


# ---------------------------------------------------------------- targets
def targets(result):
    """Rows of (target, measured, met); met is None where it was not measured."""
    rows = []
    speed = {row["method"]: row for row in result["speed"]}
    for peer in PEERS.values():
        if peer.target:
            ratio = speed.get(peer.label, {}).get("ratio")
            rows.append((f">= {peer.target:g} x {peer.label}", ratio, None if ratio is None else ratio >= peer.target))
    if "scipy" in result["peers"]:
        share = speed[PEERS["scipy"].label]["agree %"]
        rows.append(("99 % of fluxes within 0.03 sigma of scipy's", share, share >= 99))
    table = {(row["quantity"], row["S/N"]): row for row in result["accuracy, LSF given"]}
    flux = [table[f"flux {key}", "all"] for key in FREE]
    std, mean = [row["pull std"] for row in flux], [row["pull mean"] for row in flux]
    bias = table["flux, all lines", ">10"]["median bias %"]
    rows += [("flux pull std >= 0.97, every line (the lowest)", min(std), min(std) >= 0.97),
             ("flux pull std <= 1.04, every line (the highest)", max(std), max(std) <= 1.04),
             ("flux |pull mean| <= 0.03, every line (the worst)", max(mean, key=abs), max(map(abs, mean)) <= 0.03),
             ("flux |median bias| <= 0.1 % at S/N > 10", bias, abs(bias) <= 0.1)]  # fmt: skip
    for what in ("velocity", "dispersion"):
        value = table[what, ">10"]["pull std"]
        rows.append((f"{what} pull std 0.95-1.06 at H-alpha S/N > 10", value, 0.95 <= value <= 1.06))
    caught, bad = result["capture"]["caught %"], result["spoilt spaxels"]
    rows.append((">= 99.9 % caught within +-600 km/s at S/N > 10", caught, caught >= 99.9))
    rows.append(("no exception on spoilt spaxels", bad["exceptions"], bad["exceptions"] == 0))
    return [{"target": text, "measured": value, "met": met} for text, value, met in rows]


# ---------------------------------------------------------------- command line
def show(title, rows):
    """Print as a table of reStructuredText."""
    print(f"\n{title}\n")
    names = [name for name in rows[0] if not isinstance(rows[0][name], list)]
    cells = [[f"{x:.4g}" if isinstance(x, float) else "-" if x is None else str(x) for x in map(row.get, names)]
             for row in rows]  # fmt: skip
    Table(rows=cells, names=names).write(os.sys.stdout, format="ascii.rst")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS), help="of %(default)s; an empty string for none")
    parser.add_argument("--spaxels", type=int, default=1024, help="of the cube that is timed")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each peer")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of timing; medians are given")
    parser.add_argument("--accuracy", type=int, default=4096, help="spaxels that are compared with the truth")
    parser.add_argument("--targets", action="store_true", help="say which targets are met")
    parser.add_argument("-o", "--output", help="JSON of all numbers")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.peers.split(",") if name]
    if unknown := set(chosen) - set(PEERS):
        parser.error(f"--peers: {', '.join(sorted(unknown))} not known; known are {', '.join(PEERS)}")
    warnings.simplefilter("ignore")

    absent = [name for name in chosen if PEERS[name].needs and util.find_spec(PEERS[name].needs) is None]
    result = {"versions": {name: metadata.version(name) for name in ("numpy", "scipy", "astropy", "specutils")},
              "arguments": vars(arguments), "peers": [name for name in chosen if name not in absent],
              "not installed": absent}  # fmt: skip
    cube = mock(arguments.spaxels)
    true = truth(cube)
    clock(OURS, cube)  # imports and caches
    peers = [OURS, *(PEERS[name] for name in result["peers"])]
    result["speed"] = [compare(peer, cube, true, arguments.seconds, arguments.repeat) for peer in peers]
    show("Speed: CPU time of one thread, microseconds per spaxel", result["speed"])
    print(f"\nnot installed: {', '.join(absent) or 'none'}")
    for name, lsf in (("LSF given", POWER * u.one), ("widths as observed", None)):
        result[f"accuracy, {name}"] = accuracy(*draws(arguments.accuracy, lsf, faintest=0.0))
        brief = [row for row in result[f"accuracy, {name}"] if lsf is not None or row["S/N"] == ">10"]
        show(f"Accuracy, {name}", brief)
    result["capture"], result["spoilt spaxels"] = capture(arguments.accuracy), spoilt()
    print("\ncapture:", result["capture"], "\nspoilt spaxels:", result["spoilt spaxels"])
    result["targets"] = targets(result)
    if arguments.targets:
        show("Targets", result["targets"])
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
