"""Instruments: apertures, PSFs, an imager, a fibre spectrograph, and the photometric anchor.

Shapes: B images, C bands, H x W pixels, F fibres or positions, N spectral pixels.
"""

import math

import numpy as np
import torch

from ..constants import AB_NANOMAGGY, C_KMS
from .sensitivity import ARMS, DESI, sensitivity

__all__ = [
    "add_lines",
    "aperture_patch",
    "aperture_photometry",
    "band_weights",
    "encircled_energy",
    "fiber_kernel",
    "image_noise",
    "moffat_transfer",
    "reanchor",
    "spectrum_sigma",
]

BETA = 3.5
#: 1-sigma noise of one 0.262 arcsec pixel of DECaLS images, nanomaggy (DR9 inverse variance; i in between).
PIXEL_SIGMA = (0.0025, 0.0031, 0.0065, 0.0105)
#: Photo-electrons per nanomaggy over all exposures (from the growth of the DR9 variance in bright galaxies).
ELECTRONS = (5500.0, 5500.0, 4500.0, 3500.0)
PSF_FWHM = (1.30, 1.20, 1.15, 1.10)


# --- point-spread functions and apertures


def moffat_transfer(k, fwhm, beta=BETA):
    """Transfer function of a Moffat profile with beta = 3.5, in closed form.

    exp(-x) (1 + x + x^2 / 3) with x = 2 pi k alpha: it is the Hankel transform x^(5/2) K_(5/2)(x),
    elementary for half-integer order.

    Parameters
    ----------
    k : Tensor
        Spatial frequency, cycles per arcsec.
    fwhm : Tensor, broadcast against ``k``
        arcsec.
    """
    if beta != BETA:
        raise ValueError(f"beta: got {beta}; the closed form is for {BETA}")
    x = 2 * math.pi * k * fwhm / (2 * math.sqrt(2 ** (1 / BETA) - 1))
    return torch.exp(-x) * (1 + x + x**2 / 3)


def encircled_energy(radius, fwhm):
    """Share of a Moffat (beta 3.5) point source within ``radius``."""
    alpha = fwhm / (2 * math.sqrt(2 ** (1 / BETA) - 1))
    return 1 - (1 + (radius / alpha) ** 2) ** (1 - BETA)


def frequencies(size, pixel, device="cpu"):
    """|k| (size, size // 2 + 1) of a real FFT, cycles per arcsec."""
    fy = torch.fft.fftfreq(size, pixel, device=device)[:, None]
    return torch.hypot(fy, torch.fft.rfftfreq(size, pixel, device=device)[None])


def convolve(maps, transfer):
    """Convolve (..., H, W) with a transfer function given on the real-FFT grid."""
    return torch.fft.irfft2(torch.fft.rfft2(maps) * transfer, s=maps.shape[-2:])


def aperture_patch(offset, size, pixel, diameter=1.5, *, square=False, patch=9, over=5):
    """Area of every pixel inside an aperture, on small patches.

    Parameters
    ----------
    offset : Tensor (F, 2)
        East, north of the aperture's centre from the centre of the grid, arcsec.
    size : int
        Pixels on a side of the grid.
    pixel : float
        arcsec.
    diameter : float
        Of the disc, or side of the square; arcsec.
    patch, over : int
        Patch side in pixels, and subpixels on a side (the area is normalised to the exact value).

    Returns
    -------
    index : Tensor (F, patch, patch) of int64
        Flat pixel index; apertures beyond the grid are moved to its edge.
    area : Tensor (F, patch, patch)
        arcsec2; the sum is the area of the aperture.
    """
    if diameter / pixel > patch - 1:
        raise ValueError(f"diameter: {diameter} arcsec needs patch > {diameter / pixel + 1:.0f} pixels, got {patch}")
    centre = offset / pixel + (size - 1) / 2
    first = torch.round(centre - (patch - 1) / 2).long().clamp(0, size - patch)
    step = torch.arange(patch, device=offset.device)
    index = (first[:, 1, None, None] + step[:, None]) * size + first[:, 0, None, None] + step
    fine = (torch.arange(patch * over, device=offset.device) + 0.5) / over - 0.5
    east = (first[:, 0, None] + fine - centre[:, 0, None]) * pixel
    north = (first[:, 1, None] + fine - centre[:, 1, None]) * pixel
    if square:
        soft = pixel / over
        inside = [((diameter / 2 - a.abs()) / soft + 0.5).clamp(0, 1) for a in (north, east)]
        area = inside[0][:, :, None] * inside[1][:, None]
        total = diameter**2
    else:
        distance = torch.hypot(north[:, :, None], east[:, None])
        area = ((diameter / 2 - distance) * over / pixel + 0.5).clamp(0, 1)
        total = math.pi / 4 * diameter**2
    area = area.unflatten(2, (patch, over)).unflatten(1, (patch, over)).sum((2, 4))
    return index, area * (total / area.sum((1, 2), keepdim=True))


def aperture_photometry(image, sigma, offset, pixel, diameter=1.5):
    """Flux and its noise in a disc on images, one aperture per image.

    Parameters
    ----------
    image, sigma : Tensor (F, C, H, W)
        Surface brightness per arcsec2 and its noise; inf where nothing was measured.
    offset : Tensor (F, 2)
        East, north, arcsec.

    Returns
    -------
    flux, noise : Tensor (F, C)
        ``noise`` is inf where less than half of the aperture was measured; else the rest is scaled up.
    """
    index, area = aperture_patch(offset, image.shape[-1], pixel, diameter)
    index = index.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    value, noise = (torch.gather(a.flatten(2), 2, index) for a in (image, sigma))
    area = area.flatten(1)[:, None] * torch.isfinite(noise)
    share = area.sum(2) / (math.pi / 4 * diameter**2)
    noise = torch.where(area > 0, noise, 0.0)
    # area of a pixel times its noise; independent pixels
    error = torch.sqrt(((area * noise) ** 2).sum(2))
    scale = 1 / share.clamp(min=0.5)
    return (area * value).sum(2) * scale, torch.where(share > 0.5, error * scale, torch.inf)


def fiber_kernel(offset, size, pixel, transfers, diameter=1.5):
    """Weights on the grid of what a fibre sees through each of some PSFs: (F, M, H, W), arcsec2.

    Parameters
    ----------
    offset : Tensor (F, M, 2)
        Where each of the M kernels is centred.
    transfers : Tensor (F, M, H, W // 2 + 1)
    """
    count = offset.shape[:2]
    index, area = aperture_patch(offset.flatten(0, 1), size, pixel, diameter)
    grid = torch.zeros(len(index), size * size, device=offset.device)
    grid.scatter_(1, index.flatten(1), area.flatten(1))
    return convolve(grid.unflatten(1, (size, size)).unflatten(0, count), transfers)


# --- imager


def image_noise(signal, white, fwhm, common, sky_sigma, pixel, electrons):
    """Noise of images that were matched from their own PSF to a common, broader one.

    Parameters
    ----------
    signal : Tensor (B, C, H, W)
        Noiseless surface brightness at the common PSF, nanomaggy / arcsec2.
    white : Tensor (B, C, H, W)
        Standard normal numbers.
    fwhm, common : Tensor (B, C), (B,)
        arcsec.
    sky_sigma : Tensor (B, C)
        nanomaggy per pixel.
    electrons : Tensor (C,)
        Per nanomaggy.

    Returns
    -------
    noise, sigma : Tensor (B, C, H, W)
        Matched noise, and the 1-sigma of the *original* pixels, nanomaggy / arcsec2.
    """
    area = pixel**2
    poisson = (signal * area).clamp(min=0) / electrons[:, None, None]
    sigma = torch.sqrt(sky_sigma[..., None, None] ** 2 + poisson) / area
    k = frequencies(signal.shape[-1], pixel, signal.device)
    own = moffat_transfer(k, fwhm[..., None, None])
    ratio = moffat_transfer(k, common[:, None, None, None]) * own / (own**2 + 1e-4)
    return convolve(white * sigma, ratio), sigma


# --- spectrograph


def add_lines(flux, line_flux, line_wave, z, sigma_kms, grid, *, half=70):
    """Add Gaussian lines, integrated over pixels, to spectra in place.

    Parameters
    ----------
    flux : Tensor (F, N)
        1e-17 erg/s/cm2/A on ``grid``.
    line_flux : Tensor (F, L)
        1e-17 erg/s/cm2.
    line_wave : Tensor (L,)
        Rest vacuum Angstrom.
    z, sigma_kms : Tensor (F,)
        Redshift and intrinsic width; the LSF is added in quadrature.
    grid : SpectralGrid
    half : int
        Pixels on either side of a line that it may reach.
    """
    n = flux.shape[1]
    centre = line_wave.double() * (1 + z.double()[:, None])
    sigma = torch.hypot(centre.float() * (sigma_kms[:, None] / C_KMS), grid.lsf_at(centre))
    first = torch.searchsorted(grid.edges, centre) - 1 - half
    index = first[..., None] + torch.arange(2 * half + 2, device=flux.device)
    edge = grid.edges[index.clamp(0, n)]  # beyond the ends all edges are one, and no light falls between
    x = (edge - centre[..., None]).float() / (math.sqrt(2) * sigma[..., None])
    profile = torch.erf(x).diff(dim=-1) / 2 / edge.diff(dim=-1).clamp(min=1e-3).float()
    profile = profile * line_flux[..., None]
    return flux.scatter_add_(1, index[..., :-1].clamp(0, n - 1).flatten(1), profile.flatten(1))


def spectrum_sigma(flux, wave, throughput, sky, seeing, seconds, instrument=DESI):
    """Noise of a fibre spectrum that is calibrated as a point source, 1e-17 erg/s/cm2/A per 0.8 A pixel.

    Photon noise of source and dark sky, and read noise, with the sensitivity of the spectrograph's arms added up
    (`~fiberifu.simulate.sensitivity.sensitivity`) and as few exposures as its longest allows.

    Parameters
    ----------
    flux : Tensor (F, N)
        Inside the fibre, noiseless.
    wave, throughput, sky : Tensor (N,)
        On DESI's grid.
    seeing : Tensor (F, N)
        FWHM at every wavelength.
    seconds : Tensor (F,)
        Effective exposure under dark sky.
    instrument : FiberInstrument
    """
    arms = sensitivity(wave, throughput, instrument)
    for row, (first, n) in zip(arms, ARMS.values(), strict=True):  # what falls beyond an arm's pixels is lost
        row[:first] = row[first + n :] = 0
    total = arms.sum(0)
    noise = torch.tensor(instrument.read_noise, dtype=arms.dtype, device=arms.device) ** 2 * instrument.ccd_pixels
    noise = total**2 / (arms**2 / noise[:, None]).sum(0)  # of arms averaged by their read noise where two overlap
    read = noise.float() * torch.ceil(seconds / instrument.longest)[:, None]
    electrons = total.float() * seconds[:, None]  # per unit flux
    count = (flux.clamp(min=0) + sky * (math.pi / 4 * instrument.diameter**2)) * electrons
    return torch.sqrt(count + read) / electrons / encircled_energy(instrument.diameter / 2, seeing)


def reanchor(flux, ivar, wave, curves, aperture_flux, aperture_sigma, *, prior=-0.22, prior_sigma=0.15):
    """Bring fibre spectra to the image's flux in the fibre: a grey factor and a tilt in log wavelength.

    The scale is a (1 + t ln(wave / 6500 A)), fitted in linear flux to all bands at once, with the noise of
    both sides, 2 % of calibration error per band, a weak prior on log10 a (extended light calibrated as a
    point source is too bright by 0.16-0.41 dex) and one of 0.2 on t. The part of a band beyond the spectrum
    is continued flat.

    Parameters
    ----------
    flux, ivar : Tensor (F, N)
    wave : Tensor (N,)
        Angstrom.
    curves : Tensor (C, N)
        Photon-counting weights: nanomaggies = sum(curves * flux); see `band_weights`.
    aperture_flux, aperture_sigma : Tensor (F, C)
        Nanomaggy in the fibre's disc on the image; sigma inf where there is none.

    Returns
    -------
    flux, ivar : Tensor (F, N)
        Re-anchored.
    scale : Tensor (F, N)
    """
    x = torch.log(wave / 6500.0)
    good = ivar > 0
    flux0 = torch.where(good, flux, 0.0)
    band = flux0 @ curves.T
    noise = torch.where(good, 1 / ivar.clamp(min=1e-20), 0.0) @ (curves.T**2)
    pivot = (curves @ x) / curves.sum(1)
    usable = torch.isfinite(aperture_sigma)
    variance = torch.where(usable, aperture_sigma, 1.0) ** 2 + noise * 10 ** (2 * prior)
    variance = variance + (0.02 * aperture_flux) ** 2
    weight = usable / variance
    a0 = 10**prior
    # linear in (a, a t): normal equations with the priors
    s1, s2 = band, band * pivot
    target = torch.where(usable, aperture_flux, 0.0)
    a11 = (weight * s1 * s1).sum(1) + 1 / (a0 * prior_sigma * math.log(10)) ** 2
    a12 = (weight * s1 * s2).sum(1)
    a22 = (weight * s2 * s2).sum(1) + 1 / (a0 * 0.2) ** 2
    b1 = (weight * s1 * target).sum(1) + a0 / (a0 * prior_sigma * math.log(10)) ** 2
    b2 = (weight * s2 * target).sum(1)
    determinant = a11 * a22 - a12**2
    grey = ((a22 * b1 - a12 * b2) / determinant).clamp(min=0.05)
    tilt = ((a11 * b2 - a12 * b1) / determinant / grey).clamp(-0.8, 0.8)
    scale = grey[:, None] * (1 + tilt[:, None] * x)
    return flux * scale, ivar / scale**2, scale


def band_weights(wave, band_wave, curves):
    """Rows (C, N) whose product with a spectrum [1e-17 erg/s/cm2/A] on ``wave`` is its nanomaggies.

    Where a curve reaches beyond ``wave``, the outermost 100 pixels stand for what is missing.
    """
    rows = []
    step = np.gradient(wave)
    for curve in curves:
        ab = AB_NANOMAGGY * np.sum(curve / band_wave * np.gradient(band_wave))
        row = np.interp(wave, band_wave, curve, left=0, right=0) * wave * step / ab
        full = curve * band_wave * np.gradient(band_wave) / ab
        row[-100:] += full[band_wave > wave[-1] + step[-1] / 2].sum() / 100
        row[:100] += full[band_wave < wave[0] - step[0] / 2].sum() / 100
        rows.append(row)
    return np.stack(rows)
