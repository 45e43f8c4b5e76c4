"""Who is observed where: `Simulator` puts fibres on simulated galaxies, in batches, and keeps the truth on a grid.

Shapes: B galaxies, F fibres, C bands, S x S image pixels, N spectral pixels.
"""

import math

import torch

from .identifiers import pack_sha256
from .observe import (
    aperture_patch,
    aperture_photometry,
    convolve,
    encircled_energy,
    fiber_kernel,
    moffat_transfer,
    reanchor,
    spectrum_sigma,
)
from .scene import Scenes, SimConfig

__all__ = ["STRATA", "SimConfig", "Simulator"]

#: What is kept of the truth of every fibre.
FIBER_TRUTH = ("line_flux", "line_ew", "velocity", "sigma", "velocity_star", "sigma_star", "stellar_limited")
FIBER_TRUTH += ("ha_share", "band")

STRATA = (
    "quenched",
    "post_starburst",
    "green",
    "agn",
    "outflow",
    "off_centre_hii",
    "decoupled",
    "merger",
    "ring",
    "edge_on",
    "neighbour",
    "spheroid",
)


class Simulator(Scenes):
    """Simulated galaxies, their images, fibre spectra and truth.

    Parameters
    ----------
    pack : dict
        Template pack, see `load_template_pack`.
    config : SimConfig
    device : str or `torch.device`

    Attributes
    ----------
    pack_sha256 : str
        Of the template pack, for the headers of files.
    """

    def __init__(self, pack, config=None, device="cpu"):
        super().__init__(pack, config, device)
        self.pack_sha256 = pack_sha256(pack)

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
                # R26 is about 3.3 effective radii here (median; `Photometry` measures it galaxy by galaxy)
                major = on_disc(torch.where(angle > math.pi, math.pi, 0.0), torch.full_like(angle, 0.33 * 3.3))
                first = torch.where((kind > 0.85)[:, None], clump + near, first)
                first = torch.where(((kind > 0.95) & ~g["spheroid"].bool())[:, None], major, first)
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
        keep += ("log_mass_formed", "log_sfr_total")  # of the maps, companion included
        record = {key: g[key] for key in (*keep, *STRATA)} | {"re_arcsec": g["re"]}
        record |= {key: truth[key] for key in FIBER_TRUTH}
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

    def spaxel_truth(self, scene, spaxel, size, psf_fwhm):
        """Truth in the spaxels of a grid around the only galaxy of ``scene``; columns grow to the East.

        Parameters
        ----------
        scene : dict
        spaxel, size, psf_fwhm : float
            arcsec.

        Returns
        -------
        dict
            line_flux, line_ew (ny, nx, 15), band (ny, nx, 4), velocity, sigma (ny, nx) ...: see `truth`.
        """
        east, north = self._positions(scene["g"], spaxel, size)
        transfer = moffat_transfer(self.k, torch.tensor(float(psf_fwhm), device=self.device))
        owner = torch.zeros(east.numel(), dtype=torch.int64, device=self.device)
        truth = self.truth(scene, owner, self._under(scene["stack"], transfer, east, north, spaxel, square=True))
        return {key: value.unflatten(0, east.shape) for key, value in truth.items()}
