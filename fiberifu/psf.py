# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Point spread functions: width, and matching all bands to the broadest."""

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter
from scipy.signal import fftconvolve

from fiberifu.resample import fill_bad

__all__ = ["SURVEY_FWHM", "convolve", "matching_kernel", "measure_fwhm", "moffat_psf", "psf_on_grid"]

#: Median FWHM in arcsec by survey. Legacy Surveys South (DECaLS): Dey et al. 2019 (AJ 157, 168), g, r, z;
#: i lies between r and z. DES: DR1, Abbott et al. 2018 (ApJS 239, 18).
SURVEY_FWHM = {
    "DECaLS": {"g": 1.29, "r": 1.18, "i": 1.15, "z": 1.11},
    "DES": {"g": 1.12, "r": 0.96, "i": 0.88, "z": 0.84},
}

_BETA = 3.5  # Moffat exponent of ground-based seeing, as in DESI's fibre corrections
_SAME = 0.005  # PSFs whose widths differ by less are left alone
_REGULARISATION = 1e-4  # power, relative to the peak, below which a frequency tells nothing
_FINE = 20  # sub-positions per pixel for the width


def moffat_psf(fwhm, scale, size=63):
    """A Moffat PSF with beta = 3.5.

    Parameters
    ----------
    fwhm : float
        In arcsec.
    scale : float
        Pixel side, arcsec.
    size : int
        Odd number of pixels a side.

    Returns
    -------
    ndarray, (size, size)
        Sum 1.
    """
    radius = np.hypot(*(np.indices((size, size)) - size // 2)) * scale
    core = fwhm / (2 * np.sqrt(2 ** (1 / _BETA) - 1))
    psf = (1 + (radius / core) ** 2) ** -_BETA
    return psf / psf.sum()


def psf_on_grid(psf, jacobian, size=63):
    """Resample a PSF image to canonical pixels, centred.

    Parameters
    ----------
    psf : ndarray, (y, x)
        On input pixels.
    jacobian : ndarray, (2, 2)
        d(input column, row) / d(canonical column, row).
    size : int
        Odd number of canonical pixels a side.

    Returns
    -------
    ndarray, (size, size)
        Sum 1; zero beyond the edge of the input.
    """
    from photutils.centroids import centroid_com

    core = np.where(psf > 0.1 * psf.max(), psf, 0)
    center = centroid_com(core)
    # An odd image whose peak is on the central pixel is centred by construction: the
    # centroid of an asymmetric PSF would shift the astrometry.
    middle = (np.array(psf.shape[::-1]) - 1) / 2
    if np.all(np.abs(center - middle) < 0.3):
        center = middle
    dy, dx = np.indices((size, size)) - size // 2
    # Finer input pixels are averaged as the image is.
    n = max(1, int(np.ceil(np.linalg.svd(jacobian, compute_uv=False).max() - 0.1)))
    steps = (np.arange(n) + 0.5) / n - 0.5
    coefficients = spline_filter(np.pad(psf, 2), order=3, mode="mirror")
    out = np.zeros((size, size))
    for row in steps:
        for column in steps:
            x, y = np.tensordot(jacobian, np.stack([dx + column, dy + row]), axes=1)
            where = [y + center[1] + 2, x + center[0] + 2]
            out += map_coordinates(coefficients, where, order=3, mode="constant", prefilter=False)
    return out / out.sum()


def measure_fwhm(psf, scale):
    """FWHM of a PSF image: diameter of the disc with the area above half maximum.

    Parameters
    ----------
    psf : ndarray, (size, size)
        Centred.
    scale : float
        Pixel side, arcsec.

    Returns
    -------
    float
        In arcsec. No model is assumed.
    """
    core = np.count_nonzero(psf > psf.max() / 2)
    # Only the surroundings of the core are needed, finely sampled.
    middle, half = psf.shape[0] // 2, min(int(1.5 * np.sqrt(core / np.pi)) + 3, psf.shape[0] // 2)
    t = np.arange(middle - half, middle + half, 1 / _FINE)
    dense = map_coordinates(psf, np.meshgrid(t, t, indexing="ij"), order=3, mode="mirror")
    area = np.count_nonzero(dense > dense.max() / 2) / _FINE**2
    return float(2 * np.sqrt(area / np.pi) * scale)


def matching_kernel(source, target, scale):
    """Kernel that turns one PSF into another, broader one.

    Parameters
    ----------
    source, target : ndarray, (size, size)
        Centred, sum 1.
    scale : float
        Pixel side, arcsec.

    Returns
    -------
    ndarray, (size, size) or None
        Sum 1; None if the source is not narrower.

    Notes
    -----
    The kernel's transform is the regularised ratio K = (T S* + a G) / (S S* + a) of the transforms
    of target and source. Plain Wiener deconvolution (G = 0) cuts high frequencies, where
    neither PSF has power, and so broadens the result and rings when the two are alike; here
    the ratio goes over to G, the Gaussian of the difference in quadrature.
    """
    width, goal = measure_fwhm(source, scale), measure_fwhm(target, scale)
    if goal < width * (1 + _SAME):
        return None
    sigma = np.sqrt(goal**2 - width**2) / 2.3548 / scale
    frequency = np.fft.fftfreq(source.shape[0])
    gauss = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    s, t = (np.fft.fft2(np.fft.ifftshift(psf)) for psf in (source, target))
    ratio = (t * s.conj() + _REGULARISATION * gauss) / (np.abs(s) ** 2 + _REGULARISATION)
    kernel = np.fft.fftshift(np.fft.ifft2(ratio).real)
    return kernel / kernel.sum()


def convolve(image, bad, kernel):
    """Convolve with a unit-sum kernel; bad pixels and the outside are continued smoothly."""
    half = kernel.shape[0] // 2
    filled = np.pad(fill_bad(image, bad), half, mode="symmetric")
    return fftconvolve(filled, kernel, mode="valid")
