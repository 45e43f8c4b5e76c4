# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Where scores must lie: methods shown the wrong image (`Shuffled`) or none (`Blank`), a second look (`NoiseFloor`).

Whoever is shown the wrong image may not beat (z, position) alone. A repeated observation is a scale, no bound.
"""

import dataclasses
import hashlib

import numpy as np

from ..output import settings_hash
from .image_view import image_continuum
from .maps import CONTINUUM, PredictedMaps, Predictor

__all__ = ["Blank", "NoiseFloor", "Shuffled"]


BORDER = 8  # part of the width of a stamp, on each side, where it is sky


def _digest(galaxy):
    """A number that hangs on the name of a galaxy alone."""
    return int.from_bytes(hashlib.sha256(galaxy.name.encode()).digest()[:8])


class Shuffled(Predictor):
    """A predictor that is given the image of another galaxy, with this one's redshift and positions.

    Positions keep their place relative to the centre of the light, so that they fall on the other galaxy.

    Parameters
    ----------
    predictor : Predictor
    galaxies : sequence of TruthMaps
        Whose images are given; which one hangs on the name of the galaxy alone, never itself.
    """

    role = "null"

    def __init__(self, predictor, galaxies):
        names = [g.name for g in galaxies]
        if len(set(names)) < 2:
            raise ValueError(f"galaxies has the names {names[:5]}; at least two galaxies are needed to shuffle")
        self.predictor, self.galaxies = predictor, list(galaxies)
        self.name = f"{predictor.name}, shuffled images"
        self.key = settings_hash({"method": "shuffled", "of": predictor.key, "galaxies": names})

    def donor(self, galaxy):
        """The galaxy whose image is given instead."""
        first = _digest(galaxy) % len(self.galaxies)
        return next(g for g in self.galaxies[first:] + self.galaxies[:first] if g.name != galaxy.name)

    def predict(self, galaxy):
        """As `Predictor.predict`."""
        other = self.donor(galaxy)
        shift = np.asarray(other.central_offset) - np.asarray(galaxy.central_offset)
        names = ("image", "sigma", "present", "psf_fwhm", "pixel_scale", "central_offset")
        seen = {name: getattr(other, name) for name in names}
        east, north = galaxy.east + shift[0], galaxy.north + shift[1]
        return self.predictor.predict(dataclasses.replace(galaxy, **seen, east=east, north=north))


class Blank(Predictor):
    """A predictor that is given an image of empty sky: noise in all bands measured, and its errors.

    The errors of a galaxy's image grow with its light and would show its shape: those of the sky, the median over the
    border of the stamp, stand everywhere instead, and the image is one draw of that noise, independent from pixel to
    pixel. (Zeros would have no continuum, so that no equivalent width were defined.)

    Parameters
    ----------
    predictor : Predictor
    """

    role = "null"

    def __init__(self, predictor):
        self.predictor = predictor
        self.name = f"{predictor.name}, blank image"
        self.key = settings_hash({"method": "blank", "version": 2, "of": predictor.key})

    def predict(self, galaxy):
        """As `Predictor.predict`."""
        sigma = np.asarray(galaxy.sigma)
        measured, border = np.isfinite(sigma), np.ones(sigma.shape, bool)
        width = max(sigma.shape[-1] // BORDER, 1)
        border[:, width:-width, width:-width] = False
        blank = np.full_like(sigma, np.inf)
        for band in np.flatnonzero(measured.any((1, 2))):
            sky = measured[band] & border[band]
            sky = sky if sky.any() else measured[band]
            blank[band][measured[band]] = np.median(sigma[band][sky])
        rng = np.random.default_rng(_digest(galaxy))
        image = (np.where(measured, blank, 0) * rng.standard_normal(sigma.shape)).astype(sigma.dtype)
        return self.predictor.predict(dataclasses.replace(galaxy, image=image, sigma=blank))


class NoiseFloor(Predictor):
    """The truth observed once more, with noise: what one repeat of a real map would score; a scale, no bound.

    Where spaxels without the line count, too, a prediction can be closer to the errorless truth than a noisy repeat.

    Parameters
    ----------
    instrument : {'MaNGA', 'DESI'}
        'MaNGA': noise of ``galaxy.depth``. 'DESI': the noise that the central fibre's spectrum leaves to the flux of a
        line of 90 km/s, the same at all positions; off the centre, where less light makes less noise, that is a
        little too much.
    seed : int
    """

    def __init__(self, instrument="MaNGA", seed=0):
        if instrument not in ("MaNGA", "DESI"):
            raise ValueError(f"instrument is {instrument!r}; it is 'MaNGA' or 'DESI'")
        self.instrument, self.seed = instrument, seed
        self.name = f"repeat observation ({instrument})"
        self.key = settings_hash({"method": "repeat", "instrument": instrument, "seed": seed})

    def predict(self, galaxy):
        """As `Predictor.predict`."""
        sigma = np.asarray(galaxy.depth, float) if self.instrument == "MaNGA" else _fiber_depth(galaxy)
        sigma = np.where(np.isfinite(sigma), sigma, np.nan) * np.ones_like(galaxy.flux)
        rng = np.random.default_rng([self.seed, galaxy.seed, galaxy.index])
        flux = galaxy.flux + sigma * rng.standard_normal(sigma.shape)
        light = _true_light(galaxy)
        return PredictedMaps(flux=flux, flux_sigma=sigma, ew=flux / light, ew_sigma=sigma / light)


def _true_light(galaxy):
    """Continuum times 1 + z (n, 15) of the truth; the image's where there is no line to tell."""
    from .baselines import view_galaxy

    with np.errstate(divide="ignore", invalid="ignore"):
        light = galaxy.flux / galaxy.ew
    told = np.isfinite(light) & (light > 0)
    if not told.all():
        light = np.where(told, light, image_continuum(view_galaxy(galaxy))[0] * (1 + galaxy.redshift))
    return np.maximum(light, CONTINUUM)


def _fiber_depth(galaxy, width=90.0):
    """1-sigma error (15,) of line fluxes that a spectrum like the central one allows, by matched filter."""
    import torch

    from ..model import ModelConfig, RestBasis, desi_lsf
    from ..model.basis import pixel_edges

    with torch.inference_mode():
        basis = RestBasis(ModelConfig())
        wave, ivar = torch.as_tensor(galaxy.wave).double(), torch.as_tensor(galaxy.central_ivar).float()
        edges, z = pixel_edges(wave), torch.tensor([float(galaxy.redshift)])
        lsf = desi_lsf(basis.line_wave * (1 + z[:, None]))
        first, profile = basis.render_lines(edges, z, torch.full_like(z, width), lsf)
        index = first[0][:, None] + torch.arange(profile.shape[-1])
        information = (profile[0] ** 2 * ivar[index]).sum(-1).double()
        centre = basis.line_wave * (1 + z)
        on = (centre > edges[0]) & (centre < edges[-1]) & (information > 0)
        return torch.where(on, information.clamp(min=1e-30).rsqrt(), torch.inf).numpy()
