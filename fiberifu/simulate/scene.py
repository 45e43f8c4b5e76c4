"""What there is to see: `Scenes` draws galaxies and images, and turns apertures on them into spectra and truth.

Images, fibre spectra and truth are linear in the same component maps, so they agree exactly.

Shapes: B galaxies, F apertures, J component maps, C bands, L lines, H x W grid pixels, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from ..constants import C_KMS
from .galaxy import POPULATIONS, galaxy_maps, galaxy_spectra, sky_grid
from .gas import GAS_COMPONENTS, LINE_WAVELENGTH, LINES, SIDEBANDS, GasTables
from .grid import SpectralGrid
from .observe import (
    ELECTRONS,
    PIXEL_SIGMA,
    PSF_FWHM,
    add_lines,
    band_weights,
    convolve,
    frequencies,
    image_noise,
    moffat_transfer,
)
from .recipe import Draws, draw_galaxies
from .stars import Starlight, distance_factor

__all__ = ["Scenes", "SimConfig"]

_STAR_Z = 1e-4  # gives a foreground star a finite distance; 30 km/s
PLACEMENTS = ("desi", "uniform", "central")


@dataclasses.dataclass(frozen=True)
class SimConfig:
    """Settings of a simulated survey.

    Parameters
    ----------
    placement : {'desi', 'uniform', 'central'}
        'desi': 85 % of fibres on the light peak, 10 % on a bright clump (shredded hosts), 5 % on the major
        axis at a third of R26 (peculiar-velocity targets). 'uniform': over the disc within 1.5 effective
        radii.
    pair_fraction : float
        Share of galaxies with a second fibre, anywhere within 1.5 effective radii.
    stamp, margin : int
        Pixels on a side of the image, and pixels around it that exist only inside the simulator.
    pixel_scale, aperture, jitter : float
        arcsec: pixel, fibre diameter, largest offset of the galaxy from the stamp's centre.
    noise : bool
        False leaves out every noise, mask and missing band (for tests and for truth).
    """

    placement: str = "desi"
    pair_fraction: float = 0.1
    stamp: int = 128
    margin: int = 16
    pixel_scale: float = 0.262
    aperture: float = 1.5
    jitter: float = 6.0
    noise: bool = True

    def __post_init__(self):
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement: got {self.placement!r}, use one of {PLACEMENTS}")
        if not 0 <= self.pair_fraction <= 1:
            raise ValueError(f"pair_fraction: got {self.pair_fraction}, a share between 0 and 1 is needed")


class Scenes:
    """Galaxies before anybody looks: component maps, noiseless and noisy images, spectra of any aperture.

    Parameters
    ----------
    pack : dict
        Template pack, see `load_template_pack`.
    config : SimConfig
    device : str or `torch.device`
    """

    def __init__(self, pack, config=None, device="cpu"):
        self.config = SimConfig() if config is None else config
        self.device = torch.device(device)
        sidebands = np.array([SIDEBANDS[line] for line in LINES])
        line_wave = np.array([LINE_WAVELENGTH[line] for line in LINES])
        self.stars = Starlight(pack, sidebands, line_wave, self.device)
        self.gas = GasTables(pack, self.device)
        wave = np.asarray(pack["desi_wave"], dtype=np.float64)

        def tensor(a):
            return torch.as_tensor(np.asarray(a), dtype=torch.float32, device=self.device)

        self.wave = tensor(wave)
        self.desi = SpectralGrid.desi(self.device)
        self.throughput, self.sky = tensor(pack["desi_throughput"]), tensor(pack["sky_dark"])
        curves = [pack[f"band_{b}"] for b in self.stars.bands]
        self.curves = tensor(band_weights(wave, np.asarray(pack["band_wave"]), curves))
        self.grid = self.config.stamp + 2 * self.config.margin
        self.k = frequencies(self.grid, self.config.pixel_scale, self.device)

    # --- a scene: galaxies before any noise

    def scene(self, seed, indices):
        """Galaxies ``indices`` of ``seed``: parameters, component maps, composition and photometry.

        Returns
        -------
        dict
            d (Draws), g (parameters), maps, made (see `galaxy_spectra`), ``stack`` (B, J, H, W): the maps
            that are observed, and ``band`` (B, C, J') nanomaggies per unit of the first J' = 25 of them.
        """
        c = self.config
        d = Draws(seed, indices, self.device)
        g = self._draw(d)
        made = galaxy_spectra(g, self.stars, self.gas)
        maps = galaxy_maps(g, d, self.grid, c.pixel_scale)
        z = g["redshift"]
        stellar = self.stars.band_flux(z, made["weights"], made["ebv"])  # B, P, D, C
        line = made["line"][:, :, None] * self.gas.transmission(made["gas_ebv"])[:, None]  # B, G, D, L
        made["line_out"] = line * distance_factor(z)[:, None, None, None]  # 1e-17 erg/s/cm2 per unit
        through = self.stars.line_transmission(z, self.gas.wave)
        nebular = torch.einsum("bgdl,bcl->bgdc", made["line_out"], through)
        other, other_weights, other_band = self._neighbour(g)
        band = torch.cat([stellar.flatten(1, 2), nebular.flatten(1, 2), other_band[:, None]], 1).transpose(1, 2)
        flat = torch.cat([maps["mass"].flatten(1, 2), maps["gas"].flatten(1, 2), other[:, None]], 1)
        # moments of velocity, weighted with H-alpha and with r light
        ha = torch.einsum("bj,bjyx->byx", made["line_out"].flatten(1, 2)[..., LINES.index("Ha")], flat[:, 12:24])
        light = torch.einsum("bj,bjyx->byx", band[:, 1, :12], flat[:, :12])
        v = maps["velocity"]
        moments = torch.stack([ha, ha * v, ha * v**2, light, light * v, light * v**2], 1)
        made["other_weights"] = other_weights
        return {
            "d": d,
            "g": g,
            "maps": maps,
            "made": made,
            "band": band,
            "stack": torch.cat([flat, moments], 1),
        }

    def _draw(self, d):
        """Parameters of the galaxies; `fiberifu.simulate.Galaxy` changes some of them."""
        return draw_galaxies(d, jitter=self.config.jitter)

    def _neighbour(self, g):
        """A star or a background galaxy of one stellar population on the same stamp."""
        z = g["neighbour_z"].clamp(min=_STAR_Z)
        weights = self.stars.weights(g["neighbour_age"], torch.full_like(z, 0.1), g["neighbour_metal"])
        band = self.stars.band_flux(z, weights[:, None], torch.zeros_like(z)[:, None])[:, 0, 0]
        # one unit of the map is the mass that gives one nanomaggy in r; the map carries the flux
        weights, band = weights / band[:, 1:2], band / band[:, 1:2]
        east, north = sky_grid(self.grid, self.config.pixel_scale, self.device)
        r2 = (east - g["neighbour_east"][:, None, None]) ** 2 + (north - g["neighbour_north"][:, None, None]) ** 2
        size = torch.hypot(g["neighbour_size"], torch.full_like(z, 0.2))[:, None, None]
        shape = torch.exp(-0.5 * r2 / size**2) / (2 * math.pi * size**2)
        flux = 10 ** (0.4 * (22.5 - g["neighbour_r"])) * g["neighbour"]
        return shape * flux[:, None, None], weights, band

    # --- light to spectra

    def spectra(self, scene, owner, amount, grid=None):
        """Noiseless spectra and truth of apertures from the integrals of the component maps.

        Parameters
        ----------
        scene : dict
        owner : Tensor (F,) of int64
            Galaxy of each aperture.
        amount : Tensor (F, J)
            Integral of each map of ``scene["stack"]`` under the aperture's kernel.
        grid : SpectralGrid, optional
            Pixels and resolution of the spectrograph; DESI's by default.

        Returns
        -------
        dict
            flux (F, N) with lines; line_flux, line_ew (F, L); redshift (F,) of the gas in the aperture; sigma
            (F,) of the lines, km/s; band (F, C) nanomaggies of the full spectrum.
        """
        grid = self.desi if grid is None else grid
        truth = self.truth(scene, owner, amount)
        made, g = scene["made"], scene["g"]
        mass = amount[:, :12].unflatten(1, (6, 2))
        ssp = torch.einsum("fpd,fps->fds", mass, made["weights"][owner])
        # templates have 70 km/s of their own, the instrument adds to the stars': what is left is broadened
        extra = (truth["sigma_star"] ** 2 - 70.0**2 + grid.stellar_lsf**2).clamp(min=0).sqrt()
        rest = self.stars.spectrum(ssp, made["ebv"][owner], extra)
        flux = self.stars.render(rest, g["redshift"][owner], self._shift(grid, truth["velocity_star"]))
        touched = torch.nonzero(amount[:, 24] > 1e-5 * amount[:, 28].clamp(min=1e-12))[:, 0]
        if len(touched):
            who = owner[touched]
            rest = (made["other_weights"][who] * amount[touched, 24:25]) @ self.stars.ssp
            flux[touched] += self.stars.render(rest, g["neighbour_z"][who].clamp(min=_STAR_Z), grid.edges)
        add_lines(flux, truth["line_flux"], self.gas.wave, truth["redshift"], truth["sigma"], grid)
        return truth | {"flux": flux}

    @staticmethod
    def _shift(grid, velocity):
        """Pixel edges as seen from starlight that moves with ``velocity`` (F,) km/s within the galaxy."""
        return grid.edges[None] / (1 + velocity.double()[:, None] / C_KMS)

    def truth(self, scene, owner, amount):
        """Lines, equivalent widths, photometry and kinematics of apertures; see `spectra`."""
        made, g = scene["made"], scene["g"]
        z = g["redshift"]
        mass, gas = amount[:, :12].unflatten(1, (6, 2)), amount[:, 12:24].unflatten(1, (6, 2))
        line = torch.einsum("fgd,fgdl->fl", gas, made["line_out"][owner]).clamp(min=0)
        if "pseudo" not in made:
            made["pseudo"] = self.stars.pseudo_continuum(z, made["weights"], made["ebv"])
        continuum = torch.einsum("fpd,fpdl->fl", mass, made["pseudo"][owner])
        ha, hav, hav2, light, lightv, lightv2 = amount[:, 25:31].unbind(1)
        tiny = 1e-12
        velocity, velocity_star = hav / ha.clamp(min=tiny), 0.9 * lightv / light.clamp(min=tiny)
        spread = (hav2 / ha.clamp(min=tiny) - velocity**2).clamp(min=0)
        spread_star = 0.81 * (lightv2 / light.clamp(min=tiny) - (lightv / light.clamp(min=tiny)) ** 2).clamp(min=0)
        share = gas.sum(2) * made["line"][owner][..., LINES.index("Ha")]
        share = share / share.sum(1, keepdim=True).clamp(min=tiny)
        intrinsic = (share * made["sigma"][owner] ** 2).sum(1)
        return {
            "line_flux": line,
            "line_ew": line / continuum.clamp(min=tiny),
            "redshift": (1 + z[owner]) * (1 + velocity / C_KMS) - 1,
            "velocity": velocity,
            "velocity_star": velocity_star,
            "sigma": torch.sqrt(intrinsic + spread),
            "sigma_star": torch.sqrt(g["sigma_star"][owner] ** 2 + spread_star),
            "band": torch.einsum("fcj,fj->fc", scene["band"][owner], amount[:, :25]),
        }

    def _integrate(self, stack, owner, kernel):
        """Integrals (F, M, J) of the maps under kernels (F, M, H, W); fibre i < B is of galaxy i."""
        n = len(stack)
        maps, kernel = stack.flatten(2), kernel.flatten(2)
        first = torch.bmm(kernel[:n], maps.transpose(1, 2))
        if len(kernel) == n:
            return first
        return torch.cat([first, torch.bmm(kernel[n:], maps[owner[n:]].transpose(1, 2))])

    # --- images

    def _imager(self, d):
        """Which bands, which PSFs, how deep: (B, C) each, and the common PSF (B,)."""
        n, c = len(d.indices), 4
        present = torch.stack([d.uniform() < p for p in (0.96, 0.96, 0.40, 0.96)], 1)
        fwhm = torch.stack([d.normal(m, 0.15, 2.5) for m in PSF_FWHM], 1) + 0.08 * d.normal()[:, None]
        depth = 10 ** (0.4 * (d.normal(0, 0.3)[:, None] + torch.stack([d.normal(0, 0.25) for _ in range(c)], 1)))
        if not self.config.noise:
            present = torch.ones(n, c, dtype=torch.bool, device=self.device)
        present[:, 1] |= ~present.any(1)
        fwhm = fwhm.clamp(0.8, 2.2)
        common = torch.where(present, fwhm, 0.0).amax(1)
        return present, fwhm, depth, common

    def _images(self, scene, common, crop=True):
        """Noiseless images (B, C, S, S) at the common PSF, nanomaggy / arcsec2."""
        n_map = scene["band"].shape[2]
        sharp = torch.bmm(scene["band"], scene["stack"][:, :n_map].flatten(2)).unflatten(2, (self.grid, self.grid))
        blurred = convolve(sharp, moffat_transfer(self.k, common[:, None, None, None]))
        m = self.config.margin
        return blurred[..., m:-m, m:-m].contiguous() if crop and m else blurred

    def _observe_images(self, scene, imager):
        present, fwhm, depth, common = imager
        d, c = scene["d"], self.config
        signal = self._images(scene, common)
        electrons = torch.tensor(ELECTRONS, device=self.device)
        sky = torch.tensor(PIXEL_SIGMA, device=self.device) / depth
        pedestal = torch.stack([d.normal(0, 0.08) for _ in range(4)], 1) * sky / c.pixel_scale**2
        column = [d.uniform(), d.uniform(), d.uniform(), d.uniform()]
        white = d.noise(4, c.stamp, c.stamp)
        noise, sigma = image_noise(signal, white, fwhm, common, sky, c.pixel_scale, electrons)
        image = signal + noise + pedestal[..., None, None] if c.noise else signal
        bad = ~present[:, :, None, None].expand_as(image)
        if c.noise:
            # one galaxy in eight loses a few columns of one band, one in ten a small disc in all
            x = torch.arange(c.stamp, device=self.device)
            hit = (x - (column[0] * 8 * c.stamp)[:, None]).abs() < 1.6
            which = torch.arange(4, device=self.device) == (column[1] * 4).long()[:, None]
            bad = bad | (which[:, :, None, None] & hit[:, None, None])
            u, v = column[2] * 10 * c.stamp, column[3] * c.stamp
            disc = (x - u[:, None])[:, None] ** 2 + (x - v[:, None])[:, :, None] ** 2 < 9
            bad = bad | disc[:, None]
        return image.masked_fill(bad, 0.0), sigma.masked_fill(bad, torch.inf), signal


assert len(POPULATIONS) == len(GAS_COMPONENTS) == 6  # 12 + 12 maps
