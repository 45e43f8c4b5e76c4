"""What galaxies look like on the sky (`galaxy_maps`) and what they are made of (`galaxy_spectra`).

A galaxy is a sum of components, each a fixed spectrum or line vector times a map. Six stellar populations and
six kinds of gas, each behind little or much dust: 24 maps. What is observed of it is linear in them.

Shapes: B galaxies, P populations, G gas components, D = 2 dust levels, K clumps, H x W the grid.
"""

import math

import torch
from torch.nn.functional import grid_sample

from .gas import LINES
from .recipe import CLUMPS
from .stars import kpc_per_arcsec

__all__ = ["POPULATIONS", "galaxy_maps", "galaxy_spectra", "sky_grid"]

POPULATIONS = ("bulge", "disc_inner", "disc_outer", "intermediate", "young", "newborn")


def sky_grid(size, pixel, device="cpu"):
    """Offsets (size, size) of pixel centres to the east and to the north, arcsec."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2) * pixel
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def _clump_positions(g, d):
    """Where the clumps are in the disc plane, in effective radii, and how bright, (B, K)."""
    u = d.clump
    order = torch.arange(CLUMPS, device=u.device)
    alive = order < g["clumps"][:, None]
    radius = -torch.log(u[..., 0] * u[..., 1] + 1e-6) / 1.68 * g["sf_scale"][:, None] * 0.8 + 0.05
    ring = g["ring_radius"][:, None] + g["ring_width"][:, None] * (u[..., 0] - 0.5) * 2.5
    radius = torch.where(g["ring"][:, None] & (u[..., 2] < 0.8), ring, radius).clamp(0.05, 4.0)
    arm = torch.floor(u[..., 3] * g["arms"][:, None]) * 2 * math.pi / g["arms"][:, None]
    spiral = (torch.log(radius) / torch.tan(g["pitch"])[:, None]) + g["arm_phase"][:, None] / g["arms"][:, None]
    scatter = 0.5 * (u[..., 4] + u[..., 5] - 1)
    on_arm = u[..., 6] < g["arm_young"][:, None]
    angle = torch.where(on_arm, spiral + arm + scatter, 2 * math.pi * u[..., 4])
    light = (u[..., 7] + 0.004) ** -g["clump_slope"][:, None] * alive
    return radius, angle, light / light.sum(1, keepdim=True).clamp(min=1e-6)


def _blobs(x, y, sigma, weight, axis):
    """Sum of round Gaussians: (B, H, W), each with integral ``weight``; x, y, sigma, weight are (B, K)."""
    gx = torch.exp(-0.5 * ((axis - x[..., None]) / sigma[..., None]) ** 2)
    gy = torch.exp(-0.5 * ((axis - y[..., None]) / sigma[..., None]) ** 2)
    amplitude = weight / (2 * math.pi * sigma**2)
    return torch.bmm((gy * amplitude[..., None]).transpose(1, 2), gx)


def galaxy_maps(g, d, size, pixel):
    """Component maps on a grid centred on the stamp.

    Parameters
    ----------
    g : dict
        From `draw_galaxies`.
    d : Draws
        The same draws (clumps and textures).
    size : int
        Pixels on a side.
    pixel : float
        arcsec.

    Returns
    -------
    dict
        mass (B, P, D, H, W), Msun formed per arcsec2 (total inside the grid = the galaxy's mass); gas (B, G,
        D, H, W), per arcsec2: Msun/yr for the H II and diffuse components, Lsun of H-alpha for the others;
        velocity (B, H, W) km/s; clump_east, clump_north, clump_light (B, K).
    """

    def col(name):
        return g[name][:, None, None]

    east, north = sky_grid(size, pixel, d.device)
    dx, dy = east - col("east"), north - col("north")
    cos, sin = torch.cos(col("pa")), torch.sin(col("pa"))
    x, y = dx * cos + dy * sin, dy * cos - dx * sin  # along the major and the minor axis
    q, re = col("axis_ratio"), col("re")
    soft = 0.12  # arcsec: half a pixel keeps cusps inside what the grid can carry
    u, v = x / re, y / (q * re)  # disc plane, in effective radii
    radius = torch.sqrt(u**2 + v**2 + (soft / re) ** 2)
    angle = torch.atan2(v, u)

    def unit(shape):
        return shape / (shape.sum((-2, -1), keepdim=True) * pixel**2).clamp(min=1e-12)

    # textures live in the disc plane, so they turn and shrink with the galaxy
    where = torch.stack([u, v], -1) / 4
    texture = grid_sample(d.texture, where, mode="bicubic", padding_mode="reflection", align_corners=False)
    texture = texture.clamp(-3, 3) * 1.3  # interpolation lowers the scatter
    first, second, third = texture.unbind(1)

    # --- old stars
    b_n = 2 * col("bulge_n") - 1 / 3 + 0.01 / col("bulge_n")  # Ciotti & Bertin 1999
    bulge_r = torch.sqrt(x**2 + (y / col("bulge_q")) ** 2 + soft**2) / col("bulge_re")
    bulge = unit(torch.exp(-b_n * (bulge_r ** (1 / col("bulge_n")) - 1)))
    arm_phase = col("arms") * (angle - torch.log(radius) / torch.tan(col("pitch"))) - col("arm_phase")
    arm_phase = arm_phase + 0.8 * third * (1 - col("arm_old"))
    fade = radius / (radius + 0.25)  # no arms in the very centre
    arm = torch.exp(col("arm_sharp") * (torch.cos(arm_phase) - 1)) * fade
    trailing = torch.exp(col("arm_sharp") * (torch.cos(arm_phase + 0.6 * torch.sign(col("pitch"))) - 1)) * fade
    disc = torch.exp(-1.68 * radius)
    cb, sb = torch.cos(col("bar_angle")), torch.sin(col("bar_angle"))
    bar_u, bar_v = (u * cb + v * sb) / col("bar_length"), (v * cb - u * sb) / (0.3 * col("bar_length"))
    bar = unit(torch.exp(-((bar_u**2 + bar_v**2 + 1e-6) ** 1.2)))
    smooth = unit(disc) * (1 - col("bar")) + bar * col("bar")
    patterned = smooth * (1 - col("arm_old") + col("arm_old") * 2.2 * arm) * 10 ** (0.06 * first)
    patterned = unit(patterned)
    outer = 1 - torch.exp(-radius / 1.5)  # share of the outer population
    mass = 10 ** col("log_mass")
    sfr = 10 ** col("log_sfr")

    # --- star formation follows its own map
    tilt = 1 + col("lopsided") * torch.cos(angle - col("lopsided_angle")) * radius.clamp(max=1)
    profile = torch.exp(-1.68 * radius / col("sf_scale"))
    ring = torch.exp(-0.5 * ((radius - col("ring_radius")) / col("ring_width")) ** 2) + 0.1 * profile
    profile = torch.where(col("ring"), ring, profile)
    profile = profile * (1 - col("hole") * torch.exp(-((radius / col("hole_radius")) ** 2))) * tilt
    arm_young = 1 - col("arm_young") + col("arm_young") * 2.5 * arm
    drift = 1 - 0.7 * col("arm_young") + 0.7 * col("arm_young") * 2.2 * arm
    young = profile * drift * 10 ** (0.6 * col("texture") * first)
    now = unit(profile * arm_young * 10 ** (col("texture") * first))

    c_radius, c_angle, c_light = _clump_positions(g, d)
    c_u, c_v = c_radius * torch.cos(c_angle), c_radius * torch.sin(c_angle)
    major, minor = c_u * g["re"][:, None], c_v * (g["re"] * g["axis_ratio"])[:, None]
    cos1, sin1 = cos[..., 0], sin[..., 0]
    c_east = major * cos1 - minor * sin1 + g["east"][:, None]
    c_north = major * sin1 + minor * cos1 + g["north"][:, None]
    kpc = kpc_per_arcsec(g["redshift"])[:, None]
    c_sigma = torch.hypot((0.06 + 0.12 * d.clump[..., 2]) / kpc, torch.full_like(c_radius, 0.2))
    axis = east[0]
    phase = 10 ** (2.4 * (d.clump[..., 5] + d.clump[..., 6] + d.clump[..., 1] - 1.5) * 0.3)  # clumps differ in age
    clump_stars = _blobs(c_east, c_north, c_sigma, c_light, axis)
    clump_gas = _blobs(c_east, c_north, c_sigma, c_light * phase, axis)
    share = col("clump_fraction")
    burst = 10 ** col("burst")

    stars = torch.stack(
        [
            mass * col("bulge_fraction") * bulge,
            mass * (1 - col("bulge_fraction")) * patterned * (1 - outer),
            mass * (1 - col("bulge_fraction")) * patterned * outer,
            sfr * 10 ** col("recent") * 1.2e9 * unit(young * 0.5 + disc * 0.5 * profile.mean((-2, -1), keepdim=True)),
            sfr * 4.9e8 * unit(young) * (1 - 0.3 * share) + sfr * 4.9e8 * 0.3 * share * clump_stars,
            sfr * burst * 1.8e7 * (now * (1 - share) + clump_stars * share),
        ],
        1,
    )

    # --- gas
    inner = (1 - radius / 3).clamp(0, 1)
    lines = sfr * burst * 10 ** col("ionising") * 10 ** (col("phase_texture") * second)
    hii = lines * now * (1 - share) * (1 - col("diffuse"))
    clumpy = lines * clump_gas * share * (1 - 0.5 * col("diffuse"))
    spread = unit(torch.exp(-1.4 * radius / col("sf_scale")) * (0.6 + arm) * 10 ** (0.1 * third)) * 0.5 + now * 0.5
    diffuse = sfr * burst * 10 ** col("ionising") * spread * col("diffuse")
    hard, decoupled = _hard_gas(g, x, y, radius, u, v, pixel)
    old_mass = stars[:, 0] + stars[:, 1] + stars[:, 2]
    old = old_mass * 10 ** (0.15 * second) * col("old_lum")
    old_total = old_mass.sum((-2, -1), keepdim=True) * pixel**2
    star_forming = sfr * col("decoupled_share") * decoupled * ~col("quenched")
    extra = old_total * col("old_lum") / col("old_ew") * col("decoupled_ew") * 0.25 * decoupled
    old = old + extra * (col("quenched") & col("decoupled"))
    diffuse = diffuse + star_forming * col("decoupled")
    gas = torch.stack([hii * inner, hii * (1 - inner), clumpy, diffuse, hard, old], 1)

    # --- dust: share of the light behind the thick screen
    lane = trailing * col("lane") * 0.6
    thick = (0.75 * torch.exp(-1.2 * radius / col("dust_scale")) + lane) * 10 ** (0.12 * third)
    plane = torch.exp(-0.5 * (y / (0.12 * re + 0.15)) ** 2) * 0.7 * (col("axis_ratio") < 0.35) * ~col("spheroid")
    thick = (thick + plane * torch.exp(-0.6 * radius.clamp(max=4))).clamp(0, 0.92)
    behind_old = thick[:, None]
    behind_new = (1 - (1 - thick) ** 1.6)[:, None]
    split = torch.cat([behind_old.expand(-1, 4, -1, -1), behind_new.expand(-1, 2, -1, -1)], 1)
    gas_split = torch.cat([behind_new.expand(-1, 3, -1, -1), behind_old.expand(-1, 3, -1, -1)], 1)
    velocity = col("v_max") * (2 / math.pi) * torch.atan(radius / col("v_turn")) * (u / radius)
    velocity = velocity * torch.sin(torch.deg2rad(col("inclination")))
    return {
        "mass": torch.stack([stars * (1 - split), stars * split], 2),
        "gas": torch.stack([gas * (1 - gas_split), gas * gas_split], 2),
        "velocity": velocity,
        "clump_east": c_east,
        "clump_north": c_north,
        "clump_light": c_light * phase,
        "radius": radius,
    }


def _hard_gas(g, x, y, radius, u, v, pixel):
    """H-alpha (Lsun/arcsec2) of nuclei, cones and winds, and unit maps of clouds that ignore the stars."""

    def col(name):
        return g[name][:, None, None]

    def unit(shape):
        return shape / (shape.sum((-2, -1), keepdim=True) * pixel**2).clamp(min=1e-12)

    distance = torch.sqrt(x**2 + y**2 + 1e-6)
    # an AGN's cone points anywhere; a wind leaves along the minor axis
    direction = torch.where(col("agn"), col("cone_angle"), math.pi / 2)
    across = (x * torch.cos(direction) + y * torch.sin(direction)).abs() / distance
    opening = torch.sigmoid((across - torch.cos(col("cone_half"))) * 25)
    cone = unit(opening * torch.exp(-distance / (col("cone_length") * col("re"))))
    nucleus = unit(torch.exp(-0.5 * (distance / 0.22) ** 2))
    agn = 10 ** (col("log_agn") - math.log10(3.828e33)) * (nucleus * (1 - col("cone_share")) + cone * col("cone_share"))
    ha_per_sfr = 10**7.6  # Lsun per Msun/yr, near solar
    wind = 10 ** col("log_sfr") * ha_per_sfr * col("outflow_share") * cone
    hard = torch.where(col("agn"), agn, torch.where(col("outflow"), wind, 0.0))
    clouds = 0
    for k, (turn, out, width) in enumerate(((0.0, 1.0, 0.22), (0.5, 1.15, 0.16), (0.9, 0.9, 0.3))):
        angle = col("decoupled_angle") + turn
        cu, cv = (
            col("decoupled_radius") * out * torch.cos(angle),
            col("decoupled_radius") * out * torch.sin(angle),
        )
        clouds = clouds + torch.exp(-0.5 * ((u - cu) ** 2 + (v - cv) ** 2) / width**2) * (1.0, 0.6, 0.4)[k]
    return hard, unit(clouds)


def galaxy_spectra(g, stars, gas):
    """What the components are made of.

    Parameters
    ----------
    g : dict
        From `draw_galaxies`; ``old_lum`` (Lsun of H-alpha per Msun of old stars) is added to it.
    stars : Starlight
    gas : GasTables

    Returns
    -------
    dict
        weights (B, P, S) on the SSP grid; line (B, G, 15) Lsun per unit of the gas maps; ebv (B, D) of stars;
        gas_ebv (B, D); sigma (B, G) km/s of the gas components.
    """
    width = torch.full_like(g["redshift"], 0.22)
    z_in, z_out = g["star_z"], g["star_z"] + 1.5 * g["star_gradient"]
    weights = torch.stack(
        [
            stars.weights(g["bulge_age"], width * 0.7, g["bulge_z"]),
            stars.weights(g["disc_age"], width, z_in),
            stars.weights(g["outer_age"], width, z_out),
            stars.constant(4e8, 1.6e9, z_in),
            stars.constant(1.8e7, 5e8, g["gas_z_inner"].clamp(max=0.3)),
            stars.constant(0.0, 1.8e7, g["gas_z_inner"].clamp(max=0.3)),
        ],
        1,
    )
    scatter = {name: g[name] for name in ("n_over_o", "oxygen_one", "neon", "helium")}
    inner = gas.hii(g["gas_z_inner"], g["log_u"], g["xi"], **scatter)
    outer = gas.hii(g["gas_z_outer"], g["log_u"] + 0.1, g["xi"], **scatter)
    clump = gas.hii((g["gas_z_inner"] + g["gas_z_outer"]) / 2, g["log_u_clump"], g["xi"], **scatter)
    low, high, zero = g["diffuse_low"], g["diffuse_o3"], torch.zeros_like(g["diffuse_low"])
    boost = {"O2_3726": low, "O2_3729": low, "S2_6716": 1.3 * low, "S2_6731": 1.3 * low, "O1_6300": 1.8 * low}
    boost |= {"N2_6548": 0.7 * low, "N2_6583": 0.7 * low, "O3_4959": high, "O3_5007": high, "Ne3_3869": high}
    diffuse = (inner + outer) / 2 * 10 ** torch.stack([boost.get(line, zero) for line in LINES], -1)
    hard = gas.ratios(g["hard_o3"], g["hard_n2"], g["hard_s2"], g["hard_o1"], g["hard_o2"], balmer=3.0)
    old = gas.ratios(g["old_o3"], g["old_n2"], zero - 0.05, zero - 0.8, zero + 0.6)
    # old stars make lines of a given equivalent width
    ha = LINES.index("Ha")
    continuum = torch.einsum("bs,js->b", weights[:, 1], stars.side_mean[ha])
    g["old_lum"] = g["old_ew"] * continuum
    thin, thick = 0.2 * g["ebv"], 1.9 * g["ebv"]
    ebv = torch.stack([thin, thick], 1)
    sigma = torch.stack(
        [
            g["sigma_gas"],
            g["sigma_gas"],
            g["sigma_gas"],
            g["sigma_gas"] * 1.6,
            torch.where(g["agn"], 160.0, 110.0),
            g["sigma_star"] * 0.8,
        ],
        1,
    )
    return {
        "weights": weights,
        "line": torch.stack([inner, outer, clump, diffuse, hard, old], 1),
        "ebv": ebv,
        "gas_ebv": ebv * g["gas_dust"][:, None],
        "sigma": sigma,
    }
