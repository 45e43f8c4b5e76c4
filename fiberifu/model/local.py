"""The local path: what the image says at the query itself, at the aperture and on two small grids around it.

Shapes: B galaxies, F positions, C bands, G grid points.
"""

import math

import torch
from torch import nn

from .tokens import fourier_features, scale_brightness, scale_noise

__all__ = ["LocalView", "aperture_points", "read_image"]

PEDESTAL = 0.02  # nanomaggy/arcsec2, uncertainty of the sky level common to an aperture (about 27 mag/arcsec2)


def aperture_points(diameter, rings=4):
    """Equal-area points (G, 2) filling a disc [arcsec], for averages over an aperture."""
    points = []
    for ring in range(rings):
        radius = diameter / 2 * math.sqrt((ring + 0.5) / rings)
        angle = 2 * math.pi * (torch.arange(12) + 0.5 * (ring % 2)) / 12
        points.append(torch.stack([radius * angle.cos(), radius * angle.sin()], -1))
    return torch.cat(points)


def square_points(n, step):
    """A grid of ``n x n`` points (G, 2) around zero [arcsec]."""
    axis = (torch.arange(n) - (n - 1) / 2) * step
    return torch.cartesian_prod(axis, axis).flip(-1)


def read_image(image, galaxy, offset_FG2, pixel_scale, mode="bilinear"):
    """Values (F, C, G) of ``image`` (B, C, S, S) at sky offsets of galaxy ``galaxy`` (F,); 0 outside."""
    half = image.shape[-1] * pixel_scale / 2
    grid = offset_FG2 / half  # x (east) grows with the column, y (north) with the row
    if len(image) == 1:  # one image, any number of positions: no copies
        out = nn.functional.grid_sample(image, grid[None], mode=mode, align_corners=False)[0]
        return out.transpose(0, 1)
    order = torch.argsort(galaxy, stable=True)
    counts = torch.bincount(galaxy, minlength=len(image))
    most = int(counts.max())
    slot = torch.arange(len(galaxy), device=galaxy.device) - (counts.cumsum(0) - counts)[galaxy[order]]
    padded = grid.new_zeros(len(image), most, *grid.shape[1:])
    padded[galaxy[order], slot] = grid[order]
    values = nn.functional.grid_sample(image, padded, mode=mode, align_corners=False)  # B C most G
    out = values.new_zeros(len(galaxy), image.shape[1], grid.shape[1])
    out[order] = values.transpose(1, 2)[galaxy[order], slot]
    return out


class LocalView(nn.Module):
    """Features at the query: a fine view with the aperture's photometry, and a coarse view."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.register_buffer("disc", aperture_points(c.aperture), persistent=False)
        self.register_buffer("fine", square_points(c.local_grid, c.local_step), persistent=False)
        self.register_buffer("coarse", square_points(c.local_grid, c.surround_step), persistent=False)
        n_band, n_grid = len(c.bands), c.local_grid**2
        self.near = self._mlp(n_band * (n_grid + 4) + 1 + 18 + c.n_continuum - 1)
        self.around = self._mlp(2 * n_band * n_grid)

    def _mlp(self, size):
        c = self.config
        return nn.Sequential(
            nn.Linear(size, c.local_width), nn.GELU(), nn.Linear(c.local_width, c.local_width), nn.GELU(),
            nn.Linear(c.local_width, c.width),
        )  # fmt: skip

    def photometry(self, image, sigma, galaxy, offset):
        """Flux and error (F, C) [nanomaggy] in the aperture at each query; error inf where it is not measured."""
        c = self.config
        good = torch.isfinite(sigma)
        points = offset[:, None] + self.disc
        # bicubic reading keeps the aperture sharp; a disc that touches missing pixels is not measured
        flux = read_image(torch.where(good, image, 0.0), galaxy, points, c.pixel_scale, "bicubic").mean(-1)
        cover = read_image(good.to(image.dtype), galaxy, points, c.pixel_scale).mean(-1)
        variance = read_image(torch.where(good, sigma, 0.0) ** 2, galaxy, points, c.pixel_scale).mean(-1)
        area = math.pi / 4 * c.aperture**2
        measured = cover > 0.99
        error = (variance * c.pixel_scale**2 * area + (PEDESTAL * area) ** 2).sqrt()
        return torch.where(measured, flux * area, 0.0), torch.where(measured, error, torch.inf)

    def forward(self, image, sigma, psf_fwhm, galaxy, offset, redshift, sigma_z, flux, error, colours):
        """Fine and coarse view (F, D) each, from the images and what the aperture says already.

        ``flux, error`` (F, C) are of `photometry`; ``colours`` (F, n_continuum - 1) the continuum shape they ask for,
        in units of the population's scatter: colours as of rest, whatever bands there are.
        """
        c = self.config
        good = torch.isfinite(sigma).to(image.dtype)
        clean = torch.where(good > 0, image, 0.0)
        measured = torch.isfinite(error)
        area = math.pi / 4 * c.aperture**2
        fine = self._read(clean, good, galaxy, offset[:, None] + self.fine)[0]
        aperture = torch.cat(
            [
                scale_brightness(flux / area),
                torch.log1p((flux / error).clamp(min=0)) / 4,
                scale_noise(error),
                measured.to(flux.dtype),
            ],
            -1,
        )
        distance = torch.log(redshift)[:, None]  # nearly log distance: sizes and fluxes scale with it
        conditions = torch.cat(
            [
                distance / 2 + 1,
                fourier_features(torch.log1p(redshift), 8, 1.0, 0.02),
                torch.log10(sigma_z + 1e-5)[:, None] / 3 + 1,
                psf_fwhm[galaxy][:, None] - 1.3,
            ],
            -1,
        )
        near = self.near(torch.cat([fine.flatten(1), aperture, conditions, colours], -1))
        blurred, cover = (self._blur(x) for x in (clean, good))
        coarse, seen = self._read(blurred, cover, galaxy, offset[:, None] + self.coarse)
        return near, self.around(torch.cat([coarse.flatten(1), seen.flatten(1)], -1))

    def _blur(self, x):
        """Running mean over the step of the coarse grid, one axis after the other; what lies outside counts as 0."""
        reach = round(self.config.surround_step / self.config.pixel_scale / 2)
        for axis in (-2, -1):
            padded = nn.functional.pad(x, (0, 0, reach, reach) if axis == -2 else (reach, reach))
            x = sum(padded.narrow(axis, i, x.shape[axis]) for i in range(2 * reach + 1)) / (2 * reach + 1)
        return x

    def _read(self, value, cover, galaxy, points):
        """Compressed brightness where it is covered, and the cover, each (F, C, G)."""
        scale = self.config.pixel_scale
        value, cover = (read_image(x, galaxy, points, scale) for x in (value, cover))
        return scale_brightness(value / cover.clamp(min=1e-3)) * (cover > 0.1), cover
