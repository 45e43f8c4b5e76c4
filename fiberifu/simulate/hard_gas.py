"""Gas that does not follow young stars: narrow-line regions, winds, and clouds or rings that are decoupled.

Shapes: B galaxies, H x W the grid.
"""

import math

import torch

from .structure import column, unit

__all__ = ["HA_PER_SFR", "decoupled_gas", "narrow_and_wind"]

#: H-alpha per star formation rate, Lsun per Msun/yr: 10^41.27 erg/s (Kennicutt & Evans 2012, table 1).
HA_PER_SFR = 10**7.687


def _cone(g, x, y, distance, axis_x, axis_y):
    """Two cones, ever fainter outwards, the approaching one along (axis_x, axis_y) and the receding one."""
    along = (x * axis_x + y * axis_y) / distance
    depth = distance / (column(g, "cone_length") * column(g, "re"))
    fade = torch.exp(-depth) / (0.2 + depth)
    edge = torch.cos(column(g, "cone_half"))
    return tuple(torch.sigmoid((side * along - edge) * 25) * fade for side in (1, -1))


def narrow_and_wind(g, x, y, *, pixel):
    """H-alpha of narrow-line regions and of the two sides of a wind.

    An AGN ionises a nucleus and a cone that points anywhere. A wind leaves along the minor axis of a star-forming
    disc: the side in front of the disc approaches and is seen against the far half; the other is behind the disc. The
    wind of an AGN follows its cone.

    Returns
    -------
    narrow, front, back : Tensor (B, H, W)
        Lsun of H-alpha per arcsec2; ``front`` approaches, ``back`` recedes.
    """
    distance = torch.sqrt(x**2 + y**2 + 1e-6)
    agn, outflow = column(g, "agn"), column(g, "outflow")
    axis_x = torch.where(agn, torch.cos(column(g, "cone_angle")), 0.0)
    axis_y = torch.where(agn, torch.sin(column(g, "cone_angle")), column(g, "far_side"))
    front, back = _cone(g, x, y, distance, axis_x, axis_y)
    area = (front + back).sum((-2, -1), keepdim=True) * pixel**2
    front, back = front / area, back / area
    nucleus = unit(torch.exp(-0.5 * (distance / 0.22) ** 2), pixel)
    power = 10 ** (column(g, "log_agn") - math.log10(3.828e33))
    spread = column(g, "cone_share")
    blown = torch.where(outflow, column(g, "outflow_share"), 0.0)
    narrow = torch.where(agn, power * (1 - blown) * (nucleus * (1 - spread) + (front + back) * spread), 0.0)
    wind = blown * torch.where(agn, power, HA_PER_SFR * 10 ** (column(g, "log_sfr") + column(g, "burst")))
    compact = 0.25 * nucleus / 2
    return narrow, wind * (0.75 * front + compact), wind * (0.75 * back + compact)


def decoupled_gas(g, x, y, u, v, *, pixel):
    """Unit map of gas that ignores the stars: three clouds in the disc, or a ring about an axis of its own."""
    clouds = 0
    turns, outs, widths, weights = (0.0, 0.5, 0.9), (1.0, 1.15, 0.9), (0.22, 0.16, 0.3), (1.0, 0.6, 0.4)
    for turn, out, width, weight in zip(turns, outs, widths, weights, strict=True):
        angle, radius = column(g, "decoupled_angle") + turn, column(g, "decoupled_radius") * out
        r2 = (u - radius * torch.cos(angle)) ** 2 + (v - radius * torch.sin(angle)) ** 2
        clouds = clouds + weight * torch.exp(-0.5 * r2 / width**2)
    cos, sin = torch.cos(column(g, "decoupled_pa")), torch.sin(column(g, "decoupled_pa"))
    tilt = torch.sqrt(1 - column(g, "decoupled_tilt") ** 2 + 0.05)
    re = column(g, "re")
    r = torch.hypot((x * cos + y * sin) / re, (y * cos - x * sin) / (re * tilt))
    ring = torch.exp(-0.5 * ((r - column(g, "decoupled_radius")) / 0.2) ** 2)
    return unit(torch.where(column(g, "decoupled_ring"), ring, clouds), pixel)
