# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One held-out galaxy: ``(seed, index) -> choice -> scene of the simulator -> TruthMaps``.

Noise is in what a method may look at, the image and the central fibre; all else is the truth without it.
"""

import copy
import dataclasses
import math

import numpy as np

from .depth import line_depth
from .maps import TruthMaps

__all__ = ["RULE", "VERSION", "choose_galaxies", "galaxy_truth", "sky_position"]

#: Of what this module makes: raised when the same galaxy would come out differently.
VERSION = 1

#: Which galaxies and which positions. Nothing looks at lines: galaxies without star formation stay in, so that
#: detection has negatives; scores choose spaxels by the truth themselves.
RULE = {
    "redshift": (0.01, 0.15),
    "re_arcsec": 2.0,  # least effective radius that an integral field unit would resolve
    "radius": 1.6,  # positions lie within, effective radii, deprojected
    "stamp": 15.5,  # and within, arcsec from the stamp's centre east-west and north-south
    "spaxel": 1.0,  # arcsec
    "positions": 10,  # least number of them
    "spectra": 4,  # positions with whole spectra, one in each equal step of radius
    "peak": 2.0,  # arcsec; the light in r peaks where it is brightest within this
    "peak_snr": 10.0,  # of a pixel above the sky
}

BLOCK = 64  # galaxies drawn together when they are chosen
BLANK_R = 0.0031 / 0.262**2  # 1-sigma of r per pixel [nanomaggy/arcsec2], when r is missing


# --- which galaxies, and where they are


def choose_galaxies(simulator, seed, count):
    """Numbers of the first ``count`` galaxies of a seed that `RULE` admits, by their parameters alone.

    Returns
    -------
    list of int
    """
    from ..simulate.recipe import Draws

    out, start = [], 0
    low, high = RULE["redshift"]
    while len(out) < count:
        g = simulator._draw(Draws(seed, range(start, start + BLOCK)))
        fit = (g["redshift"] > low) & (g["redshift"] < high) & (g["re"] > RULE["re_arcsec"])
        for k in np.flatnonzero(fit.numpy()):
            one = {key: g[key][k : k + 1] for key in ("re", "axis_ratio", "pa", "east", "north")}
            if len(_positions(simulator, one)[0]) >= RULE["positions"]:
                out.append(start + int(k))
        start += BLOCK
    return out[:count]


def sky_position(seed, index):
    """Where a held-out galaxy stands: (right ascension, declination) [degrees] in a held-out cell of the sky.

    Uniform over these cells, fixed by seed and index. Galaxies that training simulates on the fly have no place on the
    sky; they are others because their seeds are: 10^7 times the recipe's seed and the number of the step.
    """
    from ..simulate.streams import stream
    from ..train.split import is_held_out

    rng = stream(seed, index, "held-out sky")
    while True:
        ra, dec = 360 * rng.uniform(size=64), np.degrees(np.arcsin(rng.uniform(-1, 1, size=64)))
        inside = np.flatnonzero(is_held_out(ra, dec, margin=0))
        if len(inside):
            return float(ra[inside[0]]), float(dec[inside[0]])


# --- its truth


def galaxy_truth(simulator, seed, index):
    """Image, positions and truth of galaxy ``index`` of ``seed``.

    Parameters
    ----------
    simulator : `~fiberifu.simulate.Simulator`
    seed, index : int
        As for its ``batch``: image and central fibre are those of a batch of fibres on centres (``placement
        "central"``), to the last bit those that training would see.

    Returns
    -------
    TruthMaps
    """
    import torch

    from ..simulate.observe import moffat_transfer
    from ..simulate.survey import STRATA

    with torch.inference_mode():
        seen = _on_centres(simulator).batch(1, seed, start=index)
        scene, imager = simulator._truth_scene(seed, index)
        g, fwhm = scene["g"], imager[3][0]
        row, column, east, north, radius = _positions(simulator, g)
        transfer = moffat_transfer(simulator.k, fwhm)
        amount = simulator._under(scene["stack"], transfer, east, north, simulator.config.aperture)
        owner = torch.zeros(len(amount), dtype=torch.int64, device=simulator.device)
        true = {key: value.cpu().numpy() for key, value in simulator.truth(scene, owner, amount).items()}
        chosen = _with_spectra(radius.cpu().numpy(), seed, index)
        spectra = simulator.spectra(scene, owner[: len(chosen)], amount[chosen])["flux"]
        peaks = _peaks(simulator, scene, transfer, seen["sigma"][0, 1])

    def number(name):
        return float(g[name][0])

    def plain(tensor):
        return tensor.cpu().numpy()

    east, north = plain(east), plain(north)
    depth = line_depth(simulator, number("redshift"), float(np.clip(np.median(true["sigma"]), 20, 300)))
    ra, dec = sky_position(seed, index)
    names = ("log_mass", "log_sfr", "inclination", "axis_ratio", "ebv")
    properties = {"re_arcsec": number("re"), "ra": ra, "dec": dec, **{name: number(name) for name in names}}
    properties |= {"centre_east": number("east"), "centre_north": number("north")}
    return TruthMaps(
        name=f"SIM {seed}-{index}",
        seed=int(seed),
        index=int(index),
        image=plain(seen["image"][0]),
        sigma=plain(seen["sigma"][0]),
        present=plain(seen["present"][0]),
        psf_fwhm=float(fwhm),
        pixel_scale=simulator.config.pixel_scale,
        redshift=number("redshift"),
        spaxel=RULE["spaxel"],
        row=plain(row - row.min()),
        column=plain(column - column.min()),
        east=east,
        north=north,
        radius=plain(radius),
        flux=true["line_flux"],
        ew=true["line_ew"],
        depth=depth.astype(np.float32),
        band=true["band"],
        velocity=true["velocity"],
        peak_distance=np.hypot(east[:, None] - peaks[:, 0], north[:, None] - peaks[:, 1]).min(1).astype(np.float32),
        strata={name: bool(g[name][0]) for name in STRATA},
        properties=properties,
        wave=plain(simulator.desi.wave),
        spectrum_at=chosen,
        spectrum=plain(spectra),
        central_flux=plain(seen["flux"][0]),
        central_ivar=plain(seen["ivar"][0]),
        central_offset=plain(seen["fiber_offset"][0]),
    )


def _on_centres(simulator):
    """The same universe with one fibre on each centre."""
    out = copy.copy(simulator)
    out.config = dataclasses.replace(simulator.config, placement="central", pair_fraction=0.0)
    return out


def _positions(simulator, g):
    """row, column, east, north, radius (n,) of the positions on the only galaxy of ``g``; one is on its centre."""
    import torch

    step, side = RULE["spaxel"], math.ceil(RULE["radius"] * float(g["re"][0]) / RULE["spaxel"])
    row, column = (a.flatten() for a in torch.meshgrid(*[torch.arange(-side, side + 1)] * 2, indexing="ij"))
    east, north = column * step + g["east"][0], row * step + g["north"][0]
    owner = torch.zeros(len(east), dtype=torch.int64)
    radius = simulator._radius(g, owner, torch.stack([east, north], 1))
    inside = (radius < RULE["radius"]) & (torch.maximum(east.abs(), north.abs()) <= RULE["stamp"])
    return tuple(a[inside] for a in (row, column, east, north, radius))


def _with_spectra(radius, seed, index):
    """Positions (M,) with whole spectra: a random one in each step of radius, or of those left if there is none."""
    from ..simulate.streams import stream

    rng, out = stream(seed, index, "held-out spectra"), []
    edges = np.linspace(0, RULE["radius"], RULE["spectra"] + 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        left = np.setdiff1d(np.arange(len(radius)), out)
        within = left[(radius[left] >= low) & (radius[left] < high)]
        out.append(int(rng.choice(within if len(within) else left)))
    return np.array(out)


def _peaks(simulator, scene, transfer, sigma):
    """East, north (P, 2) of the peaks of the galaxy's own light in r at the image's PSF, neighbours left out."""
    from scipy.ndimage import maximum_filter

    from ..simulate.observe import convolve

    own = scene["band"].shape[2] - 1  # the last map is the neighbour's
    m, step = simulator.config.margin, simulator.config.pixel_scale
    sharp = (scene["band"][0, 1, :own, None, None] * scene["stack"][0, :own]).sum(0)
    light = convolve(sharp, transfer)[m:-m, m:-m].cpu().numpy()
    reach = int(RULE["peak"] / step)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    top = light == maximum_filter(light, footprint=np.hypot(x, y) * step <= RULE["peak"])
    known = np.isfinite(sigma.cpu().numpy())
    blank = float(np.median(sigma.cpu().numpy()[known])) if known.any() else BLANK_R
    bright = top & (light > RULE["peak_snr"] * blank)
    row, column = np.nonzero(bright if bright.any() else light == light.max())
    middle = (light.shape[0] - 1) / 2
    return np.stack([(column - middle) * step, (row - middle) * step], 1)
