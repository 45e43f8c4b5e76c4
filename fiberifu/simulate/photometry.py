"""What a catalogue knows of a simulated galaxy: total fluxes, half-light radius, isophotal radius, fibre flux.

Measured on noiseless images, as the recipe's own numbers know nothing of arms, dust and neighbours.

Shapes: B galaxies, C = 4 bands g, r, i, z, H x W the simulator's grid.
"""

import math

import torch

from .galaxy import sky_grid
from .observe import aperture_patch, convolve

__all__ = ["Photometry"]

STEPS = 160  # elliptical annuli


class Photometry:
    """Photometry of the galaxies of a scene, in ellipses of the recipe's position angle and axis ratio.

    Parameters
    ----------
    simulator : Scenes
    scene : dict

    Attributes
    ----------
    flux : Tensor (B, 4)
        Total, nanomaggies, before the PSF and without what lies around a neighbour.
    half_light : Tensor (B,)
        Semi-major axis of the ellipse with half of the r light, arcsec.
    shape_r : Tensor (B,)
        The same for a circle, as SHAPE_R of the Tractor: half_light times the root of the axis ratio, arcsec.
    radius, surface : Tensor (STEPS,), (B, STEPS)
        Semi-major axes of annuli, arcsec, and r surface brightness in them, nanomaggies / arcsec2.
    """

    def __init__(self, simulator, scene):
        self.simulator, self.scene = simulator, scene
        g, pixel = scene["g"], simulator.config.pixel_scale
        n_map = scene["band"].shape[2]
        self.sharp = torch.einsum("bcj,bjyx->bcyx", scene["band"], scene["stack"][:, :n_map])  # per arcsec2
        east, north = sky_grid(simulator.grid, pixel, simulator.device)

        def col(name):
            return g[name][:, None, None]

        dx, dy = east - col("east"), north - col("north")
        major = dx * torch.cos(col("pa")) + dy * torch.sin(col("pa"))
        minor = (dy * torch.cos(col("pa")) - dx * torch.sin(col("pa"))) / col("axis_ratio")
        distance = torch.hypot(major, minor)
        away = torch.hypot(east - col("neighbour_east"), north - col("neighbour_north"))
        keep = ~(col("neighbour").bool() & (away < 1.5 + 3 * col("neighbour_size")))
        reach = simulator.grid / 2 * pixel
        # no ellipse beyond what lies on the grid along the major axis
        limit = torch.minimum(5 * g["re"] + 3, reach - torch.hypot(g["east"], g["north"]))
        edges = torch.linspace(0, 1, STEPS + 1, device=east.device)[1:] ** 1.5 * reach
        bin_of = torch.bucketize(distance, edges).clamp(max=STEPS)

        def total(value):
            out = torch.zeros(len(value), STEPS + 1, device=east.device)
            out.scatter_add_(1, bin_of.flatten(1), (value * keep).flatten(1))
            return out[:, :STEPS]

        count = total(torch.ones_like(distance))
        sums = torch.stack([total(self.sharp[:, c]) for c in range(4)], 1)
        self.radius = (edges + torch.cat([edges.new_zeros(1), edges[:-1]])) / 2
        mean = sums / count.clamp(min=1)[:, None]
        mean = _fill(mean, count > 0)
        self.surface = mean[:, 1]
        # annuli of full area, so that what a neighbour hides is made up
        full = math.pi * torch.diff(edges**2, prepend=edges.new_zeros(1)) * g["axis_ratio"][:, None]
        inside = (self.radius <= limit[:, None]).float()
        growth = (mean * (full * inside)[:, None]).cumsum(2)
        self.flux = growth[..., -1]
        share = growth[:, 1] / growth[:, 1, -1:].clamp(min=1e-12)
        at = torch.searchsorted(share.contiguous(), torch.full_like(share[:, :1], 0.5))[:, 0].clamp(max=STEPS - 1)
        self.half_light = edges[at]
        self.shape_r = self.half_light * g["axis_ratio"].sqrt()

    @property
    def r_mag(self):
        """Total r magnitude (B,)."""
        return 22.5 - 2.5 * torch.log10(self.flux[:, 1].clamp(min=1e-6))

    def isophotal_radius(self, magnitude=26.0):
        """Semi-major axis (B,) of the isophote of an r surface brightness, arcsec: R26 for 26 mag / arcsec2.

        The outermost crossing; where the grid ends before, the profile goes on as an exponential from its last two
        effective radii.
        """
        level = 10 ** (0.4 * (22.5 - magnitude))
        bright = self.surface > level
        last = (bright * torch.arange(STEPS, device=bright.device)).amax(1)
        inside = last < STEPS - 1
        r0, r1 = self.radius[last], self.radius[(last + 1).clamp(max=STEPS - 1)]
        s0, s1 = (self.surface.gather(1, k.clamp(max=STEPS - 1)[:, None])[:, 0] for k in (last, last + 1))
        part = (torch.log(s0 / level) / torch.log(s0 / s1.clamp(min=1e-9)).clamp(min=1e-3)).clamp(0, 1)
        # the fallback: slope over the outer half of the profile
        half = STEPS * 2 // 3
        slope = torch.log(self.surface[:, half] / self.surface[:, -1].clamp(min=1e-9)).clamp(min=1e-2)
        slope = slope / (self.radius[-1] - self.radius[half])
        beyond = self.radius[-1] + torch.log(self.surface[:, -1].clamp(min=level) / level) / slope
        return torch.where(inside, r0 + part * (r1 - r0), beyond)

    def fiber_flux(self, owner, offset, diameter=1.5, fwhm=1.0, band=1):
        """Flux in a fibre under Gaussian seeing (F,), nanomaggies: FIBERFLUX_R of the Legacy Surveys.

        Parameters
        ----------
        owner : Tensor (F,) of int64
        offset : Tensor (F, 2)
            East, north, arcsec.
        band : int
            0 to 3 for g, r, i, z.
        """
        k = self.simulator.k
        transfer = torch.exp(-2 * (math.pi * k * fwhm / 2.3548) ** 2)
        blurred = convolve(self.sharp[:, band], transfer)[owner].flatten(1)
        index, area = aperture_patch(offset, self.simulator.grid, self.simulator.config.pixel_scale, diameter)
        return (torch.gather(blurred, 1, index.flatten(1)) * area.flatten(1)).sum(1)


def _fill(mean, known):
    """Values of annuli without a pixel, from the next one outwards (only the innermost are that small)."""
    out = mean.clone()
    for step in range(mean.shape[2] - 2, -1, -1):
        out[:, :, step] = torch.where(known[:, None, step], out[:, :, step], out[:, :, step + 1])
    return out
