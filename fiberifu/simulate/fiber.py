"""A fibre spectrograph: what DESI's ten petals make of the light in 1.5 arcsec.

``maps -> light in the fibre, exposure by exposure -> three arms: resolution, photons, read noise, cosmic rays ->
point-source calibration -> redshift -> FiberSpectra``. The fast path of training is `Simulator.batch`.

Shapes: F fibres, E exposures, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from .calibration import fiber_fraction
from .fiber_tables import fiber_table, redshift_table
from .grid import SpectralGrid
from .milky_way import galactic_ebv, transmission
from .observe import encircled_energy, fiber_kernel, moffat_transfer
from .photometry import Photometry
from .products import FiberSpectra
from .resolution import apply_resolution, resolution_matrix
from .streams import stream

__all__ = ["ARMS", "DESI", "FiberInstrument", "arm_share", "fiber_sigma", "observe_fibers"]

#: First pixel and number of pixels of each arm on the grid 3600-9824 A, 0.8 A (DESI Collaboration 2024, AJ 168, 58).
ARMS = {"b": (0, 2751), "r": (2700, 2326), "z": (4900, 2881)}
COSMIC, ALL_BAD = 1 << 2, 1 << 1  # desispec.maskbits.specmask
NODES = (4000.0, 6200.0, 9200.0)  # A: where the light in the fibre is integrated; between them it is interpolated
# Atmospheric extinction at Kitt Peak, mag per airmass (IRAF onedstds kpnoextinct).
EXTINCTION = (
    (3600, 3700, 3860, 4036, 4255, 4566, 5000, 5556, 6055, 6790, 7550, 8370, 9832),
    (0.56, 0.502, 0.428, 0.364, 0.302, 0.238, 0.183, 0.151, 0.133, 0.084, 0.061, 0.048, 0.037),
)


@dataclasses.dataclass(frozen=True)
class FiberInstrument:
    """Numbers of the fibres and the spectrographs.

    Parameters
    ----------
    diameter : float
        Of the fibre on the sky, arcsec.
    area : float
        Collecting area, cm2.
    airmass : float
    positioner, scatter : float
        1-sigma error of the fibre's mean position and from exposure to exposure, arcsec in each direction.
    longest : float
        Exposures are split so that none is longer, s.
    read_noise : tuple of float
        Electrons per CCD pixel in b, r, z.
    ccd_pixels : float
        CCD pixels whose read noise a pixel of 0.8 A collects: about 4.4 across the trace times 0.8 / 0.6 A.
    efficiency : tuple
        Of each arm relative to the template pack's throughput: wavelengths [A] and values. From the noise of four
        early-release coadds at the effective exposure times of their template signal-to-noise; what it corrects are
        fibre losses in the blue, sky and throughput alike.
    cosmic_rate : float
        Hits per arm, spectrum and 1000 s.
    failed : float
        Share of fibres whose positioner failed.
    """

    diameter: float = 1.5
    area: float = 8.66e4
    airmass: float = 1.2
    positioner: float = 0.08
    scatter: float = 0.06
    longest: float = 900.0
    read_noise: tuple = (3.2, 2.8, 2.8)
    ccd_pixels: float = 5.9
    efficiency: tuple = (
        ((3600, 3675, 3750, 3850, 3950, 4100, 4300, 4550, 4850), (0.4, 0.53, 0.61, 0.7, 0.8, 0.83, 0.89, 0.98, 1.06)),
        ((5700,), (1.18,)),
        ((7520, 9150, 9450, 9650, 9824), (1.35, 1.35, 0.85, 0.85, 1.0)),
    )
    cosmic_rate: float = 2.0
    failed: float = 0.01


DESI = FiberInstrument()


def arm_share(arm, wave):
    """Share of the light that the dichroics send into an arm, after the arms' throughputs and the noise of coadds."""
    red = 1 / (1 + np.exp(-(wave - 5783.0) / 41.0))
    far = 1 / (1 + np.exp(-(wave - 7570.0) / 36.0))
    return {"b": 1 - red, "r": red * (1 - far), "z": far}[arm]


# --- conditions and noise


def _sensitivity(simulator, instrument):
    """Electrons (3, N) per second and unit of flux [1e-17 erg/s/cm2/A] in each arm, and the sky (N,) per arcsec2."""
    wave = simulator.wave.cpu().numpy().astype(float)
    air = 10 ** (-0.4 * instrument.airmass * np.interp(wave, *EXTINCTION))
    energy = 1.98645e-8 / wave  # erg
    one = 1e-17 * instrument.area * 0.8 / energy * air * simulator.throughput.cpu().numpy()
    rows = [
        one * arm_share(arm, wave) * np.interp(wave, *e) for arm, e in zip(ARMS, instrument.efficiency, strict=True)
    ]
    return np.stack(rows), simulator.sky.cpu().numpy().astype(float)


def fiber_sigma(simulator, inside, seconds, n_exposures, instrument=DESI):
    """Noise (3, N) of the light in a fibre in each arm, per 0.8 A pixel, 1e-17 erg/s/cm2/A.

    Photons of the source and of a dark sky, and read noise; under Kitt Peak's atmosphere.

    Parameters
    ----------
    inside : ndarray (N,)
        Flux in the fibre.
    seconds : float
        Under dark sky.
    n_exposures : int
    """
    gain, sky = _sensitivity(simulator, instrument)
    gain = gain * seconds
    photons = (np.clip(inside, 0, None) + sky * math.pi / 4 * instrument.diameter**2) * gain
    read = np.array(instrument.read_noise)[:, None] ** 2 * instrument.ccd_pixels * n_exposures
    return np.sqrt(photons + read) / np.maximum(gain, 1e-12)


@dataclasses.dataclass
class _Visit:
    """How one fibre was exposed."""

    seconds: float
    seeing: np.ndarray  # (E,) FWHM at 6500 A
    miss: np.ndarray  # (E, 2) fibre minus target, arcsec
    failed: bool
    lsf: float  # relative to the nominal one
    diameter: float

    def __post_init__(self):
        # standard stars sit in their fibres; an offset is made up for as for a point at the survey's mean seeing,
        # whatever the colour (desispec.fiberfluxcorr.flat_to_psf_flux_correction)
        off, mean = np.hypot(*self.miss.T), np.full(len(self.miss), 1.1)
        zero = np.zeros_like(off)
        self.grey = fiber_fraction(zero, off, mean, self.diameter) / fiber_fraction(zero, zero, mean, self.diameter)


def _visit(rng, instrument, seconds, n_exposures, seeing, noise):
    """Every number is drawn whether it is asked for or not, so that one choice does not change the others."""
    time = float(np.clip(220 * 10 ** (0.32 * rng.standard_normal()), 100, 3000))  # bright survey and deeper
    fwhm = float(np.clip(1.12 * np.exp(0.17 * rng.standard_normal()), 0.8, 1.8))
    mean, extra, failed = instrument.positioner * rng.standard_normal(2), rng.uniform() < 0.25, rng.uniform()
    lsf = 1 + 0.02 * rng.standard_normal()
    scatter, wander = rng.standard_normal((64, 2)), rng.standard_normal(64)
    seconds = time if seconds is None else float(seconds)
    fwhm = fwhm if seeing is None else float(seeing)
    count = math.ceil(seconds / instrument.longest) + int(extra) if n_exposures is None else int(n_exposures)
    if not 0 < count <= 64 or not seconds > 0:
        raise ValueError(f"seconds, n_exposures: got {seconds} and {count}; use positive times in 1 to 64 exposures")
    if not noise:
        return _Visit(seconds, np.full(count, fwhm), np.zeros((count, 2)), False, 1.0, instrument.diameter)
    miss = mean + instrument.scatter * scatter[:count]
    wander = np.exp(0.05 * (wander[:count] - wander[:count].mean()))
    return _Visit(seconds, fwhm * wander, miss, bool(failed < instrument.failed), lsf, instrument.diameter)


def _light(simulator, scene, owner, position, visit, instrument):
    """Integrals (2, 3, J) of the maps in one fibre at `NODES`: as the fibre sees them, and calibrated as a point."""
    pixel = simulator.config.pixel_scale
    stack = scene["stack"][owner].flatten(1)
    device = stack.device
    if np.abs(position).max() > (simulator.grid / 2 - 5) * pixel:
        return torch.zeros(2, 3, len(stack), device=device)  # beyond the maps there is no light
    fwhm = visit.seeing[:, None] * (np.array(NODES) / 6500.0) ** -0.2  # E, 3
    where = torch.as_tensor(position + visit.miss, dtype=torch.float32, device=device)
    width = torch.as_tensor(fwhm, dtype=torch.float32, device=device)
    transfer = moffat_transfer(simulator.k, width[..., None, None])
    kernel = fiber_kernel(where[:, None].expand(-1, 3, -1), simulator.grid, pixel, transfer, instrument.diameter)
    amount = kernel.flatten(2) @ stack.T  # E, 3, J
    grey = torch.as_tensor(visit.grey, dtype=torch.float32, device=device)
    caught = encircled_energy(instrument.diameter / 2, width) * grey[:, None]
    return torch.stack([amount.mean(0), (amount / caught[..., None]).mean(0)])


def _between_nodes(wave):
    """Weights (3, N) that interpolate from `NODES` linearly in log wavelength, constant beyond them."""
    return np.stack([np.interp(np.log(wave), np.log(NODES), row) for row in np.eye(3)])


# --- spectra


def observe_fibers(
    simulator,
    scene,
    seed,
    targets,
    *,
    seconds=None,
    n_exposures=None,
    seeing=None,
    noise=True,
    instrument=DESI,
    ebv=None,
    photometry=None,
):
    """Spectra of fibres on the galaxies of a scene.

    Parameters
    ----------
    simulator : Scenes
    scene : dict
        `Scenes.scene` of galaxies of ``seed``.
    seed : int
    targets : dict
        owner (F,) number of the galaxy in the scene; east, north (F,) from the middle of its stamp, arcsec; kind (F,)
        of str; optionally objtype (F,), "TGT" or "SKY", and number (F,) of the fibre within its galaxy.
    seconds, n_exposures, seeing : float or int, optional
        The same for all fibres; by default drawn: the bright survey's median of 220 s, 1.12 arcsec.
    noise : bool
        False leaves out noise, masks, position errors, failures and redshift errors.
    instrument : FiberInstrument
    ebv : float, optional
        E(B-V) of the Milky Way, SFD scale; by default drawn for each galaxy.
    photometry : Photometry, optional
        Of the scene, if it is there already.

    Returns
    -------
    FiberSpectra
        ``meta["truth"]``: dict of ndarray (F, …): line_flux, line_ew, velocity, sigma of the light in the fibre as it
        was, at 6200 A; band (F, 4) nanomaggies in it; flux (F, 7781), noiseless in the fibre, at the instrument's
        resolution and not calibrated as a point source. All of it is before the dust of the Milky Way.
    """
    indices = scene["d"].indices
    owner = np.asarray(targets["owner"], dtype=np.int64)
    position = np.stack([targets["east"], targets["north"]], 1).astype(float)
    n = len(owner)
    if len(position) != n or len(targets["kind"]) != n:
        raise ValueError(f"targets: owner, east, north, kind must have one length, got {n}, {len(position)} ...")
    if n == 0 or owner.min() < 0 or owner.max() >= len(indices):
        raise ValueError(f"targets: owner must have entries in 0-{len(indices) - 1}, the galaxies of the scene")
    number = np.asarray(targets.get("number", _number(owner)))
    sky_fiber = np.asarray(targets.get("objtype", ["TGT"] * n)) == "SKY"
    rngs = [stream(seed, indices[o], f"fibre {k}") for o, k in zip(owner, number, strict=True)]
    visits = [_visit(rng, instrument, seconds, n_exposures, seeing, noise) for rng in rngs]
    light = torch.stack(
        [_light(simulator, scene, int(owner[f]), position[f], visits[f], instrument) for f in range(n)]
    )  # F, 2, 3, J
    who = torch.as_tensor(owner, device=light.device)
    grid = simulator.desi
    sharp = SpectralGrid(grid.wave, grid.edges, torch.full_like(grid.lsf, 1e-3), 0.0)
    wave = grid.wave.cpu().numpy()
    part = torch.as_tensor(_between_nodes(wave), dtype=torch.float32, device=light.device)
    seen = [[simulator.spectra(scene, who, light[:, k, j], sharp) for j in range(3)] for k in range(2)]
    inside, point = (sum(part[j] * s["flux"] for j, s in enumerate(row)) for row in seen)
    lsf = grid.lsf * torch.tensor([v.lsf for v in visits], device=light.device)[:, None]
    matrix = resolution_matrix(lsf, pixel=False)
    inside, point = (apply_resolution(matrix, flux).cpu().numpy().astype(float) for flux in (inside, point))
    resolution = resolution_matrix(lsf).cpu().numpy()
    out = FiberSpectra(
        wave={arm: wave[a : a + m].copy() for arm, (a, m) in ARMS.items()},
        flux={arm: np.zeros((n, m), np.float32) for arm, (_, m) in ARMS.items()},
        ivar={arm: np.zeros((n, m), np.float32) for arm, (_, m) in ARMS.items()},
        mask={arm: np.zeros((n, m), np.uint32) for arm, (_, m) in ARMS.items()},
        resolution={arm: resolution[..., a : a + m].copy() for arm, (a, m) in ARMS.items()},
        table={},
        meta={"seed": seed, "instrument": "DESI", "galaxies": list(indices)},
    )
    galactic = np.array([galactic_ebv(seed, indices[o]) if ebv is None else float(ebv) for o in owner])
    dust = transmission(wave, galactic[:, None])
    for f in range(n):
        _expose(simulator, out, f, dust[f] * inside[f], dust[f] * point[f], visits[f], rngs[f], noise, instrument)
    truth = {key: seen[0][1][key].cpu().numpy() for key in ("line_flux", "line_ew", "velocity", "sigma", "band")}
    out.meta["truth"] = truth | {"flux": inside.astype(np.float32)}
    photometry = Photometry(simulator, scene) if photometry is None else photometry
    gas = seen[0][1]["redshift"].cpu().numpy()
    out.table.update(
        fiber_table(scene, seed, targets, owner, number, sky_fiber, position, visits, photometry, galactic)
    )
    out.table.update(redshift_table(out, gas, truth, sky_fiber, rngs, noise, dust * point))
    return out


def _number(owner):
    """0 for the first fibre of each galaxy, 1 for its second ..."""
    return [int((owner[:f] == o).sum()) for f, o in enumerate(owner)]


def _expose(simulator, out, f, inside, point, visit, rng, noise, instrument):
    """Noise, cosmic rays and calibration of one fibre, in place."""
    count = len(visit.seeing)
    error = fiber_sigma(simulator, inside, visit.seconds, count, instrument)
    wave = simulator.desi.wave.cpu().numpy()
    blur = torch.as_tensor(visit.seeing[:, None] * (wave / 6500.0) ** -0.2)
    factor = (1 / encircled_energy(instrument.diameter / 2, blur).numpy() / visit.grey[:, None]).mean(0)
    _, sky = _sensitivity(simulator, instrument)
    residual = 0.003 * sky * math.pi / 4 * instrument.diameter**2
    level = rng.standard_normal()
    for a, (arm, (first, m)) in enumerate(ARMS.items()):
        cut = slice(first, first + m)
        variance = (error[a, cut] ** 2 + residual[cut] ** 2) * factor[cut] ** 2
        white, hits = rng.standard_normal(m), np.zeros(m, np.int64)
        for _ in range(rng.poisson(instrument.cosmic_rate * visit.seconds / 1000)):
            start, length = rng.integers(m), rng.integers(1, 4)
            hits[start : start + length] += 1
        if not noise:
            out.flux[arm][f], out.ivar[arm][f] = point[cut], 1 / variance
            continue
        # a hit exposure is left out; where none is left, the pixel is lost, with the ray's charge in it
        left = np.maximum(count - hits, 0)
        scaled = error[a, cut] ** 2 * factor[cut] ** 2 * count / np.maximum(left, 1)
        flux = point[cut] + white * np.sqrt(scaled) + level * residual[cut] * factor[cut]
        charge = rng.uniform(20, 200, m) * np.sqrt(scaled)
        lost = left == 0
        out.flux[arm][f] = np.where(lost, flux + charge, flux)
        out.ivar[arm][f] = np.where(lost, 0, 1 / (scaled + (residual[cut] * factor[cut]) ** 2))
        out.mask[arm][f] = np.where(lost, COSMIC, 0)
        if visit.failed:
            out.flux[arm][f], out.ivar[arm][f], out.mask[arm][f] = 0, 0, ALL_BAD
