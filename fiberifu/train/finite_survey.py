"""A survey of finitely many galaxies, seen again and again: single fibres like DESI's, or IFU cubes like MaNGA's.

``Survey (recipe) -> FiniteSurvey: galaxies chosen once -> visit: image, some of its fibres -> batch``. Every galaxy has
one image and a fixed set of fibres with their noise; every epoch visits each galaxy once, in an order of its own, and
reads some of its fibres. That is the paper's supervised training (all spaxels of some 10^4 cubes) when there are
hundreds of fibres anywhere in the field, and training on single central fibres when there is one at the centre.

Shapes: B galaxies, F = B x positions fibres, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from ..simulate.ifu import BUNDLES, bundle_radius
from ..simulate.observe import (
    aperture_photometry,
    encircled_energy,
    fiber_kernel,
    moffat_transfer,
    reanchor,
    spectrum_sigma,
)
from ..simulate.recipe import Draws
from ..simulate.streams import stream
from .cube_noise import aperture_noise
from .foreseeable import ForeseeableSimulator
from .tables import from_table

__all__ = ["FiniteSurvey", "Survey"]

FIELDS = ("disc", "hexagon")
INSTRUMENTS = ("desi", "manga")
CANDIDATES = 64  # places drawn for a fibre, of which the first in the field and on the stamp is taken


@dataclasses.dataclass(frozen=True)
class Survey:
    """Settings of a finite survey: table ``[survey]`` of a recipe.

    Parameters
    ----------
    galaxies : int
        In all; epochs cycle through them.
    fibers : int
        Of every galaxy in all, at fixed places with fixed noise. 388 apertures of 1.5 arcsec fill MaNGA's largest
        bundle once.
    positions : int
        Fibres read at each visit of a galaxy, drawn anew; not more than ``fibers``.
    off_centre : float
        Share of the fibres that are anywhere in the field, uniformly; the others are on the light peak, as the
        simulator's (0.14 arcsec of scatter along each axis).
    field : {'disc', 'hexagon'}
        Within 1.5 effective radii, deprojected; or the smallest of MaNGA's bundles that covers 1.5 effective radii, or
        the largest where none does. Both end at the edge of the stamp.
    instrument : {'desi', 'manga'}
        'desi': as `fiberifu.simulate.Simulator.batch`: seeing of its own, misplaced fibre, photon noise, sky residuals,
        calibrated as a point source, re-anchored to the image. 'manga': the light in the aperture at the image's PSF,
        with `~fiberifu.train.cube_noise.aperture_noise`. Both are on DESI's pixels, at its resolution.
    max_redshift, min_re : float
        Which galaxies are in the survey; ``min_re`` in arcsec.
    scatter : bool
        Whether lines scatter around what an image shows, as they do; False for a control, see
        `~fiberifu.train.foreseeable.ForeseeableSimulator`.
    """

    galaxies: int = 10_000
    fibers: int = 1
    positions: int = 1
    off_centre: float = 1.0
    field: str = "disc"
    instrument: str = "desi"
    max_redshift: float = 0.6
    min_re: float = 0.0
    scatter: bool = True

    def __post_init__(self):
        for name in ("galaxies", "fibers", "positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"survey.{name}: got {getattr(self, name)}; one or more are needed")
        if self.positions > self.fibers:
            raise ValueError(f"survey.positions: got {self.positions}; a galaxy has {self.fibers} fibers to read")
        if not 0 <= self.off_centre <= 1:
            raise ValueError(f"survey.off_centre: got {self.off_centre}, a share between 0 and 1 is needed")
        for name, known in (("field", FIELDS), ("instrument", INSTRUMENTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"survey.{name}: got {getattr(self, name)!r}, use one of {known}")

    @classmethod
    def from_dict(cls, values):
        """Settings from a table of a recipe.

        Raises
        ------
        ValueError
            For an unknown name, a value of the wrong type or out of range.
        """
        return from_table(cls, "survey", values)


class FiniteSurvey:
    """The batches of a survey.

    Parameters
    ----------
    simulator : Simulator
    survey : Survey
    seed : int
        Of the universe, as for `Simulator.batch`.

    Attributes
    ----------
    galaxies : ndarray (galaxies,) of int
        Numbers within the seed of those that are in the survey.

    Raises
    ------
    ValueError
        When hardly any galaxy fulfils the limits of redshift and size.
    """

    def __init__(self, simulator, survey, seed):
        if not survey.scatter:
            simulator = ForeseeableSimulator.like(simulator)
        self.simulator, self.survey, self.seed = simulator, survey, seed
        self.galaxies = self._choose()
        self._order = (-1, None)

    def _choose(self, block=512):
        """The first galaxies of the seed that are near and large enough."""
        survey, found = self.survey, []
        for first in range(0, 100 * survey.galaxies + 5000, block):
            index = np.arange(first, first + block)
            g = self.simulator._draw(Draws(self.seed, index.tolist()))
            chosen = (g["redshift"] <= survey.max_redshift) & (g["re"] >= survey.min_re)
            found.extend(index[chosen.numpy()].tolist())
            if len(found) >= survey.galaxies:
                return np.array(found[: survey.galaxies])
        raise ValueError(
            f"survey: {len(found)} of {first + block} galaxies have redshift <= {survey.max_redshift} and re >= "
            f"{survey.min_re} arcsec; widen max_redshift and min_re"
        )

    def visits(self, step, n):
        """Epoch and galaxy number of each of the ``n`` visits of a step: two arrays (n,)."""
        visit = np.arange(step * n, (step + 1) * n)
        epoch, place = np.divmod(visit, len(self.galaxies))
        return epoch, np.array([self.galaxies[self._shuffled(e)[p]] for e, p in zip(epoch, place, strict=True)])

    def _shuffled(self, epoch):
        if self._order[0] != epoch:
            self._order = (epoch, stream(self.seed, epoch, "order of galaxies").permutation(len(self.galaxies)))
        return self._order[1]

    def batch(self, step, n):
        """Images and fibre spectra of the ``n`` galaxies that are visited in a step.

        Parameters
        ----------
        step, n : int

        Returns
        -------
        dict of Tensor
            As `Simulator.batch`, fibres of one galaxy together; ``galaxy`` (B,) and ``fiber`` (F,) are numbers that
            name them; truth: ``line_flux, line_ew`` (F, L) and others of `Scenes.truth`, of what the fibre saw: at the
            image's PSF for 'manga'; ``fiber_radius`` (F,), ``off_centre`` (F,) of bool; ``east, north`` (B,) of the
            galaxies' centres, arcsec.
        """
        survey, simulator = self.survey, self.simulator
        epoch, index = self.visits(step, n)
        scene = simulator.scene(self.seed, index.tolist())
        imager = simulator._imager(scene["d"])
        (
            simulator._place(scene),
            simulator._fiber_settings(scene["d"]),
        )  # random numbers in the order of `Simulator.batch`
        image, sigma, _ = simulator._observe_images(scene, imager)
        fiber = np.stack([self._read(i, e) for e, i in zip(epoch, index, strict=True)])  # B, positions
        owner = torch.arange(n).repeat_interleave(survey.positions)
        draws = _FiberDraws(self.seed, np.repeat(index, survey.positions), fiber.ravel())
        offset, off_centre = self._offsets(scene["g"], owner, draws)
        settings = {key: pair[0] for key, pair in simulator._fiber_settings(draws).items()}
        observe = self._observe_desi if survey.instrument == "desi" else self._observe_manga
        flux, ivar, seen = observe(scene, (image, sigma, imager[3]), owner, offset, settings, draws)
        noise = simulator.config.noise
        redshift, sigma_z = seen["redshift"], settings["sigma_z"] * (1 + seen["redshift"])
        truth = {key: seen[key] for key in ("line_flux", "line_ew", "band", "velocity", "sigma", "redshift")}
        truth |= {"fiber_radius": simulator._radius(scene["g"], owner, offset), "off_centre": off_centre}
        truth |= {name: scene["g"][name] for name in ("east", "north")}
        return {
            "image": image,
            "sigma": sigma,
            "present": imager[0],
            "psf_fwhm": imager[3],
            "fiber_galaxy": owner,
            "fiber_offset": offset,
            "fiber_redshift": redshift + sigma_z * settings["jitter"] * noise,
            "sigma_z": sigma_z,
            "flux": flux,
            "ivar": ivar,
            "galaxy": torch.as_tensor(index),
            "fiber": torch.as_tensor(fiber.ravel()),
            "truth": truth,
        }

    # --- where

    def _read(self, index, epoch):
        """Numbers (positions,) of the fibres of a galaxy that are read in an epoch."""
        survey = self.survey
        if survey.positions == survey.fibers:
            return np.arange(survey.fibers)
        return stream(self.seed, index, f"visit {epoch}").choice(survey.fibers, survey.positions, replace=False)

    def _offsets(self, g, owner, draws):
        """East, north (F, 2) of the fibres from the stamp's centre, arcsec, and which are off the centre (F,)."""
        config = self.simulator.config
        centre = torch.stack([g["east"], g["north"]], 1)[owner]
        near = centre + torch.stack([draws.normal(0, 0.14), draws.normal(0, 0.14)], 1)
        off_centre = draws.uniform() < self.survey.off_centre
        u, v = draws.uniform(shape=CANDIDATES), draws.uniform(shape=CANDIDATES)
        in_field = torch.ones_like(u, dtype=torch.bool)
        if self.survey.field == "disc":
            radius, angle = 1.5 * (g["re"][owner, None] * u.sqrt()), 2 * math.pi * v
            major, minor = radius * torch.cos(angle), radius * g["axis_ratio"][owner, None] * torch.sin(angle)
            cos, sin = torch.cos(g["pa"])[owner, None], torch.sin(g["pa"])[owner, None]
            place = torch.stack([major * cos - minor * sin, major * sin + minor * cos], -1)
        else:  # with two corners to the East and West, as the bundles
            radius = torch.tensor([_hexagon(1.5 * float(re)) for re in g["re"]])[owner, None]
            place = torch.stack([(2 * u - 1) * radius, (2 * v - 1) * radius], -1)
            x, y = place.abs().unbind(-1)
            in_field = (y < radius * math.sqrt(0.75)) & (y + math.sqrt(3) * x < math.sqrt(3) * radius)
        place = centre[:, None] + place
        reach = (config.stamp / 2 - 5) * config.pixel_scale
        usable = in_field & (place.abs() < reach).all(-1)
        first = usable.to(torch.uint8).argmax(1)
        anywhere = place[torch.arange(len(place)), first]
        off_centre = off_centre & usable.any(1)  # no room for a single one: a fibre at the centre
        return torch.where(off_centre[:, None], anywhere, near).clamp(-reach, reach), off_centre

    # --- what is seen

    def _amount(self, scene, centre, transfer):
        """Integrals (F, J) of the maps under fibres at ``centre`` (F, 2), through PSFs of transfer (F, H, W)."""
        simulator, size = self.simulator, len(scene["stack"])
        config, out = simulator.config, []
        per_galaxy = zip(
            centre.unflatten(0, (size, -1)), transfer.unflatten(0, (size, -1)), scene["stack"], strict=True
        )
        for where, blur, stack in per_galaxy:  # a galaxy at a time: the kernels of all would fill the memory
            kernel = fiber_kernel(where[:, None], simulator.grid, config.pixel_scale, blur[:, None], config.aperture)
            out.append(kernel.flatten(1) @ stack.flatten(1).T)
        return torch.cat(out)

    def _spectra(self, scene, owner, amount, chunk=64):
        parts = zip(owner.split(chunk), amount.split(chunk), strict=True)
        seen = [self.simulator.spectra(scene, *part) for part in parts]
        return {key: torch.cat([s[key] for s in seen]) for key in seen[0]}

    def _observe_manga(self, scene, images, owner, offset, settings, draws):
        """Light in the aperture at the image's PSF, with MaNGA's noise."""
        simulator, common = self.simulator, images[2]
        transfer = moffat_transfer(simulator.k, common[owner, None, None])
        seen = self._spectra(scene, owner, self._amount(scene, offset, transfer))
        error = aperture_noise(simulator, seen["flux"])
        flux = seen["flux"] + error * draws.noise(len(simulator.wave)) if simulator.config.noise else seen["flux"]
        return flux, error**-2, seen

    def _observe_desi(self, scene, images, owner, offset, settings, draws):
        """Light in a fibre at its own seeing, where it really was: the same steps as `Simulator.batch`."""
        simulator, config = self.simulator, self.simulator.config
        image, sigma, _ = images
        seeing = settings["seeing"]
        transfer = moffat_transfer(simulator.k, seeing[:, None, None])
        where = offset + settings["miss"] * config.noise
        seen = self._spectra(scene, owner, self._amount(scene, where, transfer))
        blur = seeing[:, None] * (simulator.wave / 6500.0) ** -0.2
        caught = encircled_energy(config.aperture / 2, blur)
        error = spectrum_sigma(
            seen["flux"], simulator.wave, simulator.throughput, simulator.sky, blur, settings["seconds"]
        )
        flux = seen["flux"] / caught
        if config.noise:
            sky = simulator.sky * (math.pi / 4 * config.aperture**2) / caught
            flux = flux + error * draws.noise(len(simulator.wave)) + settings["sky_error"][:, None] * sky
        aperture = aperture_photometry(image[owner], sigma[owner], offset, config.pixel_scale, config.aperture)
        flux, ivar, _ = reanchor(flux, error**-2, simulator.wave, simulator.curves, *aperture)
        return flux, ivar, seen


def _hexagon(wanted):
    """Radius of the smallest of MaNGA's bundles that reaches as far as wanted, or of the largest, arcsec."""
    radii = [bundle_radius(fibers) for fibers in BUNDLES]
    return next((radius for radius in radii if radius >= wanted), radii[-1])


class _FiberDraws:
    """Random numbers of fibres, one stream for each (galaxy, fibre): as `Draws`, always asked in the same order."""

    def __init__(self, seed, index, fiber):
        self.streams = [stream(seed, i, f"fibre {k}") for i, k in zip(index, fiber, strict=True)]

    def uniform(self, shape=()):
        return torch.from_numpy(np.stack([s.random(shape, dtype=np.float32) for s in self.streams]))

    def noise(self, *shape):
        return torch.from_numpy(np.stack([s.standard_normal(shape, dtype=np.float32) for s in self.streams]))

    def normal(self, mean=0.0, sigma=1.0, clip=3.0):
        return mean + sigma * self.noise().clamp(-clip, clip)
