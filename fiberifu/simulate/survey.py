"""Who is observed where: `Simulator` draws galaxies, images them and puts fibres on them, in batches.

Images, fibre spectra and truth are linear in the same component maps, so they agree exactly.

Shapes: B galaxies, F fibres, J component maps, C bands, L lines, H x W grid pixels, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from .galaxy import POPULATIONS, galaxy_maps, galaxy_spectra, sky_grid
from .gas import GAS_COMPONENTS, LINE_WAVELENGTH, LINES, SIDEBANDS, GasTables
from .observe import (
    ELECTRONS,
    PIXEL_SIGMA,
    PSF_FWHM,
    add_lines,
    aperture_patch,
    aperture_photometry,
    band_weights,
    convolve,
    encircled_energy,
    fiber_kernel,
    frequencies,
    image_noise,
    moffat_transfer,
    reanchor,
    spectrum_sigma,
)
from .recipe import Draws, draw_galaxies
from .stars import C_KMS, Starlight, distance_factor

__all__ = ["SimConfig", "Simulator"]

_STAR_Z = 1e-4  # gives a foreground star a finite distance; 30 km/s
PLACEMENTS = ("desi", "uniform", "central")
STRATA = (
    "quenched",
    "post_starburst",
    "green",
    "agn",
    "outflow",
    "off_centre_hii",
    "decoupled",
    "ring",
    "edge_on",
    "neighbour",
    "spheroid",
)


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


class Simulator:
    """Simulated galaxies, their images, fibre spectra and truth.

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
        self.edges = torch.as_tensor(np.append(wave - 0.4, wave[-1] + 0.4), device=self.device)
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
        g = draw_galaxies(d, jitter=c.jitter)
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

    def spectra(self, scene, owner, amount):
        """Noiseless spectra and truth of apertures from the integrals of the component maps.

        Parameters
        ----------
        scene : dict
        owner : Tensor (F,) of int64
            Galaxy of each aperture.
        amount : Tensor (F, J)
            Integral of each map of ``scene["stack"]`` under the aperture's kernel.

        Returns
        -------
        dict
            flux (F, N) with lines; line_flux, line_ew (F, L); redshift (F,) of the gas in the aperture; sigma
            (F,) of the lines, km/s; band (F, C) nanomaggies of the full spectrum.
        """
        truth = self.truth(scene, owner, amount)
        made, g = scene["made"], scene["g"]
        mass = amount[:, :12].unflatten(1, (6, 2))
        ssp = torch.einsum("fpd,fps->fds", mass, made["weights"][owner])
        # templates have 70 km/s of their own, DESI would add 55: what is left is broadened
        extra = (truth["sigma_star"] ** 2 - 70.0**2 + 55.0**2).clamp(min=0).sqrt()
        rest = self.stars.spectrum(ssp, made["ebv"][owner], extra)
        flux = self.stars.render(rest, g["redshift"][owner], self._shift(truth["velocity_star"]))
        touched = torch.nonzero(amount[:, 24] > 1e-5 * amount[:, 28].clamp(min=1e-12))[:, 0]
        if len(touched):
            who = owner[touched]
            rest = (made["other_weights"][who] * amount[touched, 24:25]) @ self.stars.ssp
            flux[touched] += self.stars.render(rest, g["neighbour_z"][who].clamp(min=_STAR_Z), self.edges)
        add_lines(flux, truth["line_flux"], self.gas.wave, truth["redshift"], truth["sigma"])
        return truth | {"flux": flux}

    def _shift(self, velocity):
        """Pixel edges as seen from starlight that moves with ``velocity`` (F,) km/s within the galaxy."""
        return self.edges[None] / (1 + velocity.double()[:, None] / C_KMS)

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

    # --- fibres

    def _place(self, scene):
        """Positions of the first fibre of every galaxy and of a second one (B, 2), and who has it (B,)."""
        d, g, maps = scene["d"], scene["g"], scene["maps"]
        kind, angle, radius = d.uniform(), d.uniform(0, 2 * math.pi), d.uniform()
        near = torch.stack([d.normal(0, 0.14), d.normal(0, 0.14)], 1)
        has_second, angle2, radius2 = (
            d.uniform() < self.config.pair_fraction,
            d.uniform(0, 2 * math.pi),
            d.uniform(),
        )
        centre = torch.stack([g["east"], g["north"]], 1)

        def on_disc(phi, r):
            u, v = r * g["re"] * torch.cos(phi), r * g["re"] * g["axis_ratio"] * torch.sin(phi)
            cos, sin = torch.cos(g["pa"]), torch.sin(g["pa"])
            return centre + torch.stack([u * cos - v * sin, u * sin + v * cos], 1)

        anywhere = on_disc(angle, 1.5 * radius.sqrt())
        second = on_disc(angle2, 1.5 * radius2.sqrt())
        if self.config.placement == "uniform":
            first = anywhere
        else:
            first = centre + near
            if self.config.placement == "desi":
                best = maps["clump_light"].argmax(1, keepdim=True)
                clump = torch.cat([maps["clump_east"].gather(1, best), maps["clump_north"].gather(1, best)], 1)
                # R26 is about 2.3 effective radii for a disc of typical surface brightness
                major = on_disc(torch.where(angle > math.pi, math.pi, 0.0), torch.full_like(angle, 0.33 * 2.3))
                first = torch.where((kind > 0.85)[:, None], clump + near, first)
                first = torch.where((kind > 0.95)[:, None], major, first)
        reach = (self.config.stamp / 2 - 5) * self.config.pixel_scale
        return first.clamp(-reach, reach), second.clamp(-reach, reach), has_second

    @staticmethod
    def _fiber_settings(d):
        """Conditions of the first and the second fibre of every galaxy, pairs of (B,) or (B, 2)."""

        def pair(draw):
            return draw(), draw()

        return {
            "seeing": pair(lambda: torch.exp(d.normal(math.log(1.12), 0.17)).clamp(0.8, 1.8)),
            "miss": pair(lambda: torch.stack([d.normal(0, 0.1), d.normal(0, 0.1)], 1)),  # positioner, arcsec
            "seconds": pair(lambda: (220 * 10 ** d.normal(0, 0.32)).clamp(100, 3000)),  # bright survey and deeper
            "sigma_z": pair(lambda: 10 ** d.normal(-4.17, 0.15)),  # 20 km/s
            "jitter": pair(lambda: d.normal()),
            "sky_error": pair(lambda: d.normal(0, 0.003)),
        }

    def batch(self, n, seed, start=0):
        """Images and fibre spectra of ``n`` galaxies.

        Parameters
        ----------
        n : int
        seed : int
        start : int
            Number of the first galaxy: galaxy i of a seed is the same whatever the batch (to float32
            rounding).

        Returns
        -------
        dict of Tensor
            image, sigma (B, 4, S, S), nanomaggy/arcsec2; present (B, 4); psf_fwhm (B,); fiber_galaxy (F,);
            fiber_offset (F, 2) arcsec east, north; fiber_redshift, sigma_z (F,); flux, ivar (F, N) re-
            anchored to the image; truth: a dict of per-galaxy and per-fibre quantities that training must not
            see.
        """
        c = self.config
        scene = self.scene(seed, range(start, start + n))
        d, g = scene["d"], scene["g"]
        imager = self._imager(d)
        present, _, _, common = imager
        first, second, has_second = self._place(scene)
        extra = torch.nonzero(has_second)[:, 0]
        owner = torch.cat([torch.arange(n, device=self.device), extra])
        offset = torch.cat([first, second[extra]])

        def both(a, b):
            return torch.cat([a, b[extra]])

        draw = {key: both(*pair) for key, pair in self._fiber_settings(d).items()}
        seeing, seconds, sigma_z, jitter = draw["seeing"], draw["seconds"], draw["sigma_z"], draw["jitter"]
        image, sigma, _ = self._observe_images(scene, imager)
        noise = d.noise(2, len(self.wave))
        noise = torch.cat([noise[:, 0], noise[extra, 1]])

        # through the fibre at its seeing, where it really was; and the truth, where it was meant to be
        miss = draw["miss"] * c.noise
        transfers = torch.stack([moffat_transfer(self.k, fwhm[:, None, None]) for fwhm in (seeing, common[owner])], 1)
        kernel = fiber_kernel(torch.stack([offset + miss, offset], 1), self.grid, c.pixel_scale, transfers, c.aperture)
        amount = self._integrate(scene["stack"], owner, kernel)
        seen = self.spectra(scene, owner, amount[:, 0])
        truth = self.truth(scene, owner, amount[:, 1])

        blur = seeing[:, None] * (self.wave / 6500.0) ** -0.2
        caught = encircled_energy(c.aperture / 2, blur)
        error = spectrum_sigma(seen["flux"], self.wave, self.throughput, self.sky, blur, seconds)
        flux = seen["flux"] / caught
        if c.noise:
            sky = self.sky * (math.pi / 4 * c.aperture**2) / caught
            flux = flux + error * noise + draw["sky_error"][:, None] * sky
        aperture, aperture_sigma = aperture_photometry(image[owner], sigma[owner], offset, c.pixel_scale, c.aperture)
        flux, ivar, _ = reanchor(flux, error**-2, self.wave, self.curves, aperture, aperture_sigma)

        keep = ("redshift", "log_mass", "log_sfr", "inclination", "axis_ratio", "pa", "east", "north", "ebv")
        record = {key: g[key] for key in (*keep, *STRATA)} | {"re_arcsec": g["re"]}
        record |= {key: truth[key] for key in ("line_flux", "line_ew", "velocity", "sigma", "band")}
        record |= {
            "fiber_redshift": seen["redshift"],
            "fiber_velocity": seen["velocity"],
            "fiber_sigma": seen["sigma"],
        }
        record["fiber_radius"] = self._radius(g, owner, offset)
        return {
            "image": image,
            "sigma": sigma,
            "present": present,
            "psf_fwhm": common,
            "fiber_galaxy": owner,
            "fiber_offset": offset,
            "fiber_redshift": seen["redshift"] + sigma_z * jitter * (1 + seen["redshift"]) * c.noise,
            "sigma_z": sigma_z * (1 + seen["redshift"]),
            "flux": flux,
            "ivar": ivar,
            "truth": record,
        }

    @staticmethod
    def _radius(g, owner, offset):
        """Deprojected distance from the centre in effective radii."""
        dx, dy = offset[:, 0] - g["east"][owner], offset[:, 1] - g["north"][owner]
        cos, sin = torch.cos(g["pa"])[owner], torch.sin(g["pa"])[owner]
        major, minor = dx * cos + dy * sin, (dy * cos - dx * sin) / g["axis_ratio"][owner]
        return torch.hypot(major, minor) / g["re"][owner]

    # --- truth on a grid

    def _truth_scene(self, seed, index):
        scene = self.scene(seed, [index])
        return scene, self._imager(scene["d"])

    def _positions(self, g, spaxel, size):
        n = round(size / spaxel)
        axis = (torch.arange(n, device=self.device) - (n - 1) / 2) * spaxel
        north, east = torch.meshgrid(axis, axis, indexing="ij")
        return east + g["east"][0], north + g["north"][0]

    def _under(self, stack, transfer, east, north, diameter, square=False):
        """Integrals (n, J) of the maps of one galaxy, seen through a PSF, under apertures anywhere."""
        blurred = convolve(stack[0], transfer).flatten(1)
        offset = torch.stack([east.flatten(), north.flatten()], 1)
        index, area = aperture_patch(offset, self.grid, self.config.pixel_scale, diameter, square=square)
        return torch.einsum("jfp,fp->fj", blurred[:, index.flatten(1)], area.flatten(1))

    def truth_maps(self, seed, index, *, spaxel=0.5, size=20.0, psf_fwhm=None):
        """Truth on a grid around one galaxy, with the image that a network would be given.

        Parameters
        ----------
        seed, index : int
            Galaxy ``index`` of ``seed``, as in `batch`.
        spaxel, size : float
            arcsec; ``round(size / spaxel)`` spaxels on a side, centred on the galaxy.
        psf_fwhm : float, optional
            Another PSF than the image's common one.

        Returns
        -------
        dict
            east, north (ny, nx) from the stamp's centre, and radius in effective radii; line_flux, line_ew
            (ny, nx, 15), band (ny, nx, 4), velocity, sigma (ny, nx): in the fibre's aperture at the common
            PSF around every position (they overlap: never sum them); spaxel_line_flux (ny, nx, 15),
            spaxel_band (ny, nx, 4), spaxel_line_ew: in the spaxel itself, at the PSF; image, sigma_image,
            present, psf_fwhm, redshift, galaxy (parameters).
        """
        scene, imager = self._truth_scene(seed, index)
        present, _, _, common = imager
        (
            self._place(scene),
            self._fiber_settings(scene["d"]),
        )  # keep the order of random numbers: the image of `batch`
        image, sigma, _ = self._observe_images(scene, imager)
        g = scene["g"]
        east, north = self._positions(g, spaxel, size)
        fwhm = common[0] if psf_fwhm is None else torch.tensor(float(psf_fwhm), device=self.device)
        transfer = moffat_transfer(self.k, fwhm)
        owner = torch.zeros(east.numel(), dtype=torch.int64, device=self.device)
        out = {"east": east, "north": north}
        shape = east.shape
        for prefix, side, square in (("", self.config.aperture, False), ("spaxel_", spaxel, True)):
            truth = self.truth(scene, owner, self._under(scene["stack"], transfer, east, north, side, square))
            keys = ("line_flux", "line_ew", "band") + (() if square else ("velocity", "sigma", "redshift"))
            out |= {prefix + key: truth[key].unflatten(0, shape) for key in keys}
        out["fiber_redshift"] = out.pop("redshift")
        offset = torch.stack([east.flatten(), north.flatten()], 1)
        out["radius"] = self._radius(g, owner, offset).unflatten(0, shape)
        out |= {"image": image[0], "sigma_image": sigma[0], "present": present[0], "psf_fwhm": fwhm}
        out |= {"redshift": g["redshift"][0], "galaxy": {key: value[0] for key, value in g.items()}}
        return out

    def truth_cube(self, seed, index, *, spaxel=0.5, size=20.0, psf_fwhm=None, aperture=None):
        """Noiseless spectra of one galaxy on a grid.

        Parameters
        ----------
        seed, index, spaxel, size, psf_fwhm
            As in `truth_maps`.
        aperture : float, optional
            Diameter of a disc around every position; by default the light of the spaxel itself.

        Returns
        -------
        dict
            flux (ny, nx, N) 1e-17 erg/s/cm2/A, wave (N,), and line_flux, line_ew, velocity, sigma, east,
            north.
        """
        scene, imager = self._truth_scene(seed, index)
        east, north = self._positions(scene["g"], spaxel, size)
        fwhm = imager[3][0] if psf_fwhm is None else torch.tensor(float(psf_fwhm), device=self.device)
        side = spaxel if aperture is None else aperture
        transfer = moffat_transfer(self.k, fwhm)
        amount = self._under(scene["stack"], transfer, east, north, side, square=aperture is None)
        out = []
        for part in amount.split(64):
            owner = torch.zeros(len(part), dtype=torch.int64, device=self.device)
            out.append(self.spectra(scene, owner, part))
        keys = ("flux", "line_flux", "line_ew", "velocity", "sigma")
        cube = {key: torch.cat([o[key] for o in out]).unflatten(0, east.shape) for key in keys}
        return cube | {"wave": self.wave, "east": east, "north": north, "psf_fwhm": fwhm}


assert len(POPULATIONS) == len(GAS_COMPONENTS) == 6  # 12 + 12 maps
