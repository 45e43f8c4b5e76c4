# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a survey's truth needs before it can judge: the PSF of the prediction, and errors of sums of its spaxels."""

import functools

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from ..lines.binning import COVARIANCE, LARGEST
from ..psf import matching_kernel, moffat_psf

__all__ = ["correlated_sigma", "match_psf"]

FINE = 5  # sub-pixels a side of the kernel
KNOWN = 0.5  # part of the kernel's weight that must fall on known positions
WIDTH = 2 * np.sqrt(2 * np.log(2))  # FWHM of a Gaussian / sigma


def correlated_sigma(sigma, n, *, covariance=COVARIANCE, largest=LARGEST):
    """Error of a sum of n neighbouring spaxels of a MaNGA cube.

    Spaxels share fibres: the error of independent ones, ``sqrt(sum sigma^2)``, is multiplied by 1 + 1.62 log10 n up to
    n = 100 and by 4.24 beyond (Law et al. 2016, AJ 152, 83, section 9.3). The factor multiplies **sigma**, not the
    variance.

    Parameters
    ----------
    sigma : float or array_like
        ``sqrt(sum sigma^2)`` over the spaxels.
    n : int or array_like
        Spaxels in the sum.
    covariance : float
        Coefficient of log10 n; 0 for independent spaxels.
    largest : float

    Returns
    -------
    float or ndarray

    Raises
    ------
    ValueError
        If ``n`` is below 1.
    """
    n = np.asarray(n)
    if np.any(n < 1):
        raise ValueError(f"n is {n.min()}; a sum has at least one spaxel")
    return sigma * (1 + covariance * np.log10(np.minimum(n, largest)))


def match_psf(values, spaxel, source, target, *, shape="moffat"):
    """Blur a map to a broader PSF.

    Parameters
    ----------
    values : ndarray (ny, nx)
        Surface brightness (or flux in equal apertures), linear; NaN where unknown. Equivalent widths are not blurred:
        blur the flux and the continuum, and divide.
    spaxel : float
        arcsec.
    source, target : float
        FWHM that the map has and is to have, arcsec.
    shape : {'moffat', 'gaussian'}
        Of both PSFs; Moffat with beta = 3.5.

    Returns
    -------
    ndarray (ny, nx)
        NaN where it was, and where less than half of the kernel falls on known positions; elsewhere what is known
        under the kernel is averaged, so that an edge does not darken. The map itself where the widths differ by less
        than 0.5 %.

    Raises
    ------
    ValueError
        If the target is narrower than the source (that would be a deconvolution), or ``shape`` is unknown.
    """
    values = np.asarray(values, float)
    if shape not in ("moffat", "gaussian"):
        raise ValueError(f"shape is {shape!r}; use 'moffat' or 'gaussian'")
    if not (spaxel > 0 and 0 < source and target >= source * 0.995):
        raise ValueError(
            f"source is {source} and target {target} arcsec, spaxel {spaxel}; all must be positive and the target not "
            "narrower than the source"
        )
    kernel = _kernel(spaxel, source, target, shape)
    if kernel is None:
        return values.copy()
    known = np.isfinite(values)
    half = kernel.shape[0] // 2
    blurred, weight = (
        fftconvolve(np.pad(part, half), kernel, mode="valid")
        for part in (np.where(known, values, 0), known.astype(float))
    )
    good = known & (weight > KNOWN)
    return np.divide(blurred, weight, out=np.full(values.shape, np.nan), where=good)


@functools.lru_cache(maxsize=16)
def _kernel(spaxel, source, target, shape):
    """Kernel on spaxels, of an odd number a side, sum 1; None where nothing is to be done. Not to be written to."""
    if target < source * 1.005:
        return None
    step = spaxel / FINE
    n = 2 * int(np.ceil(3 * target / spaxel)) + 1
    if shape == "gaussian":
        sigma = np.sqrt(target**2 - source**2) / WIDTH / step
        fine = np.zeros((n * FINE, n * FINE))
        fine[n * FINE // 2, n * FINE // 2] = 1
        fine = gaussian_filter(fine, sigma, truncate=6)
    else:
        fine = matching_kernel(*(moffat_psf(fwhm, step, n * FINE) for fwhm in (source, target)), step)
    if fine is None:
        return None
    # The frequencies that spaxels can hold: exact for maps that are sampled well enough.
    transfer = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(fine)))
    low = slice((n * FINE - n) // 2, (n * FINE + n) // 2)
    kernel = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(transfer[low, low])).real)
    return kernel / kernel.sum()
