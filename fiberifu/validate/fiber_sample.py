# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What baselines are trained on: ``recipe -> the network's own training fibres -> image view + measured lines``.

`sample_fibers` simulates again the very fibres of a training recipe and measures their lines on the noisy spectra;
`sample_spaxels` does what a survey with an IFU would have: many spaxels of each of a few other galaxies.
"""

import dataclasses
import functools
import hashlib
import time
import zipfile
from pathlib import Path

import numpy as np

from ..output import atomic_path, settings_hash
from .code_hash import code_sha256
from .image_view import ImageView, view_image
from .maps import APERTURE_AREA

__all__ = ["IFU_SEED", "MANGA_DEPTH", "LineSample", "sample_fibers", "sample_spaxels", "simulator_sha256"]

#: Of the galaxies with spaxels; no training recipe (seed x 10^7 + step) and no held-out set has it.
IFU_SEED = 66_000_001
HELD_OUT_SEED = 77_000_001  # must never be trained on
#: 1-sigma error of H-alpha in MaNGA's spaxels, 1e-17 erg/s/cm2/arcsec2: 3 sigma are 5e-18 (Belfiore et al. 2019,
#: AJ 158, 160). Taken for all lines.
MANGA_DEPTH = 0.5 / 3
MANGA_GRID = 3622.0, 10354.0  # Angstrom
SAVE_SECONDS = 60.0
FORMAT = 1  # of the files and of the measurements in here and in `line_fit`


@dataclasses.dataclass(frozen=True, eq=False)
class LineSample:
    """Positions with an image, as an observer has them, and with measured lines.

    Attributes
    ----------
    flux, error : ndarray (n, 4)
        Aperture photometry, nanomaggy; NaN where a band is missing.
    patch : ndarray (n, 4, 7, 7)
        nanomaggy / arcsec2, rows to the North, columns to the East; see `view_image`.
    redshift, psf_fwhm, distance : ndarray (n,)
        See `ImageView`.
    line_flux, line_flux_sigma, ew, ew_sigma : ndarray (n, 15)
        Measured from noisy spectra, 1e-17 erg/s/cm2 and rest-frame Angstrom; NaN where not measured.
    true_flux, true_ew : ndarray (n, 15)
        Without noise: for tests of the training, never for a baseline that is compared.
    radius : ndarray (n,)
        Deprojected, effective radii; truth, for reports.
    galaxy : ndarray (n,) of int
        Positions of one galaxy have one number.
    continuum : ndarray (n_continuum, rest_size)
        Components that spectra are fitted with.
    kind : str
        'fibres' or 'spaxels'.
    """

    flux: np.ndarray
    error: np.ndarray
    patch: np.ndarray
    redshift: np.ndarray
    psf_fwhm: np.ndarray
    distance: np.ndarray
    line_flux: np.ndarray
    line_flux_sigma: np.ndarray
    ew: np.ndarray
    ew_sigma: np.ndarray
    true_flux: np.ndarray
    true_ew: np.ndarray
    radius: np.ndarray
    galaxy: np.ndarray
    continuum: np.ndarray
    kind: str = "fibres"

    def __len__(self):
        return len(self.redshift)

    @property
    def measured(self):
        """Lines (n, 15) with a measurement."""
        return np.isfinite(self.ew) & np.isfinite(self.ew_sigma)

    @property
    def view(self):
        """What is seen of the image."""
        return ImageView(**{f.name: getattr(self, f.name) for f in dataclasses.fields(ImageView)})

    def __getitem__(self, rows):
        """The same of some rows: a slice, a mask or indices."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in ROWS})

    def with_truth(self):
        """With noiseless lines in place of the measured ones: what training could reach."""
        return dataclasses.replace(self, line_flux=self.true_flux, line_flux_sigma=np.zeros_like(self.true_flux),
                                   ew=self.true_ew, ew_sigma=np.zeros_like(self.true_ew))  # fmt: skip

    def sha256(self):
        """Of all values: what a baseline's predictions depend on."""
        digest = hashlib.sha256(self.kind.encode())
        for name in (*ROWS, "continuum"):
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


ROWS = tuple(f.name for f in dataclasses.fields(LineSample) if f.name not in ("continuum", "kind"))


def sample_fibers(recipes, pack, n, path=None, *, progress=None):
    """Fibres of the training set of a network, with lines measured on their noisy spectra.

    The galaxies are those of training (seed x 10^7 + step, from step 0 on), each as it was simulated: without the
    turns and hidden bands that training adds. Several stages give fibres in turn, up to the steps that each has.

    Parameters
    ----------
    recipes : `~fiberifu.train.Recipe` or sequence of them
        Stages of one training; all for one architecture.
    pack : dict
        Template pack of the training.
    n : int
        Fibres; a smaller sample is the beginning of a larger one.
    path : path-like, optional
        npz in which fibres are kept every minute; an interrupted run goes on, a larger ``n`` adds.
    progress : callable, optional
        Called with the number of fibres at hand.

    Returns
    -------
    LineSample
        Of ``n`` fibres, or of as many as the training has.

    Raises
    ------
    ValueError
        If ``path`` is of other settings, or the stages differ in architecture.
    """
    from ..simulate.identifiers import pack_sha256

    recipes = list(recipes) if isinstance(recipes, list | tuple) else [recipes]
    if not recipes:
        raise ValueError("recipes: got none; give the training recipe of each stage")
    if any(r.model != recipes[0].model for r in recipes):
        raise ValueError("recipes: the stages are of different architectures; give those of one training")
    steps = [(r, step) for step in range(max(r.steps for r in recipes)) for r in recipes if step < r.steps]
    key = settings_hash({"kind": "fibres", "format": FORMAT, "recipes": [r.sha256() for r in recipes],
                         "pack": pack_sha256(pack), "simulator": simulator_sha256(),
                         "code": _sampling_sha256()})  # fmt: skip
    return _grow(path, key, n, _FiberMaker(recipes[0], pack, steps), progress)


def sample_spaxels(recipe, pack, n, path=None, *, per_galaxy=20, seed=IFU_SEED, progress=None):
    """Spaxels of galaxies that no network was trained on, as a survey with an IFU has them.

    Galaxies at redshifts 0.01-0.15 with effective radii above 2 arcsec, as an IFU would resolve; of each, positions of
    a grid of 1 arcsec drawn at random within 1.5 effective radii. Lines are the truth in the network's aperture at
    the PSF of the image with the noise of MaNGA. That is kind to what is trained on it (a survey's PSF is broader), and
    by far cheaper than cubes: `Simulator` with uniform placement would make one or two spaxels of a galaxy only, while
    it is many spaxels of few galaxies that tell training on an IFU from training on fibres.

    Parameters
    ----------
    recipe : `~fiberifu.train.Recipe`
        For the simulator's settings and the architecture.
    pack : dict
    n : int
        Spaxels.
    path, progress
        As for `sample_fibers`.
    per_galaxy : int
        At most; small galaxies have fewer.
    seed : int

    Returns
    -------
    LineSample
    """
    from ..simulate.identifiers import pack_sha256

    if seed == HELD_OUT_SEED:
        raise ValueError(f"seed is {seed}, that of the held-out galaxies; take another")
    key = settings_hash({"kind": "spaxels", "format": FORMAT, "recipe": recipe.sha256(), "per_galaxy": per_galaxy,
                         "seed": seed, "pack": pack_sha256(pack), "simulator": simulator_sha256(),
                         "code": _sampling_sha256()})  # fmt: skip
    return _grow(path, key, n, _SpaxelMaker(recipe, pack, seed, per_galaxy), progress)


@functools.cache
def simulator_sha256(root=Path(__file__).parents[1]):
    """Of the code that simulates and that reads apertures, in folder ``root``; comments and layout do not count."""
    files = [*sorted((root / "simulate").glob("*.py")), root / "model" / "local.py", root / "model" / "basis.py"]
    return code_sha256(files)


@functools.cache
def _sampling_sha256():
    """Of the code that draws batches, views images and measures lines."""
    root = Path(__file__).parents[1]
    names = ("validate/fiber_sample", "validate/image_view", "validate/line_fit", "train/batches", "train/basis",
             "model/distribution")  # fmt: skip
    return code_sha256(root / f"{name}.py" for name in names)


class _Maker:
    """Makes parts of a sample; simulators and the components of the fits are made when they are needed."""

    def __init__(self, recipe, pack):
        self.recipe, self.pack, self._simulators = recipe, pack, {}

    def simulator(self, settings):
        from ..simulate import SimConfig, Simulator

        key = repr(sorted(settings.items()))
        if key not in self._simulators:
            self._simulators[key] = Simulator(self.pack, config=SimConfig(**settings))
        return self._simulators[key]

    @functools.cached_property
    def continuum(self):
        """Components (n_continuum, rest_size) as training makes them; an earlier run's, once set."""
        from ..train.basis import principal_components

        r = self.recipe
        components, _, _ = principal_components(self.pack, r.model.n_continuum, n_mixtures=r.mixtures, seed=r.seed)
        return components.astype(np.float32)

    @functools.cached_property
    def fitter(self):
        from .line_fit import LineFitter

        return LineFitter(self.recipe.model, self.continuum)

    def measured(self, batch, galaxy, config):
        """Arrays (by names of `ROWS`) of the fibres of a batch, of the galaxies with these numbers (F,)."""
        owner, truth = batch["fiber_galaxy"], batch["truth"]
        flux, error, patch = view_image(config, batch["image"], batch["sigma"], owner, batch["fiber_offset"])
        lines = self.fitter.fit(batch["flux"], batch["ivar"], batch["fiber_redshift"])
        east, north = (batch["fiber_offset"][:, i] - truth[name][owner] for i, name in enumerate(("east", "north")))
        return {
            "flux": flux, "error": error, "patch": patch,
            "redshift": batch["fiber_redshift"].numpy(), "psf_fwhm": batch["psf_fwhm"][owner].numpy(),
            "distance": np.hypot(east.numpy(), north.numpy()),
            "line_flux": lines.flux, "line_flux_sigma": lines.flux_sigma, "ew": lines.ew, "ew_sigma": lines.ew_sigma,
            "true_flux": truth["line_flux"].numpy(), "true_ew": truth["line_ew"].numpy(),
            "radius": truth["fiber_radius"].numpy(), "galaxy": galaxy,
        }  # fmt: skip


class _FiberMaker(_Maker):
    kind = "fibres"

    def __init__(self, recipe, pack, steps):
        super().__init__(recipe, pack)
        self.steps = steps

    def part(self, number):
        """Arrays (by names of `ROWS`) of the fibres of one step of training; None after the last."""
        from ..train.batches import _batch_seed

        if number >= len(self.steps):
            return None
        recipe, step = self.steps[number]
        seed = _batch_seed(recipe.seed, step)
        if seed == HELD_OUT_SEED:
            raise ValueError(f"recipes: step {step} of seed {recipe.seed} is the held-out set; take another seed")
        batch = self.simulator(recipe.simulator).batch(recipe.batch, seed)
        return self.measured(batch, seed * recipe.batch + batch["fiber_galaxy"].numpy(), recipe.model)


class _SpaxelMaker(_Maker):
    kind = "spaxels"

    def __init__(self, recipe, pack, seed, per_galaxy):
        super().__init__(recipe, pack)
        self.seed, self.per_galaxy = seed, per_galaxy

    def part(self, index):
        """Arrays of some spaxels of galaxy ``index``; empty for galaxies that no IFU would resolve."""
        simulator, config = self.simulator(self.recipe.simulator), self.recipe.model
        g = simulator.scene(self.seed, [index])["g"]
        z, re = float(g["redshift"][0]), float(g["re"][0])
        if not (0.01 < z < 0.15 and re > 2.0):
            return {}
        maps = simulator.truth_maps(self.seed, index, spaxel=1.0, size=min(24.0, 3.2 * re + 3))
        east, north, radius = (maps[name].numpy().ravel() for name in ("east", "north", "radius"))
        reach = config.stamp / 2 * config.pixel_scale - 1.5
        usable = np.flatnonzero((radius < 1.5) & (np.maximum(abs(east), abs(north)) < reach))
        rng = np.random.default_rng([self.seed, index])
        row = np.sort(rng.permutation(usable)[: self.per_galaxy])
        offset = np.column_stack([east, north])[row]
        flux, error, patch = view_image(config, maps["image"][None], maps["sigma_image"][None],
                                        np.zeros(len(row), int), offset)  # fmt: skip
        true_flux, true_ew = (maps[name].flatten(0, 1).numpy()[row] for name in ("line_flux", "line_ew"))
        wave = simulator.gas.wave.numpy() * (1 + z)
        on = (wave > MANGA_GRID[0]) & (wave < MANGA_GRID[1])
        sigma = np.where(on, MANGA_DEPTH * APERTURE_AREA, np.nan) * np.ones_like(true_flux)
        light = true_flux / np.maximum(true_ew, 1e-9)  # continuum times 1 + z
        measured = true_flux + sigma * rng.standard_normal(sigma.shape)
        light = np.where(light > sigma / 50, light, np.nan)  # an error of 50 A and more says nothing
        centre = (g[name].numpy() for name in ("east", "north"))
        count = np.ones(len(row))
        return {
            "flux": flux, "error": error, "patch": patch,
            "redshift": z * count, "psf_fwhm": float(maps["psf_fwhm"]) * count,
            "distance": np.hypot(*(offset.T - np.stack(list(centre)))),
            "line_flux": measured, "line_flux_sigma": sigma, "ew": measured / light, "ew_sigma": sigma / light,
            "true_flux": true_flux, "true_ew": true_ew, "radius": radius[row], "galaxy": index * count,
        }  # fmt: skip


# ---------------------------------------------------------------- files
def _grow(path, key, n, maker, progress):
    """Parts 0, 1, ... until there are ``n`` rows, kept in ``path``; then a `LineSample`."""
    path = None if path is None else Path(path)
    parts, step, continuum = _read(path, key)
    if continuum is not None:
        maker.continuum = continuum
    count, saved = sum(len(p["redshift"]) for p in parts), time.monotonic()
    changed = False
    while count < n and (part := maker.part(step)) is not None:
        step, changed = step + 1, True
        if part:
            types = {name: np.int64 if name == "galaxy" else np.float32 for name in ROWS}
            parts.append({name: np.asarray(part[name], types[name]) for name in ROWS})
            count += len(part["redshift"])
        if path is not None and time.monotonic() - saved > SAVE_SECONDS:
            parts = _write(path, key, parts, step, maker.continuum)
            saved = time.monotonic()
            if progress is not None:
                progress(count)
    if not parts:
        raise ValueError(f"n is {n}: no {maker.kind} were made; give a positive number and recipes with steps")
    if changed and path is not None:
        parts = _write(path, key, parts, step, maker.continuum)
    if progress is not None:
        progress(count)
    return LineSample(**_join(parts), continuum=maker.continuum, kind=maker.kind)[slice(n)]


def _join(parts):
    return {name: np.concatenate([p[name] for p in parts]) for name in ROWS}


def _write(path, key, parts, step, continuum):
    """Write everything under a temporary name, rename; returns the parts as one."""
    rows = _join(parts)
    with atomic_path(path) as temporary:
        np.savez(temporary, key=key, step=step, continuum=continuum, **rows)
    return [rows]


def _read(path, key):
    """Parts, the next step and the continuum components of an earlier run."""
    if path is None or not path.is_file():
        return [], 0, None
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("not an npz file")
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                raise ValueError(f"path is {str(path)!r}: made with another recipe, template pack or code; remove "
                                 "it or give another name")  # fmt: skip
            return [{name: stored[name] for name in ROWS}], int(stored["step"]), stored["continuum"]
    except (KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"path is {str(path)!r}: no sample of fibres or spaxels ({error}); remove it") from error
