"""What supports a model, for its passport: ``training images -> looks -> limits``, and the range of the calibration.

Half of the images tell where training images lie; the other half, which had no part in that, how far out they come.
"""

import numpy as np
import torch

from ..model.oddity import APERTURES, LOOKS, MARGIN, combine, look_at, looks_of, pack
from .batches import drop_bands
from .config import Recipe

__all__ = ["CalibrationRange", "measure_oddity", "training_images"]

SEED = 919_000_002
BATCH = 25  # galaxies
FEWEST = 200
DIRECTIONS = 64  # of the latents
SMALLEST = 1.0  # per cent of the calibration's galaxies that may be smaller than its range
#: Probabilities at which the distribution of the scores is kept.
LEVELS = (0.0, *np.round(np.arange(0.02, 0.99, 0.02), 2).tolist(), 0.985, 0.99, 0.9925, 0.995, 0.9975, 1.0)


def training_images(simulator, galaxies, seed=SEED):
    """Images of galaxies as in training, bands hidden as there, but of others.

    Parameters
    ----------
    simulator : Simulator
    galaxies : int
    seed : int

    Yields
    ------
    dict of Tensor
        ``image, sigma`` (B, C, S, S), ``present`` (B, C), ``psf_fwhm, redshift`` (B,), ``offset`` (B, 2): of the galaxy
        from the centre of the stamp, arcsec.
    """
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, galaxies, BATCH):
        scene = simulator.scene(seed, list(range(start, min(start + BATCH, galaxies))))
        imager = simulator._imager(scene["d"])
        simulator._place(scene)  # random numbers in the order of `Simulator.batch`
        simulator._fiber_settings(scene["d"])
        image, sigma, _ = simulator._observe_images(scene, imager)
        g = scene["g"]
        batch = {"image": image, "sigma": sigma, "present": imager[0], "psf_fwhm": imager[3], "redshift": g["redshift"]}
        batch["offset"] = torch.stack([g["east"], g["north"]], 1)
        yield drop_bands(batch, Recipe.band_dropout, generator)


def measure_oddity(model, batches):
    """What `fiberifu.model.oddity` compares an image with.

    Parameters
    ----------
    model : FiberMAE
    batches : iterable of dict of Tensor
        See `training_images`.

    Returns
    -------
    dict
        For ``passport["oddity"]``: ``latents``, ``brightness``: mean and scatter (`fiberifu.model.oddity.pack`);
        ``limits``: of each look the median and the 99th percentile; ``levels``, ``scores``: the distribution of the
        score; ``images``.

    Raises
    ------
    ValueError
        For less than 200 images.
    """
    found, redshift = [], []
    for b in batches:
        found.append(look_at(model, b["image"], b["sigma"], b["psf_fwhm"], b["offset"]))
        redshift.append(b["redshift"].double().numpy())
    features = {key: np.concatenate([x[key] for x in found]) for key in found[0]} if found else {}
    n = sum(map(len, redshift))
    if n < FEWEST:
        raise ValueError(f"images: {n}; odd images cannot be told from others with less than {FEWEST}")
    fit = np.arange(n) % 2 == 0
    mean, directions = _whiten(features["latents"][fit])
    brightness = features["brightness"][fit]
    whole = brightness[np.isfinite(brightness).all(1)]
    if len(whole) <= 2 * brightness.shape[1]:  # too few have all bands
        whole = np.where(np.isfinite(brightness), brightness, np.nanmedian(brightness, 0))
    covariance = np.cov(whole.T) + MARGIN**2 * np.eye(whole.shape[1])
    packed = {
        "latents": {"mean": pack(mean), "directions": pack(directions, "<f2")},
        "brightness": {
            "apertures_arcsec": list(APERTURES),
            "mean": pack(whole.mean(0)),
            "covariance": pack(covariance),
        },
    }
    stats = {"latents": (mean, directions), "brightness": (whole.mean(0), covariance)}
    looks = looks_of(features, np.concatenate(redshift), stats, model.config)[~fit]
    limits = np.nanquantile(looks, (0.5, 0.99), axis=0).T
    score, _ = combine(looks, limits)
    return packed | {
        "limits": {name: [round(float(x), 5) for x in limit] for name, limit in zip(LOOKS, limits, strict=True)},
        "levels": list(LEVELS),
        "scores": np.quantile(score, LEVELS).round(5).tolist(),
        "images": n,
    }


def _whiten(x):
    """Mean (D,), and leading directions (D, `DIRECTIONS`) over the standard deviation along them."""
    mean = x.mean(0)
    variance, directions = np.linalg.eigh(np.cov(x.T))
    variance, directions = variance[::-1][:DIRECTIONS], directions[:, ::-1][:, :DIRECTIONS]
    kept = variance > 1e-9 * variance[0]
    return mean, directions[:, kept] / np.sqrt(variance[kept])


class CalibrationRange:
    """Redshifts and sizes of the galaxies on which errors are calibrated, noted while the batches go by.

    Parameters
    ----------
    size : callable, optional
        Of image and sigma (C, S, S), PSF FWHM [arcsec] and redshift: the half-light radius [arcsec], as it is measured
        at use. Without it no size is noted.
    """

    def __init__(self, size=None):
        self.measure, self.redshift, self.size = size, [], []

    def watch(self, batches):
        """Yield the batches."""
        for b in batches:
            for i in range(len(b["image"])):
                self.redshift.append(float(b["fiber_redshift"][b["fiber_galaxy"] == i].median()))
                if self.measure is not None:
                    psf = float(b["psf_fwhm"][i])
                    self.size.append(self.measure(b["image"][i].numpy(), b["sigma"][i].numpy(), psf, self.redshift[-1]))
            yield b

    def found(self):
        """For ``passport["calibration"]["range"]``: lowest and highest redshift; the half-light radius [arcsec], not
        corrected for the PSF, that 99 % of the galaxies exceed, 0 where it is not known."""
        size = np.array(self.size, float)
        size = size[np.isfinite(size)]
        least = float(np.percentile(size, SMALLEST)) if len(size) else 0.0
        redshift = [round(float(f(self.redshift)), 4) for f in (min, max)]
        return {"redshift": redshift, "half_light_radius_arcsec": round(least, 3)}
