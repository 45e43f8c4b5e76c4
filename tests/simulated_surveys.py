# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Small surveys for the tests of files: products filled from `Simulator.batch` and `truth_cube`, nothing else."""

import numpy as np
import torch

from fiberifu.simulate import Simulator, analytic_template_pack
from fiberifu.simulate.gas import LINES
from fiberifu.simulate.products import BandImages, FiberSpectra, IFUCube

ARMS = {"b": slice(0, 2751), "r": slice(2700, 5026), "z": slice(4900, 7781)}
SCALE = 0.262


def make_simulator():
    torch.set_num_threads(1)
    return Simulator(analytic_template_pack())


def place(seed, galaxy):
    """Where a galaxy is: on a spiral around (150, 2), three HEALPix pixels wide."""
    angle, radius = 2.4 * galaxy + seed, 0.12 * np.sqrt(galaxy + 1)
    return 150 + radius * np.cos(angle), 2 + radius * np.sin(angle)


def observe_desi(simulator, seed, start, n):
    """Fibre spectra of galaxies ``start`` to ``start + n``, one or two each, and their images."""
    batch = simulator.batch(n, seed, start)
    owner = batch["fiber_galaxy"].numpy()
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    batch = {k: v[order] if k in ("flux", "ivar", "fiber_offset", "fiber_redshift") else v for k, v in batch.items()}
    f = len(owner)
    flux, ivar = batch["flux"].numpy(), batch["ivar"].numpy()
    center = np.array([place(seed, start + g) for g in range(n)])
    offset = batch["fiber_offset"].numpy() / 3600
    ra = center[owner, 0] + offset[:, 0] / np.cos(np.radians(center[owner, 1]))
    dec = center[owner, 1] + offset[:, 1]
    band = batch["truth"]["band"].numpy()[order]
    diagonal = np.exp(-0.5 * ((np.arange(11) - 5) / 0.85) ** 2)
    diagonal = diagonal / diagonal.sum()
    table = {
        "targetid": np.zeros(f, np.int64), "target_ra": ra, "target_dec": dec, "fiber_ra": ra + 1e-5, "fiber_dec": dec,
        "std_fiber_ra": np.full(f, 0.03), "std_fiber_dec": np.full(f, 0.03), "exptime": np.full(f, 220.0),
        "n_exposures": 1 + owner % 2, "fiberstatus": np.zeros(f, int), "objtype": np.full(f, "TGT"),
        "morphtype": np.full(f, "EXP"), "shape_r": batch["truth"]["re_arcsec"].numpy()[owner],
        "flux_g": 3 * band[:, 0], "flux_r": 3 * band[:, 1], "flux_z": 3 * band[:, 3], "fiberflux_r": band[:, 1],
        "fiberflux_g": band[:, 0], "fiberflux_z": band[:, 3], "shape_e1": np.full(f, 0.2), "shape_e2": np.full(f, -0.1),
        "psf_to_fiber_specflux": np.full(f, 0.7), "ebv": np.full(f, 0.03), "seeing": np.full(f, 1.1),
        "z": batch["fiber_redshift"].numpy(), "zerr": np.full(f, 7e-5), "zwarn": np.zeros(f, int),
        "deltachi2": np.full(f, 500.0),
        "z_true": batch["truth"]["fiber_redshift"].numpy()[order], "kind": np.full(f, "central"),
        "galaxy": start + owner,
    }  # fmt: skip
    mask = {
        arm: (np.arange(flux[0, part].size) == 7)[None].repeat(f, 0).astype(np.uint32) for arm, part in ARMS.items()
    }
    wave = 3600 + 0.8 * np.arange(7781)
    spectra = FiberSpectra(
        {arm: wave[part] for arm, part in ARMS.items()},
        {arm: flux[:, part] for arm, part in ARMS.items()},
        {arm: ivar[:, part] for arm, part in ARMS.items()},
        mask,
        {arm: np.tile(diagonal[None, :, None], (f, 1, flux[0, part].size)) for arm, part in ARMS.items()},
        table,
    )
    return spectra, [_images(batch, g, center[g], start + g) for g in range(n)]


def _images(batch, g, center, galaxy):
    area = SCALE**2
    image, sigma = batch["image"][g].numpy() * area, batch["sigma"][g].numpy() * area
    seen = [b for b in range(4) if np.isfinite(sigma[b]).any()]
    bits = np.where(np.isinf(sigma[seen[0]]), 1 << 5, 0).astype(np.int16)
    fwhm = float(batch["psf_fwhm"][g])
    return BandImages(
        {"griz"[b]: image[b] for b in seen},
        {"griz"[b]: np.where(np.isfinite(sigma[b]), sigma[b], 1e30) ** -2.0 for b in seen},
        bits,
        {"griz"[b]: fwhm for b in seen},
        SCALE,
        tuple(center),
        0.03,
        {"redshift": float(batch["truth"]["redshift"][g]), "index": galaxy},
    )


def observe_manga(simulator, seed, start, n, *, size=8.0):
    """Cubes of galaxies ``start`` to ``start + n``: the truth, sampled on MaNGA's wavelengths, with noise."""
    log = 3.5589 + 1e-4 * np.arange(4563)
    wave = 10**log
    for galaxy in range(start, start + n):
        truth = simulator.truth_cube(seed, galaxy, size=size, psf_fwhm=2.0)
        cube = truth["flux"].double().numpy()
        # through the integral, so that lines keep their flux
        total = np.cumsum(cube, -1) * 0.8
        edges = np.append(wave * 10**-0.5e-4, wave[-1] * 10**0.5e-4)
        fine = truth["wave"].numpy() + 0.4
        flux = np.empty((len(wave), *cube.shape[:2]))
        for y, x in np.ndindex(*cube.shape[:2]):
            flux[:, y, x] = np.diff(np.interp(edges, fine, total[y, x])) / np.diff(edges)
        bad = (wave < 3610) | (wave > 9820)
        level = 0.01 * np.median(flux[~bad]) + 1e-4
        noise = np.random.default_rng([seed, galaxy]).standard_normal(flux.shape)
        mask = np.zeros(flux.shape, np.int32)
        mask[bad] = 1 | 1 << 10
        maps = {key: np.moveaxis(truth[key].numpy(), -1, 0) for key in ("line_flux", "line_ew")}
        ny, nx = cube.shape[:2]
        psf = np.exp(-0.5 * ((np.indices((ny, nx)) - (ny - 1) / 2) ** 2).sum(0) / 1.7**2)
        yield IFUCube(
            wave, np.where(mask == 0, flux + level * noise, 0), np.where(mask == 0, level**-2.0, 0), mask,
            np.sqrt(0.68**2 + (0.8**2 - np.gradient(wave) ** 2) / 12),
            {b: flux[2000 + i] for i, b in enumerate("griz")}, {b: psf / psf.sum() for b in "griz"},
            dict.fromkeys("griz", 2.5), 0.5, place(seed, galaxy), np.array([1.0, 0.75, 0.4, 0.15, 0.05]),
            {"name": f"galaxy {galaxy}", "redshift": float(simulator.scene(seed, [galaxy])["g"]["redshift"][0]),
             "ifudesign": 12701, "exposures": 9, "exptime": 8100.0, "ebv": 0.02, "re": 4.0, "pa": 30.0,
             "axis_ratio": 0.7, "log_mass": 10.2},
            maps | {key: truth[key].numpy() for key in ("velocity", "sigma")},
        )  # fmt: skip


assert len(LINES) == 15


def observe_images(simulator, seed, galaxies):
    return [observe_desi(simulator, seed, galaxy, 1)[1][0] for galaxy in galaxies]
