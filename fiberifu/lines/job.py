# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Rows of spectra through the engine, and what its numbers mean: fluxes, widths, flags, a second component, errors.

Shapes: N spectra, P pixels in the windows, L lines, F free fluxes, G kinematic groups.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.table import QTable
from scipy.stats import chi2 as chi2_distribution

from fiberifu.constants import C_KMS
from fiberifu.lines.backend import NUMPY
from fiberifu.lines.engine import LineFit, LineProblem, fit_lines, line_spectra, polynomial_spectra
from fiberifu.lines.maps import DAPMask
from fiberifu.lines.threads import in_threads

__all__ = ["BAD", "SURE", "Job", "Scatter", "split_components"]

BAD = np.int32(DAPMask.DONOTUSE)
SURE = 3.0  # S/N below which velocity and width are called unreliable
CHANCE = 1e-5  # of noise to gain as much, at one of the twenty or so velocities that are independent
SEARCHED = 650.0  # km/s, reach of the grid of velocities and a little
WIDE, NARROW = 300.0, 50.0  # km/s; fits that end wider than the one are tried again from the other
WHOLE, HALF = 0.8, 0.4  # fraction of a line's pixels: less is LOWCOV, still less no value
# S/N at which formal errors would be half of what they should: measured by benchmarks/lines.py (H-alpha, eight lines)
FAINT_VELOCITY, FAINT_DISPERSION = 2.8, 3.1
EVIDENCE = 10.0  # difference of BIC that a second component must earn (Kass & Raftery 1995, "very strong")


FIT = [field.name for field in dataclasses.fields(LineFit)]


def _take(fit, rows, other, better):
    """Take over the rows ``rows[better]`` from another fit of ``rows``."""
    for name in FIT:
        getattr(fit, name)[rows[better]] = getattr(other, name)[better]


def _emission(fit):
    """Signed sum (N,) of the squares of S/N of the free fluxes: negative where absorption prevails."""
    flux = np.nan_to_num(fit.flux)
    variance = np.diagonal(fit.covariance, axis1=1, axis2=2)[:, : flux.shape[1]]
    return (flux * np.abs(flux) / np.where(variance > 0, variance, np.inf)).sum(1)


def _rows(fit, index):
    """A `LineFit` of some spectra."""
    return LineFit(**{name: getattr(fit, name)[index] for name in FIT})


@dataclasses.dataclass
class Job:
    """Spectra to be fitted: arrays as the engine takes them, and what their fluxes mean.

    ``model`` (N, P) has been taken off ``data``; ``lsf`` is (L,) or (N, L); ``calm`` are velocities and variances
    (N, G) for spectra in which no line is found.
    """

    problem: LineProblem
    data: np.ndarray
    weight: np.ndarray
    model: np.ndarray | None
    lsf: np.ndarray
    table: QTable
    redshift: float
    calm: tuple
    threads: int | None
    chunk: int
    xp: object = NUMPY

    def rows(self, index):
        """The same for some spectra."""
        return dataclasses.replace(
            self,
            data=self.data[index],
            weight=self.weight[index],
            model=None if self.model is None else self.model[index],
            calm=tuple(x[index] for x in self.calm),
            lsf=self.lsf if self.lsf.ndim == 1 else self.lsf[index],
        )

    def fit(self, data=None, start=None, fixed=False):
        """`LineFit` of all spectra, or of other ``data`` with the same weights, from ``start`` if given."""
        data = self.data if data is None else data

        def work(part):
            lsf = None if self.lsf.ndim == 1 else self.lsf[part]
            begin = None if start is None else tuple(x[part] for x in start)
            return fit_lines(self.problem, data[part], self.weight[part], lsf=lsf, start=begin, fixed=fixed, xp=self.xp)

        fits = in_threads(work, self._parts(), self.threads if self.xp is NUMPY else 1)
        return LineFit(**{name: np.concatenate([getattr(f, name) for f in fits]) for name in FIT})

    def search(self, data=None, forced=None):
        """The fit, and for which spectra (N,) it is forced: no line is found in them, or it is known before.

        The best velocity of noise is that of its highest peak: fluxes there would never be negative, and their sum over
        blank sky a detection. Where all lines together do not stand out, velocity and width are put to ``calm``.
        """
        fit = self.fit(data)
        trapped = fit.bounded.any(1) | (fit.variance > WIDE**2).any(1) | (_emission(fit) < 0)
        if (rows := np.flatnonzero(trapped)).size:
            for velocity in (fit.velocity[rows], self.calm[0][rows]):
                start = velocity, np.full(velocity.shape, NARROW**2)
                again = self.rows(rows).fit(None if data is None else data[rows], start)
                # wide lines in absorption are no gas but what the continuum lacks: narrow ones in emission are better
                lines = (_emission(again) > 0) & ~(again.variance > WIDE**2).any(1) & (_emission(_rows(fit, rows)) < 0)
                _take(fit, rows, again, (again.chi2 < fit.chi2[rows]) | lines)
        if forced is None:
            freedom = np.maximum(self._freedom(fit), 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                forced = ~(fit.gain * freedom / fit.chi2 > chi2_distribution.isf(CHANCE, self.problem.tie.shape[1]))
        if (rows := np.flatnonzero(forced)).size:
            part = self.rows(rows)
            start = tuple(x[rows] for x in self.calm)
            again = part.fit(None if data is None else data[rows], start, fixed=True)
            _take(fit, rows, again, np.ones(len(rows), bool))
        return fit, forced

    def _freedom(self, fit):
        problem = self.problem
        n_more = problem.tie.shape[1] + 2 * problem.n_groups + len(problem.windows) * (problem.degree + 1)
        return fit.n_pixels - n_more

    def measure(self, fit, forced, data=None):
        """All quantities, per line (N, L) and per spectrum (N,), of a fit to ``data``, by default the job's own."""
        data = self.data if data is None else data

        def work(part):
            return self.rows(part)._measure(_rows(fit, part), forced[part], data[part])

        found = in_threads(work, self._parts(), self.threads)
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def _parts(self):
        return [slice(i, i + self.chunk) for i in range(0, len(self.data), self.chunk)]

    def _measure(self, fit, forced, data):
        problem = self.problem
        n_free, n_groups, tie, group = problem.tie.shape[1], problem.n_groups, problem.tie, problem.group
        lost = np.isnan(fit.flux) @ (tie != 0).T
        flux = np.where(lost, np.nan, np.nan_to_num(fit.flux) @ tie.T)
        covariance = tie @ fit.covariance[:, :n_free, :n_free] @ tie.T
        flux_sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        spread = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
        centre = problem.centres * (1 + fit.velocity[:, group] / C_KMS)
        instrument = np.broadcast_to(self.lsf, flux.shape) / centre * C_KMS
        dispersion = np.sqrt(np.clip(fit.variance[:, group] + instrument**2, 0, None))
        level, level_sigma = _pseudo_continuum(self, data, self.lines(fit))
        z1 = 1 + self.redshift
        ew = flux / np.where(level > 0, level, np.nan) / z1
        bare = np.where((flux_sigma > 0) & (level != 0), level, np.nan)
        ew_sigma = np.hypot(flux_sigma / bare, flux * level_sigma / bare**2) / z1
        mask = np.where(lost, np.int32(DAPMask.NOCOV) | BAD, np.int32(0))
        failed = ~(fit.converged & np.isfinite(fit.chi2) & np.isfinite(fit.flux).any(1))[:, None]
        mask |= np.where(failed, np.int32(DAPMask.FITFAILED) | BAD, np.int32(0))
        snr = np.nan_to_num(flux / np.where(flux_sigma > 0, flux_sigma, np.inf))
        member = group[:, None] == np.arange(n_groups)
        best = np.where(member, snr[..., None], -np.inf).max(1)  # (N, G), of the brightest line that moves along
        seen = self._seen(fit.velocity[:, group], np.clip(fit.variance[:, group], NARROW**2, None))
        # where a line alone says where it is, it may have been found beside its masked pixels
        beside = self._seen(*(x[:, group] for x in self.calm))
        seen = np.where(snr >= best[:, group], np.minimum(seen, beside), seen)
        mask |= np.where(seen < WHOLE, np.int32(DAPMask.LOWCOV), np.int32(0))
        mask |= np.where(seen < HALF, np.int32(DAPMask.NOVALUE) | BAD, np.int32(0))
        mask |= np.where(forced[:, None], np.int32(DAPMask.UNRELIABLE), np.int32(0))
        # beyond where lines are looked for, what is found may be another line
        astray = np.abs(fit.velocity[:, group] - problem.middle) > SEARCHED
        mask |= np.where(astray, np.int32(DAPMask.UNRELIABLE), np.int32(0))
        doubt = np.where(fit.bounded[:, group], np.int32(DAPMask.NEARBOUND) | BAD, np.int32(0))
        doubt |= np.where(
            (best[:, group] < SURE) | forced[:, None] | astray, np.int32(DAPMask.UNRELIABLE) | BAD, np.int32(0)
        )
        # errors of faint lines: there are other minima near, which the curvature of this one does not know of
        faint = np.maximum(best[:, group], SURE) ** -3
        velocity_sigma = spread[:, n_free + group] * (1 + FAINT_VELOCITY**3 * faint)
        variance_sigma = spread[:, n_free + n_groups + group] * (1 + FAINT_DISPERSION**3 * faint)
        empty = (fit.n_pixels == 0)[:, None] | lost.all(1)[:, None]
        gone = lambda x: np.where(empty, np.nan, x)  # noqa: E731
        return {
            "flux": flux, "flux_sigma": np.where(lost, np.nan, flux_sigma), "covariance": covariance,
            "ew": ew, "ew_sigma": np.abs(ew_sigma), "continuum": level, "continuum_sigma": level_sigma,
            "velocity": gone(fit.velocity[:, group]), "velocity_sigma": gone(velocity_sigma),
            "dispersion": gone(dispersion),
            "dispersion_sigma": gone(variance_sigma / 2 / np.maximum(dispersion, 10.0)),
            "instrumental_dispersion": instrument, "mask": mask, "kinematic_mask": mask | doubt, "best": best,
            "chi2": fit.chi2, "n_pixels": fit.n_pixels,
            "degrees_of_freedom": self._freedom(fit),
        }  # fmt: skip

    def _seen(self, velocity, variance):
        """Fraction (N, L) of the pixels within three sigma of each line that are good."""
        wave, n = self.problem.wave, len(self.weight)
        centre = self.problem.centres * (1 + velocity / C_KMS)
        sigma = np.sqrt((centre / C_KMS) ** 2 * variance + np.broadcast_to(self.lsf, centre.shape) ** 2)
        first, last = (np.searchsorted(wave, centre + side * 3 * sigma) for side in (-1, 1))
        if (good := self.weight > 0).all():
            return np.where(last > first, 1.0, 0.0)
        total = np.concatenate([np.zeros((n, 1), np.int32), np.cumsum(good, 1, dtype=np.int32)], 1)
        rows = np.arange(n)[:, None]
        return (total[rows, last] - total[rows, first]) / np.maximum(last - first, 1)

    def lines(self, fit):
        """Spectra (N, P) of the lines of a fit."""
        return line_spectra(self.problem, fit, None if self.lsf.ndim == 1 else self.lsf)

    def continuum(self, lines, data=None):
        """What is below ``lines`` (N, P): the model that was taken off, and the polynomials."""
        smooth = 0.0 if self.model is None else self.model
        if self.problem.degree >= 0:
            data = self.data if data is None else data
            smooth = smooth + polynomial_spectra(self.problem, data - lines, self.weight)
        return np.broadcast_to(smooth, self.data.shape)

    def second(self, fit, forced):
        """A job of twice the lines for the spectra that a second component describes better, which these are (N,), its
        fit, and what it measured; narrow component first."""
        single = self.problem
        chosen = np.zeros(len(self.data), bool)
        found = self.measure(fit, forced)
        bright = np.flatnonzero((found["best"].max(1) > 3 * SURE) & (found["mask"] & BAD == 0).any(1))
        if not bright.size:
            return None, chosen, None, None
        job = self.rows(bright)
        job = dataclasses.replace(job, problem=_doubled(single), calm=tuple(np.tile(x, (1, 2)) for x in job.calm))
        if job.lsf.ndim == 1:
            job.lsf = np.repeat(job.lsf, 2)
        else:
            job.lsf = np.repeat(job.lsf, 2, axis=1)
        velocity, variance = fit.velocity[bright], np.maximum(fit.variance[bright], 30.0**2)
        sigma = np.sqrt(variance)
        slim = np.full(variance.shape, 60.0**2)
        starts = [  # a broad base at rest or blueshifted (outflow); two streams side by side, near and far
            ((velocity, velocity), (0.5 * variance, 5 * variance + 100.0**2)),
            ((velocity, velocity - 150), (0.5 * variance, 3 * variance + 100.0**2)),
            ((velocity - sigma, velocity + sigma), (0.4 * variance, 0.4 * variance)),
            ((velocity - sigma, velocity + sigma), (slim, slim)),
            *(((velocity, velocity + step), (slim, slim)) for step in (-600, -350, 350, 600)),
        ]
        best = None
        for places, widths in starts:
            trial = job.fit(start=(np.concatenate(places, 1).clip(-900, 900), np.concatenate(widths, 1)))
            if best is None:
                best = trial
                continue
            cost, limit = (f.chi2 + np.where(f.converged & ~f.bounded.any(1), 0, 1e300) for f in (trial, best))
            _take(best, np.arange(len(bright)), trial, cost < limit)
        best = _narrow_first(best, single.tie.shape[1], single.n_groups)
        n_more = single.tie.shape[1] + 2 * single.n_groups
        freedom = found["degrees_of_freedom"][bright] - n_more
        scale = np.maximum(best.chi2 / np.maximum(freedom, 1), 1)
        gain = (fit.chi2[bright] - best.chi2) / scale - n_more * np.log(np.maximum(fit.n_pixels[bright], 2))
        measured = job.measure(best, np.zeros(len(bright), bool))
        lines = measured["best"].reshape(len(bright), 2, -1).max(2)  # S/N of the best line of each
        faintest = (measured["flux"] / measured["flux_sigma"]).min(1)  # one in absorption is no gas
        good = (gain > EVIDENCE) & (lines > SURE).all(1) & best.converged & ~best.bounded.any(1)
        good &= ~(faintest < -SURE)
        chosen[bright[good]] = True
        if not good.any():
            return None, chosen, None, None
        return job.rows(np.flatnonzero(good)), chosen, _rows(best, good), {k: v[good] for k, v in measured.items()}


class Scatter:
    """Errors from the scatter of fits to other data.

    Parameters
    ----------
    job : Job
    fit, forced, found
        What it found in its own data.
    anew : bool
        Whether lines are searched for anew, or fitted from where they were.
    """

    NAMES = ("flux", "ew", "continuum", "velocity", "dispersion")

    def __init__(self, job, fit, forced, found, *, anew):
        self.job, self.fit, self.forced, self.found, self.anew = job, fit, forced, found, anew
        self.n, self.sums, self.squares = (dict.fromkeys(self.NAMES, 0.0) for _ in range(3))
        self.product = 0.0

    def add(self, data):
        """Fit other ``data`` (N, P)."""
        job = self.job
        if self.anew:
            again, _ = job.search(data, self.forced)
        else:
            start = self.fit.velocity, self.fit.variance
            again = job.fit(data, start)
            if (rows := np.flatnonzero(self.forced)).size:  # as they were measured
                part = job.rows(rows).fit(data[rows], tuple(x[rows] for x in start), fixed=True)
                _take(again, rows, part, np.ones(len(rows), bool))
        again = job.measure(again, self.forced, data)
        for name in self.NAMES:
            step = again[name] - self.found[name]
            good = np.isfinite(step)  # of a width: where the continuum of the draw is above zero
            step = np.where(good, step, 0.0)
            self.n[name] = self.n[name] + good
            self.sums[name] = self.sums[name] + step
            self.squares[name] = self.squares[name] + step**2
            if name == "flux":
                self.product = self.product + step[:, :, None] * step[:, None]

    def errors(self):
        """``flux_sigma`` and the like (N, L), and the covariance of the fluxes (N, L, L)."""
        out, most = {}, max(int(n.max()) for n in self.n.values())
        with np.errstate(invalid="ignore", divide="ignore"):
            for name in self.NAMES:
                n = self.n[name]
                variance = (self.squares[name] - self.sums[name] ** 2 / n).clip(0) / (n - 1)
                out[f"{name}_sigma"] = np.where(n > 0.9 * most, np.sqrt(variance), np.nan)
            n = self.n["flux"].min(1)[:, None, None]
            mean = self.sums["flux"] / self.n["flux"]
            return out | {"covariance": (self.product - n * mean[:, :, None] * mean[:, None]) / (n - 1)}


def _doubled(problem):
    """The problem with every line twice: copies side by side, the second set with fluxes and groups of its own."""
    n_lines, n_free = problem.tie.shape
    tie = np.zeros((2 * n_lines, 2 * n_free))
    tie[::2, :n_free], tie[1::2, n_free:] = problem.tie, problem.tie
    group = np.empty(2 * n_lines, int)
    group[::2], group[1::2] = problem.group, problem.group + problem.n_groups
    return dataclasses.replace(
        problem, centres=np.repeat(problem.centres, 2), lsf=np.repeat(problem.lsf, 2), tie=tie, group=group
    )


def _narrow_first(fit, n_free, n_groups):
    """Exchange the components where the second is the narrower; of two that are as wide the bluer is the first."""
    first, second = slice(0, n_groups), slice(n_groups, None)
    broader = fit.variance[:, first].mean(1) - fit.variance[:, second].mean(1)
    error = np.diagonal(fit.covariance, axis1=1, axis2=2)[:, 2 * (n_free + n_groups) :].sum(1) / n_groups**2
    redder = fit.velocity[:, first].mean(1) > fit.velocity[:, second].mean(1)
    swap = np.where(broader**2 > 4 * error, broader > 0, redder)
    free, group = np.roll(np.arange(2 * n_free), n_free), np.roll(np.arange(2 * n_groups), n_groups)
    order = np.concatenate([free, 2 * n_free + group, 2 * n_free + 2 * n_groups + group])
    pick = lambda x, index: np.where(swap[:, None], x[:, index], x)  # noqa: E731
    covariance = np.where(swap[:, None, None], fit.covariance[:, order[:, None], order], fit.covariance)
    return dataclasses.replace(fit, flux=pick(fit.flux, free), velocity=pick(fit.velocity, group),
                               variance=pick(fit.variance, group), bounded=pick(fit.bounded, group),
                               covariance=covariance)  # fmt: skip


def _pseudo_continuum(job, data, lines):
    """Continuum at the lines and its error: between the means of the DAP's side bands, lines subtracted."""
    problem = job.problem
    wave, z1 = problem.wave, 1 + job.redshift
    copies = len(problem.centres) // len(job.table)  # two of each line where there are two components
    level, sigma = (np.full((len(data), len(problem.centres)), np.nan) for _ in range(2))
    smooth, known = None, {}

    def side_band(low, high):
        """Mean wavelength, mean and error (N,) over the good pixels of a band; None where the band has no pixel."""
        first, last = np.searchsorted(wave, low, side="right"), np.searchsorted(wave, high)
        if first >= last:
            return None
        band = slice(first, last)
        weight, light = job.weight[:, band], data[:, band] - lines[:, band]
        light = light if job.model is None else light + job.model[:, band]
        good = weight > 0
        n = good.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = good @ wave[band] / n
            mean = np.where(n > 0, np.where(good, light, 0).sum(1) / n, np.nan)
            return middle, mean, np.sqrt(np.where(good, 1 / weight, 0).sum(1)) / n

    for i, line in enumerate(job.table):
        here = slice(copies * i, copies * (i + 1))
        limits = [tuple(line[name].to_value(u.AA) * z1) for name in ("blue", "red")]
        for pair in limits:  # many lines share theirs
            if pair not in known:
                known[pair] = side_band(*pair)
        sides = [known[pair] for pair in limits if known[pair] is not None]
        if len(sides) == 2:
            (a, mean_a, noise_a), (b, mean_b, noise_b) = sides
            part = (problem.centres[copies * i] - a) / (b - a)
            level[:, here] = (mean_a * (1 - part) + mean_b * part)[:, None]
            sigma[:, here] = np.hypot(noise_a * (1 - part), noise_b * part)[:, None]
        else:  # no side bands: the fitted continuum itself
            smooth = job.continuum(lines, data) if smooth is None else smooth
            level[:, here] = smooth[:, np.searchsorted(wave, problem.centres[copies * i])][:, None]
    return level, sigma


def split_components(job, found, chosen, two):
    """What was found of the narrow and of the broad component, from `Job.second`; ``found`` is turned to their sums."""
    single = {name: value.copy() for name, value in found.items()}
    narrow, broad = single, {name: np.full_like(value, np.nan) if value.dtype.kind == "f" else value.copy()
                             for name, value in single.items()}  # fmt: skip
    absent = np.int32(DAPMask.NOVALUE) | BAD
    for name in ("mask", "kinematic_mask"):
        broad[name][~chosen] = absent
    if two is None:
        return narrow, broad
    for part, i in ((narrow, 0), (broad, 1)):
        for name in ("flux", "flux_sigma", "ew", "ew_sigma", "continuum", "continuum_sigma", "velocity",
                     "velocity_sigma", "dispersion", "dispersion_sigma", "instrumental_dispersion", "mask",
                     "kinematic_mask"):  # fmt: skip
            part[name][chosen] = two[name][:, i::2]
        part["covariance"][chosen] = two["covariance"][:, i::2, i::2]
        for name in ("chi2", "n_pixels", "degrees_of_freedom"):
            part[name][chosen] = two[name]
        for name in ("mask", "kinematic_mask"):
            part[name][chosen] |= np.int32(DAPMask.MULTICOMP)
    for name in ("chi2", "n_pixels", "degrees_of_freedom"):
        found[name][chosen] = two[name]
    n = two["flux"].shape[1] // 2
    both = np.repeat(np.eye(n), 2, axis=1)  # (L, 2L), sums over the components
    covariance = both @ two["covariance"] @ both.T
    found["flux"][chosen] = two["flux"] @ both.T
    found["covariance"][chosen] = covariance
    found["flux_sigma"][chosen] = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    level, level_sigma, z1 = two["continuum"][:, ::2], two["continuum_sigma"][:, ::2], 1 + job.redshift
    found["ew"][chosen] = two["ew"] @ both.T
    found["ew_sigma"][chosen] = np.hypot(found["flux_sigma"][chosen] / level,
                                         found["flux"][chosen] * level_sigma / level**2) / z1  # fmt: skip
    for name in ("mask", "kinematic_mask"):
        found[name][chosen] |= np.int32(DAPMask.MULTICOMP)
    return narrow, broad
