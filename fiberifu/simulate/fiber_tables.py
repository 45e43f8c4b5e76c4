"""What is recorded of every fibre: targets, conditions, photometry, and the redshift that a fitter would find.

Shapes: F fibres.
"""

import math

import numpy as np
import torch

from .calibration import psf_to_fiber_specflux
from .delta_chi2 import LOW_DELTA_CHI2, delta_chi2
from .identifiers import simulated_targetid
from .milky_way import BAND_EXTINCTION, sky_position

__all__ = ["fiber_table", "redshift_table"]

BAD_POSITION = 1 << 9  # desispec.maskbits.fibermask


def fiber_table(scene, seed, targets, owner, number, sky_fiber, position, visits, photometry, galactic):
    """Columns of `FiberSpectra.table` that are known before any redshift is fitted.

    Parameters
    ----------
    scene, seed, targets
        As for `observe_fibers`.
    owner, number : ndarray (F,) of int
        Galaxy in the scene, and number of the fibre within its galaxy.
    sky_fiber : ndarray (F,) of bool
    position : ndarray (F, 2)
        East, north of where the fibres were meant to be, arcsec from the middle of the stamp.
    visits : list of F
        How each was exposed: seconds, seeing, miss, failed.
    photometry : Photometry
    galactic : ndarray (F,)
        E(B-V) of the Milky Way.

    Returns
    -------
    dict of str to ndarray (F,)
    """
    indices, g = np.asarray(scene["d"].indices)[owner], scene["g"]
    where = np.array([sky_position(seed, i) for i in indices])
    miss = np.stack([v.miss.mean(0) for v in visits])
    spread = np.stack([v.miss.std(0) for v in visits])
    failed = np.array([v.failed for v in visits])
    dust = 10 ** (-0.4 * galactic[:, None] * np.array([BAND_EXTINCTION[band] for band in "griz"]))
    flux = photometry.flux.cpu().numpy()[owner] * ~sky_fiber[:, None] * dust
    shape_r = photometry.shape_r.cpu().numpy()[owner] * ~sky_fiber
    spheroid = g["spheroid"].cpu().numpy()[owner]
    morphology = np.where(shape_r < 0.15, "PSF", np.where(shape_r < 0.55, "REX", np.where(spheroid, "DEV", "EXP")))
    morphology = np.where(sky_fiber, "", morphology)
    device = g["redshift"].device
    who, at = torch.as_tensor(owner, device=device), torch.as_tensor(position, dtype=torch.float32, device=device)
    in_fiber = {b: photometry.fiber_flux(who, at, band=b).cpu().numpy() * ~sky_fiber * dust[:, b] for b in (0, 1, 3)}
    # Tractor: |e| = (1 - q) / (1 + q), twice the position angle from North through East; round for PSF and REX
    q, pa = (g[key].cpu().numpy()[owner] for key in ("axis_ratio", "pa"))
    ellipticity = (1 - q) / (1 + q) * np.isin(morphology, ("EXP", "DEV"))
    twice = 2 * (np.pi / 2 - pa)
    seeing = np.array([v.seeing.mean() for v in visits])
    # one value per exposure, then their mean, as MEAN_PSF_TO_FIBER_SPECFLUX
    column = np.array(
        [
            psf_to_fiber_specflux([m] * len(v.seeing), np.full(len(v.seeing), r), np.hypot(*v.miss.T), v.seeing).mean()
            for m, r, v in zip(morphology, shape_r, visits, strict=True)
        ]
    )
    cos = np.cos(np.radians(where[:, 1]))
    exposed = ~failed
    return {
        "targetid": simulated_targetid(seed, indices, number, sky=sky_fiber),
        "target_ra": where[:, 0] + position[:, 0] / 3600 / cos,
        "target_dec": where[:, 1] + position[:, 1] / 3600,
        "fiber_ra": where[:, 0] + (position + miss)[:, 0] / 3600 / cos,
        "fiber_dec": where[:, 1] + (position + miss)[:, 1] / 3600,
        "std_fiber_ra": spread[:, 0],
        "std_fiber_dec": spread[:, 1],
        "exptime": np.array([v.seconds for v in visits]) * exposed,
        "n_exposures": np.array([len(v.seeing) for v in visits]) * exposed,
        "fiberstatus": np.where(failed, BAD_POSITION, 0),
        "objtype": np.where(sky_fiber, "SKY", "TGT"),
        "morphtype": morphology,
        "shape_r": shape_r,
        "shape_e1": ellipticity * np.cos(twice),
        "shape_e2": ellipticity * np.sin(twice),
        "flux_g": flux[:, 0],
        "flux_r": flux[:, 1],
        "flux_z": flux[:, 3],
        "fiberflux_g": in_fiber[0],
        "fiberflux_r": in_fiber[1],
        "fiberflux_z": in_fiber[3],
        "psf_to_fiber_specflux": np.where(sky_fiber | failed, 0.0, column),
        "ebv": galactic,
        "seeing": seeing,
        "kind": np.asarray(targets["kind"]),
        "galaxy": indices,
        "east": position[:, 0],
        "north": position[:, 1],
    }


def redshift_table(out, gas, truth, sky_fiber, rngs, noise, model):
    """What a redshift fitter says: errors, failures and, rarely, a confident wrong answer.

    A fit whose `delta_chi2` is below redrock's limit fails, with a warning; of the others 0.2 % are catastrophic
    (Hahn+2023, AJ 165, 253; DESI Collaboration 2024). Errors: 10 km/s for bright galaxies (Lan+2023, ApJ 943, 68),
    more where the S/N is low.

    Parameters
    ----------
    out : FiberSpectra
        Flux, ivar and mask.
    gas : ndarray (F,)
        Redshifts of the gas in the fibres, which are the truth.
    truth : dict
    sky_fiber : ndarray (F,) of bool
    rngs : list of Generator
    noise : bool
        False leaves out failures and errors.
    model : ndarray (F, N)
        The spectra without noise, on the grid of all arms.
    """
    n = len(gas)
    z, error, warning = gas.astype(float), np.zeros(n), np.zeros(n, np.int64)
    good = {arm: np.where(out.mask[arm] == 0, out.ivar[arm], 0.0) for arm in out.wave}
    first = {arm: round((wave[0] - out.wave["b"][0]) / 0.8) for arm, wave in out.wave.items()}
    template = {arm: model[:, first[arm] : first[arm] + len(wave)] for arm, wave in out.wave.items()}
    gain = np.where(sky_fiber, 0.0, delta_chi2(out.wave, out.flux, good, template))
    signal = np.array(
        [np.median(out.flux["r"][f] * np.sqrt(out.ivar["r"][f])) if out.ivar["r"][f].any() else 0.0 for f in range(n)]
    )
    for f, rng in enumerate(rngs):
        scatter, fate, wrong, spread = rng.standard_normal(), rng.uniform(), rng.uniform(), rng.standard_normal()
        # a line counts as much as a continuum: flux over the noise of five pixels
        noise_r = 1 / np.sqrt(max(np.median(out.ivar["r"][f]), 1e-12))
        line = truth["line_flux"][f].max() / (noise_r * 0.8 * math.sqrt(5))
        quality = math.hypot(max(signal[f], 0), line / 10)
        error[f] = (1 + z[f]) * math.hypot(10 ** (-4.48 + 0.15 * spread), 1e-4 / max(quality, 0.3))
        failed = gain[f] < LOW_DELTA_CHI2
        warning[f] = 4 if failed else 0
        if not noise:
            continue
        if failed or fate > 0.998:
            z[f] = 1.6 * wrong
        else:
            z[f] += scatter * error[f]
    return {"z": z, "zerr": error, "zwarn": warning, "deltachi2": gain, "z_true": gas.astype(float)}
