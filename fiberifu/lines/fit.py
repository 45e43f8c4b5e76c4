# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a cube to maps of emission lines: what the engine needs to know, and what its numbers mean.

``cube -> rows -> continuum taken off -> engine, in chunks -> second component, errors by repetition -> LineMaps``

Shapes: N spectra, P pixels in the windows, L lines, F free fluxes, G kinematic groups.
"""

import dataclasses
import warnings

import astropy.units as u
import numpy as np
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from specutils import Spectrum

from fiberifu.constants import C_KMS
from fiberifu.flags import Flag
from fiberifu.lines.engine import LineFit, LineProblem, fit_lines, line_spectra, polynomial_spectra
from fiberifu.lines.maps import DAPMask, LineMaps
from fiberifu.lines.rows import Rows
from fiberifu.lines.rows import Rows as _Spectra  # noqa: F401
from fiberifu.lines.stellar import StellarTemplates, fit_starlight
from fiberifu.lines.table import air_to_vacuum, line_table
from fiberifu.lines.threads import in_threads
from fiberifu.provenance import Provenance

__all__ = ["fit_line_maps"]

BAD = np.int32(DAPMask.DONOTUSE)
ROOM = 600.0  # km/s; a line is covered when all of this around it is
KINEMATICS = {"all": lambda groups: np.zeros(len(groups), int),
              "balmer+forbidden": lambda groups: (~np.isin(groups, ("balmer", "paschen"))).astype(int),
              "table": lambda groups: np.unique(groups, return_inverse=True)[1]}  # fmt: skip
SURE = 3.0  # S/N below which velocity and width are called unreliable
EVIDENCE = 10.0  # difference of BIC that a second component must earn (Kass & Raftery 1995, "very strong")
ERRORS = ("formal", "mc", "samples")


def fit_line_maps(
    cube,
    table="strong",
    *,
    redshift,
    lsf=None,
    continuum=2,
    baseline=None,
    window=60 * u.AA,
    kinematics="all",
    components=1,
    errors="formal",
    samples=100,
    seed=0,
    medium="vacuum",
    mask=None,
    threads=None,
    chunk=256,
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
    continuum : int, `~specutils.Spectrum`, array_like, callable, "ssp" or `StellarTemplates`
        Degree of a polynomial in each window around the lines; or a model of the continuum, of the shape of the cube,
        to be subtracted; or a function that makes one of the cube; or templates of starlight to be fitted first
        (`fit_starlight`; ``"ssp"`` is `StellarTemplates.read_mastar`). Stellar absorption needs a model: a polynomial
        under H-beta loses several Angstrom of equivalent width.
    baseline : int, optional
        Degree of a polynomial in each window on top of a model, which takes up what the model misses; by default 1
        with templates, none with a given model.
    window : `~astropy.units.Quantity`
        Rest-frame reach of the windows beyond their lines.
    kinematics : {'all', 'balmer+forbidden', 'table'}
        Which lines move together: all; hydrogen, and the rest; or by the column ``group`` of the table.
    components : {1, 2}
        With 2, a second set of all lines, with kinematics of its own, is kept where it earns a difference of 10 in the
        Bayesian information criterion (Schwarz 1978, Ann. Statist. 6, 461; chi2 scaled to 1 per degree of freedom if
        it is more) and both have a line of S/N > 3. ``maps`` then has the total fluxes, with MULTICOMP, and the
        velocities and widths of the fit of one component; ``maps.components`` the two, the narrow one first.
    errors : {'formal', 'mc', 'samples'}
        From the curvature of chi2; from ``samples`` fits to the model with new noise; or from fits to ``samples``
        given cubes, whose scatter is the error: for pixels that are correlated, as those of a prediction are.
    samples : int or array_like, shape (n,) + cube.shape
        How many; or for ``errors='samples'`` the cubes themselves, in the unit of the cube. With a cube that was just
        predicted the number is enough: they are drawn from its prediction.
    seed : int
        Of the noise, which for a spectrum depends on its place in the cube alone.
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
        the pixels that it is summed over, ``meta["degrees_of_freedom"]`` these less the parameters. With templates
        ``meta["stellar"]`` is their `StellarFit`.

    Raises
    ------
    ValueError
        Naming the argument, what came and what would do. A bad spaxel is flagged, never raised.

    Warns
    -----
    AstropyUserWarning
        For a predicted cube, whose pixels are correlated: unless ``errors='samples'``, the errors are flagged.
    """
    rows = Rows(cube)
    if kinematics not in KINEMATICS:
        raise ValueError(f"kinematics is {kinematics!r}; use one of {sorted(KINEMATICS)}")
    if errors not in ERRORS:
        raise ValueError(f"errors is {errors!r}; use one of {ERRORS}")
    if components not in (1, 2) or (components == 2 and errors != "formal"):
        raise ValueError(f"components is {components!r} with errors={errors!r}; 1, or 2 with formal errors")
    if not (np.isscalar(redshift) and np.isfinite(redshift) and redshift > -0.01):
        raise ValueError(f"redshift is {redshift!r}; give the one systemic redshift")
    lines = table if isinstance(table, QTable) else line_table(table, medium)
    lines = lines[np.argsort(lines["wavelength"])]
    centres = lines["wavelength"].to_value(u.AA) * (1 + redshift)
    covered = _covered(rows, centres)
    if not covered.size:
        raise ValueError(
            f"redshift is {redshift}: no line of the table falls on {rows.wave[0]:.0f}-{rows.wave[-1]:.0f} Angstrom; "
            "check redshift and table"
        )
    fitted = lines[covered]
    windows = _windows(rows, centres[covered], u.Quantity(window).to_value(u.AA) * (1 + redshift))
    used = np.zeros(len(rows.wave), bool)
    for low, high in windows:
        used[low:high] = True
    for band in np.concatenate([fitted[side].to_value(u.AA) for side in ("blue", "red")]) * (1 + redshift):
        used |= (rows.wave > band[0]) & (rows.wave < band[1])
    pixels = np.flatnonzero(used)
    sigma = rows.resolution(lsf, centres[covered])  # (L,) or (N, L)
    model, degree, stellar = _continuum(rows, continuum, baseline, pixels, redshift, lsf, medium, mask, threads)
    data, weight = rows.read(mask, pixels)
    if model is not None:
        weight = np.where(np.isfinite(model), weight, 0.0)
        model = np.nan_to_num(model)
        data = np.where(weight > 0, data - model, 0.0)
    place = np.cumsum(used) - 1
    problem = LineProblem(
        rows.wave[pixels],
        rows.step[pixels],
        centres[covered],
        sigma if sigma.ndim == 1 else np.nan_to_num(np.nanmedian(sigma, 0)),
        _ties(fitted),
        KINEMATICS[kinematics](np.asarray(fitted["group"], str)),
        tuple((int(place[low]), int(place[high - 1]) + 1) for low, high in windows),
        degree=degree,
    )
    job = _Job(problem, data, weight, model, sigma, fitted, redshift, threads, chunk)
    fit = job.fit()
    found = job.measure(fit)
    if errors != "formal":
        found |= job.scatter(_draws(errors, samples, seed, rows, cube, job, found, pixels), fit, found)
    parts = _split(job, fit, found) if components == 2 else ()  # changes what was found to the totals
    assemble = lambda x: _assemble(x, rows, lines, covered, redshift, cube, errors)  # noqa: E731
    maps = assemble(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # said once
        maps.components = tuple(assemble(part) for part in parts)
    if stellar is not None:
        maps.meta["stellar"] = stellar
    inside = np.concatenate([np.arange(low, high) for low, high in problem.windows])
    smooth = found["smooth"] if model is None else found["smooth"] + model
    maps.fitted = FittedSpectra(rows, pixels[inside], found["lines"][:, inside], smooth[:, inside])
    return maps


# ---------------------------------------------------------------- what goes in
def _covered(rows, centres):
    """Lines whose surroundings are on pixels, gaps between arms left out."""
    reach = centres * ROOM / C_KMS
    first, last = (np.searchsorted(rows.wave, centres + side * reach) for side in (-1, 1))
    width = np.append(0, np.cumsum(rows.step))
    return np.flatnonzero(width[last] - width[first] > 0.95 * 2 * reach)


def _windows(rows, centres, reach):
    """Disjoint ranges of pixels around the lines, none across a gap; of a `Rows` or of plain wavelengths."""
    wave, segment = (rows.wave, rows.segment) if isinstance(rows, Rows) else (rows, np.zeros(len(rows), int))
    merged = []
    for centre in centres:
        part = segment[min(np.searchsorted(wave, centre), len(wave) - 1)]
        low, high = (np.searchsorted(wave, centre + side * reach) for side in (-1, 1))
        low, high = max(low, np.searchsorted(segment, part)), min(high, np.searchsorted(segment, part, side="right"))
        if merged and low <= merged[-1][1] and segment[merged[-1][0]] == part:
            merged[-1][1] = max(high, merged[-1][1])
        else:
            merged.append([low, high])
    return tuple((int(a), int(b)) for a, b in merged)


def _ties(table):
    """Lines (L) by free fluxes (F): a line that is tied to another of the table has that one's flux times the ratio."""
    keys = [str(key) for key in table["key"]]
    parent = [str(name) if str(name) in keys else key for key, name in zip(keys, table["tied_to"], strict=True)]
    free = [key for key, name in zip(keys, parent, strict=True) if key == name]
    tie = np.zeros((len(keys), len(free)))
    for i, (key, name) in enumerate(zip(keys, parent, strict=True)):
        tie[i, free.index(name)] = 1.0 if key == name else float(table["ratio"][i])
    return tie


def _continuum(rows, continuum, baseline, pixels, redshift, lsf, medium, mask, threads):
    """Model rows (N, P) or None, degree of the polynomial (-1 for none), and the `StellarFit` if there is one."""
    if isinstance(continuum, int | np.integer):
        if not 0 <= continuum <= 6 or baseline is not None:
            raise ValueError(
                f"continuum is {continuum}, baseline {baseline}; a polynomial of degree 0 to 6 (without a baseline), "
                "or a model of the cube's shape"
            )
        return None, int(continuum), None
    if baseline is not None and not 0 <= baseline <= 6:
        raise ValueError(f"baseline is {baseline}; a polynomial of degree 0 to 6, or None")
    if isinstance(continuum, str):
        if continuum != "ssp":
            raise ValueError(f"continuum is {continuum!r}; a degree, a model, 'ssp' or StellarTemplates")
        continuum = StellarTemplates.read_mastar()
    if isinstance(continuum, StellarTemplates):
        wave = air_to_vacuum(rows.wave * u.AA).value if medium == "air" else rows.wave
        sigma = None
        if lsf is not None:
            sigma = rows.resolution(lsf)
            sigma = np.median(sigma, 0) if sigma.ndim == 2 else sigma
        stellar = fit_starlight(continuum, wave, *rows.read(mask), redshift=redshift, sigma=sigma, threads=threads)
        return stellar.model[:, pixels], 1 if baseline is None else baseline, stellar
    model = continuum(rows.cube) if callable(continuum) else continuum
    return rows.model(model, pixels), -1 if baseline is None else baseline, None


def _draws(errors, samples, seed, rows, cube, job, found, pixels):
    """Iterate over rows of data (N, P) to be fitted again, continuum model taken off."""
    if errors == "mc":
        if not (isinstance(samples, int | np.integer) and samples > 1):
            raise ValueError(f"samples is {samples!r}; for errors='mc' a number of 2 or more")
        clean = found["lines"] + found["smooth"]
        noise = np.divide(1, np.sqrt(job.weight), out=np.zeros_like(job.weight), where=job.weight > 0)
        streams = [np.random.default_rng([seed, i]) for i in range(len(clean))]
        for _ in range(samples):
            yield clean + noise * np.stack([stream.standard_normal(clean.shape[1]) for stream in streams])
        return
    if isinstance(samples, int | np.integer):
        prediction = cube.meta.get("prediction")
        if prediction is None:
            raise ValueError(
                f"samples is {samples}: this cube has no prediction to draw from; give the samples, "
                f"of shape (n,) + {cube.shape}"
            )
        spectral = len(rows.shape)
        drawn = (prediction.sample(1, seed=seed + i)[0] for i in range(samples))
        drawn = (np.moveaxis(x.to_value(cube.flux.unit), spectral, rows.axis) for x in drawn)
    else:
        drawn = samples.to_value(cube.flux.unit) if isinstance(samples, u.Quantity) else np.asarray(samples)
        if drawn.shape[1:] != cube.shape or len(drawn) < 2:
            raise ValueError(f"samples has the shape {drawn.shape}; it must be (n,) + {cube.shape}, n of 2 or more")
    for sample in drawn:
        data = rows(sample, pixels) * rows.factor - (0 if job.model is None else job.model)
        yield np.where((job.weight > 0) & np.isfinite(data), data, 0.0)


# ---------------------------------------------------------------- fits
@dataclasses.dataclass
class _Job:
    """Spectra to be fitted: arrays as the engine takes them, and what their fluxes mean.

    ``model`` (N, P) has been taken off ``data``; ``lsf`` is (L,) or (N, L).
    """

    problem: LineProblem
    data: np.ndarray
    weight: np.ndarray
    model: np.ndarray | None
    lsf: np.ndarray
    table: QTable
    redshift: float
    threads: int | None
    chunk: int

    def rows(self, index):
        """The same for some spectra."""
        return dataclasses.replace(
            self,
            data=self.data[index],
            weight=self.weight[index],
            model=None if self.model is None else self.model[index],
            lsf=self.lsf if self.lsf.ndim == 1 else self.lsf[index],
        )

    def fit(self, data=None, start=None):
        """`LineFit` of all spectra, or of other ``data`` with the same weights, from ``start`` if given."""
        data = self.data if data is None else data

        def work(part):
            lsf = None if self.lsf.ndim == 1 else self.lsf[part]
            begin = None if start is None else tuple(x[part] for x in start)
            return fit_lines(self.problem, data[part], self.weight[part], lsf=lsf, start=begin)

        parts = [slice(i, i + self.chunk) for i in range(0, len(data), self.chunk)]
        fits = in_threads(work, parts, self.threads)
        names = [field.name for field in dataclasses.fields(LineFit)]
        return LineFit(**{name: np.concatenate([getattr(f, name) for f in fits]) for name in names})

    def measure(self, fit, data=None):
        """All quantities, per line (N, L) and per spectrum (N,), and the spectra of lines and polynomials (N, P)."""
        problem, data = self.problem, self.data if data is None else data
        n_free, n_groups, tie, group = problem.tie.shape[1], problem.n_groups, problem.tie, problem.group
        flux = np.nan_to_num(fit.flux) @ tie.T
        lost = np.isnan(fit.flux) @ (tie != 0).T
        covariance = tie @ fit.covariance[:, :n_free, :n_free] @ tie.T
        flux_sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        spread = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
        centre = problem.centres * (1 + fit.velocity[:, group] / C_KMS)
        instrument = np.broadcast_to(self.lsf, flux.shape) / centre * C_KMS
        dispersion = np.sqrt(np.clip(fit.variance[:, group] + instrument**2, 0, None))
        lines = line_spectra(problem, fit, None if self.lsf.ndim == 1 else self.lsf)
        smooth = polynomial_spectra(problem, data - lines, self.weight) if problem.degree >= 0 else np.zeros(data.shape)
        level, level_sigma = _pseudo_continuum(self, data - lines, smooth)
        z1 = 1 + self.redshift
        ew = flux / np.where(level > 0, level, np.nan) / z1
        ew_sigma = np.hypot(flux_sigma / np.where(flux_sigma > 0, level, np.nan), flux * level_sigma / level**2) / z1
        mask = np.where(lost, np.int32(DAPMask.NOCOV) | BAD, np.int32(0))
        failed = ~(fit.converged & np.isfinite(fit.chi2) & np.isfinite(fit.flux).any(1))[:, None]
        mask |= np.where(failed, np.int32(DAPMask.FITFAILED) | BAD, np.int32(0))
        snr = np.where(flux_sigma > 0, flux / np.where(flux_sigma > 0, flux_sigma, 1), 0)
        member = group[:, None] == np.arange(n_groups)
        best = np.where(member, snr[..., None], -np.inf).max(1)  # (N, G), of the brightest line that moves along
        doubt = np.where(fit.bounded[:, group], np.int32(DAPMask.NEARBOUND) | BAD, np.int32(0))
        doubt |= np.where(best[:, group] < SURE, np.int32(DAPMask.UNRELIABLE) | BAD, np.int32(0))
        return {
            "flux": flux, "flux_sigma": flux_sigma, "covariance": covariance,
            "ew": ew, "ew_sigma": np.abs(ew_sigma), "continuum": level, "continuum_sigma": level_sigma,
            "velocity": fit.velocity[:, group], "velocity_sigma": spread[:, n_free + group],
            "dispersion": dispersion,
            "dispersion_sigma": spread[:, n_free + n_groups + group] / 2 / np.maximum(dispersion, 10.0),
            "instrumental_dispersion": instrument, "mask": mask, "kinematic_mask": mask | doubt, "best": best,
            "chi2": fit.chi2, "n_pixels": fit.n_pixels,
            "degrees_of_freedom": fit.n_pixels - n_free - 2 * n_groups - len(problem.windows) * (problem.degree + 1),
            "lines": lines, "smooth": smooth,
        }  # fmt: skip

    def scatter(self, draws, fit, found):
        """Errors from the scatter of fits to other data; fluxes with their covariance."""
        names = ("flux", "ew", "continuum", "velocity", "dispersion")
        n, sums, squares, product = 0, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), 0.0
        for data in draws:
            again = self.measure(self.fit(data, start=(fit.velocity, fit.variance)), data)
            step = {name: again[name] - found[name] for name in names}
            for name in names:
                sums[name] = sums[name] + step[name]
                squares[name] = squares[name] + step[name] ** 2
            product = product + step["flux"][:, :, None] * step["flux"][:, None]
            n += 1
        with np.errstate(invalid="ignore"):
            out = {f"{name}_sigma": np.sqrt((squares[name] - sums[name] ** 2 / n).clip(0) / (n - 1)) for name in names}
        mean = sums["flux"] / n
        return out | {"covariance": (product - n * mean[:, :, None] * mean[:, None]) / (n - 1)}

    def second(self, fit):
        """A job of twice the lines for the spectra that a second component describes better, which these are (N,) and
        its fit; narrow component first."""
        single = self.problem
        chosen = np.zeros(len(self.data), bool)
        found = self.measure(fit)
        bright = np.flatnonzero((found["best"].max(1) > 3 * SURE) & (found["mask"] & BAD == 0).any(1))
        if not bright.size:
            return None, chosen, None
        job = dataclasses.replace(self.rows(bright), problem=_doubled(single))
        if job.lsf.ndim == 1:
            job.lsf = np.repeat(job.lsf, 2)
        else:
            job.lsf = np.repeat(job.lsf, 2, axis=1)
        velocity, variance = fit.velocity[bright], np.maximum(fit.variance[bright], 30.0**2)
        sigma = np.sqrt(variance)
        starts = [  # a broad base at rest or blueshifted (outflow); two streams side by side
            ((velocity, velocity), (0.5 * variance, 5 * variance + 100.0**2)),
            ((velocity, velocity - 150), (0.5 * variance, 3 * variance + 100.0**2)),
            ((velocity - sigma, velocity + sigma), (0.4 * variance, 0.4 * variance)),
        ]
        best = None
        for places, widths in starts:
            trial = job.fit(start=(np.concatenate(places, 1), np.concatenate(widths, 1)))
            if best is None:
                best = trial
                continue
            better = trial.chi2 < best.chi2
            for name in (field.name for field in dataclasses.fields(LineFit)):
                getattr(best, name)[better] = getattr(trial, name)[better]
        best = _narrow_first(best, single.tie.shape[1], single.n_groups)
        n_more = single.tie.shape[1] + 2 * single.n_groups
        freedom = found["degrees_of_freedom"][bright] - n_more
        scale = np.maximum(best.chi2 / np.maximum(freedom, 1), 1)
        gain = (fit.chi2[bright] - best.chi2) / scale - n_more * np.log(np.maximum(fit.n_pixels[bright], 2))
        lines = job.measure(best)["best"].reshape(len(bright), 2, -1).max(2)  # S/N of the best line of each
        good = (gain > EVIDENCE) & (lines > SURE).all(1) & best.converged & ~best.bounded.any(1)
        chosen[bright[good]] = True
        names = [field.name for field in dataclasses.fields(LineFit)]
        kept = LineFit(**{name: getattr(best, name)[good] for name in names})
        return job.rows(np.flatnonzero(good)) if good.any() else None, chosen, kept


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
    """Exchange the components where the second is the narrower."""
    swap = fit.variance[:, :n_groups].mean(1) > fit.variance[:, n_groups:].mean(1)
    free, group = np.roll(np.arange(2 * n_free), n_free), np.roll(np.arange(2 * n_groups), n_groups)
    order = np.concatenate([free, 2 * n_free + group, 2 * n_free + 2 * n_groups + group])
    pick = lambda x, index: np.where(swap[:, None], x[:, index], x)  # noqa: E731
    covariance = np.where(swap[:, None, None], fit.covariance[:, order[:, None], order], fit.covariance)
    return dataclasses.replace(fit, flux=pick(fit.flux, free), velocity=pick(fit.velocity, group),
                               variance=pick(fit.variance, group), bounded=pick(fit.bounded, group),
                               covariance=covariance)  # fmt: skip


def _pseudo_continuum(job, residual, smooth):
    """Continuum at the lines and its error: between the means of the DAP's side bands, lines subtracted."""
    problem, weight = job.problem, job.weight
    light, wave, z1 = residual, problem.wave, 1 + job.redshift
    if job.model is not None:
        light, smooth = residual + job.model, smooth + job.model
    copies = len(problem.centres) // len(job.table)  # two of each line where there are two components
    level, sigma = (np.full((len(residual), len(problem.centres)), np.nan) for _ in range(2))
    for i, line in enumerate(job.table):
        sides, here = [], slice(copies * i, copies * (i + 1))
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
            part = (problem.centres[copies * i] - a) / (b - a)
            level[:, here] = (mean_a * (1 - part) + mean_b * part)[:, None]
            sigma[:, here] = np.hypot(noise_a * (1 - part), noise_b * part)[:, None]
        else:  # no side bands: the fitted continuum itself
            level[:, here] = smooth[:, np.searchsorted(wave, problem.centres[copies * i])][:, None]
    return level, sigma


# ---------------------------------------------------------------- what comes out
def _split(job, fit, found):
    """What was found of the narrow and of the broad component; ``found`` itself is turned to their sums."""
    double, chosen, second = job.second(fit)
    single = {name: value.copy() for name, value in found.items()}
    narrow, broad = single, {name: np.full_like(value, np.nan) if value.dtype.kind == "f" else value.copy()
                             for name, value in single.items()}  # fmt: skip
    absent = np.int32(DAPMask.NOVALUE) | BAD
    for name in ("mask", "kinematic_mask"):
        broad[name][~chosen] = absent
    if double is None:
        return narrow, broad
    two = double.measure(second)
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
    for name in ("lines", "smooth", "chi2", "n_pixels", "degrees_of_freedom"):
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


@dataclasses.dataclass(eq=False)
class FittedSpectra:
    """The spectra of a fit: lines and continuum (N, P) at ``pixels`` of the cube's ``rows``."""

    rows: Rows
    pixels: np.ndarray
    lines: np.ndarray
    continuum: np.ndarray

    def __post_init__(self):
        self.lines, self.continuum = (x.astype(np.float32) for x in (self.lines, self.continuum))

    def spectrum(self, what):
        """``"lines"``, ``"continuum"`` or ``"all"`` as a Spectrum like the cube, NaN where nothing was fitted."""
        parts = {"lines": self.lines, "continuum": self.continuum, "all": self.lines + self.continuum}
        if what not in parts:
            raise ValueError(f"what is {what!r}; use one of {sorted(parts)}")
        return self._like(self.rows.back(parts[what] / self.rows.factor, self.pixels))

    def residual(self):
        """The cube less lines and continuum, with its uncertainty and mask."""
        cube = self.rows.cube
        values = np.asarray(cube.flux.value) - self.spectrum("all").flux.value
        return self._like(values, uncertainty=cube.uncertainty, mask=cube.mask)

    def _like(self, values, **keywords):
        cube = self.rows.cube
        axis = {"wcs": cube.wcs} if getattr(cube.wcs, "has_celestial", False) else {"spectral_axis": cube.spectral_axis}
        return Spectrum(flux=values * cube.flux.unit, spectral_axis_index=self.rows.axis, **axis, **keywords)


def _assemble(found, rows, lines, covered, redshift, cube, errors="formal"):
    """`LineMaps` of the lines of the table from quantities (N, L) of those that are covered."""
    shape = rows.shape

    def full(name, fill=np.nan):
        value = np.full((len(lines), len(rows)), fill, dtype=found[name].dtype)
        value[covered] = found[name].T
        return value.reshape(len(lines), *shape)

    absent = np.int32(DAPMask.NOCOV) | BAD
    mask, kinematic = full("mask", absent), full("kinematic_mask", absent)
    n = len(lines)
    covariance = np.full((len(rows), n, n), np.nan)
    covariance[:, covered[:, None], covered] = found["covariance"]
    wcs = getattr(cube, "wcs", None)
    celestial = wcs.celestial if hasattr(wcs, "celestial") and getattr(wcs, "has_celestial", False) else None
    if celestial is None:
        celestial = cube.meta.get("celestial_wcs")
    provenance = cube.meta.get("provenance")
    provenance = provenance if isinstance(provenance, Provenance) else None
    flags = cube.meta.get("flags")
    flags = flags if flags is not None and np.shape(flags) == shape else None
    if provenance is not None and provenance.datatype == "PREDICTED" and errors != "samples":
        flags = np.int32(Flag.FORMAL_ERRORS) | (np.zeros(shape, np.int32) if flags is None else flags)
        warnings.warn(
            "cube: predicted pixels are correlated, and a fit takes them as independent: its errors are far too small, "
            "and flagged FORMAL_ERRORS; take lines of a prediction from Prediction.line_maps(), or errors='samples'",
            AstropyUserWarning,
            stacklevel=3,
        )
    extra = {name: found[name].reshape(shape) for name in ("chi2", "n_pixels", "degrees_of_freedom") if name in found}
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
        extinction_corrected=cube.meta.get("extinction_corrected"),
        ebv=cube.meta.get("ebv"),
        meta=extra | {"errors": errors},
    )  # fmt: skip
