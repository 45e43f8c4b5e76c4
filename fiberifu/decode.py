"""Run the network over a field: encode each stamp once, query it at the positions it sees, blend.

Below the units, above the network: offsets [arcsec] in, a mixture of coefficients per position out.
"""

import logging
import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from .flags import Flag
from .redshift import quantile_nodes
from .stamps import stamp_weights

#: Redshift error that the network is told [/(1 + z)]: a fibre's 20 km/s, as in training. What is not known of the
#: systemic redshift broadens the lines afterwards.
SIGMA_Z = 7e-5

logger = logging.getLogger(__name__)

__all__ = ["decode", "encode_at", "infer_redshift", "range_flags"]


def decode(model, prepared, offsets, points, scale, z, progress):
    """Coefficients at offsets (N, 2), averaged over the aperture's points and blended over stamps."""
    import torch
    from tqdm import tqdm

    from .model import CoefficientMixture

    config, n = model.config, len(offsets)
    finite = np.isfinite(offsets).all(1)
    where = np.where(finite[:, None], offsets, 0.0)
    samples = (where[:, None] + points).reshape(-1, 2)  # positions x points of the aperture
    g = len(points)
    j, k, r, c = config.components, model.basis.n_coefficients, config.rank + 2, len(config.bands)
    parts = {"weight": (j,), "mean": (j, k), "diag": (j, k), "factors": (j, k, r)}
    parts = {name: np.zeros((n * g, *shape)) for name, shape in parts.items()}
    sigma = np.zeros(n * g)
    phot = {name: np.zeros((n * g, c)) for name in ("flux", "error", "predicted")}
    scales = np.zeros(n * g)
    fwhm = torch.tensor([prepared.psf_fwhm], dtype=torch.float32)
    lattice = stamp_weights(samples)
    logger.info("z = %.4f: %d positions x %d points of the aperture in %d stamps", z, n, g, len(lattice))
    with torch.inference_mode():
        bands = model.basis.photometry(torch.tensor([float(z)]))
        for (east, north), (rows, weights) in tqdm(
            lattice.items(), "stamps", disable=None if progress else True, leave=False
        ):
            sb, noise, centre = prepared.stamp(east, north)
            image, noise = torch.from_numpy(sb)[None], torch.from_numpy(noise)[None]
            encoded = model.encode(image, noise, fwhm)
            local = torch.from_numpy((samples[rows] - centre).astype(np.float32))
            for part in np.array_split(np.arange(len(rows)), -(-len(rows) // 4096)):
                index, m = rows[part], len(part)
                d = model.query(
                    encoded,
                    image,
                    noise,
                    fwhm,
                    torch.zeros(m, dtype=torch.int64),
                    local[part],
                    torch.full((m,), float(z)),
                    torch.full((m,), SIGMA_Z * (1 + float(z))),
                    bands.expand(m, -1, -1),
                )
                w = weights[part][:, None]
                for name, total in parts.items():
                    value = getattr(d.mixture, name).numpy()
                    total[index] += w.reshape(-1, *(1,) * (value.ndim - 1)) * value
                sigma[index] += w[:, 0] * d.sigma_gas.numpy()
                for name, value in (("flux", d.flux), ("error", d.error), ("predicted", d.predicted)):
                    phot[name][index] += w * np.asarray(value)
                scales[index] += w[:, 0] * d.scale.numpy()

    # Errors of neighbouring points, and of the stamps that see one, are taken as common to them: their components and
    # factors point the same way (blending loses 0.001 of sigma, stamps disagree by less than 0.04 sigma, for 95 % of
    # the example).
    def average(x):
        return x.reshape(n, g, *x.shape[1:]).mean(1)

    parts = {name: average(x) * (1 if name == "weight" else scale) for name, x in parts.items()}
    mixture = CoefficientMixture(**{name: torch.from_numpy(x.astype(np.float32)) for name, x in parts.items()})
    photometry = {name: average(x) for name, x in phot.items()} | {"scale": average(scales)[:, None]}
    return mixture, average(sigma), photometry


def encode_at(model, prepared, east, north):
    """`~fiberifu.model.Encoded` of the stamp at an offset [arcsec]."""
    import torch

    sb, noise, _ = prepared.stamp(east, north)
    fwhm = torch.tensor([prepared.psf_fwhm], dtype=torch.float32)
    with torch.inference_mode():
        return model.encode(torch.from_numpy(sb)[None], torch.from_numpy(noise)[None], fwhm)


def infer_redshift(model, prepared):
    """Quantiles of p(z | image) of the stamp at the galaxy's centre."""

    east, north = prepared.galaxy.offset if prepared.galaxy is not None else (0.0, 0.0)
    encoded = encode_at(model, prepared, east, north)
    probability = encoded.redshift_logits[0].double().softmax(0).numpy()
    c = model.config
    edges = np.log(np.geomspace(c.redshift_min, c.redshift_max, len(probability) + 1))
    quantiles = (np.arange(700) + 0.5) / 700
    samples = np.exp(np.interp(quantiles, np.concatenate([[0], probability.cumsum()]), edges))
    low, middle, high = np.quantile(samples, (0.16, 0.5, 0.84))
    warnings.warn(
        f"redshift: none given; inferred z = {middle:.3f} (68 % within {low:.3f} to {high:.3f}) from the image and "
        "marginalised. Lines are smeared; give redshift= for anything but a look",
        AstropyUserWarning,
        stacklevel=5,
    )
    return quantile_nodes(samples, "inferred from image", (c.redshift_min, c.redshift_max))


def range_flags(bands, limits, photometry):
    """Brightness outside the middle 99.8 % of the training apertures in every band; colours likewise."""
    flags = np.zeros(len(photometry["scale"]), np.int32)
    flux = photometry["flux"]
    with np.errstate(divide="ignore", invalid="ignore"):
        mag = 22.5 - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
    for name, (low, high) in limits.items():
        pair = name.split("-")
        value = mag[:, bands.index(pair[0])] - (mag[:, bands.index(pair[1])] if len(pair) == 2 else 0)
        bit = Flag.FAR_FROM_TRAINING if len(pair) == 2 else Flag.BRIGHTNESS_RANGE
        flags |= np.where((value < low) | (value > high), int(bit), 0).astype(np.int32)
    return flags
