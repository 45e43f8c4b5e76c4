"""Where on galaxies a survey puts its fibres: light peaks, clumps of broken-up hosts, major axes, blank sky."""

import copy
import dataclasses
import math

import numpy as np
import torch

from .observe import convolve, moffat_transfer
from .photometry import Photometry
from .streams import stream

__all__ = ["centred", "place_targets"]


def centred(simulator):
    """The same simulator with its galaxies in the middle of their stamps."""
    out = copy.copy(simulator)
    out.config = dataclasses.replace(simulator.config, jitter=0.0)
    return out


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
