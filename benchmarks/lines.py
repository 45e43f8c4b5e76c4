"""The line engine against its peers, on one mock cube: speed, bias, pulls.

    python benchmarks/lines.py --spaxels 1024 -o lines.json

The cube is that of the design: 3600-9800 A at 1 A, cubic continuum, H-beta, [O III] x 2, [N II] x 2, H-alpha,
[S II] x 2, velocities +-150 km/s, sigma 60-120 km/s, R 1800-2200, known errors.
Peers fit as many spaxels as they can in about ``--seconds``; times are CPU seconds of one thread, and only their ratios
mean something.
"""

import argparse
import json
import os
import time
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import astropy.units as u  # noqa: E402
import numpy as np  # noqa: E402
from astropy.modeling import fitting, models  # noqa: E402
from astropy.nddata import StdDevUncertainty  # noqa: E402
from scipy.optimize import least_squares  # noqa: E402
from scipy.special import erf  # noqa: E402
from specutils import Spectrum  # noqa: E402
from specutils.fitting import fit_lines as specutils_fit_lines  # noqa: E402

from fiberifu.constants import C_KMS  # noqa: E402
from fiberifu.lines import fit_line_maps, line_table  # noqa: E402
from fiberifu.lines.fit import _ties, _windows  # noqa: E402

KEYS = ["Hb", "O3_4959", "O3_5007", "N2_6548", "Ha", "N2_6583", "S2_6716", "S2_6731"]
Z, DEGREE = 0.03, 3
WAVE = np.arange(3600.0, 9800.0)
TABLE = line_table(KEYS)
CENTRES = TABLE["wavelength"].to_value(u.AA) * (1 + Z)
POWER = np.interp(WAVE, [3600, 9800], [1800, 2200])
LSF = CENTRES / np.interp(CENTRES, WAVE, POWER) / 2.354820045
TIE = _ties(TABLE)
WINDOWS = _windows(WAVE, CENTRES, 60 * (1 + Z))


def mock(n, seed=0):
    """Data, error and truth of ``n`` spaxels."""
    rng = np.random.default_rng(seed)
    v, s, ha = rng.uniform(-150, 150, n), rng.uniform(60, 120, n), 10 ** rng.uniform(0.5, 2.5, n)
    draw = lambda low, high: ha * rng.uniform(low, high, n)  # noqa: E731
    free = np.stack([ha / 2.86, draw(0.2, 1.5), ha, draw(0.1, 0.6), draw(0.1, 0.3), draw(0.08, 0.25)], 1)
    flux = free @ TIE.T
    x = (WAVE - 6700) / 3100
    data = (1 + 0.3 * x - 0.2 * x**2 + 0.1 * x**3) * rng.uniform(0.5, 2, n)[:, None]
    edges = np.append(WAVE - 0.5, WAVE[-1] + 0.5)
    for j, centre in enumerate(CENTRES):
        at = centre * (1 + v / C_KMS)
        sigma = np.hypot(at * s / C_KMS, LSF[j])
        data += flux[:, j, None] * np.diff(erf((edges - at[:, None]) / sigma[:, None] / np.sqrt(2)) / 2, axis=1)
    error = 0.1 * rng.uniform(0.8, 1.25, (1, len(WAVE))) * np.ones((n, 1))
    return data + error * rng.standard_normal(data.shape), error, flux, v, s


def ours(data, error):
    spectra = Spectrum(flux=data * u.Unit("1e-17 erg / (s cm2 AA)"), spectral_axis=WAVE * u.AA, spectral_axis_index=1,
                       uncertainty=StdDevUncertainty(error))  # fmt: skip
    maps = fit_line_maps(spectra, KEYS, redshift=Z, lsf=POWER * u.one, continuum=DEGREE, threads=1)
    flux, sigma = (np.array([f(maps.flux[key]) for key in KEYS]).T
                   for f in (lambda m: m.data, lambda m: m.uncertainty.array))  # fmt: skip
    return flux, sigma, maps.velocity["Ha"].data, maps.velocity["Ha"].uncertainty.array


class Full:
    """The full problem of one spaxel, for general solvers: v, sigma, free fluxes, polynomials; analytic Jacobian."""

    pixels = np.concatenate([np.arange(a, b) for a, b in WINDOWS])
    wave = WAVE[pixels]

    def __init__(self):
        k = DEGREE + 1
        self.poly = np.zeros((len(self.pixels), k * len(WINDOWS)))
        row = 0
        for i, (a, b) in enumerate(WINDOWS):
            legendre = np.polynomial.legendre.legvander(np.linspace(-1, 1, b - a), DEGREE)
            self.poly[row : row + b - a, i * k : (i + 1) * k] = legendre
            row += b - a
        self.n_free = TIE.shape[1]

    def profiles(self, v, s):
        at = CENTRES * (1 + v / C_KMS)
        sigma = np.sqrt((at * s / C_KMS) ** 2 + LSF**2 + 1 / 12)
        x = (self.wave[:, None] - at) / sigma
        return x, sigma, at, np.exp(-0.5 * x * x) / sigma / np.sqrt(2 * np.pi)

    def model(self, p):
        shape = self.profiles(p[0], p[1])[-1]
        return shape @ (TIE @ p[2 : 2 + self.n_free]) + self.poly @ p[2 + self.n_free :]

    def jacobian(self, p):
        x, sigma, at, shape = self.profiles(p[0], p[1])
        flux = TIE @ p[2 : 2 + self.n_free]
        by_v = (shape * x / sigma) @ (flux * CENTRES / C_KMS)
        by_s = (shape * (x * x - 1) / sigma) @ (flux * (at / C_KMS) ** 2 * p[1] / sigma)
        return np.column_stack([by_v, by_s, shape @ TIE, self.poly])


def scipy_lm(data, error):
    full, out = Full(), []
    for y, e in zip(data[:, Full.pixels], error[:, Full.pixels], strict=True):
        start = np.concatenate([[0, 90], np.full(full.n_free, 10.0), np.zeros(full.poly.shape[1])])
        fit = least_squares(lambda p, y=y, e=e: (full.model(p) - y) / e, start, method="lm",
                            jac=lambda p, e=e: full.jacobian(p) / e[:, None])  # fmt: skip
        sigma = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))
        f = slice(2, 2 + full.n_free)
        out.append((TIE @ fit.x[f], TIE @ sigma[f], fit.x[0], sigma[0]))
    return tuple(map(np.array, zip(*out, strict=True)))


def specutils_free(data, error):
    """Free Gaussians on data less a polynomial beside the lines, as the documentation of specutils has it."""
    out = []
    for y, e in zip(data, error, strict=True):
        flux, sigma = np.zeros(len(KEYS)), np.full(len(KEYS), np.nan)
        for a, b in WINDOWS:
            wave, mine = WAVE[a:b], [j for j, centre in enumerate(CENTRES) if WAVE[a] < centre < WAVE[b - 1]]
            beside = (abs(wave[:, None] - CENTRES[mine]) > 15).all(1)
            level = np.polynomial.Legendre.fit(wave[beside], y[a:b][beside], DEGREE)(wave)
            spectrum = Spectrum(flux=(y[a:b] - level) * u.Jy, spectral_axis=wave * u.AA,
                                uncertainty=StdDevUncertainty(e[a:b]))  # fmt: skip
            model = None
            for j in mine:
                line = models.Gaussian1D(amplitude=3 * u.Jy, mean=CENTRES[j] * u.AA, stddev=2.5 * u.AA)
                model = line if model is None else model + line
            fit = specutils_fit_lines(spectrum, model, fitter=fitting.TRFLSQFitter(calc_uncertainties=True),
                                      weights="unc", get_fit_info=True)  # fmt: skip
            cov = fit.meta["fit_info"]["param_cov"]
            for i, j in enumerate(mine):
                g = fit if len(mine) == 1 else fit[i]
                high, width = g.amplitude.value, abs(g.stddev.value)
                flux[j] = high * width * np.sqrt(2 * np.pi)
                grad = np.array([width, high]) * np.sqrt(2 * np.pi)
                sigma[j] = np.sqrt(grad @ cov[np.ix_([3 * i, 3 * i + 2], [3 * i, 3 * i + 2])] @ grad)
        out.append((flux, sigma, np.nan, np.nan))
    return tuple(map(np.array, zip(*out, strict=True)))


def measure(name, method, data, error, flux, v, seconds):
    """Time and score a method on as many spaxels as it can do."""
    n = len(data)
    if seconds:  # find out on four how many fit in the time
        start = time.process_time()
        method(data[:4], error[:4])
        n = int(np.clip(4 * seconds / (time.process_time() - start), 4, n))
    start = time.process_time()
    got, sigma, gv, sv = method(data[:n], error[:n])
    row = {"name": name, "spaxels": n, "us": (time.process_time() - start) / n * 1e6}
    pull = (got - flux[:n]) / sigma
    bright = flux[:n] / sigma > 10
    ha = KEYS.index("Ha")
    ok = np.isfinite(pull)
    row |= {
        "pull mean": float(pull[ok].mean()), "pull std": float(pull[ok].std()),
        "pull std H-alpha": float(np.nanstd(pull[:, ha])),
        "bias S/N>10 [%]": float(100 * np.nanmedian((got / flux[:n] - 1)[bright])) if bright.any() else None,
        "v rms S/N>10 [km/s]": float(np.std((gv - v[:n])[bright[:, ha]])),
        "v pull std S/N>10": float(np.std(((gv - v[:n]) / sv)[bright[:, ha]])),
    }  # fmt: skip
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaxels", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each peer")
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    data, error, flux, v, _ = mock(arguments.spaxels)
    ours(data[:64], error[:64])  # imports and caches
    rows = [measure("fiberifu", ours, data, error, flux, v, 0)]
    for name, method in (("scipy lm, analytic Jacobian", scipy_lm), ("specutils, free Gaussians", specutils_free)):
        rows.append(measure(name, method, data, error, flux, v, arguments.seconds))
    for row in rows:
        row["ratio"] = row["us"] / rows[0]["us"]
        print({key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()})
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
