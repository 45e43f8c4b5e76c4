"""Run the network over a field: encode each stamp once, query it at the positions it sees, blend.

Below the units, above the network: offsets [arcsec] in, a Gaussian of coefficients per position out.
"""

import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from .flags import Flag
from .redshift import RedshiftNodes
from .stamps import stamp_weights

__all__ = ["decode", "infer_redshift", "range_flags"]


def decode(model, prepared, offsets, points, scale, z, sigma_z, spectra, progress):
    """Coefficients at offsets (N, 2), averaged over the aperture's points and blended over stamps."""
    import torch
    from tqdm import tqdm

    from .model import CoefficientGaussian

    config, n = model.config, len(offsets)
    finite = np.isfinite(offsets).all(1)
    where = np.where(finite[:, None], offsets, 0.0)
    samples = (where[:, None] + points).reshape(-1, 2)  # positions x points of the aperture
    g = len(points)
    k, r, c = model.basis.n_coefficients, config.rank + 1, len(config.bands)
    mean, diag, factors = np.zeros((n * g, k)), np.zeros((n * g, k)), np.zeros((n * g, k, r))
    sigma = np.zeros(n * g)
    phot = {name: np.zeros((n * g, c)) for name in ("flux", "error", "predicted")}
    scales = np.zeros(n * g)
    fwhm = torch.tensor([prepared.psf_fwhm], dtype=torch.float32)
    lattice = stamp_weights(samples)
    with torch.inference_mode():
        for (east, north), (rows, weights) in tqdm(lattice.items(), "stamps", disable=not progress, leave=False):
            sb, noise, centre = prepared.stamp(east, north)
            image, noise = torch.from_numpy(sb)[None], torch.from_numpy(noise)[None]
            context = _context(model, image, noise, spectra, centre)
            encoded = model.encode(image, noise, fwhm, context=context)
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
                    torch.full((m,), max(float(sigma_z), 1e-5)),
                )
                w = weights[part][:, None]
                mean[index] += w * d.gaussian.mean.numpy()
                diag[index] += w * d.gaussian.diag.numpy()
                factors[index] += w[..., None] * d.gaussian.factors.numpy()
                sigma[index] += w[:, 0] * d.sigma_gas.numpy()
                predicted = (d.scale[:, None] * d.synthetic).numpy()
                for name, value in (("flux", d.flux), ("error", d.error), ("predicted", predicted)):
                    phot[name][index] += w * np.asarray(value)
                scales[index] += w[:, 0] * d.scale.numpy()

    def average(x):  # errors of neighbouring points are taken as fully correlated: never too small
        return x.reshape(n, g, *x.shape[1:]).mean(1)

    arrays = [torch.from_numpy((scale * average(x)).astype(np.float32)) for x in (mean, diag, factors)]
    photometry = {name: average(x) for name, x in phot.items()} | {"scale": average(scales)}
    return CoefficientGaussian(*arrays), average(sigma), photometry


def _context(model, image, noise, spectra, centre):
    """Context tokens of one stamp, or None."""
    import torch

    if not spectra:
        return None
    flux, ivar, z = (torch.stack([s[i] for s in spectra]) for i in (0, 1, 3))
    offset = torch.tensor(np.array([s[2] - centre for s in spectra]), dtype=torch.float32)
    inside = (offset.abs() < model.config.stamp * model.config.pixel_scale / 2).all(1)
    if not inside.any():
        return None
    galaxy = torch.zeros(int(inside.sum()), dtype=torch.int64)
    tokens = model.context_tokens(image, noise, galaxy, offset[inside], flux[inside], ivar[inside], z[inside])
    return tuple(x.flatten(0, 1)[None] for x in tokens)


def infer_redshift(model, prepared):
    """Quantiles of p(z | image) of the stamp at the galaxy's centre."""
    import torch

    east, north = prepared.galaxy.offset if prepared.galaxy is not None else (0.0, 0.0)
    sb, noise, _ = prepared.stamp(east, north)
    with torch.inference_mode():
        encoded = model.encode(
            torch.from_numpy(sb)[None],
            torch.from_numpy(noise)[None],
            torch.tensor([prepared.psf_fwhm], dtype=torch.float32),
        )
    probability = encoded.redshift_logits[0].double().softmax(0).numpy()
    c = model.config
    edges = np.geomspace(c.redshift_min, c.redshift_max, len(probability) + 1)
    z = np.exp(np.interp((np.arange(5) + 0.5) / 5, np.concatenate([[0], probability.cumsum()]), np.log(edges)))
    warnings.warn(
        f"redshift: none given; inferred z = {z[2]:.3f} (80 % within {z[0]:.3f} to {z[4]:.3f}) from the image and "
        "marginalised. Lines are smeared; give redshift= for anything but a look",
        AstropyUserWarning,
        stacklevel=5,
    )
    return RedshiftNodes(z, np.full(5, 0.2), 0.0, "inferred from image", Flag(0))


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
