"""Who the galaxies are: their random numbers (`Draws`) and the parameters made of them (`draw_galaxies`).

Shapes: B galaxies.
"""

import math

import torch

from .motion import draw_motion
from .stars import kpc_per_arcsec, luminosity_distance, universe_age
from .structure import draw_structure

__all__ = ["CLUMPS", "Draws", "draw_galaxies", "recent_mass"]

CLUMPS = 60
#: What constant star formation of each recent population spans, yr: 0.4-1.6 Gyr, 18-500 Myr and 0-18 Myr ago.
SPANS = (1.2e9, 4.82e8, 1.8e7)
TEXTURE = 48  # texture cells across +-4 effective radii


class Draws:
    """Random numbers of some galaxies: each has its own generator, so company and batch size never matter.

    Parameters
    ----------
    seed : int
    indices : sequence of int
        Galaxy numbers within the seed.
    """

    def __init__(self, seed, indices, device="cpu"):
        self.indices = list(indices)
        self.generators = [torch.Generator().manual_seed(_mix(seed, i)) for i in self.indices]
        self.device = device
        self._uniform, self._normal = self._stack(torch.rand, 160), self._stack(torch.randn, 128)
        self.clump = self._stack(torch.rand, CLUMPS, 8)
        self.texture = self._stack(torch.randn, 3, TEXTURE, TEXTURE)
        self._next_uniform = self._next_normal = 0
        self.force = {}  # labels that are chosen, see `label`

    def _stack(self, draw, *shape):
        out = torch.stack([draw(shape, generator=g) for g in self.generators])
        return out.to(self.device)

    def uniform(self, low=0.0, high=1.0):
        """One number per galaxy, (B,)."""
        self._next_uniform += 1
        return low + (high - low) * self._uniform[:, self._next_uniform - 1]

    def normal(self, mean=0.0, sigma=1.0, clip=3.0):
        """One number per galaxy, (B,), clipped at ``clip`` sigma."""
        self._next_normal += 1
        return mean + sigma * self._normal[:, self._next_normal - 1].clamp(-clip, clip)

    def chance(self, probability):
        """(B,) bool."""
        return self.uniform() < probability

    def label(self, name, drawn):
        """``drawn`` (B,) bool, or the choice in ``force``; the recipe goes on with it, so what hangs on it follows."""
        return torch.full_like(drawn, self.force[name]) if name in self.force else drawn

    def noise(self, *shape):
        """Fresh standard normal numbers, (B, ...); always ask in the same order."""
        return self._stack(torch.randn, *shape)


def _mix(seed, index):
    """A 63-bit seed for one galaxy (splitmix64 of seed and index)."""
    x = (int(seed) * 0x9E3779B97F4A7C15 + int(index) * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return (x ^ (x >> 31)) >> 1


def main_sequence(log_mass, z):
    """log10 of the specific star formation rate, 1/yr, of star-forming galaxies (median); see `draw_galaxies`."""
    return -10.22 - 0.22 * (log_mass - 10) + 2.5 * torch.log10(1 + z)


def _draw_redshift(d):
    """A third nearby (0.005-0.08), most like the DESI Bright Galaxy Survey (peak near 0.15), some to 0.6."""
    nearby = 0.005 * (0.08 / 0.005) ** d.uniform()
    # p ~ z^2 exp(-(z / 0.16)^1.6) by its inverse cumulative
    z = torch.linspace(0.01, 0.6, 512, device=d.device)
    cumulative = (z**2 * torch.exp(-((z / 0.16) ** 1.6))).cumsum(0)
    bgs = z[torch.searchsorted(cumulative / cumulative[-1], d.uniform()).clamp(max=511)]
    far = d.uniform(0.2, 0.6)
    kind = d.uniform()
    is_nearby = kind < 0.35
    return torch.where(is_nearby, nearby, torch.where(kind < 0.95, bgs * d.uniform(0.97, 1.03), far)), is_nearby


def _draw_mass(d, z, r_limit):
    """Schechter mass function above what ``r_limit`` allows at ``z`` (after Baldry+2012)."""
    distance_modulus = 5 * torch.log10(luminosity_distance(z)) + 25
    # log M/L_r about 0.35 (formed mass), M_sun,r = 4.65, K-correction about z
    faint = 0.4 * (4.65 - (r_limit - distance_modulus - z)) + 0.35
    grid = torch.linspace(0, 1, 200, device=d.device)
    low = faint.clamp(8.3, 11.2)
    log_mass = low[:, None] + (11.7 - low[:, None]) * grid
    ratio = 10 ** (log_mass - 10.75)
    cumulative = (ratio**-0.2 * torch.exp(-ratio)).cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]
    at = torch.searchsorted(cumulative, d.uniform()[:, None].contiguous()).clamp(max=199)
    return torch.gather(log_mass, 1, at)[:, 0] + d.uniform(-0.02, 0.02)


def recent_mass(g):
    """Mass (B, 3) that formed in each of `SPANS`, Msun: the intermediate, the young and the newborn population."""
    sfr = 10 ** g["log_sfr"]
    return torch.stack([sfr * 10 ** g["recent"] * SPANS[0], sfr * SPANS[1], sfr * 10 ** g["burst"] * SPANS[2]], 1)


def draw_galaxies(d, *, jitter=6.0):
    """Parameters of galaxies.

    ``log_mass`` is the mass that the galaxy itself has formed, old and recent, ``log_sfr`` its own star formation; a
    companion comes on top (`galaxy_totals`).

    Sources: main sequence, log SFR = -0.22 + 0.78 log(M / 1e10 Msun) + 2.5 log(1 + z) for the mass M of stars older
    than 1.6 Gyr, with a scatter of 0.2 dex. For the mass of all stars that is -0.28 and 0.82; at z = 0.05 and in masses
    that survive (0.2 dex less) it is that of Renzini & Peng 2015 (-0.04, slope 0.76) to 0.05 dex at 1e10 Msun; sizes,
    van der Wel+2014, with the low-mass early types of Shen+2003; gas metallicity, Tremonti+2004 lowered to Gutkin's
    scale; gradients, Ho+2015; structure and motion, see `draw_structure` and `draw_motion`. Fractions of AGN, bars,
    rings are choices.

    Parameters
    ----------
    d : Draws
    jitter : float
        Largest offset of the galaxy centre from the stamp centre, arcsec.

    Returns
    -------
    dict of str to Tensor (B,)
    """
    g = {}
    z, nearby = _draw_redshift(d)
    log_mass = _draw_mass(d, z, torch.where(nearby, d.uniform(15.0, 17.5), d.uniform(17.3, 19.5)))
    g["log_mass"] = log_mass

    # --- star formation
    quenched = d.label("quenched", d.chance(0.04 + 0.85 * torch.sigmoid((log_mass - 10.35) / 0.3)))
    post = d.label("post_starburst", d.chance(0.03) & ~quenched)
    green = d.chance(0.05 + 0.3 * torch.sigmoid((log_mass - 10.4) / 0.3)) & ~quenched & ~post
    green = d.label("green", green)
    main = main_sequence(log_mass, z) + d.normal(0, 0.2)
    ssfr = torch.where(quenched, d.normal(-12.75, 0.35), main)
    ssfr = torch.where(green, ssfr - 0.7, ssfr)
    ssfr = torch.where(post, d.normal(-11.6, 0.3), ssfr)
    g["log_sfr"] = ssfr + log_mass  # over 1e8 yr
    # unseen: what the last 1e7 yr did, and how many ionising photons make lines. Gutkin's tables, in which the dust
    # inside H II regions has taken its share, have 10^7.84 Lsun of H-alpha per Msun/yr at solar metallicity; with -0.14
    # dex they agree with Kennicutt & Evans 2012 (10^7.69): photons that escape or that dust takes outside H II regions
    g["burst"] = d.normal(0, 0.18)
    g["ionising"] = d.normal(-0.14, 0.16)
    g["recent"] = d.normal(0.08, 0.2) + torch.where(post, 1.5, 0.0)  # 0.3-1 Gyr ago relative to now
    g["quenched"], g["post_starburst"], g["green"] = quenched, post, green

    # --- structure
    spheroid = d.label("spheroid", quenched & d.chance(0.6))
    # of mass formed, 0.2 dex above what survives; both grow with time as van der Wel+2014 found
    grown = torch.log10((1 + z) / 1.1)
    late = 0.83 - 0.75 * grown + 0.22 * (log_mass - 10.9) + d.normal(0, 0.17)
    early = (
        0.64
        - 1.48 * grown
        + 0.70 * (log_mass - 10.9).clamp(min=-0.4)
        + 0.15 * (log_mass - 10.5).clamp(max=0)
        + d.normal(0, 0.13)
    )
    re_kpc = 10 ** torch.where(quenched, early, late)
    re = re_kpc / kpc_per_arcsec(z)
    target = torch.exp(d.uniform(math.log(3.5), math.log(12.0)))  # too large for the stamp: move it away
    scale = torch.where(re > 12.0, re / target, torch.ones_like(re))
    for _ in range(8):  # angular size is not quite proportional to z
        scale = scale * torch.where(re > 12.0, re_kpc / kpc_per_arcsec(z * scale) / target, torch.ones_like(re))
    z = (z * scale).clamp(0.003, 0.6)
    re = re_kpc / kpc_per_arcsec(z)
    g["redshift"], g["re"], g["re_kpc"] = z, re.clamp(0.4, 12.5), re_kpc
    g["spheroid"] = spheroid
    bulge = torch.sigmoid(d.normal(-2.0, 0.9) + 1.1 * (log_mass - 10.5) + 1.5 * quenched)
    g["bulge_fraction"] = torch.where(spheroid, d.uniform(0.85, 1.0), bulge.clamp(0.0, 0.75))
    # n of spheroids rises with mass (Graham & Guzman 2003); most bulges of discs are pseudo-bulges (Gadotti 2009)
    n = 10 ** (0.54 + 0.15 * (log_mass - 10.7) + d.normal(0, 0.1))
    g["bulge_n"] = torch.where(spheroid, n.clamp(1.2, 6.5), d.uniform(1.0, 3.5))
    g["bulge_re"] = g["re"] * torch.where(spheroid, d.uniform(0.9, 1.1), d.uniform(0.1, 0.35))
    cos_i = d.uniform()
    g["inclination"] = torch.rad2deg(torch.arccos(cos_i))
    flat = torch.sqrt(0.96 * cos_i**2 + 0.04)
    round_q = d.uniform(0.6, 1.0)
    g["bulge_q"] = torch.where(spheroid, round_q, 1 - (1 - flat) * d.uniform(0.15, 0.5))
    g["pa"] = d.uniform(0, 2 * math.pi)  # of the receding major axis, counter-clockwise from east
    g["east"], g["north"] = d.uniform(-jitter, jitter), d.uniform(-jitter, jitter)

    # --- pattern
    g["arms"] = 2.0 + (d.uniform() > 0.55) * 1.0 + (d.uniform() > 0.85) * 1.0
    g["pitch"] = torch.deg2rad(d.uniform(9.0, 32.0)) * torch.where(d.chance(0.5), 1.0, -1.0)
    g["arm_phase"] = d.uniform(0, 2 * math.pi)
    spiral = d.uniform(0.2, 1.0) * (~quenched) + 0.15 * quenched
    g["arm_old"], g["arm_young"] = 0.55 * spiral, 0.35 + 0.6 * spiral
    g["arm_sharp"] = d.uniform(1.0, 4.0)
    g["bar"] = torch.where(d.chance(0.3) & ~spheroid, d.uniform(0.1, 0.35), 0.0)
    g["bar_length"] = d.uniform(0.35, 0.8)
    g["bar_angle"] = d.uniform(0, math.pi)
    g["ring"] = d.label("ring", d.chance(0.12) & ~spheroid)
    g["ring_radius"], g["ring_width"] = d.uniform(0.5, 1.6), d.uniform(0.12, 0.3)
    g["sf_scale"] = 10 ** d.normal(0.08, 0.13)  # star formation / old disc scale length
    hole = (d.uniform() < 0.15 + 0.5 * g["bulge_fraction"]).float()
    g["hole"], g["hole_radius"] = hole * d.uniform(0.6, 1.0), d.uniform(0.3, 1.0)
    g["lopsided"], g["lopsided_angle"] = d.uniform(0, 0.35), d.uniform(0, 2 * math.pi)
    g["texture"], g["phase_texture"] = d.uniform(0.12, 0.35), d.uniform(0.25, 0.45)
    g["clumps"] = torch.floor(10 + 50 * d.uniform())
    g["clump_fraction"] = d.uniform(0.08, 0.45)
    g["clump_slope"] = d.uniform(1.7, 2.1)  # dN/dL ~ L^-slope (Kennicutt, Edgar & Hodge 1989)

    # --- chemistry and dust
    knee = 1 / (1 + torch.exp(-(log_mass - 9.4) / 0.55))
    gas_z = -0.55 + 0.83 * knee + d.normal(0, 0.1)
    gradient = d.normal(-0.10, 0.06).clamp(-0.3, 0.03)  # dex per effective radius
    g["gas_z_inner"], g["gas_z_outer"] = gas_z, gas_z + 3 * gradient
    g["star_z"] = gas_z - 0.12 + d.normal(0, 0.1)
    g["bulge_z"] = torch.where(spheroid, -0.35 + 0.25 * (log_mass - 10.3) + d.normal(0, 0.1), g["star_z"] + 0.2)
    g["star_gradient"] = d.normal(-0.15, 0.08)
    g["log_u"] = -3.6 - 1.3 * gas_z + d.normal(0, 0.2)
    g["log_u_clump"] = g["log_u"] + d.normal(0.05, 0.15)
    g["xi"] = d.normal(0.3, 0.07)
    for name, sigma in (("n_over_o", 0.07), ("oxygen_one", 0.15), ("neon", 0.12), ("helium", 0.05)):
        g[name] = d.normal(0, sigma)
    # the tables' N/O is a little low for massive galaxies (Andrews & Martini 2013)
    g["n_over_o"] = g["n_over_o"] + 0.05
    age_limit = torch.log10(universe_age(z) * 0.9)
    old = torch.where(quenched, 9.78, 9.80) + 0.1 * (log_mass - 10.5)
    g["disc_age"] = torch.minimum(old + d.normal(0, 0.12), age_limit)
    g["outer_age"] = g["disc_age"] + d.normal(-0.15, 0.08)
    g["bulge_age"] = torch.minimum(torch.maximum(g["disc_age"], d.normal(9.9, 0.08)), age_limit)
    ebv = 10 ** (d.normal(-0.93, 0.26) + 0.18 * (log_mass - 10.3).clamp(-1.5, 0.8))
    ebv = ebv * (1 / flat) ** 0.45 * torch.where(quenched, 0.12, 1.0)
    g["ebv"] = ebv.clamp(max=0.8)  # of starlight behind the mean dust of the centre
    g["gas_dust"] = 10 ** d.normal(0, 0.17) / 0.44  # E(B-V) gas / stars, Calzetti+2000, and unseen geometry
    g["dust_scale"], g["lane"] = d.uniform(0.8, 2.0), d.uniform(0.0, 0.8)
    g["diffuse"] = d.uniform(0.12, 0.45)
    g["diffuse_o3"] = d.normal(-0.05, 0.18)
    g["diffuse_low"] = d.normal(0.08, 0.08)

    # --- harder ionisation
    g["agn"] = d.label("agn", d.chance(0.10) & (log_mass > 9.3))
    g["log_agn"] = 40.55 + 0.9 * (log_mass - 10.5) + d.normal(0, 0.45)  # erg/s of H-alpha
    g["cone_share"], g["cone_length"] = d.uniform(0.1, 0.6), d.uniform(0.2, 0.9)
    g["cone_angle"], g["cone_half"] = d.uniform(0, 2 * math.pi), torch.deg2rad(d.uniform(15.0, 38.0))
    g["outflow"] = d.label("outflow", torch.where(g["agn"], d.chance(0.4), d.chance(0.06) & ~quenched))
    g["outflow_share"] = d.uniform(0.06, 0.3)
    # ratios: narrow-line regions of Seyferts have log U near -3 (Groves+2004, Feltre+2016), winds have shocks
    g["agn_log_u"], g["agn_alpha"] = d.normal(-2.95, 0.35), d.normal(-1.65, 0.15)
    g["shock_speed"] = 10 ** d.uniform(2.15, 2.7)
    g["shock_share"] = torch.where(g["agn"], d.uniform(0.1, 0.4), d.uniform(0.3, 0.8))
    g["old_ew"] = 10 ** torch.where(quenched, d.normal(-0.12, 0.2, 2.2), d.normal(-0.3, 0.2))
    g["old_o3"], g["old_n2"] = d.normal(0.3, 0.12), d.normal(0.05, 0.12)
    g["decoupled"] = d.label("decoupled", d.chance(0.07))
    g["decoupled_ring"] = d.label("decoupled_ring", d.chance(0.5))
    g["decoupled_share"] = d.uniform(0.1, 0.5) * torch.where(g["decoupled_ring"], 0.6, 1.0)
    g["decoupled_ew"] = 10 ** d.uniform(0.3, 1.3)
    g["decoupled_angle"], g["decoupled_radius"] = d.uniform(0, 2 * math.pi), d.uniform(0.7, 1.8)

    draw_structure(g, d)
    draw_motion(g, d)
    g["edge_on"] = (g["inclination"] > 75) & ~spheroid
    # what was drawn are the stars older than 1.6 Gyr; mass is that of all stars
    g["log_mass"] = torch.log10(10**log_mass + recent_mass(g).sum(1))
    g["off_centre_hii"] = (g["clump_fraction"] > 0.3) & (g["clumps"] < 30) & ~quenched

    # --- company on the sky
    g["neighbour"] = d.label("neighbour", d.chance(0.13))
    g["neighbour_is_star"] = d.label("neighbour_is_star", d.chance(0.6))
    angle, radius = d.uniform(0, 2 * math.pi), d.uniform(3.0, 15.0)
    g["neighbour_east"], g["neighbour_north"] = radius * torch.cos(angle), radius * torch.sin(angle)
    g["neighbour_r"] = d.uniform(17.0, 21.0)
    g["neighbour_z"] = torch.where(g["neighbour_is_star"], 0.0, d.uniform(0.05, 0.55))
    g["neighbour_size"] = torch.where(g["neighbour_is_star"], 0.08, d.uniform(0.25, 0.9))
    g["neighbour_age"], g["neighbour_metal"] = d.uniform(9.0, 10.1), d.uniform(-0.7, 0.2)
    return g
