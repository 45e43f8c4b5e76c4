# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How far what a model has seen supports a prediction: ``image, redshift, wavelengths -> oddity, flags``."""

from dataclasses import dataclass

import numpy as np

from .flags import Flag

__all__ = ["Oddity", "calibration_flags", "coverage_flags", "image_oddity", "oddity_cards", "trained_wavelengths"]

#: The looks of fiberifu.model.oddity, in words.
IN_WORDS = {
    "latents": "what the network makes of it",
    "pulls": "hidden patches, unlike what the others let expect",
    "likelihood": "how much structure it has",
    "brightness": "brightness and colours",
    "redshift": "the redshift given",
}
#: Share of training images that are less odd, above which an image is flagged.
UNLIKE = 0.99


@dataclass(frozen=True, eq=False)
class Oddity:
    """How unlike the training images an image is; ``fiberifu.model.oddity`` tells how it is measured.

    Attributes
    ----------
    score : ndarray, same shape as the positions
        0 is the median of training images, 1 where the oddest of the five looks is at their 99th percentile. Of the
        stamp on the galaxy at the positions it covers; of stamps side by side beyond. NaN where nothing was measured.
    share : ndarray
        Share of training images whose score is lower.
    look : ndarray of str
        The oddest look: "latents", "pulls", "likelihood", "brightness" or "redshift".
    """

    score: np.ndarray
    share: np.ndarray
    look: np.ndarray

    @property
    def flags(self):
        """IMAGE_UNLIKE where more than 99 % of the training images are less odd."""
        return np.where(self.share > UNLIKE, int(Flag.IMAGE_UNLIKE), 0)

    def reshape(self, shape):
        """The same in another shape."""
        return Oddity(self.score.reshape(shape), self.share.reshape(shape), self.look.reshape(shape))

    @property
    def worst(self):
        """Score, share and look where the image is oddest; None where nothing was measured."""
        score = np.ravel(self.score)
        if not np.isfinite(score).any():
            return None
        i = int(np.nanargmax(score))
        return float(score[i]), float(np.ravel(self.share)[i]), str(np.ravel(self.look)[i])


def image_oddity(model, stored, prepared, offsets, redshift=None):
    """Oddity of an image at positions.

    Parameters
    ----------
    model : `~fiberifu.model.FiberMAE`
    stored : dict or None
        ``passport["oddity"]``; weights may have none.
    prepared : `~fiberifu.image.PreparedImage`
    offsets : ndarray (N, 2)
        arcsec.
    redshift : float, optional
        None where it is not known: that look is left out.

    Returns
    -------
    Oddity or None
        None where the weights do not tell.
    """
    if stored is None:
        return None
    import torch

    from .model.oddity import LOOKS, combine, look_at, looks_of, unpack

    stats = {
        "latents": tuple(unpack(stored["latents"][name]) for name in ("mean", "directions")),
        "brightness": tuple(unpack(stored["brightness"][name]) for name in ("mean", "covariance")),
    }
    limits = np.array([stored["limits"][name] for name in LOOKS])
    galaxy = np.array(prepared.galaxy.offset if prepared.galaxy is not None else (0.0, 0.0))
    side = prepared.stamp_size * prepared.pixel_scale
    centre = _inside(prepared, galaxy)
    finite = np.isfinite(offsets).all(1) & prepared.contains(offsets)
    tile = np.rint((np.where(finite[:, None], offsets, centre) - centre) / side).astype(int)
    out = Oddity(np.full(len(offsets), np.nan), np.full(len(offsets), np.nan), np.full(len(offsets), "", "U10"))
    fwhm, z = (
        torch.tensor([prepared.psf_fwhm], dtype=torch.float32),
        np.array([np.nan if redshift is None else redshift]),
    )
    for place in np.unique(tile[finite], axis=0):
        sb, sigma, middle = prepared.stamp(*(centre + side * place))
        if not np.isfinite(sigma).any():
            continue
        at = (galaxy if not place.any() else np.array(middle)) - middle
        image = (torch.from_numpy(x)[None] for x in (sb, sigma))
        features = look_at(model, *image, fwhm, torch.from_numpy(at.astype(np.float32))[None])
        score, oddest = combine(looks_of(features, z, stats, model.config), limits)
        here = finite & (tile == place).all(1)
        out.score[here], out.look[here] = score[0], LOOKS[oddest[0]]
        out.share[here] = np.interp(score[0], stored["scores"], stored["levels"])
    return out


def oddity_cards(oddity):
    """FITS cards of an `Oddity` where it is largest; none where it is not known."""
    if oddity is None or oddity.worst is None:
        return {}
    score, share, look = oddity.worst
    return {
        "ODDSHARE": (round(share, 4), "share of training images less odd than this"),
        "ODDSCORE": (round(score, 3), "0: median of these, 1: one look at its 99 %"),
        "ODDLOOK": (look, "what is oddest in it"),
    }


def _inside(prepared, offset):
    """Where a stamp's centre is moved to, so that it does not reach beyond the image; the middle of a smaller image."""
    half = (prepared.stamp_size - 1) / 2
    low = (half - prepared._origin) * prepared.pixel_scale
    high = (np.array(prepared.shape[::-1]) - 1 - half - prepared._origin) * prepared.pixel_scale
    return np.where(low <= high, np.clip(offset, low, np.maximum(low, high)), (low + high) / 2)


def trained_wavelengths(config):
    """Rest wavelengths, shortest and longest, that some spectrum of the training set could have, Angstrom.

    Parameters
    ----------
    config : `~fiberifu.model.ModelConfig`
        Its spectrograph's grid, and the redshifts of its training.

    Returns
    -------
    (float, float)
        For the bundled model 2250 and 9795.
    """
    end = config.wave_start + config.wave_step * (config.wave_size - 1)
    return config.wave_start / (1 + config.redshift_max), end / (1 + config.redshift_min)


def coverage_flags(renderer, nodes, config):
    """Pixels or strong lines that cannot be given, or were in no training spectrum, at one of the redshifts.

    WAVELENGTH_RANGE where a pixel lies outside the rest-frame basis, where it is masked, or beyond
    `trained_wavelengths`, where it is an extrapolation that nothing but broad bands has checked.
    """
    flags, edges = 0, renderer.edges
    low, high = trained_wavelengths(config)
    first, last = float(edges[:2].mean()), float(edges[-2:].mean())
    for z in nodes.z:
        wave = renderer.basis.line_wave * (1 + float(z))
        trained = low * (1 + z) * (1 - 1e-6) <= first and last <= high * (1 + z) * (1 + 1e-6)
        redshift_trained = config.redshift_min <= z <= config.redshift_max  # else that flag says it
        if not bool(renderer.covered(float(z)).all()) or (redshift_trained and not trained):
            flags |= int(Flag.WAVELENGTH_RANGE)
        if not bool(((wave > edges[0]) & (wave < edges[-1])).all()):
            flags |= int(Flag.LINE_OFF_ARM)
    return flags


def calibration_flags(calibration, nodes, galaxy):
    """CALIBRATION_RANGE for a redshift or a size that the calibration's galaxies do not have.

    Parameters
    ----------
    calibration : dict
        ``passport["calibration"]``; without its ``range`` (of weights calibrated before there was one) nothing is said.
    nodes : RedshiftNodes
        All of them have to lie inside.
    galaxy : GalaxyShape or None
        None, for an image without a galaxy: the size is not asked for.

    Returns
    -------
    int
    """
    known = calibration.get("range")
    if known is None:
        return 0
    low, high = known["redshift"]
    outside = bool(np.any((nodes.z < low) | (nodes.z > high)))
    small = galaxy is not None and galaxy.half_light_radius < known["half_light_radius_arcsec"]
    return int(Flag.CALIBRATION_RANGE) if outside or small else 0
