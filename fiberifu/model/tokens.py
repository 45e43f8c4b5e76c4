"""Tokens: image patches, spectrum patches, sky offsets and wavelengths.

Shapes: B galaxies, F fibres, T tokens, D width, C bands, H heads, P pixels of a spectrum patch.
Places on the sky enter only through rotary phases, so attention sees nothing but the offset between two tokens.
"""

import math

import torch
from torch import nn

__all__ = ["ImageTokens", "SpectrumTokens", "fourier_features", "patch_centres", "rotary", "scale_brightness"]

SOFTENING = 0.1  # nanomaggy / arcsec2, about the noise per pixel of the Legacy Surveys


def scale_brightness(brightness):
    """Compress surface brightness [nanomaggy/arcsec2] by asinh (Lupton et al. 1999, AJ 118, 1406) to order one."""
    return torch.asinh(brightness / SOFTENING) / 3


def scale_noise(sigma):
    """Depth as a number of order one: log10(softening / sigma), clipped; 0 where nothing was measured (inf)."""
    return torch.where(torch.isfinite(sigma), torch.log10(SOFTENING / sigma).clamp(-2, 2), torch.zeros_like(sigma))


def fourier_features(value, n, period_max, period_min):
    """Sines and cosines of ``value`` (...,) at ``n`` log-spaced periods -> (..., 2n)."""
    periods = torch.logspace(math.log10(period_max), math.log10(period_min), n, device=value.device)
    phase = 2 * math.pi * value[..., None] / periods.to(value.dtype)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def rotary(x_BHTd, offset_BT2, longest=80.0, shortest=4.0):
    """Rotate queries or keys by phases of their sky offset [arcsec] (rotary encoding, Su et al. 2021,
    arXiv:2104.09864, in two continuous dimensions): products then depend on offset differences only."""
    n = x_BHTd.shape[-1] // 4
    periods = torch.logspace(math.log10(longest), math.log10(shortest), n, device=x_BHTd.device)
    phase = (2 * math.pi * offset_BT2[:, None, :, :, None] / periods).flatten(-2)  # (B, 1, T, 2n)
    cos, sin = phase.cos().to(x_BHTd.dtype), phase.sin().to(x_BHTd.dtype)
    a, b = x_BHTd.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def patch_centres(config, device=None):
    """Offsets (T, 2) [arcsec; east, north] of the image patches from the stamp's centre."""
    n = config.stamp // config.patch
    step = (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * config.patch * config.pixel_scale
    north, east = torch.meshgrid(step, step, indexing="ij")
    return torch.stack([east.flatten(), north.flatten()], dim=-1)


class ImageTokens(nn.Module):
    """Embed patches band by band and add the bands; a band that is missing in a patch gives its learned
    'missing' vector, never zeros of flux."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.side = config.patch // config.pool
        self.embed = nn.Parameter(torch.randn(len(config.bands), 2 * self.side**2 + 1, config.width) * 0.05)
        self.missing = nn.Parameter(torch.randn(len(config.bands), config.width) * 0.05)
        self.psf = nn.Linear(1, config.width)

    def pixels(self, image, sigma):
        """Pooled, compressed pixels, their compressed noise and valid fractions by patch, each (B, T, C, side*side)."""
        good = torch.isfinite(sigma)
        fraction = self._pool(good.to(image.dtype))
        norm = 1 / fraction.clamp(min=1e-6)
        mean, noise = (self._pool(torch.where(good, x, 0.0)) * norm for x in (image, sigma))
        # d asinh(x / s) = dx / sqrt(s^2 + x^2), and the mean of n^2 pixels has 1/n of their noise
        noise = noise / self.config.pool / (3 * torch.hypot(mean, torch.full_like(mean, SOFTENING)))
        return tuple(self._to_patches(x) for x in (scale_brightness(mean) * (fraction > 0), noise, fraction))

    def _pool(self, x):
        """Mean over blocks of pixels."""
        k = self.config.pool
        return sum(x[..., i::k, j::k] for i in range(k) for j in range(k)) / k**2

    def _to_patches(self, x):
        n = self.config.stamp // self.config.patch
        x = x.unflatten(2, (n, self.side)).unflatten(4, (n, self.side))  # B C n s n s
        return x.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)

    def forward(self, image, sigma, psf_fwhm):
        """``(B, C, S, S)`` brightness and noise -> tokens (B, T, D), usable (B, T) bool, and `pixels`."""
        pixels = value, _, fraction = self.pixels(image, sigma)
        depth = scale_noise(sigma).flatten(2).sum(-1) / torch.isfinite(sigma).flatten(2).sum(-1).clamp(min=1)
        depth = depth[:, None, :, None].expand(-1, value.shape[1], -1, 1)
        tokens_BTCD = torch.einsum("btcp,cpd->btcd", torch.cat([value, fraction, depth], -1), self.embed)
        seen = fraction.mean(-1, keepdim=True) > 0.25
        tokens = torch.where(seen, tokens_BTCD, self.missing).sum(2) + self.psf(psf_fwhm[:, None, None] - 1.3)
        return tokens, seen.squeeze(-1).any(-1), pixels


class SpectrumTokens(nn.Module):
    """Embed patches of a fibre spectrum with the Fourier features of observed and rest-frame log-wavelength."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Linear(2 * config.spectrum_patch, config.width)
        self.wavelength = nn.Linear(64, config.width)

    def forward(self, flux, ivar, reference, redshift):
        """Tokens (F, T, D) and usable (F, T) of spectra (F, n) in units of ``reference`` (F,), a flux density."""
        c = self.config
        ivar = ivar * reference[:, None] ** 2
        good = ivar > 0
        value = torch.where(good, flux / reference[:, None], 0.0)
        weight = torch.log1p(ivar.clamp(min=0).sqrt())
        # inverse-variance shrinkage: a noisy pixel says little, and must not shout
        value = value.clamp(-20, 200).asinh() * ivar / (ivar + 1.0)
        pieces = [x.unflatten(1, (-1, c.spectrum_patch)) for x in (value, weight)]
        centre = c.wave_start + c.wave_step * (
            torch.arange(c.wave_size // c.spectrum_patch, device=flux.device) * c.spectrum_patch
            + (c.spectrum_patch - 1) / 2
        )
        observed = centre.log()[None].expand(len(flux), -1)
        rest = observed - torch.log1p(redshift)[:, None]
        where = torch.cat([fourier_features(x - 8.5, 16, 4.0, 0.01) for x in (observed, rest)], -1)
        tokens = self.embed(torch.cat(pieces, -1)) + self.wavelength(where)
        return tokens, good.unflatten(1, (-1, c.spectrum_patch)).any(-1)
