"""How stars and gas move: velocity fields of kinematic groups, and moments of lines under an aperture.

A group has one mean velocity and one dispersion at every point. What is kept of it are maps that are linear in light,
flux x v and flux x (v^2 + sigma^2): under any aperture they give the Gaussian that is rendered, and the truth.

Shapes: B galaxies, G gas components, D dust levels, K kinematic groups, F apertures, H x W the grid. Velocities are
km/s, positive when receding.
"""

import math

import torch

from .structure import column

__all__ = ["FASTEST", "GROUPS", "GROUP_OF", "draw_motion", "gas_moments", "group_moments", "velocity_fields"]

#: Kinematic groups of gas.
GROUPS = ("disc", "diffuse", "narrow", "wind", "decoupled", "old")
#: Group of each component of `GAS_COMPONENTS`.
GROUP_OF = (0, 0, 0, 1, 2, 3, 4, 5)
#: km/s, more than anything in a galaxy: where an aperture holds hardly any light, moments over light are rounding.
FASTEST = 3000.0


def draw_motion(g, d):
    """Add the parameters of motion to ``g``.

    Sources: rotation, Reyes+2011 (Tully-Fisher); velocity dispersion of disc gas, 25 km/s (Epinat+2010); diffuse gas
    rotates more slowly by a few to 20 % and is 1.4-2.2 times broader (Levy+2018; den Brok+2020); central dispersion
    of starlight, Gallazzi+2006; narrow-line regions are as broad as the stars (Greene & Ho 2005), winds have
    dispersions of 150-400 km/s and speeds of 150-900 km/s, larger in AGN (Ho+2014; Harrison+2014).
    Gas that is decoupled turns about an axis of its own.

    Parameters
    ----------
    g : dict
        Changed in place.
    d : Draws
    """
    mass, agn = g["log_mass"], g["agn"]
    g["v_max"] = 10 ** (2.165 + 0.278 * (mass - 10.1) + d.normal(0, 0.06))
    g["v_turn"] = d.uniform(0.12, 0.45)
    g["sigma_gas"] = 10 ** d.normal(1.4, 0.08)
    g["sigma_star"] = 10 ** (2.1 + 0.29 * (mass - 10.7) + d.normal(0, 0.07)) * torch.where(g["quenched"], 1.25, 0.9)
    # arms trail, so the sense of the arms and the receding side tell which side is far: +1 if it is +minor axis
    g["far_side"] = -torch.sign(g["pitch"])
    g["streaming"] = d.uniform(0.0, 10.0)
    g["lag"], g["broader"] = d.uniform(0.02, 0.2), d.uniform(1.4, 2.2)
    g["sigma_narrow"] = (g["sigma_star"] * 10 ** d.normal(0.03, 0.1)).clamp(80, 300)
    g["wind_speed"] = torch.where(agn, 10 ** d.uniform(2.45, 2.95), 10 ** d.uniform(2.2, 2.65))
    g["wind_sigma"] = torch.where(agn, d.uniform(200.0, 400.0), d.uniform(150.0, 260.0))
    g["cone_cos"] = d.uniform(0.15, 0.95)  # cosine between the cone of an AGN and the line of sight
    g["decoupled_pa"] = math.pi + d.uniform(-0.8, 0.8) * math.pi  # from the receding major axis: never aligned
    g["decoupled_tilt"] = d.uniform(0.3, 0.95)  # sine of its inclination
    g["decoupled_speed"] = d.uniform(0.5, 0.9)


def rotation_curve(g, radius):
    """Circular velocity (arctangent; Courteau 1997)."""
    return column(g, "v_max") * (2 / math.pi) * torch.atan(radius / column(g, "v_turn"))


def velocity_fields(g, x, y, thin, thick, second_galaxy, texture, wind, old_share):
    """Mean velocity and dispersion of every kinematic group.

    Stars of the disc lag by asymmetric drift, v^2 = v_c^2 - 2 (R / h) sigma_R^2, for surface density and sigma_R^2
    that both fall as exp(-R / h) (Binney & Tremaine 2008, eq. 4.228, with the terms of anisotropy left out);
    sigma_R = 0.29 v_max at one scale length (Bottema 1993); along the line of sight sigma_phi^2 = sigma_R^2 / 2 and
    sigma_z = 0.6 sigma_R. Bulges are isotropic rotators, v / sigma = (e / (1 - e))^(1/2) with the apparent
    ellipticity e (Kormendy 1982), and their dispersion falls as R^-0.066 (Cappellari+2006, eq. 1).

    Parameters
    ----------
    g : dict
    x, y : Tensor (B, H, W)
        Along the receding major and the minor axis, arcsec.
    thin, thick : tuple of Tensor (B, H, W)
        (u, radius) in the plane of gas and of old stars, effective radii.
    second_galaxy : Tensor (B, H, W)
        Share of the light that is the companion's.
    texture : Tensor (B, H, W)
        Of non-circular motion.
    wind : tuple of Tensor (B, H, W)
        H-alpha of the approaching and of the receding cone, emergent.
    old_share : Tensor (B, H, W)
        Share of the bulge in starlight.

    Returns
    -------
    dict
        velocity, variance (B, K, H, W) of gas; velocity_star, variance_star (B, H, W).
    """

    def col(name):
        return column(g, name)

    sin_i = torch.sin(torch.deg2rad(col("inclination")))
    cos2_i = 1 - sin_i**2
    u, radius = thin
    circular = rotation_curve(g, radius)
    projected = u / radius * sin_i
    disc = circular * projected + col("streaming") * texture * sin_i
    cool = col("sigma_gas") ** 2

    u_old, r_old = thick
    rotation = rotation_curve(g, r_old)
    sigma_r2 = (0.29 * math.exp(0.5) * col("v_max")) ** 2 * torch.exp(-1.68 * r_old) + 15.0**2
    drift = (rotation**2 - 2 * 1.68 * r_old * sigma_r2).clamp(min=0)
    disc_star = torch.sqrt(drift) * u_old / r_old * sin_i
    disc_star2 = sigma_r2 * (0.75 * sin_i**2 + 0.36 * cos2_i)
    far = torch.sqrt(x**2 + y**2 + 0.3**2)
    sigma_b = col("sigma_star") * (far / col("re")).clamp(0.1, 3.0) ** -0.066
    oblate = torch.sqrt((1 - col("bulge_q")) / col("bulge_q").clamp(min=0.3)).clamp(max=1.0)
    bulge = sigma_b * oblate * x / far * torch.sign(sin_i)
    star = old_share * bulge + (1 - old_share) * disc_star
    star2 = old_share * (sigma_b**2 + bulge**2) + (1 - old_share) * (disc_star2 + disc_star**2) - star**2

    front, back = wind
    hidden = back / (front + back).clamp(min=1e-20)
    cos_axis = torch.where(col("agn"), col("cone_cos"), torch.sqrt(cos2_i))
    grow = 0.4 + 0.6 * far / (far + 0.3 * col("re"))
    outward = col("wind_speed") * cos_axis * grow
    wind_v = outward * (2 * hidden - 1)
    open_angle = col("wind_speed") * torch.sin(col("cone_half")) * torch.sqrt(1 - cos_axis**2) * 0.7
    wind2 = (col("wind_sigma") ** 2 + open_angle**2 + (outward**2 - wind_v**2)).clamp(max=450.0**2)

    turn = torch.cos(col("decoupled_pa")) * x + torch.sin(col("decoupled_pa")) * y
    own = col("v_max") * col("decoupled_speed") * col("decoupled_tilt") * turn / far

    slow = (1 - col("lag")) * circular * projected
    nucleus = 0.5 * disc

    def merged(v):
        return v + second_galaxy * (col("companion_velocity") - v)

    zero = torch.zeros_like(disc)
    velocity = [merged(disc), merged(slow), nucleus, wind_v, own, merged(star)]
    variance = [cool + zero, cool * col("broader") ** 2 + zero, col("sigma_narrow") ** 2 + zero, wind2]
    variance += [cool * 1.5 + zero, star2]
    return {
        "velocity": torch.stack(velocity, 1),
        "variance": torch.stack(variance, 1),
        "velocity_star": merged(star),
        "variance_star": star2,
    }


def group_moments(maps, ha):
    """Maps (B, 2 K, H, W) of H-alpha x velocity and H-alpha x (velocity^2 + sigma^2) of every group.

    Parameters
    ----------
    maps : dict
        gas (B, G, D, H, W), velocity, variance (B, K, H, W).
    ha : Tensor (B, G, D)
        Emergent H-alpha per unit of the gas maps.
    """
    light = torch.einsum("bgd,bgdyx->bgyx", ha, maps["gas"])
    light = torch.cat([light[:, :3].sum(1, keepdim=True), light[:, 3:]], 1)
    v = maps["velocity"]
    return torch.cat([light * v, light * (v**2 + maps["variance"])], 1)


def gas_moments(flux, first, second):
    """Mean velocity and sigma of every group (F, K), and of all together (F,), from integrals of `group_moments`.

    Parameters
    ----------
    flux, first, second : Tensor (F, K)
        H-alpha, H-alpha x v, H-alpha x (v^2 + sigma^2) under each aperture.

    Returns
    -------
    velocity, sigma : Tensor (F, K)
    mean, spread : Tensor (F,)
        Mean and dispersion of the whole H-alpha line.
    share : Tensor (F, K)
        Of H-alpha.
    """
    empty = flux <= 1e-7 * flux.sum(1, keepdim=True)
    safe = torch.where(empty, 1.0, flux)
    velocity = torch.where(empty, 0.0, first / safe).clamp(-FASTEST, FASTEST)
    square = torch.where(empty, 900.0, second / safe)
    share = torch.where(empty, 0.0, flux)
    share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    mean = (share * velocity).sum(1)
    sigma = torch.sqrt((square - velocity**2).clamp(25.0, FASTEST**2))
    spread = torch.sqrt((share * (sigma**2 + (velocity - mean[:, None]) ** 2)).sum(1).clamp(min=25.0))
    return velocity, sigma, mean, spread, share
