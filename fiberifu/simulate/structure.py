"""Shapes that discs take: breaks, thickness, warps, flocculent arms, and what mergers leave.

Shapes: B galaxies, H x W the grid. Lengths are in effective radii unless stated.
"""

import math

import torch
from torch.nn.functional import grid_sample, softplus

__all__ = [
    "blur",
    "broken_exponential",
    "column",
    "companion",
    "debris",
    "draw_structure",
    "flocculent",
    "for_some",
    "like",
    "plane",
    "unit",
]

_SHARP = 5.0  # of the break, per effective radius (Erwin, Pohlen & Beckman 2008, alpha)


def column(g, name):
    """A parameter as (B, 1, 1)."""
    return g[name][:, None, None]


def unit(shape, pixel):
    """``shape`` (B, H, W) divided by its integral."""
    return shape / (shape.sum((-2, -1), keepdim=True) * pixel**2).clamp(min=1e-12)


def blur(texture, sigma):
    """Textures (B, T, N, N) smoothed with Gaussians of ``sigma`` (B, 2) cells along their last and last but one axis.

    What a grid of pixels cannot carry has to go before it is sampled at their centres.
    """
    cell = torch.arange(texture.shape[-1], device=texture.device)
    apart = (cell[:, None] - cell).float()
    weight = torch.exp(-0.5 * (apart / sigma[..., None, None].clamp(min=0.1)) ** 2)
    x, y = (weight / weight.sum(-1, keepdim=True)).unbind(1)
    return y[:, None] @ texture @ x[:, None].transpose(-1, -2)


def like(shape, total):
    """``shape`` (B, H, W) scaled to the integral of the map ``total``."""
    return shape * (total.sum((-2, -1), keepdim=True) / shape.sum((-2, -1), keepdim=True).clamp(min=1e-12))


def for_some(make, who, g, *maps, count=1):
    """``make(g, *maps)`` for the galaxies ``who`` (B,) bool, zero for the others: (B, H, W), or ``count`` of them.

    Nothing is lost by it where the others have none of what is made.
    """
    out = [torch.zeros_like(maps[0]) for _ in range(count)]
    index = torch.nonzero(who)[:, 0]
    if len(index):
        made = make({key: value[index] for key, value in g.items()}, *(m[index] for m in maps))
        for whole, part in zip(out, made if count > 1 else (made,), strict=True):
            whole[index] = part
    return out if count > 1 else out[0]


def draw_structure(g, d):
    """Add the parameters of this module to ``g``.

    Breaks: 60 % of discs fall more steeply beyond 2.5 +- 0.6 scale lengths (by a factor 2.1 +- 0.5), 30 % less
    steeply beyond 4.9 +- 0.6, 10 % do not break (Pohlen & Trujillo 2006). Thickness: old discs 0.2 of their
    length, lower masses thicker (Sanchez-Janssen+2010), gas and new stars 0.07. Half of the discs are warped
    (Reshetnikov & Combes 1998); 40 % have flocculent arms, fewer where massive (Elmegreen & Elmegreen 1987).
    Mergers: 5 % of galaxies, more than in the sky; star formation rises by 0.25 +- 0.2 dex (Ellison+2013) and
    central gas is poorer by 0.1 dex (Kewley+2006).

    Parameters
    ----------
    g : dict
        Mass, size, inclination ...; changed in place.
    d : Draws
    """
    spheroid, mass = g["spheroid"], g["log_mass"]
    kind = d.uniform()
    down, up = kind < 0.6, kind > 0.7
    steeper = d.normal(2.1, 0.4).clamp(1.2, 4.0)
    g["break_radius"] = torch.where(up, d.normal(4.9, 0.6), d.normal(2.5, 0.6).clamp(1.2, 4.5)) / 1.68
    g["break_ratio"] = torch.where(down, steeper, torch.where(up, 1 / steeper, 1.0))
    g["thickness"] = 0.2 + 0.06 * ((9.5 - mass) / 0.7).clamp(0, 1.5) + d.normal(0, 0.02)
    cos_i = torch.cos(torch.deg2rad(g["inclination"]))
    for name, thick in (("axis_ratio", g["thickness"]), ("thin_ratio", torch.full_like(mass, 0.07))):
        g[name] = torch.where(spheroid, 0.95 * g["bulge_q"], torch.sqrt((1 - thick**2) * cos_i**2 + thick**2))
    g["warp"] = torch.where(d.chance(0.5) & ~spheroid, d.uniform(0.02, 0.12), 0.0) * torch.sign(d.uniform(-1, 1))
    g["flocculent"] = d.label("flocculent", d.chance(0.4 - 0.15 * (mass - 10)) & ~spheroid)

    g["merger"] = merger = d.label("merger", d.chance(0.05))
    g["log_sfr"] = g["log_sfr"] + torch.where(merger & ~g["quenched"], d.normal(0.25, 0.2), 0.0)
    g["gas_z_inner"] = g["gas_z_inner"] - 0.1 * merger
    g["lopsided"] = g["lopsided"] + merger * d.uniform(0.1, 0.4)
    g["companion_ratio"] = 10 ** d.uniform(-1.0, -0.1) * merger
    angle, away = d.uniform(0, 2 * math.pi), d.uniform(1.0, 2.6)
    g["companion_x"], g["companion_y"] = away * torch.cos(angle), away * torch.sin(angle)
    g["companion_size"] = d.uniform(0.5, 0.9) * g["companion_ratio"].clamp(min=0.1) ** 0.25
    g["companion_q"], g["companion_pa"] = d.uniform(0.45, 1.0), d.uniform(0, math.pi)
    g["companion_young"] = d.uniform(0.2, 1.5) * g["companion_ratio"]
    g["companion_velocity"] = d.uniform(-220.0, 220.0)
    g["debris"] = torch.where(merger, d.uniform(0.06, 0.25), 0.0)
    g["tail_pitch"] = torch.deg2rad(d.uniform(28.0, 50.0)) * torch.sign(g["pitch"])
    g["tail_angle"], g["tail_balance"] = angle, d.uniform(0.1, 1.0)


def plane(g, x, y, ratio):
    """Coordinates (u, v) in the disc plane of sky offsets along the major and minor axis (arcsec).

    The outer disc of a warped galaxy bends like an integral sign, as far as the inclination shows it.
    """
    re = column(g, "re")
    beyond = (x.abs() / re - 1.2).clamp(min=0)
    bend = column(g, "warp") * torch.sign(x) * beyond**1.5 * torch.sin(torch.deg2rad(column(g, "inclination")))
    return x / re, (y / re - bend) / column(g, ratio)


def broken_exponential(g, radius, slope):
    """exp(-slope R) whose slope changes smoothly at the break (Erwin, Pohlen & Beckman 2008, eq. 6)."""
    steeper = slope * (1 - column(g, "break_ratio")) / _SHARP
    return torch.exp(steeper * softplus(_SHARP * (radius - column(g, "break_radius"))) - slope * radius)


def flocculent(g, texture, radius, angle):
    """Density of many short arms: a texture (B, 1, T, T) sheared by rotation; mean about 0.45."""
    tan = torch.tan(column(g, "pitch"))
    wound = angle - torch.log(radius) / (torch.sign(tan) * tan.abs().clamp(min=0.45))  # tighter would look like rings
    reach = radius.clamp(max=4) / 4
    where = torch.stack([reach * torch.cos(wound), reach * torch.sin(wound)], -1)
    sheared = grid_sample(texture, where, mode="bilinear", padding_mode="reflection", align_corners=False)[:, 0]
    return 0.3 * torch.exp(1.1 * sheared.clamp(-2.5, 2.5))


def companion(g, x, y, *, pixel):
    """Unit map of a second galaxy at the same distance: an exponential of its own shape."""
    re = column(g, "re")
    dx, dy = x - column(g, "companion_x") * re, y - column(g, "companion_y") * re
    cos, sin = torch.cos(column(g, "companion_pa")), torch.sin(column(g, "companion_pa"))
    along, across = dx * cos + dy * sin, (dy * cos - dx * sin) / column(g, "companion_q")
    r = torch.sqrt(along**2 + across**2 + 0.12**2) / (column(g, "companion_size") * re)
    return unit(torch.exp(-2.2 * r), pixel)


def debris(g, radius, angle, *, pixel):
    """Unit map of what tides pulled out: two tails of a disc (one towards the companion), shells of a spheroid."""
    turn = torch.log(radius / 0.8 + 1e-3) / torch.tan(column(g, "tail_pitch"))
    phase = angle - column(g, "tail_angle") - turn
    first, second = (torch.exp(9 * (torch.cos(phase + shift) - 1)) for shift in (0.0, math.pi))
    outside = torch.sigmoid((radius - 0.9) * 6) * torch.exp(-radius / 0.9)
    tails = (first + column(g, "tail_balance") * second) * outside
    shells = 0
    for k, at in enumerate((1.1, 1.7, 2.5)):  # alternate sides, sharp on the outside (Quinn 1984)
        side = torch.sigmoid(4 * torch.cos(angle - column(g, "tail_angle") - math.pi * k) - 1.5)
        depth = (at - radius) / 0.35
        arc = torch.exp(-depth.clamp(min=0)) * torch.sigmoid(depth * 12)
        shells = shells + arc * side / at
    return unit(torch.where(column(g, "spheroid"), shells, tails), pixel)
