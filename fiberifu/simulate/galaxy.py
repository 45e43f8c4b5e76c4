"""What galaxies look like on the sky (`galaxy_maps`) and what they are made of (`galaxy_spectra`).

A galaxy is a sum of components, each a fixed spectrum or line vector times a map. Six stellar populations and
eight kinds of gas, each behind little or much dust: 28 maps. What is observed of it is linear in them.

Shapes: B galaxies, P populations, G gas components, D = 2 dust levels, K clumps, H x W the grid.
"""

import math
from functools import partial

import torch
from torch.nn.functional import grid_sample

from .gas import LINES
from .hard_gas import HA_PER_SFR, decoupled_gas, narrow_and_wind
from .motion import velocity_fields
from .recipe import CLUMPS, SPANS, recent_mass
from .stars import kpc_per_arcsec
from .structure import blur, broken_exponential, column, companion, debris, flocculent, for_some, like, plane, unit

__all__ = ["POPULATIONS", "galaxy_maps", "galaxy_spectra", "galaxy_totals", "sky_grid"]

#: Sigma, in pixels, by which structure is smoothed before it is sampled at the centres of pixels. Without it the light
#: behind dust, and so fluxes, would hang on where a galaxy lies on the grid.
_BLUR = 0.5

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
    on_arm = (u[..., 6] < g["arm_young"][:, None]) & ~g["flocculent"][:, None]
    angle = torch.where(on_arm, spiral + arm + scatter, 2 * math.pi * u[..., 4])
    # luminosities of index -alpha, over three decades: L = u^(-1 / (alpha - 1)) for uniform u
    steep = 1 / (g["clump_slope"][:, None] - 1)
    low = 1e-3 ** (1 / steep)
    light = (low + (1 - low) * u[..., 7]) ** -steep * alive
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
        From `draw_galaxies`, after `galaxy_spectra`.
    d : Draws
        The same draws (clumps and textures).
    size : int
        Pixels on a side.
    pixel : float
        arcsec.

    Returns
    -------
    dict
        mass (B, P, D, H, W), Msun formed per arcsec2, whose total inside the grid is the mass of the galaxy (and
        of its companion, see `galaxy_totals`); gas (B, G, D, H, W), per arcsec2: Msun/yr for the H II and diffuse
        components, Lsun of H-alpha for the others. The ionised star formation adds up to 10^(log_sfr + burst +
        ionising), with the companion's on top and less what winds of star formation and decoupled gas take;
        velocity, variance (B, K, H, W) km/s, see `velocity_fields`, velocity_star, variance_star (B, H, W);
        clump_east, clump_north, clump_light (B, K); radius (B, H, W) in the plane of the disc.
    """

    def col(name):
        return column(g, name)

    east, north = sky_grid(size, pixel, d.device)
    dx, dy = east - col("east"), north - col("north")
    cos, sin = torch.cos(col("pa")), torch.sin(col("pa"))
    x, y = dx * cos + dy * sin, dy * cos - dx * sin  # along the major and the minor axis
    re = col("re")
    soft = 0.12  # arcsec: half a pixel keeps cusps inside what the grid can carry
    # nor is anything seen from the side thinner than half a pixel
    g = g | {name: torch.hypot(g[name], _BLUR * pixel / g["re"]) for name in ("axis_ratio", "thin_ratio")}
    # disc plane, in effective radii: old stars in a thick disc, gas and new stars in a thin one
    u_old, v_old = plane(g, x, y, "axis_ratio")
    r_old = torch.sqrt(u_old**2 + v_old**2 + (soft / re) ** 2)
    u, v = plane(g, x, y, "thin_ratio")
    radius = torch.sqrt(u**2 + v**2 + (soft / re) ** 2)
    angle = torch.atan2(v, u)

    # textures live in the disc plane, so they turn and shrink with the galaxy
    where = torch.stack([u, v], -1) / 4
    cells = _BLUR * pixel * d.texture.shape[-1] / 8 / g["re"]  # half a pixel, in cells along the major axis
    cells = torch.stack([cells, cells / g["thin_ratio"]], 1)
    blurred = blur(d.texture, cells)
    texture = grid_sample(blurred, where, mode="bicubic", padding_mode="reflection", align_corners=False)
    texture = texture.clamp(-3, 3) * 1.3  # interpolation lowers the scatter
    first, second, third = texture.unbind(1)
    # star formation of the last few Myr flickers over patches of a third of the effective radius
    flicker = (
        grid_sample(blur(d.texture[:, 1:2], 0.45 * cells), 0.45 * where, mode="bilinear", align_corners=False)[:, 0]
        * 1.4
    )

    # --- old stars
    b_n = 2 * col("bulge_n") - 1 / 3 + 0.01 / col("bulge_n")  # Ciotti & Bertin 1999
    bulge_r = torch.sqrt(x**2 + (y / col("bulge_q")) ** 2 + soft**2) / col("bulge_re")
    bulge = unit(torch.exp(-b_n * (bulge_r ** (1 / col("bulge_n")) - 1)), pixel)
    arm_phase = col("arms") * (angle - torch.log(radius) / torch.tan(col("pitch"))) - col("arm_phase")
    arm_phase = arm_phase + 0.8 * third * (1 - col("arm_old"))
    fade = radius / (radius + 0.25)  # no arms in the very centre
    # towards the centre they wind up more tightly than pixels can tell, and only their mean is left
    mean, tan = torch.special.i0e(col("arm_sharp")), torch.tan(col("pitch"))
    along, across = (u / tan + v) / radius**2, (u - v / tan) / radius**2
    turn = (along**2 + (across / col("thin_ratio")) ** 2) * (col("arms") * _BLUR * pixel / re) ** 2
    told = torch.exp(-0.5 * turn)
    grand = mean + told * (torch.exp(col("arm_sharp") * (torch.cos(arm_phase) - 1)) - mean)
    trailing = torch.exp(col("arm_sharp") * (torch.cos(arm_phase + 0.6 * torch.sign(col("pitch"))) - 1))
    trailing = (mean + told * (trailing - mean)) * fade
    patchy = flocculent(g, blurred[:, 1:2], radius, angle)
    arm = torch.where(col("flocculent"), patchy, grand) * fade
    arm_old = col("arm_old") * torch.where(col("flocculent"), 0.4, 1.0)
    disc = broken_exponential(g, r_old, 1.68)
    cb, sb = torch.cos(col("bar_angle")), torch.sin(col("bar_angle"))
    bar_u, bar_v = (u_old * cb + v_old * sb) / col("bar_length"), (v_old * cb - u_old * sb) / (0.3 * col("bar_length"))
    bar = unit(torch.exp(-((bar_u**2 + bar_v**2 + 1e-6) ** 1.2)), pixel)
    smooth = unit(disc, pixel) * (1 - col("bar")) + bar * col("bar")
    patterned = smooth * (1 - arm_old + arm_old * 2.2 * arm) * 10 ** (0.06 * first)
    patterned = unit(patterned, pixel)
    outer = 1 - torch.exp(-r_old / 1.5)  # share of the outer population
    recent = recent_mass(g)
    # a galaxy of one's own choice may form more than its mass: a tenth of that is old at the least
    mass = torch.maximum(10 ** g["log_mass"] - recent.sum(1), 0.1 * 10 ** g["log_mass"])[:, None, None]
    intermediate_mass, young_mass, newborn_mass = recent.T[..., None, None]
    sfr = 10 ** col("log_sfr")

    # --- star formation follows its own map
    tilt = 1 + col("lopsided") * torch.cos(angle - col("lopsided_angle")) * radius.clamp(max=1)
    profile = broken_exponential(g, radius, 1.68 / col("sf_scale"))
    ring = torch.exp(-0.5 * ((radius - col("ring_radius")) / col("ring_width")) ** 2) + 0.1 * profile
    profile = torch.where(col("ring"), ring, profile)
    profile = profile * (1 - col("hole") * torch.exp(-((radius / col("hole_radius")) ** 2))) * tilt
    arm_young = 1 - col("arm_young") + col("arm_young") * 2.5 * arm
    drift = 1 - 0.7 * col("arm_young") + 0.7 * col("arm_young") * 2.2 * arm
    young = profile * drift * 10 ** (0.6 * col("texture") * first)
    now = profile * arm_young * 10 ** (col("texture") * first)

    # --- company: a second galaxy, and what was pulled out of the first
    second_galaxy = for_some(partial(companion, pixel=pixel), g["merger"], g, x, y)
    pulled = for_some(partial(debris, pixel=pixel), g["merger"], g, radius, angle)
    ratio, loose, young_ratio = col("companion_ratio"), col("debris"), col("companion_young")
    kept = mass * (1 - 0.4 * loose)  # what tides pulled out was the galaxy's
    disc_mass = kept * (1 - col("bulge_fraction"))
    old_other = mass * ratio * second_galaxy + (mass - kept) * pulled

    def with_company(shape, own=1.0):
        shape = unit(shape, pixel) * own
        return shape * (1 - loose) + loose * own * pulled + young_ratio * own * second_galaxy

    young, now = with_company(young), with_company(now)

    c_radius, c_angle, c_light = _clump_positions(g, d)
    c_u, c_v = c_radius * torch.cos(c_angle), c_radius * torch.sin(c_angle)
    major, minor = c_u * g["re"][:, None], c_v * (g["re"] * g["thin_ratio"])[:, None]
    cos1, sin1 = cos[..., 0], sin[..., 0]
    c_east = major * cos1 - minor * sin1 + g["east"][:, None]
    c_north = major * sin1 + minor * cos1 + g["north"][:, None]
    kpc = kpc_per_arcsec(g["redshift"])[:, None]
    c_sigma = torch.hypot((0.06 + 0.12 * d.clump[..., 2]) / kpc, torch.full_like(c_radius, 0.2))
    axis = east[0]
    c_phase = 10 ** (2.4 * (d.clump[..., 5] + d.clump[..., 6] + d.clump[..., 1] - 1.5) * 0.22)  # clumps differ in age
    # the companion has its full share of star formation without clumps
    clump_stars = unit(_blobs(c_east, c_north, c_sigma, c_light, axis), pixel) + young_ratio * second_galaxy
    clump_gas = unit(_blobs(c_east, c_north, c_sigma, c_light * c_phase, axis), pixel) + young_ratio * second_galaxy
    share = col("clump_fraction")
    burst = 10 ** col("burst")

    stars = torch.stack(
        [
            kept * col("bulge_fraction") * bulge,
            disc_mass * patterned * (1 - outer),
            disc_mass * patterned * outer + old_other,
            intermediate_mass * unit(young * 0.5 + disc * 0.5 * profile.mean((-2, -1), keepdim=True), pixel),
            young_mass * (young * (1 - 0.3 * share) + 0.3 * share * clump_stars),
            newborn_mass * (now * (1 - share) + clump_stars * share),
        ],
        1,
    )

    # --- gas
    inner = (1 - radius / 3).clamp(0, 1)
    photons = sfr * burst * 10 ** col("ionising")
    # some of them light what stars blow out and what falls in
    blown = torch.where(col("outflow") & ~col("agn"), col("outflow_share"), 0.0)
    taken = torch.where(col("decoupled") & ~col("quenched"), col("decoupled_share"), 0.0)
    lines = photons * (1 - blown - taken)
    phase = 10 ** (col("phase_texture") * flicker)
    hii = lines * like(now * phase, now) * (1 - share) * (1 - col("diffuse"))
    clumpy = lines * like(clump_gas * phase, clump_gas) * share * (1 - col("diffuse"))
    # diffuse gas reaches out of the plane: the thick disc's coordinates
    spread = broken_exponential(g, r_old, 1.5 / col("sf_scale")) * (0.6 + arm) * 10 ** (0.1 * third)
    spread = with_company(spread) * 0.5 + now * 0.5
    diffuse = lines * spread * col("diffuse")
    hard = g["agn"] | g["outflow"]
    narrow, front, back = for_some(partial(narrow_and_wind, pixel=pixel), hard, g, x, y, count=3)
    old_mass = stars[:, 0] + stars[:, 1] + stars[:, 2]
    old = like(old_mass * 10 ** (0.15 * second), old_mass) * col("old_lum")
    old_total = old_mass.sum((-2, -1), keepdim=True) * pixel**2
    amount = torch.where(
        col("quenched"),
        old_total * col("old_lum") / col("old_ew") * col("decoupled_ew") * 0.25,
        photons * HA_PER_SFR * taken,
    )
    decoupled = amount * for_some(partial(decoupled_gas, pixel=pixel), g["decoupled"], g, x, y, u, v)
    gas = torch.stack([hii * inner, hii * (1 - inner), clumpy, diffuse, narrow, front + back, decoupled, old], 1)

    # --- dust: share of the light behind the thick screen
    lane = trailing * col("lane") * 0.6 * ~col("flocculent")
    thick = (0.75 * torch.exp(-1.2 * radius / col("dust_scale")) + lane) * 10 ** (0.12 * third)
    # seen from the side, the dust of the near half lies in front: a lane beside the centre
    near = -col("far_side") * torch.cos(torch.deg2rad(col("inclination"))) * 0.35 * re
    edge_on = torch.sigmoid((0.32 - col("thin_ratio")) * 25) * ~col("spheroid")
    height = v * col("thin_ratio") * re - near
    plane_dust = torch.exp(-0.5 * (height / (0.055 * re + 0.15)) ** 2) * 0.85 * edge_on
    thick = (thick + plane_dust * torch.exp(-0.6 * r_old.clamp(max=4))).clamp(0, 0.92)
    behind_old = thick[:, None]
    behind_new = (1 - (1 - thick) ** 1.6)[:, None]
    split = torch.cat([behind_old.expand(-1, 4, -1, -1), behind_new.expand(-1, 2, -1, -1)], 1)
    # the receding side of a wind lies behind the disc
    behind_wind = (0.15 * front + 0.9 * back) / (front + back).clamp(min=1e-20)
    gas_split = [behind_new.expand(-1, 3, -1, -1), behind_old.expand(-1, 2, -1, -1), behind_wind[:, None]]
    gas_split = torch.cat([*gas_split, behind_old.expand(-1, 2, -1, -1)], 1)

    disc_light = disc_mass * patterned + old_other
    other = (mass * ratio * second_galaxy / disc_light.clamp(min=1e-6)).clamp(0, 1)
    bulge_share = stars[:, 0] / old_mass.clamp(min=1e-6)
    wind = front, back * 10 ** (-0.4 * 1.5)  # as bright as it is behind 1.5 mag
    motion = velocity_fields(g, x, y, (u, radius), (u_old, r_old), other, third, wind, bulge_share)
    return motion | {
        "mass": torch.stack([stars * (1 - split), stars * split], 2),
        "gas": torch.stack([gas * (1 - gas_split), gas * gas_split], 2),
        "clump_east": c_east,
        "clump_north": c_north,
        "clump_light": c_light * c_phase,
        "radius": r_old,
    }


def galaxy_totals(mass, pixel):
    """What the maps hold in all, companion included.

    Parameters
    ----------
    mass : Tensor (B, P, D, H, W)
        Of `galaxy_maps`, Msun / arcsec2.
    pixel : float
        arcsec.

    Returns
    -------
    dict of str to Tensor (B,)
        log_mass_formed, log10 of Msun; log_sfr_total, log10 of Msun/yr: the mean over the last 1e8 yr.
    """
    total = mass.sum((-1, -2, -3)) * pixel**2
    last = total[:, 5] + total[:, 4] * (1e8 - SPANS[2]) / SPANS[1]
    return {"log_mass_formed": torch.log10(total.sum(1)), "log_sfr_total": torch.log10(last / 1e8)}


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
        gas_ebv (B, D).
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
    boost = {"O2_3726": low, "O2_3729": low, "S2_6716": 0.5 * low, "S2_6731": 0.5 * low, "O1_6300": 1.8 * low}
    boost |= {"N2_6548": 0.5 * low, "N2_6583": 0.5 * low, "O3_4959": high, "O3_5007": high, "Ne3_3869": high}
    diffuse = (inner + outer) / 2 * 10 ** torch.stack([boost.get(line, zero) for line in LINES], -1)
    ha = LINES.index("Ha")

    def per_ha(line):
        return line / line[..., ha : ha + 1]

    def mix(first, second, share):
        return first * (1 - share[:, None]) + second * share[:, None]

    # the gas of active nuclei is richer than that of the disc (Groves+2006)
    narrow = gas.narrow(g["gas_z_inner"] + 0.3, g["agn_log_u"], g["agn_alpha"])
    shock = gas.shock(g["gas_z_inner"], torch.log10(g["shock_speed"]))
    wind = mix(torch.where(g["agn"][:, None], narrow, per_ha(inner)), shock, g["shock_share"])
    old = gas.ratios(g["old_o3"], g["old_n2"], zero - 0.05, zero - 0.7, zero + 0.8)
    fallen = gas.hii(g["gas_z_outer"] - 0.2, g["log_u"], g["xi"], **scatter)  # accreted gas is poor
    decoupled = torch.where(g["quenched"][:, None], old, per_ha(fallen))
    # old stars make lines of a given equivalent width
    continuum = torch.einsum("bs,js->b", weights[:, 1], stars.side_mean[ha])
    g["old_lum"] = g["old_ew"] * continuum
    thin, thick = 0.45 * g["ebv"], 1.55 * g["ebv"]
    ebv = torch.stack([thin, thick], 1)
    return {
        "weights": weights,
        "line": torch.stack([inner, outer, clump, diffuse, narrow, wind, decoupled, old], 1),
        "ebv": ebv,
        "gas_ebv": ebv * g["gas_dust"][:, None],
    }
