# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a cube to maps of emission lines: what the engine needs to know, and what its numbers mean.

``cube -> rows -> continuum taken off -> engine, in chunks -> second component, errors by repetition -> LineMaps``

Shapes: N spectra, P pixels in the windows, L lines, F free fluxes, G kinematic groups.
"""

import dataclasses
import warnings

import astropy.units as u
import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from specutils import Spectrum

from fiberifu.constants import C_KMS
from fiberifu.flags import Flag
from fiberifu.lines.backend import get_backend
from fiberifu.lines.engine import LineFit, LineProblem
from fiberifu.lines.job import BAD, Job, Scatter, split_components
from fiberifu.lines.maps import DAPMask, LineMaps
from fiberifu.lines.rows import Rows
from fiberifu.lines.stellar import StellarTemplates, fit_starlight
from fiberifu.lines.table import air_to_vacuum, complete_doublets, observed_lines
from fiberifu.provenance import Provenance

__all__ = ["fit_line_maps"]

ROOM = 600.0  # km/s; a line is covered when all of this around it is
KINEMATICS = {"all": lambda groups: np.zeros(len(groups), int),
              "balmer+forbidden": lambda groups: (~np.isin(groups, ("balmer", "paschen"))).astype(int),
              "table": lambda groups: np.unique(groups, return_inverse=True)[1]}  # fmt: skip
FAR = 150.0  # km/s
CALM, STELLAR = 90.0, 60.0  # km/s: width of lines that are not found; error of stellar velocities in use
ERRORS = ("formal", "mc", "samples")


def fit_line_maps(
    cube,
    table="strong",
    *,
    redshift,
    lsf="auto",
    continuum=2,
    baseline=None,
    starlight="nnls",
    window=60 * u.AA,
    kinematics="all",
    components=1,
    errors="formal",
    samples=100,
    seed=0,
    medium=None,
    mask=None,
    threads=None,
    chunk=512,
    backend="numpy",
):
    """Fit emission lines in every spaxel of a cube, or in every spectrum of a list.

    Gaussians, integrated over pixels and widened by the instrument, on a continuum; lines of one kinematic group share
    velocity and intrinsic width, doublets of fixed ratio one flux. Fluxes may be negative. Where all lines together do
    not stand out of the noise, fluxes are measured at the velocity of the stars (with templates) or at the redshift,
    and a width of 90 km/s: they scatter around zero, so that sums may include them, and are flagged UNRELIABLE.

    Parameters
    ----------
    cube : `~specutils.Spectrum`
        Of any shape, in a flux density; with an uncertainty. Of any survey.
    table : str, sequence of str or `~astropy.table.QTable`
        Of lines, see `line_table`. The other line of a doublet of fixed ratio that falls into the window of one is
        fitted with it, and is in the maps: without it, its light would be a misfit of the continuum.
    redshift : float
        Systemic; velocities are c (z_obs - z) / (1 + z). Lines are looked for within +-600 km/s of it (with templates,
        of the stars, where these are not at 0) and followed to +-1000.
    lsf : float, `~astropy.units.Quantity` or callable, optional
        Instrumental resolution: a resolving power lambda / FWHM; sigma as a length, one number, one per wavelength or
        one per pixel of the cube; a function of observed wavelength that returns sigma, both in Angstrom; or "cube" for
        ``cube.meta["lsf"]``, which the readers of surveys write. None: lines of one group have one width as observed,
        instrument included. By default as "cube" where the metadata have it, else None.
    continuum : int, `~specutils.Spectrum`, array_like, callable, "ssp" or `StellarTemplates`
        Degree of a polynomial in each window around the lines; or a model of the continuum, of the shape of the cube,
        to be subtracted; or a function that makes one of the cube; or templates of starlight to be fitted first
        (`fit_starlight`; ``"ssp"`` is `StellarTemplates.read_mastar`). Stellar absorption needs a model: a polynomial
        under H-beta loses several Angstrom of equivalent width.
    baseline : int, optional
        Degree of a polynomial in each window on top of a model, which takes up what the model misses; by default 1
        with templates, none with a given model.
    starlight : {'nnls', 'ppxf'}
        How templates are fitted: by `fit_starlight` itself, or in it by pPXF, which must be installed.
    window : `~astropy.units.Quantity`
        Rest-frame reach of the windows beyond their lines.
    kinematics : {'all', 'balmer+forbidden', 'table'}
        Which lines move together: all; hydrogen, and the rest; or by the column ``group`` of the table.
    components : {1, 2}
        With 2, a second set of all lines, with kinematics of its own, is kept where it earns a difference of 10 in the
        Bayesian information criterion (Schwarz 1978, Ann. Statist. 6, 461; chi2 scaled to 1 per degree of freedom if
        it is more) and both have a line of S/N > 3. ``maps`` then has the total fluxes, with MULTICOMP, and the
        velocities and widths of the fit of one component; ``maps.components`` the two, the narrow one first. Errors by
        repetition take as known which spectra have two.
    errors : {'formal', 'mc', 'samples'}
        From the curvature of chi2; from ``samples`` fits to the model with new noise; or from fits to ``samples``
        given cubes, whose scatter is the error: for pixels that are correlated, as those of a prediction are.
    samples : int or array_like, shape (n,) + cube.shape
        How many; or for ``errors='samples'`` the cubes themselves, in the unit of the cube. With a cube that was just
        predicted the number is enough: they are drawn from its prediction.
    seed : int
        Of the noise, which for a spectrum depends on its place in the cube alone.
    medium : {'vacuum', 'air'}, optional
        Of the cube's wavelengths (MaNGA, DESI: vacuum; SAMI, MUSE: air); by default ``cube.meta["medium"]``, which the
        readers of surveys write, else vacuum.
    mask : array_like of bool, optional
        True = bad, broadcast to the shape of the cube; in addition to the cube's own mask.
    threads : int, optional
        All cores by default.
    chunk : int
        Spectra fitted together; results do not depend on it. A graphics card wants thousands.
    backend : {'numpy', 'torch'} or str
        Where the fits are done: ``"torch"`` is the graphics card if there is one, ``"torch:cuda:1"`` a certain device;
        in float64 as with NumPy, and the same to rounding.

    Returns
    -------
    `LineMaps`
        Dispersions are as observed, as in the DAP; ``meta["chi2"]`` and ``meta["n_pixels"]`` are maps of chi2 and of
        the pixels that it is summed over, ``meta["degrees_of_freedom"]`` these less the parameters. With templates
        ``meta["stellar"]`` is their `StellarFit`, and ``meta["stellar_velocity"]``, ``"stellar_dispersion"`` and their
        ``_sigma`` are maps. ``meta["fit"]`` has the settings.

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
    if components not in (1, 2):
        raise ValueError(f"components is {components!r}; use 1 or 2")
    try:
        window = u.Quantity(window).to(u.AA)
    except (u.UnitConversionError, TypeError) as error:
        raise ValueError(f"window is {window}; give a length such as 60 * u.AA") from error
    lines, redshift, medium = observed_lines(complete_doublets(table, window), redshift, cube, medium)
    settings = {"medium": medium, "kinematics": kinematics, "components": components, "errors": errors,
                "lsf": _named(lsf), "continuum": _named(continuum), "starlight": starlight}  # fmt: skip
    if isinstance(lsf, str) and lsf == "auto":
        lsf = cube.meta.get("lsf")
        settings["lsf"] = "none" if lsf is None else "cube"
    if isinstance(lsf, str):
        if lsf != "cube" or cube.meta.get("lsf") is None:
            raise ValueError(f"lsf is {lsf!r}; 'cube' takes cube.meta['lsf'], which is {cube.meta.get('lsf')!r}")
        lsf = cube.meta["lsf"]
    centres = lines["wavelength"].to_value(u.AA) * (1 + redshift)
    covered = _covered(rows, centres)
    if not covered.size:
        raise ValueError(
            f"redshift is {redshift}: no line of the table falls on {rows.wave[0]:.0f}-{rows.wave[-1]:.0f} Angstrom; "
            "check redshift and table"
        )
    fitted = lines[covered]
    windows = _windows(rows, centres[covered], window.value * (1 + redshift))
    used = np.zeros(len(rows.wave), bool)
    for low, high in windows:
        used[low:high] = True
    for band in np.concatenate([fitted[side].to_value(u.AA) for side in ("blue", "red")]) * (1 + redshift):
        used |= (rows.wave > band[0]) & (rows.wave < band[1])
    pixels = np.flatnonzero(used)
    sigma = rows.resolution(lsf, centres[covered])  # (L,) or (N, L)
    model, degree, stellar = _continuum(
        rows, continuum, baseline, starlight, pixels, redshift, lsf, medium, mask, threads
    )
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
        middle=_middle(stellar),
    )
    calm = _calm(len(data), problem.n_groups, stellar)
    job = Job(problem, data, weight, model, sigma, fitted, redshift, calm, threads, chunk, get_backend(backend))
    fit, forced = job.search()
    found = job.measure(fit, forced)
    _warn_of_lsf(found, fit, problem, sigma)
    double, chosen, second, two = job.second(fit, forced) if components == 2 else (None, None, None, None)
    fitted = FittedSpectra(rows, pixels, job, fit, double, chosen, second)
    if errors != "formal":
        one = Scatter(job, fit, forced, found, anew=errors == "mc")
        both = double and Scatter(double, second, np.zeros(len(second.chi2), bool), two, anew=False)
        for draw in _draws(errors, samples, seed, rows, cube, fitted):
            one.add(draw)
            if both:
                both.add(draw[chosen])
        found |= one.errors()
        if both:
            two |= both.errors()
    parts = split_components(job, found, chosen, two) if components == 2 else ()  # what was found becomes the totals
    assemble = lambda x: _assemble(x, rows, lines, covered, redshift, cube, settings, stellar)  # noqa: E731
    maps = assemble(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # said once
        maps.components = tuple(assemble(part) for part in parts)
    if stellar is not None:
        maps.meta["stellar"] = stellar
    maps.fitted = fitted
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


def _continuum(rows, continuum, baseline, starlight, pixels, redshift, lsf, medium, mask, threads):
    """Model rows (N, P) or None, degree of the polynomial (-1 for none), and the `StellarFit` if there is one."""
    if isinstance(continuum, int | np.integer):
        if starlight != "nnls":
            raise ValueError(
                f"starlight is {starlight!r} with a polynomial continuum; it fits continuum='ssp' or templates"
            )
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
        stellar = fit_starlight(continuum, wave, *rows.read(mask), redshift=redshift, sigma=sigma, method=starlight,
                                threads=threads)  # fmt: skip
        return stellar.model[:, pixels], 1 if baseline is None else baseline, stellar
    model = continuum(rows.cube) if callable(continuum) else continuum
    return rows.model(model, pixels), -1 if baseline is None else baseline, None


def _calm(n, n_groups, stellar):
    """Velocities and variances (N, G) for spectra without a line: of the stars where known, else at the redshift."""
    velocity = np.zeros(n)
    if stellar is not None:
        velocity = np.where(stellar.velocity_sigma < STELLAR, stellar.velocity, 0.0)
    return np.repeat(velocity[:, None], n_groups, 1), np.full((n, n_groups), CALM**2)


def _beyond(windows, size):
    """Slices of the pixels that lie in no window."""
    ends = [0, *np.ravel(windows).tolist(), size]
    return [slice(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True) if b > a]


def _middle(stellar):
    """Velocity around which lines are looked for: of the stars where the redshift is far from theirs."""
    if stellar is None or not (sure := stellar.velocity_sigma < STELLAR).any():
        return 0.0
    middle = float(np.median(stellar.velocity[sure]))
    return middle if abs(middle) > FAR else 0.0


def _named(what):
    """A setting as a short text for the files."""
    if what is None or isinstance(what, str | int | float):
        return str(what).lower()
    if isinstance(what, u.Quantity) and what.ndim == 0:
        return str(what)
    return "templates" if isinstance(what, StellarTemplates) else "given"


def _warn_of_lsf(found, fit, problem, sigma):
    """Bright lines that are narrower than the instrument tell of a resolution that is not the cube's."""
    bright = (found["best"][:, problem.group] > 10) & (found["mask"] & BAD == 0)
    if not sigma.any() or bright.sum() < 5:
        return
    narrow = (fit.variance[:, problem.group] < 0)[bright].mean()
    if narrow > 0.8:
        warnings.warn(
            f"lsf: {100 * narrow:.0f} % of the bright lines are narrower than it says; is it a FWHM where a sigma was "
            "asked for, or that of another instrument?",
            AstropyUserWarning,
            stacklevel=3,
        )


def _draws(errors, samples, seed, rows, cube, fitted):
    """Iterate over rows of data (N, P) to be fitted again, continuum model taken off."""
    job = fitted.job
    if errors == "mc":
        if not (isinstance(samples, int | np.integer) and samples > 1):
            raise ValueError(f"samples is {samples!r}; for errors='mc' a number of 2 or more")
        clean = fitted.lines()
        clean = clean + job.continuum(clean) - (0 if job.model is None else job.model)
        for part in _beyond(job.problem.windows, clean.shape[1]):  # side bands reach beyond the windows: their mean
            w = job.weight[:, part]
            mean = (w * job.data[:, part]).sum(1) / np.maximum(w.sum(1), 1e-300)
            clean[:, part] = mean[:, None]
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
        data = rows(sample, fitted.pixels) * rows.factor - (0 if job.model is None else job.model)
        yield np.where((job.weight > 0) & np.isfinite(data), data, 0.0)


# ---------------------------------------------------------------- what comes out
@dataclasses.dataclass(eq=False)
class FittedSpectra:
    """The spectra of a fit at ``pixels`` of the cube's ``rows``, made on demand.

    ``second`` is the fit, by the job ``double``, of those spectra (``chosen``) that have two components.
    """

    rows: Rows
    pixels: np.ndarray
    job: Job
    fit: LineFit
    double: Job | None = None
    chosen: np.ndarray | None = None
    second: LineFit | None = None

    def lines(self):
        """Of all spectra (N, P), with both components where there are two."""
        lines = self.job.lines(self.fit)
        if self.double is not None:
            lines[self.chosen] = self.double.lines(self.second)
        return lines

    def spectrum(self, what):
        """``"lines"``, ``"continuum"`` or ``"all"`` as a Spectrum like the cube, NaN where nothing was fitted."""
        if what not in ("all", "continuum", "lines"):
            raise ValueError(f"what is {what!r}; use 'all', 'continuum' or 'lines'")
        lines = self.lines()
        values = 0.0 if what == "continuum" else lines
        if what != "lines":
            values = values + self.job.continuum(lines)
        inside = np.concatenate([np.arange(low, high) for low, high in self.job.problem.windows])
        return self._like(self.rows.back(values[:, inside] / self.rows.factor, self.pixels[inside]))

    def residual(self):
        """The cube less lines and continuum, with its uncertainty and mask."""
        cube = self.rows.cube
        values = np.asarray(cube.flux.value) - self.spectrum("all").flux.value
        return self._like(values, uncertainty=cube.uncertainty, mask=cube.mask)

    def _like(self, values, **keywords):
        cube = self.rows.cube
        axis = {"wcs": cube.wcs} if getattr(cube.wcs, "has_celestial", False) else {"spectral_axis": cube.spectral_axis}
        return Spectrum(flux=values * cube.flux.unit, spectral_axis_index=self.rows.axis, **axis, **keywords)


def _assemble(found, rows, lines, covered, redshift, cube, settings, stellar=None):
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
    if provenance is not None and provenance.datatype == "PREDICTED" and settings.get("errors") != "samples":
        flags = np.int32(Flag.FORMAL_ERRORS) | (np.zeros(shape, np.int32) if flags is None else flags)
        warnings.warn(
            "cube: predicted pixels are correlated, and a fit takes them as independent: its errors are far too small, "
            "and flagged FORMAL_ERRORS; take lines of a prediction from Prediction.line_maps(), or errors='samples'",
            AstropyUserWarning,
            stacklevel=3,
        )
    extra = {"fit": settings}
    if stellar is not None:
        names = ("velocity", "velocity_sigma", "dispersion", "dispersion_sigma")
        extra |= {f"stellar_{name}": getattr(stellar, name).reshape(shape) for name in names}
    extra |= {name: found[name].reshape(shape) for name in ("chi2", "n_pixels", "degrees_of_freedom") if name in found}
    if (
        cube.meta.get("bins") is not None and np.shape(cube.meta["bins"]) == shape
    ):  # spaxels of a bin repeat one measurement
        extra["bins"] = np.asarray(cube.meta["bins"])
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
        meta=extra | {"errors": settings.get("errors", "formal")},
    )  # fmt: skip
