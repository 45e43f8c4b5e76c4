"""An integral-field unit: MaNGA's hexagonal bundles, dithered, and the cubes made of their spectra.

``maps -> light in every fibre at every dither -> spectra with noise -> spaxels by Shepard's weights -> IFUCube``.
What a spaxel holds is a weighted mean of fibres, so its truth is the same mean of the light in them. Seeing is the
same at all wavelengths, and there is no differential refraction: the survey's dithers and its reduction remove most
of it (Law+2015, AJ 150, 19).

Shapes: F fibre positions (fibres x dithers), S spaxels, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from .grid import SpectralGrid
from .milky_way import galactic_ebv, sky_position, transmission
from .observe import moffat_transfer
from .photometry import Photometry
from .products import IFUCube
from .stars import TEMPLATE_SIGMA
from .streams import stream

__all__ = ["BUNDLES", "MANGA", "IFUInstrument", "bundle_positions", "observe_ifu", "shepard_weights"]

#: Fibres of MaNGA's bundles (Drory+2015, AJ 149, 77).
BUNDLES = (19, 37, 61, 91, 127)
NOCOV, LOWCOV, DEADFIBER, FORESTAR, DONOTUSE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 10
# Effective throughput, beside it wavelength, A: what gives public spaxels (of the DAP's tests, nine exposures assumed),
# faint and bright, their noise under the pack's dark sky and `BRIGHTER_SKY`. It includes what is not known of sky and
# number of exposures; the telescope and the BOSS spectrographs themselves have 0.2-0.3 at best (Smee+2013, AJ 146, 32).
THROUGHPUT = (
    (3640, 3700, 3850, 4000, 4200, 4600, 5000, 5400, 5800, 6100, 6400, 7000, 7500, 8000, 8500, 9000, 9500, 9900, 10200,
     10350),
    (0.057, 0.097, 0.195, 0.275, 0.345, 0.416, 0.308, 0.298, 0.232, 0.207, 0.337, 0.278, 0.252, 0.222, 0.23, 0.22,
     0.125, 0.1, 0.02, 0.0125),
)  # fmt: skip
# The sky's photons over those of the pack's dark sky, at wavelengths in A: beyond 8000 A faint spaxels are noisier than
# bright ones allow for with one throughput, by air glow above all, and beyond 9824 A the pack has no sky.
BRIGHTER_SKY = ((8000, 8500, 9000, 9500, 9900, 10000, 10200, 10350), (1.0, 1.35, 1.5, 2.4, 2.9, 5.2, 6.0, 5.0))


@dataclasses.dataclass(frozen=True)
class IFUInstrument:
    """Numbers of the instrument and of the cubes.

    Parameters
    ----------
    core, pitch : float
        Diameter of a fibre's core and distance of neighbouring fibres, arcsec.
    dither : float
        Side of the triangle of the three pointings, arcsec.
    sets, seconds : int, float
        Visits of the three pointings, and time of one exposure.
    seeing : float
        Median FWHM at the telescope's focus, arcsec: 1.3 makes the PSF of the cubes 2.57 (the Gaussian that fits
        best; the survey's median is 2.54), 1.5 makes it 2.70.
    spaxel, width, reach : float
        Of the reconstruction: spaxel, sigma and limit of the weights, arcsec (Law+2016, section 9.2).
    area : float
        Collecting area, cm2.
    read_noise, ccd_pixels : float
        Electrons per CCD pixel, and CCD pixels across the trace that count.
    dead : float
        Share of fibres that are dead.
    cosmic_rate : float
        Hits per fibre and exposure.
    """

    core: float = 2.0
    pitch: float = 2.5
    dither: float = 1.44
    sets: int = 3
    seconds: float = 900.0
    seeing: float = 1.3
    spaxel: float = 0.5
    width: float = 0.7
    reach: float = 1.6
    area: float = 3.58e4
    read_noise: float = 2.5
    ccd_pixels: float = 5.0
    dead: float = 0.002
    cosmic_rate: float = 3.0


MANGA = IFUInstrument()


def bundle_positions(fibers, instrument=MANGA):
    """Centres (3, fibers, 2) of the fibres at the three pointings, east and north of the bundle's middle, arcsec."""
    if fibers not in BUNDLES:
        raise ValueError(f"fibers: got {fibers}, MaNGA's bundles have {BUNDLES}")
    rings = round((math.sqrt(12 * fibers - 3) - 3) / 6)
    cells = [(q, r) for q in range(-rings, rings + 1) for r in range(-rings, rings + 1) if abs(q + r) <= rings]
    q, r = np.array(sorted(cells, key=lambda c: (c[0] ** 2 + c[0] * c[1] + c[1] ** 2, c))).T
    hexagon = instrument.pitch * np.stack([q + r / 2, r * math.sqrt(3) / 2], 1)
    angle = np.radians([90, 210, 330])
    pointing = instrument.dither / math.sqrt(3) * np.stack([np.cos(angle), np.sin(angle)], 1)
    return hexagon[None] + pointing[:, None]


def bundle_radius(fibers, instrument=MANGA):
    """Of the circle that has the bundle's hexagon inside, arcsec: 6.25 to 16.25 for 19 to 127 fibres."""
    rings = round((math.sqrt(12 * fibers - 3) - 3) / 6)
    return (rings + 0.5) * instrument.pitch


def cube_side(fibers, instrument=MANGA):
    """Spaxels on a side; even."""
    reach = bundle_radius(fibers, instrument) + instrument.dither / math.sqrt(3) + instrument.reach - 0.5
    return 2 * math.ceil(reach / instrument.spaxel)


def shepard_weights(position, side, instrument=MANGA):
    """Weights (S, F) of the modified Shepard method: exp(-r2 / 2 width2) within reach (Law+2016, equation 6).

    Not normalised: a spaxel is ``alpha * (W @ (f * good)) / (W @ good)``, alpha the ratio of areas of spaxel and
    fibre, which conserves flux: the surface brightness of a spaxel is a mean of those of fibres.

    Parameters
    ----------
    position : ndarray (F, 2)
        East, north of the fibres from the cube's middle, arcsec.
    side : int
        Spaxels on a side; rows grow to the North and columns to the West.
    """
    axis = (np.arange(side) - (side - 1) / 2) * instrument.spaxel
    north, east = np.meshgrid(axis, -axis, indexing="ij")
    r2 = (east.reshape(-1, 1) - position[:, 0]) ** 2 + (north.reshape(-1, 1) - position[:, 1]) ** 2
    return np.where(r2 < instrument.reach**2, np.exp(-0.5 * r2 / instrument.width**2), 0).astype(np.float32)


def fiber_noise(simulator, grid, inside, seconds, instrument=MANGA):
    """Noise (F, N) of fibre spectra of one exposure, 1e-17 erg/s/cm2/A per pixel of ``grid``.

    Parameters
    ----------
    inside : Tensor (F, N)
        Flux in the fibres.
    seconds : float
    """
    wave = grid.wave
    sky = _sky(simulator, grid) * np.interp(wave.cpu().numpy(), *BRIGHTER_SKY)
    sky = torch.as_tensor(sky, dtype=torch.float32, device=inside.device)
    energy = 1.98645e-8 / wave
    through = torch.as_tensor(np.interp(wave.cpu().numpy(), *THROUGHPUT), device=inside.device)
    gain = (1e-17 * instrument.area * through * grid.edges.diff() / energy * seconds).float()
    photons = (inside.clamp(min=0) + sky * math.pi / 4 * instrument.core**2) * gain
    return torch.sqrt(photons + instrument.read_noise**2 * instrument.ccd_pixels) / gain


def _sky(simulator, grid):
    """Dark sky on ``grid``, per arcsec2; redwards of the pack's sky (9824 A) as in its last 300 A."""
    wave, sky = simulator.wave.cpu().numpy().astype(float), simulator.sky.cpu().numpy().astype(float)
    out = grid.wave.cpu().numpy()
    last = wave[-1] - 300
    inside = np.where(out > wave[-1], last + (out - last) % 300, out)
    return np.interp(inside, wave, sky)


def _band_rows(simulator, grid):
    """Rows (4, N) whose product with a spectrum on ``grid`` is its nanomaggies in g, r, i, z."""
    stars = simulator.stars
    n = stars.band_curves.shape[1]
    wave = float(stars.wave[0]) * np.exp(stars.step * np.arange(n))
    width = grid.edges.log().diff().cpu().numpy() / stars.step
    out = grid.wave.cpu().numpy()
    rows = [np.interp(out, wave, curve) * width for curve in stars.band_curves.cpu().numpy().astype(float)]
    return np.stack(rows).astype(np.float32)


def point_spread(simulator, position, weights, fwhm, instrument=MANGA):
    """Image (S,) of a point source in the middle of the cube, of sum 1."""
    size, pixel = simulator.grid, simulator.config.pixel_scale
    star = torch.zeros(1, 1, size, size, device=simulator.device)
    star[..., size // 2, size // 2] = 1 / pixel**2
    middle = (size // 2 - (size - 1) / 2) * pixel
    light = _light(simulator, star, position + middle, fwhm, instrument)[:, 0].cpu().numpy()
    image = weights @ light / np.maximum(weights.sum(1), 1e-12)
    return image / image.sum()


def gaussian_fwhm(image, step):
    """FWHM of the round Gaussian that fits an image best by least squares, in the unit of ``step``."""
    y, x = np.indices(image.shape)
    weight = image**2  # a centroid that far wings cannot move
    r2 = (y - (y * weight).sum() / weight.sum()) ** 2 + (x - (x * weight).sum() / weight.sum()) ** 2
    low, high = 0.3, max(image.shape) / 2
    for _ in range(4):  # the best amplitude leaves (sum of image x model)^2 / sum of model^2 to be maximal
        sigma = np.linspace(low, high, 25)
        gain = [(image * m).sum() ** 2 / (m**2).sum() for m in (np.exp(-0.5 * r2 / s**2) for s in sigma)]
        best = int(np.argmax(gain))
        low, high = sigma[max(best - 1, 0)], sigma[min(best + 1, 24)]
    return float(2.3548 * sigma[best] * step)


def _light(simulator, stack, position, fwhm, instrument):
    """Integrals (F, J) of the maps (1, J, H, W) in fibres; none beyond the grid."""
    transfer = moffat_transfer(simulator.k, torch.tensor(float(fwhm), device=simulator.device))
    where = torch.as_tensor(position, dtype=torch.float32, device=simulator.device)
    amount = simulator._under(stack, transfer, where[:, 0], where[:, 1], instrument.core)
    reach = simulator.grid / 2 * simulator.config.pixel_scale - instrument.core / 2
    return amount * (where.abs().amax(1) < reach)[:, None]


def covariance(weights, count=9):
    """Correlation (count,) of the noise of spaxels by their distance in whole spaxels, where coverage is full.

    Parameters
    ----------
    weights : ndarray (S, F)
        For fibres of equal noise.
    """
    side = round(math.sqrt(len(weights)))
    total = weights.sum(1)
    full = (total > 0.8 * np.median(total[total > 0])).reshape(side, side)
    unit = (weights / np.maximum(np.sqrt((weights**2).sum(1)), 1e-12)[:, None]).reshape(side, side, -1)
    out = []
    for distance in range(count):
        pairs = [(unit[:, : side - distance], unit[:, distance:], full[:, : side - distance] & full[:, distance:])]
        pairs.append((unit[: side - distance], unit[distance:], full[: side - distance] & full[distance:]))
        out.append(np.mean([(a * b).sum(2)[both].mean() if both.any() else 0.0 for a, b, both in pairs]))
    return np.array(out)


def sum_factor(weights, n):
    """By what the sigma of a square of n x n spaxels in the middle exceeds that of independent ones."""
    side = round(math.sqrt(len(weights)))
    first = (side - n) // 2
    rows = (weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)).reshape(side, side, -1)
    box = rows[first : first + n, first : first + n].reshape(n * n, -1)
    return math.sqrt((box.sum(0) ** 2).sum() / (box**2).sum())


def observe_ifu(
    simulator,
    scene,
    seed,
    number=0,
    *,
    fibers=127,
    seeing=None,
    sets=None,
    noise=True,
    instrument=MANGA,
    center=None,
    ebv=None,
):
    """The cube of one galaxy.

    Parameters
    ----------
    simulator : Scenes
    scene : dict
        `Scenes.scene` of galaxies of ``seed``.
    seed, number : int
        ``number`` of the galaxy within the scene.
    fibers : int
        Of the bundle: 19, 37, 61, 91 or 127.
    seeing : float, optional
        FWHM, arcsec; by default drawn around the instrument's median.
    sets : int, optional
        Visits of the three pointings, instead of the instrument's.
    noise : bool
        False leaves out noise, cosmic rays, dead fibres and the scatter of the seeing.
    center : (float, float), optional
        East, north of the bundle's middle on the simulator's stamp, arcsec; by default the galaxy's centre.
    ebv : float, optional
        E(B-V) of the Milky Way, SFD scale; by default drawn. Truth is without its dust.

    Returns
    -------
    IFUCube
        ``truth`` has ``band`` (4, ny, nx), nanomaggies, too; ``table`` has seeing.
    """
    d, g = scene["d"], scene["g"]
    if not 0 <= number < len(d.indices):
        raise ValueError(f"number: got {number}; the scene has {len(d.indices)} galaxies")
    index, grid = d.indices[number], SpectralGrid.manga(simulator.device)
    rng = stream(seed, index, "ifu")
    fwhm = float(np.clip(instrument.seeing * np.exp(0.08 * rng.standard_normal()), 1.0, 2.0)) if noise else None
    fwhm = float(seeing) if seeing is not None else (fwhm or instrument.seeing)
    sets = instrument.sets if sets is None else int(sets)
    if sets < 1:
        raise ValueError(f"sets: got {sets}; one visit or more is needed")
    middle = np.array([float(g["east"][number]), float(g["north"][number])] if center is None else center)
    position, side = bundle_positions(fibers, instrument).reshape(-1, 2), cube_side(fibers, instrument)
    dead = np.tile(rng.uniform(size=fibers) < (instrument.dead if noise else 0), 3)

    amount = _light(simulator, scene["stack"][number : number + 1], position + middle, fwhm, instrument)
    owner = torch.full((len(amount),), number, dtype=torch.int64, device=amount.device)
    parts = [
        simulator.spectra(scene, who, part, grid)["flux"]
        for who, part in zip(owner.split(64), amount.split(64), strict=True)
    ]
    ebv = galactic_ebv(seed, index) if ebv is None else float(ebv)
    dust = torch.as_tensor(transmission(grid.wave.cpu().numpy(), ebv), dtype=torch.float32, device=amount.device)
    flux = torch.cat(parts) * dust
    sigma = fiber_noise(simulator, grid, flux, instrument.seconds, instrument) / math.sqrt(sets)
    ivar = (sigma**-2).cpu().numpy()
    flux = flux.cpu().numpy()
    if noise:
        ivar *= _cosmics(rng, flux.shape, sets, instrument)
        flux += rng.standard_normal(flux.shape, dtype=np.float32) / np.sqrt(np.maximum(ivar, 1e-12))
    ivar[dead] = 0

    weights = shepard_weights(position, side, instrument)
    star = _foreground(g, number, middle, side, instrument)
    cube = _reconstruct(flux, ivar, weights, dead, star, side, instrument)
    rows = _band_rows(simulator, grid)
    images = np.einsum("cn,nyx->cyx", rows, np.where(cube["ivar"] > 0, cube["flux"], 0), optimize=True)
    psf = point_spread(simulator, position[~dead], weights[:, ~dead], fwhm, instrument).reshape(side, side)
    width = gaussian_fwhm(psf, instrument.spaxel)
    photometry = Photometry(simulator, scene)
    place = sky_position(seed, index)
    return IFUCube(
        wave=grid.wave.cpu().numpy(),
        lsf=grid.lsf.cpu().numpy(),
        images={band: images[c].astype(np.float32) for c, band in enumerate("griz")},
        psf={band: psf.astype(np.float32) for band in "griz"},
        fwhm={band: width for band in "griz"},
        spaxel=instrument.spaxel,
        center=(
            place[0] + middle[0] / 3600 / math.cos(math.radians(place[1])),
            place[1] + middle[1] / 3600,
        ),
        correlation=covariance(weights[:, ~dead]),
        table={
            "name": f"sim-{seed}-{index}",
            "seed": seed,
            "galaxy": index,
            "redshift": float(g["redshift"][number]),
            "ifudesign": fibers * 100 + 1,
            "exposures": 3 * sets,
            "pack_sha256": getattr(simulator, "pack_sha256", None),
            "exptime": 3 * sets * instrument.seconds,
            "seeing": fwhm,
            "ebv": ebv,
            "re": float(photometry.half_light[number]),
            "pa": (90 - math.degrees(float(g["pa"][number]))) % 180,
            "axis_ratio": float(g["axis_ratio"][number]),
            "log_mass": float(g["log_mass"][number]),
            "r_mag": float(photometry.r_mag[number]),
        },
        truth=_truth(simulator, scene, number, amount, weights, dead, side, instrument),
        **cube,
    )


def _cosmics(rng, shape, sets, instrument):
    """Share of the exposure time left (F, N): hit pixels lose the exposure that was hit."""
    left = np.full(shape, sets, np.float32)
    hits = rng.poisson(instrument.cosmic_rate * sets, shape[0])
    fiber = np.repeat(np.arange(shape[0]), hits)
    start, length = rng.integers(shape[1], size=len(fiber)), rng.integers(1, 5, size=len(fiber))
    for step in range(4):
        more = length > step
        np.subtract.at(left, (fiber[more], np.minimum(start[more] + step, shape[1] - 1)), 1)
    return np.maximum(left, 0) / sets


def _foreground(g, number, middle, side, instrument):
    """Spaxels (S,) of a star in the foreground, out to 2.5 arcsec from it, and twice that for bright ones."""
    axis = (np.arange(side) - (side - 1) / 2) * instrument.spaxel
    north, east = np.meshgrid(axis, -axis, indexing="ij")
    if not (bool(g["neighbour"][number]) and bool(g["neighbour_is_star"][number])):
        return np.zeros(side * side, bool)
    where = np.array([float(g["neighbour_east"][number]), float(g["neighbour_north"][number])]) - middle
    reach = 2.5 if float(g["neighbour_r"][number]) > 18.5 else 5.0
    return (np.hypot(east - where[0], north - where[1]) < reach).reshape(-1)


def _reconstruct(flux, ivar, weights, dead, star, side, instrument, chunk=512):
    """flux, ivar, mask (N, ny, nx) of the cube; a stretch of wavelengths at a time."""
    n, alpha = flux.shape[1], instrument.spaxel**2 / (math.pi / 4 * instrument.core**2)
    shape = (n, side, side)
    out = {"flux": np.zeros(shape, np.float32), "ivar": np.zeros(shape, np.float32), "mask": np.zeros(shape, np.int32)}
    w, w2 = torch.from_numpy(weights), torch.from_numpy(weights**2)
    nominal = weights.sum(1)
    usual = np.median(nominal[nominal > 0.5 * nominal.max()])
    fixed = np.where(star, FORESTAR | DONOTUSE, 0)
    fixed = fixed | np.where(weights[:, dead].sum(1) > 0.25 * np.maximum(nominal, 1e-12), DEADFIBER | DONOTUSE, 0)
    for first in range(0, n, chunk):
        cut = slice(first, min(first + chunk, n))
        good = torch.from_numpy((ivar[:, cut] > 0).astype(np.float32))
        value = torch.from_numpy(np.where(ivar[:, cut] > 0, flux[:, cut], 0))
        variance = torch.from_numpy(1 / np.where(ivar[:, cut] > 0, ivar[:, cut], np.inf))
        total = (w @ good).numpy()
        covered = total > 1e-6
        scale = np.where(covered, alpha / np.maximum(total, 1e-6), 0)
        error = (w2 @ variance).numpy() * scale**2
        low = covered & (total < 0.3 * usual)
        bits = np.where(covered, 0, NOCOV | LOWCOV | DONOTUSE) | np.where(low, LOWCOV | DONOTUSE, 0) | fixed[:, None]
        made = {"flux": (w @ value).numpy() * scale, "ivar": np.where(covered, 1 / np.maximum(error, 1e-30), 0)}
        made["mask"] = bits
        for key, a in made.items():
            out[key][cut] = a.T.reshape(-1, side, side)
    return out


def _truth(simulator, scene, number, amount, weights, dead, side, instrument):
    """Lines and kinematics of the noiseless cube: spaxels hold the same weighted means of the light in fibres."""
    live = torch.from_numpy(weights * ~dead).to(amount.device)
    total = live.sum(1, keepdim=True)
    alpha = instrument.spaxel**2 / (math.pi / 4 * instrument.core**2)
    light = alpha * (live @ amount) / total.clamp(min=1e-6)
    owner = torch.full((len(light),), number, dtype=torch.int64, device=light.device)
    made = simulator.truth(scene, owner, light)
    seen = (total[:, 0] > 1e-6).cpu().numpy()
    out = {}
    for key in ("line_flux", "line_ew", "velocity", "sigma", "sigma_star", "band"):
        value = made[key].cpu().numpy().T.astype(np.float32)
        value = np.where(seen, value, np.nan if key in ("velocity", "sigma", "sigma_star") else 0)
        out[key] = value.reshape(*value.shape[:-1], side, side).astype(np.float32)
    out["stellar_limited"] = out["sigma_star"] < TEMPLATE_SIGMA  # False where nothing is seen
    return out
