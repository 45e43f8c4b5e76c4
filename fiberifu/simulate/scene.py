"""What there is to see: `Scenes` draws galaxies and images, and turns apertures on them into spectra and truth.

Images, fibre spectra and truth are linear in the same component maps, so they agree exactly.

Shapes: B galaxies, F apertures, J component maps, C bands, L lines, K kinematic groups, P populations, G gas
components, D dust levels, H x W grid pixels, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from ..constants import C_KMS
from .galaxy import POPULATIONS, galaxy_maps, galaxy_spectra, galaxy_totals, sky_grid
from .gas import GAS_COMPONENTS, LINE_WAVELENGTH, LINES, SIDEBANDS, GasTables
from .grid import SpectralGrid
from .motion import FASTEST, GROUP_OF, GROUPS, gas_moments, group_moments
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
from .stars import TEMPLATE_SIGMA, Starlight, distance_factor

__all__ = ["Scenes", "SimConfig"]

# What the maps of a stack are: mass of stars, gas, the neighbour on the sky, then moments of velocity
_GAS = 2 * len(POPULATIONS)
_OTHER = _GAS + 2 * len(GAS_COMPONENTS)
_MOMENTS = _OTHER + 1
_LIGHT = _MOMENTS + 2 * len(GROUPS)
_HA, _HB = LINES.index("Ha"), LINES.index("Hb")
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
        self.sidebands = torch.as_tensor(sidebands, dtype=torch.float64, device=self.device)
        centre = sidebands.mean(2)
        part = (line_wave - centre[:, 0]) / (centre[:, 1] - centre[:, 0])
        self.side_part = torch.as_tensor(part, dtype=torch.float32, device=self.device)
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
            that are observed, and ``band`` (B, C, J') nanomaggies per unit of the first J' = 29 of them.
        """
        c = self.config
        d = Draws(seed, indices, self.device)
        g = self._draw(d)
        made = galaxy_spectra(g, self.stars, self.gas)
        maps = galaxy_maps(g, d, self.grid, c.pixel_scale)
        g |= galaxy_totals(maps["mass"], c.pixel_scale)
        z = g["redshift"]
        line = made["line"][:, :, None] * self.gas.transmission(made["gas_ebv"])[:, None]  # B, G, D, L
        made["line_out"] = line * distance_factor(z)[:, None, None, None]  # 1e-17 erg/s/cm2 per unit
        other, other_weights, other_band = self._neighbour(g)
        band = self._bands(self.stars, g, made, other_band)
        flat = torch.cat([maps["mass"].flatten(1, 2), maps["gas"].flatten(1, 2), other[:, None]], 1)
        # moments of velocity, weighted with H-alpha and with r light
        light = torch.einsum("bj,bjyx->byx", band[:, 1, :_GAS], flat[:, :_GAS])
        v = maps["velocity_star"]
        light = torch.stack([light, light * v, light * (v**2 + maps["variance_star"])], 1)
        moments = torch.cat([group_moments(maps, made["line_out"][..., _HA]), light], 1)
        made["other_weights"] = other_weights
        return {
            "d": d,
            "g": g,
            "maps": maps,
            "made": made,
            "band": band,
            "stack": torch.cat([flat, moments], 1),
        }

    def _bands(self, stars, g, made, other_band):
        """Photometry (B, C, J') of the components through the curves of ``stars``."""
        z = g["redshift"]
        stellar = stars.band_flux(z, made["weights"], made["ebv"])  # B, P, D, C
        through = stars.line_transmission(z, self.gas.wave)
        nebular = torch.einsum("bgdl,bcl->bgdc", made["line_out"], through)
        # hydrogen that makes lines makes a continuum too, in proportion to H-beta before dust
        free = stars.nebular_flux(z, made["gas_ebv"])
        nebular = nebular + made["line"][..., _HB, None, None] * free[:, None]
        return torch.cat([stellar.flatten(1, 2), nebular.flatten(1, 2), other_band[:, None]], 1).transpose(1, 2)

    def band_through(self, scene, curves):
        """Photometry of a scene's components through other filters.

        Parameters
        ----------
        scene : dict
        curves : sequence of (ndarray, ndarray)
            Wavelengths in Angstrom and transmission of each.

        Returns
        -------
        Tensor (B, C, J')
            As ``scene["band"]``, which is for the bands of the template pack.
        """
        stars, g, made = self.stars.through(curves), scene["g"], scene["made"]
        z = g["neighbour_z"].clamp(min=_STAR_Z)
        other = stars.band_flux(z, made["other_weights"][:, None], torch.zeros_like(z)[:, None])[:, 0, 0]
        return self._bands(stars, g, made, other)

    def _draw(self, d):
        """Parameters of the galaxies; `fiberifu.simulate.Galaxy` changes some of them."""
        return draw_galaxies(d, jitter=self.config.jitter)

    def _neighbour(self, g):
        """A star, which is a point, or a round background galaxy on the same stamp.

        Both have the spectrum of one stellar population without dust; the star is an old one at 30 km/s, which stands
        for K and G stars. The galaxy is a Gaussian.
        """
        z = g["neighbour_z"].clamp(min=_STAR_Z)
        weights = self.stars.weights(g["neighbour_age"], torch.full_like(z, 0.1), g["neighbour_metal"])
        band = self.stars.band_flux(z, weights[:, None], torch.zeros_like(z)[:, None])[:, 0, 0]
        # one unit of the map is the mass that gives one nanomaggy in r; the map carries the flux
        weights, band = weights / band[:, 1:2], band / band[:, 1:2]
        east, north = sky_grid(self.grid, self.config.pixel_scale, self.device)
        east, north = (a - g[name][:, None, None] for a, name in ((east, "neighbour_east"), (north, "neighbour_north")))
        size = g["neighbour_size"][:, None, None].clamp(min=0.2)
        shape = torch.exp(-0.5 * (east**2 + north**2) / size**2) / (2 * math.pi * size**2)
        # a star is a point, shared among the four pixels around it so that its centre is where it should be
        pixel = self.config.pixel_scale
        point = (1 - east.abs() / pixel).clamp(min=0) * (1 - north.abs() / pixel).clamp(min=0) / pixel**2
        shape = torch.where(g["neighbour_is_star"][:, None, None], point, shape)
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
            flux (F, N) with lines, and what `truth` returns.
        """
        grid = self.desi if grid is None else grid
        truth = self.truth(scene, owner, amount)
        made, g = scene["made"], scene["g"]
        mass, gas = self._parts(amount)
        ssp = torch.einsum("fpd,fps->fds", mass, made["weights"][owner])
        # the instrument adds to the stars' width, the templates have their own of that: what is left is broadened
        extra = (truth["sigma_star"] ** 2 - TEMPLATE_SIGMA**2 + grid.stellar_lsf**2).clamp(min=0).sqrt()
        hbeta = torch.einsum("fgd,fg->fd", gas, made["line"][owner][..., _HB])
        rest = self.stars.spectrum(ssp, made["ebv"][owner], extra, hbeta, made["gas_ebv"][owner])
        flux = self.stars.render(rest, g["redshift"][owner], self._shift(grid, truth["velocity_star"]))
        touched = torch.nonzero(amount[:, _OTHER] > 1e-5 * amount[:, _LIGHT].clamp(min=1e-12))[:, 0]
        if len(touched):
            who = owner[touched]
            rest = (made["other_weights"][who] * amount[touched, _OTHER : _OTHER + 1]) @ self.stars.ssp
            flux[touched] += self.stars.render(rest, g["neighbour_z"][who].clamp(min=_STAR_Z), grid.edges)
        # every group of gas has its own velocity and width
        component = torch.einsum("fgd,fgdl->fgl", gas, made["line_out"][owner]).clamp(min=0)
        for k in range(len(GROUPS)):
            line = sum(component[:, i] for i, group in enumerate(GROUP_OF) if group == k)
            if (line > 0).any():
                red = (1 + g["redshift"][owner]) * (1 + truth["group_velocity"][:, k] / C_KMS) - 1
                add_lines(flux, line, self.gas.wave, red, truth["group_sigma"][:, k], grid)
        return truth | {"flux": flux}

    def _other_continuum(self, g, weights):
        """Pseudo-continua (B, L) of the neighbour at the galaxy's lines, per unit of its map; as `pseudo_continuum`."""
        z, out = g["redshift"], torch.zeros(len(weights), len(LINES), device=self.device)
        who = torch.nonzero(g["neighbour"])[:, 0]
        if len(who):
            edges = self.sidebands.flatten() * (1 + z[who].double()[:, None])
            rest = weights[who] @ self.stars.ssp
            light = self.stars.render(rest, g["neighbour_z"][who].clamp(min=_STAR_Z), edges)[:, ::2].unflatten(
                1, (-1, 2)
            )
            out[who] = torch.lerp(light[..., 0], light[..., 1], self.side_part) * (1 + z[who, None])
        return out

    @staticmethod
    def _parts(amount):
        """Integrals of the stellar masses (F, P, D) and of the gas (F, G, D)."""
        return amount[:, :_GAS].unflatten(1, (-1, 2)), amount[:, _GAS:_OTHER].unflatten(1, (-1, 2))

    @staticmethod
    def _shift(grid, velocity):
        """Pixel edges as seen from starlight that moves with ``velocity`` (F,) km/s within the galaxy."""
        return grid.edges[None] / (1 + velocity.double()[:, None] / C_KMS)

    def truth(self, scene, owner, amount):
        """Lines, equivalent widths, photometry and kinematics of apertures; parameters as for `spectra`.

        Returns
        -------
        dict
            line_flux, line_ew (F, L), the latter of the continuum of all that is in the aperture, neighbours too;
            redshift, velocity, sigma (F,) of the gas: moments of the whole H-alpha line; velocity_star, sigma_star
            (F,), weighted with r light; stellar_limited (F,) bool, where sigma_star is below the templates' own width
            (`TEMPLATE_SIGMA`), so that spectra may show broader stars than the truth; group_velocity, group_sigma,
            ha_share (F, K): the Gaussians of which the lines consist, by kinematic group (`GROUPS`), and their shares
            of H-alpha; band (F, C) nanomaggies of the full spectrum. Velocities in km/s.
        """
        made, g = scene["made"], scene["g"]
        z = g["redshift"]
        mass, gas = self._parts(amount)
        component = torch.einsum("fgd,fgdl->fgl", gas, made["line_out"][owner]).clamp(min=0)
        line = component.sum(1)
        if "pseudo" not in made:
            made["pseudo"] = self.stars.pseudo_continuum(z, made["weights"], made["ebv"])
            made["pseudo_nebular"] = self.stars.nebular_pseudo(z, made["gas_ebv"])
            made["pseudo_other"] = self._other_continuum(g, made["other_weights"])
        continuum = torch.einsum("fpd,fpdl->fl", mass, made["pseudo"][owner])
        hbeta = torch.einsum("fgd,fg->fd", gas, made["line"][owner][..., _HB])
        continuum = continuum + torch.einsum("fd,fdl->fl", hbeta, made["pseudo_nebular"][owner])
        continuum = continuum + amount[:, _OTHER, None] * made["pseudo_other"][owner]
        ha = component[..., _HA]
        ha = torch.cat([ha[:, :3].sum(1, keepdim=True), ha[:, 3:]], 1)
        first, second = amount[:, _MOMENTS:_LIGHT].unflatten(1, (2, -1)).unbind(1)
        group_velocity, group_sigma, velocity, sigma, share = gas_moments(ha, first, second)
        tiny = 1e-12
        light, lightv, lightv2 = (amount[:, _LIGHT + i] for i in range(3))
        # beyond the light there is rounding alone, and its moments are anything
        velocity_star = (lightv / light.clamp(min=tiny)).clamp(-FASTEST, FASTEST)
        sigma_star = torch.sqrt((lightv2 / light.clamp(min=tiny) - velocity_star**2).clamp(100.0, FASTEST**2))
        return {
            "line_flux": line,
            "line_ew": line / continuum.clamp(min=tiny),
            "redshift": (1 + z[owner]) * (1 + velocity / C_KMS) - 1,
            "velocity": velocity,
            "velocity_star": velocity_star,
            "sigma": sigma,
            "sigma_star": sigma_star,
            "stellar_limited": sigma_star < TEMPLATE_SIGMA,
            "group_velocity": group_velocity,
            "group_sigma": group_sigma,
            "ha_share": share,
            "band": torch.einsum("fcj,fj->fc", scene["band"][owner], amount[:, :_MOMENTS]),
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
