"""Whom surveys choose: a wish drawn from a survey's published design, and the candidate that comes nearest to it.

A survey's galaxies are numbered by slots. Each slot draws what it would like to have, and has candidates of its own in
the simulated universe; so a slot's galaxy depends on nothing but the seed. What is wished for (redshift and magnitude
for DESI; mass, bundle and coverage for MaNGA) follows the survey because it was put in; all else is the universe's.
"""

import math

import numpy as np
import torch

from .identifiers import BRICKS, GALAXIES
from .ifu import BUNDLES, bundle_radius
from .photometry import Photometry
from .recipe import Draws, draw_galaxies
from .stars import luminosity_distance
from .streams import stream

__all__ = ["SLOTS", "choose_desi", "choose_manga", "desi_wish", "manga_wish"]

CANDIDATES = 128  # of each slot
SLOTS = BRICKS * GALAXIES // CANDIDATES  # as many galaxies as have identifiers
LOOKS = 5  # candidates whose photometry is measured, unless none of them fits
SURVIVING = -0.2  # log10 of the mass in stars now / formed
DESI_LIMIT = 19.5  # r magnitude of the Bright Galaxy Survey's bright sample (Hahn+2023, AJ 165, 253)
#: Slope of the counts, dex per mag: 92 galaxies per deg2 with r < 17.77 (Strauss+2002, AJ 124, 1810), and 864 with
#: r < 19.5 (Hahn+2023; about 800 in Ruiz-Macias+2020, RNAAS 4, 187).
COUNTS = math.log10(864 / 92) / (DESI_LIMIT - 17.77)
#: Median redshift at r = 19.5 and its growth, dex per mag: so the medians are 0.20 for r < 19.5 and 0.10 for r < 17.77,
#: as in BGS (Ruiz-Macias+2020) and SDSS (Strauss+2002).
DEPTH, DEEPER = 0.265, 0.17
#: Bundles of 19, 37, 61, 91 and 127 fibres on a MaNGA plate (Drory+2015, AJ 149, 77).
ON_A_PLATE = (2, 4, 4, 2, 5)
#: Half-light radii that a bundle covers, in the Primary+ and the Secondary sample, and the former's share of both
#: (Wake+2017, about).
COVERAGE, PRIMARY = {"primary": 1.5, "secondary": 2.5}, 2 / 3
OVERHANG = 1.2  # how far a galaxy may reach beyond the largest bundle
#: log10 of the masses (Msun, h = 0.7) between which wishes are flat. MaNGA is so from 5e8 to 3e11 Msun/h2, 9.0 to 11.8
#: (Wake+2017, AJ 154, 86); but of the universe's galaxies at z = 0.01-0.15 one in 200 is above 11.2.
MANGA_MASSES = (9.0, 11.2)


def desi_wish(seed, slot):
    """Redshift and r magnitude as the Bright Galaxy Survey's bright sample has them.

    Magnitudes follow the counts; redshifts at a magnitude the form of magnitude-limited samples,
    z^2 exp(-(z / z_c)^1.5) with a median of 1.412 z_c (Baugh & Efstathiou 1993, MNRAS 265, 145).

    Returns
    -------
    (float, float)
    """
    u, v = stream(seed, slot, "desi wish").uniform(size=2)
    r = max(DESI_LIMIT + math.log10(1 - u) / COUNTS, 14.0)
    scale = DEPTH * 10 ** (DEEPER * (r - DESI_LIMIT)) / 1.412
    z = np.linspace(0.005, 0.6, 1200)
    growth = (z**2 * np.exp(-((z / scale) ** 1.5))).cumsum()
    return float(np.interp(v * growth[-1], growth, z)), r


def manga_wish(seed, slot):
    """Mass, half-light radius and sample as MaNGA has them.

    Flat in log mass, as the survey's design is in i magnitude, but only to where the universe has galaxies; bundles as
    on its plates, so that the same angular sizes come at all masses and redshift grows with mass.

    Returns
    -------
    log_mass : float
        Msun, in stars now.
    radius : float
        arcsec.
    sample : {'primary', 'secondary'}
    """
    u, v, w, x = stream(seed, slot, "manga wish").uniform(size=4)
    sample = "primary" if u < PRIMARY else "secondary"
    share = np.cumsum(ON_A_PLATE) / sum(ON_A_PLATE)
    bundle = int(np.searchsorted(share, v, side="right"))
    large = bundle_radius(BUNDLES[bundle]) * (OVERHANG if bundle == len(BUNDLES) - 1 else 1.0)
    small = bundle_radius(BUNDLES[bundle - 1]) if bundle else 0.8 * large
    log_mass = MANGA_MASSES[0] + w * (MANGA_MASSES[1] - MANGA_MASSES[0])
    return log_mass, small * (large / small) ** x / COVERAGE[sample], sample


def choose_desi(simulator, seed, slot):
    """A galaxy as DESI's Bright Galaxy Survey has them, near to what `desi_wish` draws, and brighter than r = 19.5.

    Returns
    -------
    int
        Number of the galaxy within the seed.
    dict
        Its scene.
    """
    indices, g = _candidates(simulator, seed, slot)
    z, r = desi_wish(seed, slot)
    far = np.hypot(np.log(g["redshift"] / z) / 0.15, (_guess_r(g) - r) / 0.3)
    index, scene, _ = _first(
        simulator, seed, indices[np.argsort(far)],
        lambda p: abs(float(p.r_mag) - r), 0.3, lambda p: float(p.r_mag) < DESI_LIMIT,
    )  # fmt: skip
    return index, scene


def choose_manga(simulator, seed, slot):
    """A galaxy as MaNGA has them, near to what `manga_wish` draws, and the smallest bundle that covers it.

    z = 0.01-0.15; the bundle reaches 1.5 half-light radii in the Primary+ sample, 2.5 in the Secondary.

    Returns
    -------
    int
        Number of the galaxy within the seed.
    dict
        Its scene.
    int
        Fibres of the bundle.
    """
    indices, g = _candidates(simulator, seed, slot)
    log_mass, radius, sample = manga_wish(seed, slot)
    size = np.where(g["spheroid"], g["bulge_re"], g["re"] * (1 - 0.35 * g["bulge_fraction"]))  # to 0.1 dex
    far = np.hypot((g["log_mass"] + SURVIVING - log_mass) / 0.15, np.log(size / radius) / 0.25)
    far[(g["redshift"] < 0.01) | (g["redshift"] > 0.15)] += 1e3
    largest = OVERHANG * bundle_radius(BUNDLES[-1]) / COVERAGE[sample]
    index, scene, photometry = _first(
        simulator, seed, indices[np.argsort(far)],
        lambda p: abs(math.log(float(p.half_light) / radius)), 0.25, lambda p: float(p.half_light) < largest,
    )  # fmt: skip
    reach = COVERAGE[sample] * float(photometry.half_light)
    return index, scene, next((n for n in BUNDLES if bundle_radius(n) >= reach), BUNDLES[-1])


class _Numbers(Draws):
    """`Draws` without what only maps need: the same numbers in half the time."""

    def _stack(self, draw, *shape):
        return super()._stack(draw, *shape) if len(shape) == 1 else None


def _candidates(simulator, seed, slot):
    """Numbers of a slot's candidates, and their parameters as arrays."""
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot: got {slot}; a survey has galaxies 0 to {SLOTS - 1}: take another seed for more")
    indices = np.arange(int(slot) * CANDIDATES, (int(slot) + 1) * CANDIDATES)
    g = draw_galaxies(_Numbers(seed, indices.tolist()), jitter=simulator.config.jitter)
    return indices, {key: value.numpy() for key, value in g.items()}


def _guess_r(g):
    """r magnitudes (B,) from mass, star formation, dust and redshift: good to 0.25 mag with the real templates.

    Fitted to `Photometry` of 4000 galaxies; it only says which candidates are worth a look.
    """
    rate = np.clip(g["log_sfr"] - g["log_mass"], -11.3, -9.0) + 10.5
    z = g["redshift"]
    light = 5.34 + 1.75 * z - 1.006 * rate - 0.083 * rate**2 - 0.373 * z * rate
    light = light + 2.88 * g["ebv"] - 0.77 * g["post_starburst"]
    distance = luminosity_distance(torch.as_tensor(z, dtype=torch.float64)).numpy()
    return light - 2.5 * g["log_mass"] + 5 * np.log10(distance) + 25


def _first(simulator, seed, ordered, distance, near, fits):
    """The first candidate that fits and is ``near``; else the nearest that fits of the first few, or of more."""
    best = None
    for looks, index in enumerate(ordered[: 6 * LOOKS].tolist(), start=1):
        scene = simulator.scene(seed, [index])
        photometry = Photometry(simulator, scene)
        rank = (not fits(photometry), distance(photometry))
        if best is None or rank < best[0]:
            best = (rank, index, scene, photometry)
        unfit, far = best[0]
        if not unfit and (far < near or looks >= LOOKS):
            break
    return best[1:]
