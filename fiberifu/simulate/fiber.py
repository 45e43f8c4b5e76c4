"""A fibre spectrograph: what DESI's ten petals make of the light in 1.5 arcsec.

``maps -> light in the fibre, exposure by exposure -> three arms: resolution, photons, read noise, cosmic rays ->
point-source calibration -> redshift -> FiberSpectra``. The fast path of training is `Simulator.batch`.

Shapes: F fibres, E exposures, N spectral pixels.
"""

import dataclasses
import math

import numpy as np
import torch

from ..constants import C_KMS
from .calibration import fiber_fraction
from .fiber_tables import fiber_table, redshift_table
from .gas import LINES
from .grid import SpectralGrid
from .milky_way import galactic_ebv, transmission
from .observe import encircled_energy, fiber_kernel, moffat_transfer
from .photometry import Photometry
from .products import FiberSpectra
from .resolution import N_DIAGONAL, apply_resolution, resolution_matrix
from .sensitivity import ARMS, DESI, FiberInstrument, arm_share, sensitivity
from .stars import TEMPLATE_SIGMA
from .streams import stream

__all__ = ["ARMS", "DESI", "FiberInstrument", "arm_share", "fiber_sigma", "observe_fibers"]

COSMIC, ALL_BAD = 1 << 2, 1 << 1  # desispec.maskbits.specmask
PAD = N_DIAGONAL // 2  # pixels beyond the ends whose light reaches into the spectrum
NODES = (4000.0, 6200.0, 9200.0)  # A: where the light in the fibre is integrated; between them it is interpolated
# --- conditions and noise


def fiber_sigma(simulator, inside, seconds, n_exposures, instrument=DESI, *, shutter=None):
    """Noise (3, N) of the light in a fibre in each arm, per 0.8 A pixel, 1e-17 erg/s/cm2/A.

    Photons of the source and of the sky, and read noise; under Kitt Peak's atmosphere.

    Parameters
    ----------
    inside : ndarray (N,)
        Flux in the fibre.
    seconds : float
        Effective: the time that would give this noise of the sky if it were dark.
    n_exposures : int
    shutter : float, optional
        Seconds that the shutter was open; by default the sky was dark, and they are the effective ones. Longer: the
        sky was brighter by their ratio, and the charge that the read noise is compared with is larger.
    """
    gain = _gain(simulator, instrument)
    shutter = seconds if shutter is None else shutter
    sky = simulator.sky.cpu().numpy().astype(float) * (shutter / seconds)
    gain = gain * shutter
    photons = (np.clip(inside, 0, None) + sky * math.pi / 4 * instrument.diameter**2) * gain
    read = np.array(instrument.read_noise)[:, None] ** 2 * instrument.ccd_pixels * n_exposures
    return np.sqrt(photons + read) / np.maximum(gain, 1e-12)


def _gain(simulator, instrument):
    """`sensitivity` of a simulator, as an array (3, N)."""
    return sensitivity(simulator.wave, simulator.throughput, instrument).cpu().numpy()


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


def field_reach(simulator):
    """How far from the middle of the maps (east, west, north, south) a fibre gets light, arcsec."""
    return (simulator.grid / 2 - 5) * simulator.config.pixel_scale


def _light(simulator, scene, owner, position, visit, instrument):
    """Integrals (2, 3, J) of the maps in one fibre at `NODES`: as the fibre sees them, and calibrated as a point."""
    pixel = simulator.config.pixel_scale
    stack = scene["stack"][owner].flatten(1)
    device = stack.device
    if np.abs(position).max() > field_reach(simulator):
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
        ``meta["truth"]``: dict of ndarray (F, …): line_flux, line_ew of the light in the fibre, each line under the
        seeing at its wavelength, as in the spectrum; velocity, sigma of H-alpha under that at its own; band (F, 4)
        nanomaggies in it and sigma_star, the dispersion of stars, under that at 6200 A; stellar_limited (F,) bool,
        whether that is below `TEMPLATE_SIGMA`, so that the spectrum shows broader stars; flux (F, 7781), noiseless in
        the fibre, at the instrument's resolution and not calibrated as a point source. All of it is before the dust of
        the Milky Way.
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
    sharp = _wider(grid)
    wave = grid.wave.cpu().numpy()
    part = torch.as_tensor(_between_nodes(sharp.wave.cpu().numpy()), dtype=torch.float32, device=light.device)
    seen = [[simulator.spectra(scene, who, light[:, k, j], sharp) for j in range(3)] for k in range(2)]
    inside, point = (sum(part[j] * s["flux"] for j, s in enumerate(row)) for row in seen)
    lsf = grid.lsf * torch.tensor([v.lsf for v in visits], device=light.device)[:, None]
    matrix = resolution_matrix(torch.nn.functional.pad(lsf, (PAD, PAD), mode="replicate"), pixel=False)
    inside, point = (
        apply_resolution(matrix, flux)[:, PAD:-PAD].cpu().numpy().astype(float) for flux in (inside, point)
    )
    resolution = resolution_matrix(lsf).cpu().numpy()
    out = FiberSpectra(
        wave={arm: wave[a : a + m].copy() for arm, (a, m) in ARMS.items()},
        flux={arm: np.zeros((n, m), np.float32) for arm, (_, m) in ARMS.items()},
        ivar={arm: np.zeros((n, m), np.float32) for arm, (_, m) in ARMS.items()},
        mask={arm: np.zeros((n, m), np.uint32) for arm, (_, m) in ARMS.items()},
        resolution={arm: resolution[..., a : a + m].copy() for arm, (a, m) in ARMS.items()},
        table={},
        meta={
            "seed": seed,
            "instrument": "DESI",
            "galaxies": list(indices),
            "pack_sha256": getattr(simulator, "pack_sha256", None),
        },  # fmt: skip
    )
    galactic = np.array([galactic_ebv(seed, indices[o]) if ebv is None else float(ebv) for o in owner])
    dust = transmission(wave, galactic[:, None])
    for f in range(n):
        _expose(simulator, out, f, dust[f] * inside[f], dust[f] * point[f], visits[f], rngs[f], noise, instrument)
    gas, truth = _line_truth(simulator, seen[0])
    out.meta["truth"] = truth | {"flux": inside.astype(np.float32)}
    photometry = Photometry(simulator, scene) if photometry is None else photometry
    out.table.update(
        fiber_table(scene, seed, targets, owner, number, sky_fiber, position, visits, photometry, galactic)
    )
    out.table.update(redshift_table(out, gas, truth, sky_fiber, rngs, noise, dust * point))
    return out


def _wider(grid):
    """A grid with ideal resolution and `PAD` more pixels at each end, whose light the resolution brings in."""
    step = float(grid.wave[1] - grid.wave[0])
    more = torch.arange(1, PAD + 1, device=grid.wave.device, dtype=grid.wave.dtype) * step

    def longer(a):
        return torch.cat([a[:1] - more.flip(0), a, a[-1:] + more])

    wave = longer(grid.wave)
    return SpectralGrid(wave, longer(grid.edges), torch.full_like(wave, 1e-3, dtype=torch.float32), 0.0)


def _line_truth(simulator, seen):
    """Redshift of the gas (F,) and the truth of the lines, between the nodes (three dicts of `Scenes.truth`)."""

    def of(key):
        return np.stack([s[key].double().cpu().numpy() for s in seen])  # 3, F, ...

    rest = simulator.gas.wave.double().cpu().numpy()
    observed = rest * (1 + of("redshift")[1][:, None])  # F, L
    part = _between_nodes(observed.ravel()).reshape(3, *observed.shape)
    flux, ew = of("line_flux"), of("line_ew")
    line = (part * flux).sum(0)
    continuum = (part * flux / np.where(ew > 0, ew, np.inf)).sum(0)
    # moments of H-alpha add up by its flux
    ha = LINES.index("Ha")
    weight = part[..., ha] * np.maximum(flux[..., ha], 1e-30)
    weight = weight / weight.sum(0)
    velocity = (weight * of("velocity")).sum(0)
    square = (weight * (of("sigma") ** 2 + (of("velocity") - velocity) ** 2)).sum(0)
    systemic = (1 + of("redshift")[1]) / (1 + of("velocity")[1] / C_KMS)
    truth = {
        "line_flux": line,
        "line_ew": line / np.where(continuum > 0, continuum, np.inf),
        "velocity": velocity,
        "sigma": np.sqrt(square),
        "sigma_star": of("sigma_star")[1],
        "band": of("band")[1],
    }
    truth = {key: value.astype(np.float32) for key, value in truth.items()}
    truth["stellar_limited"] = truth["sigma_star"] < TEMPLATE_SIGMA
    return systemic * (1 + velocity / C_KMS) - 1, truth


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
    residual = 0.003 * simulator.sky.cpu().numpy().astype(float) * math.pi / 4 * instrument.diameter**2
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
