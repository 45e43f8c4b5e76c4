"""The continuum basis: principal components of mixtures of real SSPs, in the rest frame."""

import numpy as np
import torch

from ..constants import C_KMS
from ..simulate.stars import calzetti

__all__ = ["fill_basis", "principal_components"]

WINDOW = (5300.0, 5700.0)  # rest angstrom; every shape has mean flux density 1 here


def _broaden(spectra, sigma_kms, step):
    """Convolve log-sampled spectra (N, n) with Gaussians of ``sigma_kms`` (N,), by FFT."""
    n = spectra.shape[1]
    frequency = np.fft.rfftfreq(n)
    pixels = sigma_kms[:, None] / (C_KMS * step)
    kernel = np.exp(-2 * (np.pi * frequency * pixels) ** 2)
    edge = spectra[:, :1] + (spectra[:, -1:] - spectra[:, :1]) * np.linspace(0, 1, n)  # no wrap-around step
    return np.fft.irfft(np.fft.rfft(spectra - edge) * kernel, n) + edge


def principal_components(pack, n_components, *, n_mixtures=2000, seed=0):
    """Mean shape and principal components of random star-formation histories.

    Mixtures of SSPs (log-normal weights on a random age trend, one or two neighbouring metallicities), reddened by
    0-1.2 mag of E(B-V) (Calzetti), broadened by 0-280 km/s, each divided by its mean in 5300-5700 A.

    Parameters
    ----------
    pack : dict
        Template pack, see `fiberifu.simulate.build_template_pack`.
    n_components : int
        Mean shape included.
    n_mixtures : int
        Histories drawn.
    seed : int

    Returns
    -------
    basis : ndarray (n_components, n)
        First the mean (mean 1 in the window), then components with unit rms over wavelength.
    scale : ndarray (n_components,)
        rms of their coefficients (1 for the mean).
    explained : float
        Share of the variance explained.
    """
    rng = np.random.default_rng(seed)
    wave, ssp = np.asarray(pack["wave"], float), np.asarray(pack["ssp"], float)
    log_age = np.asarray(pack["log_age"], float)
    log_age = log_age if log_age.max() < 5 else log_age - 9  # to Gyr
    n_age, n_met, n = ssp.shape
    window = (wave > WINDOW[0]) & (wave < WINDOW[1])
    shapes = []
    for start in range(0, n_mixtures, 500):
        size = min(500, n_mixtures - start)
        slope = rng.uniform(-0.3, 1.6, size)[:, None]  # mass per log age: young-heavy to old-heavy
        weight = 10 ** (slope * log_age + 0.5 * rng.standard_normal((size, n_age)))
        weight *= np.where(rng.random((size, 1)) < 0.3, log_age > rng.uniform(-0.5, 0.7, (size, 1)), 1)  # quenched
        weight[:, -1] += 1e-6
        metal = rng.uniform(0, n_met - 1, size)[:, None]
        near = np.clip(1 - np.abs(np.arange(n_met) - metal), 0, None)
        mixed = np.einsum("sa,sm,amn->sn", weight, near, ssp, optimize=True)
        ebv = rng.exponential(0.2, (size, 1)).clip(max=1.2)
        mixed = mixed * 10 ** (-0.4 * ebv * calzetti(torch.as_tensor(wave)).numpy())
        mixed /= mixed[:, window].mean(1, keepdims=True)
        shapes.append(_broaden(mixed, rng.uniform(0, 280, size), np.log(wave[1] / wave[0])).astype(np.float32))
    shapes = np.concatenate(shapes)
    mean = shapes.mean(0)
    # weigh wavelengths as a spectrograph at z = 0.003-0.6 does: the far blue is rarely seen
    seen = np.interp(wave, [2250, 3600, 9000, 10400], [0.3, 1.0, 1.0, 0.5])
    _, _, vectors = np.linalg.svd((shapes - mean) * seen, full_matrices=False)
    vectors = vectors[: n_components - 1] / seen
    vectors /= np.sqrt((vectors**2).mean(1, keepdims=True))
    coefficients = np.linalg.lstsq((vectors * seen).T, ((shapes - mean) * seen).T, rcond=None)[0]
    residual = (shapes - mean) * seen - coefficients.T @ (vectors * seen)
    explained = 1 - (residual**2).sum() / (((shapes - mean) * seen) ** 2).sum()
    return np.vstack([mean, vectors]), np.concatenate([[1.0], coefficients.std(1)]), float(explained)


def fill_basis(model, pack, seed=0, n_mixtures=2000):
    """Put the components of ``pack`` and its passbands into a model's buffers; returns the explained variance."""
    config = model.config
    basis, scale, explained = principal_components(pack, config.n_continuum, n_mixtures=n_mixtures, seed=seed)
    if basis.shape[1] != config.rest_size:
        raise ValueError(f"template pack: {basis.shape[1]} rest-frame samples, the model has {config.rest_size}")
    grid = 3000 + 5.0 * np.arange(1601)
    bands = [np.interp(grid, pack["band_wave"], pack[f"band_{b}"], left=0, right=0) for b in config.bands]
    with torch.no_grad():
        # what is stored is what was trained with: round to the file's precision now
        model.basis.continuum.copy_(torch.from_numpy(basis).half().float())
        model.basis.component_scale.copy_(torch.from_numpy(scale).half().float())
        model.basis.passband.copy_(torch.from_numpy(np.array(bands)).half().float())
    return explained
