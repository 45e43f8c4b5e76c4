"""Who is observed, and where: which galaxies surveys choose, and where on them the fibres go.

A survey's galaxies are numbered by slots; each slot has candidates of its own in the simulated universe and takes
the first that passes, so that a slot's galaxy depends on nothing but the seed.
"""

import copy
import dataclasses
import math

import numpy as np
import torch

from .ifu import BUNDLES, bundle_radius
from .observe import convolve, moffat_transfer
from .photometry import Photometry
from .recipe import Draws, draw_galaxies
from .streams import stream

__all__ = ["centred", "choose_desi", "choose_manga", "place_targets"]

DESI_CANDIDATES, MANGA_CANDIDATES = 12, 32
DESI_LIMIT = 19.5  # r magnitude of the Bright Galaxy Survey's bright sample (Hahn+2023, AJ 165, 253)


def centred(simulator):
    """The same simulator with its galaxies in the middle of their stamps."""
    out = copy.copy(simulator)
    out.config = dataclasses.replace(simulator.config, jitter=0.0)
    return out


def _candidates(simulator, seed, slot, count):
    """Numbers and redshifts of a slot's candidates, and a random number for each."""
    indices = [int(slot) * count + k for k in range(count)]
    g = draw_galaxies(Draws(seed, indices), jitter=simulator.config.jitter)
    lots = np.array([stream(seed, i, "chosen").uniform() for i in indices])
    return indices, g["redshift"].numpy(), g["log_mass"].numpy(), lots


def choose_desi(simulator, seed, slot):
    """A galaxy as DESI's Bright Galaxy Survey has them: r < 19.5, most at z = 0.05-0.5, a peak near 0.2.

    The simulated universe has a third of its galaxies nearby; most of those are passed over.

    Returns
    -------
    int
        Number of the galaxy within the seed.
    dict
        Its scene.
    """
    indices, z, _, lots = _candidates(simulator, seed, slot, DESI_CANDIDATES)
    wanted = lots < np.where(z < 0.05, 0.06, np.where(z < 0.085, 0.25, 1.0)) * (z < 0.5)
    ordered = [i for i, good in zip(indices, wanted, strict=True) if good] or indices
    for index in ordered:
        scene = simulator.scene(seed, [index])
        if float(Photometry(simulator, scene).r_mag) < DESI_LIMIT:
            return index, scene
    return index, scene


def choose_manga(simulator, seed, slot):
    """A galaxy as MaNGA's primary sample has them, and the bundle that covers 1.5 effective radii of it.

    z = 0.01-0.15, most below 0.05, stellar mass above 10^8.8 Msun (Wake+2017, AJ 154, 86).

    Returns
    -------
    int
        Number of the galaxy within the seed.
    dict
        Its scene.
    int
        Fibres of the bundle.
    """
    indices, z, mass, lots = _candidates(simulator, seed, slot, MANGA_CANDIDATES)
    wanted = (z > 0.01) & (z < 0.15) & (mass > 8.8) & (lots < np.where(z < 0.06, 1.0, 0.25))
    ordered = [i for i, good in zip(indices, wanted, strict=True) if good] or indices
    for index in ordered:
        scene = simulator.scene(seed, [index])
        radius = 1.5 * float(Photometry(simulator, scene).half_light)
        if 2.5 < radius <= bundle_radius(BUNDLES[-1]):
            break
    fits = [n for n in BUNDLES if bundle_radius(n) >= radius]
    return index, scene, fits[0] if fits else BUNDLES[-1]


def light_peak(simulator, scene, i, photometry):
    """East, north of the brightest place of galaxy ``i`` in r at 1 arcsec seeing, as imaging catalogues find it."""
    blurred = convolve(photometry.sharp[i, 1], moffat_transfer(simulator.k, torch.tensor(1.0, device=simulator.device)))
    g, pixel, n = scene["g"], simulator.config.pixel_scale, simulator.grid
    axis = (torch.arange(n, device=blurred.device) - (n - 1) / 2) * pixel
    distance = torch.hypot(axis[None, :] - g["east"][i], axis[:, None] - g["north"][i])
    reach = 1.0 + 0.7 * float(g["re"][i])
    at = int(torch.where(distance < reach, blurred, -1.0).argmax())
    row, column = at // n, at % n
    # the parabola through the peak and its neighbours
    out = []
    for line, k in ((blurred[row], column), (blurred[:, column], row)):
        a, b, c = (float(line[min(max(k + s, 0), n - 1)]) for s in (-1, 0, 1))
        bend = a - 2 * b + c
        out.append((k + (0.5 * (a - c) / bend if bend < 0 else 0.0) - (n - 1) / 2) * pixel)
    return np.array(out)


def place_targets(simulator, scene, seed, photometry=None):
    """Fibres on the galaxies of a scene, as a survey puts them.

    Every galaxy has one on its light peak (``central``) or, in large and clumpy ones that catalogues have broken up,
    on a bright clump (``shredded``). Large inclined discs may have two more on the major axis at 0.33 R26, on each side
    (``peculiar velocity``; Saulder+2023, MNRAS 525, 1106; R26 from the r profile). One in twenty is observed again
    (``repeat``), and one in ten has a ``sky`` fibre within 30 arcsec, on blank sky.

    Returns
    -------
    dict
        owner, number (F,) of int, east, north (F,) arcsec, kind, objtype (F,) of str: what `observe_fibers` takes.
    """
    photometry = Photometry(simulator, scene) if photometry is None else photometry
    g, maps, indices = scene["g"], scene["maps"], scene["d"].indices
    r26 = photometry.isophotal_radius().cpu().numpy()
    half = photometry.half_light.cpu().numpy()
    reach = (simulator.grid / 2 - 5) * simulator.config.pixel_scale
    rows = []
    for i, index in enumerate(indices):
        u = stream(seed, index, "targets").uniform(size=8)
        peak = light_peak(simulator, scene, i, photometry)
        where, kind = peak, "central"
        if u[0] < (0.35 if half[i] > 5 else 0.04) and not bool(g["spheroid"][i]):
            best = int(maps["clump_light"][i].argmax())
            clump = np.array([float(maps[f"clump_{axis}"][i, best]) for axis in ("east", "north")])
            if np.hypot(*(clump - peak)) > 1.5 and np.abs(clump).max() < reach:
                where, kind = clump, "shredded"
        mine = [(*where, kind, "TGT")]
        disc = not bool(g["spheroid"][i]) and float(g["axis_ratio"][i]) < 0.9
        if disc and r26[i] > 10 and u[1] < 0.4:
            pa = float(g["pa"][i])
            centre = np.array([float(g["east"][i]), float(g["north"][i])])
            for side in (1, -1):
                end = centre + side * 0.33 * r26[i] * np.array([math.cos(pa), math.sin(pa)])
                if np.abs(end).max() < reach:
                    mine.append((*end, "peculiar velocity", "TGT"))
        if u[2] < 0.05:
            mine.append((*where, "repeat", "TGT"))
        distance, angle = 6 + 24 * u[4], 2 * math.pi * u[5]
        if u[3] < 0.1 and distance > 1.1 * r26[i]:
            at = np.array([float(g["east"][i]), float(g["north"][i])]) + distance * np.array(
                [math.cos(angle), math.sin(angle)]
            )
            mine.append((*at, "sky", "SKY"))
        rows += [(i, k, *row) for k, row in enumerate(mine)]
    owner, number, east, north, kind, objtype = (list(column) for column in zip(*rows, strict=True))
    return {
        "owner": np.array(owner),
        "number": np.array(number),
        "east": np.array(east),
        "north": np.array(north),
        "kind": np.array(kind),
        "objtype": np.array(objtype),
    }
