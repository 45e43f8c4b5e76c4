"""How unlike the training images an image is: ``image -> five looks -> how far out each is -> the largest``.

None of the looks sees everything that can be wrong, so each is compared with what training images have there:

latents
    Distance of the mean token from that of training images (Mahalanobis, on its 64 leading directions; Lee et al. 2018,
    NeurIPS, "A simple unified framework for detecting out-of-distribution samples"): empty, negative or tilted images.
pulls, likelihood
    Half of the patches are hidden and predicted from the others, then the other half: mean square error over its
    expectation, and mean negative log-likelihood, of hidden pixels. Shuffled, trailed, noisy or too bright images.
brightness
    Distance of the surface brightness in three apertures on the galaxy and all bands from that of training galaxies:
    swapped bands.
redshift
    How far out the redshift given lies in the p(z | image) of the network.

Shapes: B images, C bands, S pixels on a side, D width of the network, L looks.
"""

import base64

import numpy as np
import torch

__all__ = ["LOOKS", "combine", "look_at", "looks_of", "pack", "unpack"]

LOOKS = ("latents", "pulls", "likelihood", "brightness", "redshift")
APERTURES = (2.0, 5.0, 12.0)  # radii, arcsec
SOFTENING = 0.05  # nanomaggy / arcsec2, half of the noise of a pixel
LEAST = 1e-6  # tail of p(z | image) beyond which all redshifts are alike
LARGEST = 100.0  # square of one pull: a few bad pixels are no odd image
HIDDEN = 20  # seed of the patches that are hidden first
MARGIN = 0.05  # asinh magnitude: a tolerance of colours, and what keeps their covariance regular


@torch.inference_mode()
def look_at(model, image, sigma, psf_fwhm, offset):
    """What is to be compared: features of images.

    Parameters
    ----------
    model : FiberMAE
    image, sigma : Tensor (B, C, S, S)
        nanomaggy / arcsec2; sigma inf where nothing was measured.
    psf_fwhm : Tensor (B,)
        arcsec.
    offset : Tensor (B, 2)
        Of the galaxy from the centre of the stamp, arcsec.

    Returns
    -------
    dict of str to ndarray
        ``latents`` (B, D), ``pulls`` (B,), ``likelihood`` (B,), ``brightness`` (B, 3 C) with NaN where not measured,
        ``redshift`` (B, bins): probabilities of the redshift, cumulated.
    """
    whole = model.encode(image, sigma, psf_fwhm)
    tokens = len(model.centres)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(HIDDEN))
    first = torch.zeros(tokens, dtype=torch.bool)
    first[order[: tokens // 2]] = True
    square = likelihood = count = 0.0
    for visible in (first, ~first):
        shown = visible.expand(len(image), -1)
        encoded = model.encode(image, sigma, psf_fwhm, shown)
        mean, log_sigma = model.patch_decoder(encoded, model.centres)
        value, noise, fraction = encoded.pixels
        variance = (2 * log_sigma).exp() + noise**2
        pull = ((value - mean) ** 2 / variance).clamp(max=LARGEST)
        weight = ((fraction > 0.5) & ~shown[:, :, None, None]).float()
        square = square + (pull * weight).sum((1, 2, 3))
        likelihood = likelihood + (0.5 * (pull + variance.log()) * weight).sum((1, 2, 3))
        count = count + weight.sum((1, 2, 3))
    count = count.clamp(min=1)
    return {
        "latents": whole.pooled.double().numpy(),
        "pulls": (square / count).double().numpy(),
        "likelihood": (likelihood / count).double().numpy(),
        "brightness": _brightness(image, sigma, offset, model.config.pixel_scale),
        "redshift": whole.redshift_logits.double().softmax(-1).cumsum(-1).numpy(),
    }


def _brightness(image, sigma, offset, pixel_scale):
    """Compressed mean surface brightness (B, 3 C) within `APERTURES`; NaN where less than half is measured."""
    place = (torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2) * pixel_scale
    distance = torch.hypot(place - offset[:, :1, None], place[:, None] - offset[:, 1:, None])  # B, S (north), S (east)
    good = torch.isfinite(sigma)
    out = []
    for radius in APERTURES:
        inside = (distance < radius)[:, None]
        n = (inside & good).sum((2, 3))
        mean = torch.where(inside & good, image, 0.0).sum((2, 3)) / n.clamp(min=1)
        out.append(torch.where(2 * n > inside.sum((2, 3)), torch.asinh(mean / SOFTENING), torch.nan))
    return torch.cat(out, 1).double().numpy()


def looks_of(features, redshift, stats, config):
    """The looks as numbers, large where an image is odd.

    Parameters
    ----------
    features : dict
        See `look_at`.
    redshift : ndarray (B,)
        NaN where it is not known.
    stats : dict
        ``latents`` (mean (D,) and directions (D, 64) over their scatter), ``brightness`` (mean (3 C,), covariance).
    config : ModelConfig

    Returns
    -------
    ndarray (B, L)
        NaN for a look that cannot be had.
    """
    mean, directions = stats["latents"]
    latents = np.log((((features["latents"] - mean) @ directions) ** 2).mean(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        edges = np.log(np.geomspace(config.redshift_min, config.redshift_max, config.redshift_bins + 1))
        place = np.array(
            [np.interp(z, edges, np.r_[0.0, c]) for z, c in zip(np.log(redshift), features["redshift"], strict=True)]
        )
        tail = -np.log10(np.clip(2 * np.minimum(place, 1 - place), LEAST, 1))
        pulls = np.where(features["pulls"] > 0, np.log(features["pulls"]), np.nan)
    likelihood = np.where(np.isfinite(pulls), features["likelihood"], np.nan)
    return np.column_stack(
        [latents, pulls, likelihood, _distance(features["brightness"], *stats["brightness"]), tail.reshape(-1)]
    )


def _distance(values, mean, covariance):
    """Squared Mahalanobis distances of what is known of each row, as normal deviates whatever the number of values.

    Wilson & Hilferty (1931, PNAS 17, 684): the cube root of chi-squared over its degrees of freedom is nearly normal.
    """
    out = np.full(len(values), np.nan)
    known = np.isfinite(values)
    for pattern in np.unique(known, axis=0):
        n, rows = pattern.sum(), (known == pattern).all(1)
        if n:
            away = values[np.ix_(rows, pattern)] - mean[pattern]
            square = (away @ np.linalg.inv(covariance[np.ix_(pattern, pattern)]) * away).sum(1)
            out[rows] = ((square / n) ** (1 / 3) - (1 - 2 / (9 * n))) / np.sqrt(2 / (9 * n))
    return out


def combine(looks, limits):
    """The score: how far out the oddest look is, 0 at the median of training images and 1 at their 99th percentile.

    Parameters
    ----------
    looks : ndarray (B, L)
    limits : ndarray (L, 2)
        Median and 99th percentile of training images.

    Returns
    -------
    score : ndarray (B,)
    oddest : ndarray (B,) of int
        Which look it is.
    """
    limits = np.asarray(limits)
    out = (looks - limits[:, 0]) / (limits[:, 1] - limits[:, 0])
    out = np.where(np.isfinite(out), out, -np.inf)
    oddest = out.argmax(1)
    return np.take_along_axis(out, oddest[:, None], 1)[:, 0], oddest


def pack(array, dtype="<f4"):
    """An array as JSON: its shape, its type, and its bytes in base64."""
    array = np.ascontiguousarray(array, dtype)
    return {"shape": list(array.shape), "dtype": dtype, "base64": base64.b64encode(array.tobytes()).decode("ascii")}


def unpack(stored):
    """The array of `pack`, in double precision; ValueError for one that is not whole."""
    data = np.frombuffer(base64.b64decode(stored["base64"]), stored["dtype"])
    return data.reshape(stored["shape"]).astype(float)
