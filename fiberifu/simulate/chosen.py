"""Galaxies with properties of one's choice.

Labels that the recipe draws are chosen before (`consequences`, `Draws.label`), so that star formation, dust, ages,
companion follow as in any galaxy of that kind; numbers are set after (`choose`).

Shapes: B galaxies.
"""

import math

import torch

from .recipe import main_sequence
from .stars import kpc_per_arcsec

__all__ = ["choose", "consequences"]

# How sizes, speeds and star formation go with mass in the recipe: dex per dex.
_WITH_MASS = {"re": 0.22, "re_kpc": 0.22, "bulge_re": 0.22}
_SPEEDS = {"v_max": 0.278, "sigma_star": 0.29}

#: What is true or false of a galaxy with a label, as the recipe has it.
_WITH_LABEL = {
    "quenched": {"post_starburst": False, "green": False, "off_centre_hii": False},
    "post_starburst": {"quenched": False, "green": False},
    "green": {"quenched": False, "post_starburst": False},
    "spheroid": {"quenched": True, "ring": False, "edge_on": False, "flocculent": False},
    "ring": {"spheroid": False},
    "edge_on": {"spheroid": False},
    "flocculent": {"spheroid": False},
    "off_centre_hii": {"quenched": False},
    "decoupled_ring": {"decoupled": True},
    "neighbour_is_star": {"neighbour": True},
}
_STATES = ("quenched", "post_starburst", "green")
# Reach of the recipe's specific star formation rates, log10 of 1/yr, at 3 sigma: quenched and post-starburst galaxies
# have less than these; green ones lie 0.7 dex below the main sequence, whose galaxies scatter by 0.2.
_QUENCHED, _POST, _SCATTER, _GREEN = -11.7, -10.7, 0.6, 0.7


def consequences(g, labels, *, redshift=None, log_mass=None, sfr=None, inclination=None):
    """All labels that must be chosen so that the given ones, and the star formation rate, are true of a galaxy.

    Parameters
    ----------
    g : dict of str to Tensor (1,)
        What is drawn if nothing is chosen.
    labels : dict of str to bool
    redshift, log_mass, sfr, inclination : float, optional
        As for `choose`.

    Returns
    -------
    dict of str to bool
        For `Draws.force`.
    """
    known = sorted(name for name, value in g.items() if value.dtype == torch.bool)
    unknown = [name for name in labels if name not in known]
    if unknown:
        raise ValueError(f"labels: got {unknown[0]!r}, use some of {known}")
    force = dict(labels)

    def follow(names):
        for name in names:
            for other, value in _WITH_LABEL.get(name, {}).items():
                new = other not in force
                if force.setdefault(other, value) != value:
                    raise ValueError(f"labels: got {labels}, but {name}=True goes with {other}={value}; leave one out")
                if new and value:
                    follow([other])

    follow([name for name, value in labels.items() if value])
    drawn = {name: bool(g[name][0]) for name in known}
    if force.get("outflow") and not force.get("agn", drawn["agn"]) and force.get("quenched", drawn["quenched"]):
        # winds are blown by young stars or by a nucleus
        if force.setdefault("quenched", False) and not force.setdefault("agn", True):
            raise ValueError(f"labels: got {labels}, but outflow=True goes with quenched=False or agn=True")
    if sfr is not None and sfr > 0:
        _match_rate(g, force, drawn, redshift, log_mass, sfr)
    if inclination is not None and "edge_on" in force and 0 <= inclination <= 90:
        spheroid = force.get("spheroid", drawn["spheroid"]) and force.get("quenched", drawn["quenched"])
        if force["edge_on"] != (inclination > 75 and not spheroid):
            raise ValueError(
                f"labels: got edge_on={force['edge_on']} and inclination={inclination:g} deg; a disc is edge_on beyond "
                "75 deg: leave one out"
            )
    return force


def _match_rate(g, force, drawn, redshift, log_mass, sfr):
    """Make the state of a galaxy (quenched, post-starburst, green or none) one that has this star formation rate."""
    mass = float(g["log_mass"][0]) if log_mass is None else log_mass
    z = g["redshift"] if redshift is None else torch.full_like(g["redshift"], redshift)
    rate, main = math.log10(sfr) - mass, float(main_sequence(torch.tensor([float(mass)]), z.cpu())[0])
    reach = {
        "quenched": (-99.0, _QUENCHED),
        "post_starburst": (-99.0, _POST),
        "green": (_QUENCHED, main - _GREEN + _SCATTER),
        None: (max(_QUENCHED, main - _SCATTER), 99.0),
    }
    implied = "quenched" if rate < _QUENCHED else "green" if rate < main - _GREEN / 2 else None
    now = next((name for name in _STATES if drawn[name]), None)
    asked = next((name for name in _STATES if force.get(name)), None)
    for state in (now, asked, implied, None):
        possible = all(force.get(name, name == state) == (name == state) for name in _STATES)
        if possible and reach[state][0] <= rate <= reach[state][1]:
            force.update({name: name == state for name in _STATES})
            return
    low, high = (f"{10 ** (mass + end):.2g}" for end in reach[asked])
    span = f"{low} to {high}" if asked == "green" else f"at most {high}" if asked else f"{low} or more"
    others = " or ".join(name for name in _STATES if force.get(name) is False)
    what = f"a {asked} galaxy" if asked else f"a galaxy that is not {others}"
    raise ValueError(
        f"star_formation_rate: got {sfr:.4g} Msun/yr; {what}, of log_mass {mass:.2f}, has {span} Msun/yr: choose such "
        "a rate or leave out the label"
    )


def choose(
    g,
    *,
    redshift=None,
    log_mass=None,
    sfr=None,
    radius_kpc=None,
    radius_arcsec=None,
    inclination=None,
    pa=None,
    labels=None,
):
    """Parameters of galaxies with some of them chosen, and with them what hangs on them.

    Parameters
    ----------
    g : dict of str to Tensor (B,)
        From `draw_galaxies`.
    redshift, log_mass, sfr : float, optional
        Msun/yr; sizes stay in kpc when the redshift changes.
    radius_kpc, radius_arcsec : float, optional
        Effective radius of the disc; at most 12.5 arcsec.
    inclination, pa : float, optional
        Degrees; the position angle from North to East, of the receding side.
    labels : dict of str to bool, optional
        ``edge_on`` and ``off_centre_hii``, which follow from numbers; the others are the recipe's (`consequences`).

    Returns
    -------
    dict of str to Tensor (B,)
    """
    g, labels = dict(g), labels or {}

    def scale(names, factor):
        for name in names:
            if name in g:
                g[name] = g[name] * factor

    if log_mass is not None:
        if not 7 <= log_mass <= 12.5:
            raise ValueError(f"log_mass: got {log_mass}; log10 of solar masses between 7 and 12.5 is needed")
        step = log_mass - g["log_mass"]
        # the main sequence has this slope, galaxies below it a specific rate that does not depend on mass
        slope = torch.where(g["quenched"] | g["post_starburst"], 1.0, 0.78)
        g["log_mass"], g["log_sfr"] = g["log_mass"] + step, g["log_sfr"] + slope * step
        for names in (_WITH_MASS, _SPEEDS):
            for name, slope in names.items():
                scale([name], 10 ** (slope * step))
    if redshift is not None:
        z = torch.full_like(g["redshift"], redshift)
        ratio = kpc_per_arcsec(g["redshift"]) / kpc_per_arcsec(z)
        scale(("re", "bulge_re"), ratio)
        g["redshift"] = z
    wanted = None if radius_arcsec is None else torch.full_like(g["re"], radius_arcsec)
    if radius_kpc is not None:
        wanted = radius_kpc / kpc_per_arcsec(g["redshift"])
    if wanted is not None:
        if not 0 < float(wanted.min()) <= float(wanted.max()) <= 12.5:
            raise ValueError(
                f"effective_radius: got {float(wanted.max()):.1f} arcsec; more than 0, at most 12.5 will do"
            )
        scale(("re", "re_kpc", "bulge_re"), wanted / g["re"])
    limited = g["re"].clamp(0.4, 12.5)
    scale(("bulge_re",), limited / g["re"])
    g["re"] = limited
    if sfr is not None:
        if not sfr > 0:
            raise ValueError(f"star_formation_rate: got {sfr} Msun/yr; a positive one is needed")
        g["log_sfr"] = torch.full_like(g["log_sfr"], math.log10(sfr))
    if inclination is not None:
        if not 0 <= inclination <= 90:
            raise ValueError(f"inclination: got {inclination} deg; 0 to 90 is needed")
        _turn(g, torch.full_like(g["inclination"], inclination))
    elif "edge_on" in labels:
        cos_i, (most, least) = torch.cos(torch.deg2rad(g["inclination"])), _cos(80.0, 75.0)
        if labels["edge_on"]:
            turned = torch.where(cos_i > most, most * cos_i, cos_i)
        else:  # as all others: at random
            turned = torch.where((cos_i < least) & ~g["spheroid"], least + (1 - least) * cos_i / least, cos_i)
        _turn(g, torch.where(turned == cos_i, g["inclination"], torch.rad2deg(torch.arccos(turned))))
    if pa is not None:
        g["pa"] = torch.full_like(g["pa"], math.radians(90 - pa) % (2 * math.pi))
    few = (g["clump_fraction"] > 0.3) & (g["clumps"] < 30)
    if labels.get("off_centre_hii"):
        share = 0.3 + 0.15 * ((g["clump_fraction"] - 0.08) / 0.37).clamp(0.01, 1)
        g["clump_fraction"] = torch.where(few, g["clump_fraction"], share)
        g["clumps"] = torch.where(few, g["clumps"], torch.floor(10 + 0.4 * (g["clumps"] - 10)))
    elif "off_centre_hii" in labels:
        share = 0.08 + 0.22 * (g["clump_fraction"] - 0.3) / 0.15
        g["clump_fraction"] = torch.where(few & ~g["quenched"], share, g["clump_fraction"])
    # labels that follow from numbers, as the recipe has them
    g["edge_on"] = (g["inclination"] > 75) & ~g["spheroid"]
    g["off_centre_hii"] = (g["clump_fraction"] > 0.3) & (g["clumps"] < 30) & ~g["quenched"]
    return g


def _cos(*degrees):
    return [math.cos(math.radians(a)) for a in degrees]


def _turn(g, inclination):
    """Incline galaxies by ``inclination`` (B,) degrees, with axis ratios and dust as the recipe has them."""
    disc = ~g["spheroid"]
    before, after = (torch.cos(torch.deg2rad(a)) ** 2 for a in (g["inclination"], inclination))
    for name, thick in (("axis_ratio", g["thickness"]), ("thin_ratio", torch.full_like(after, 0.07))):
        g[name] = torch.where(disc, ((1 - thick**2) * after + thick**2).sqrt(), g[name])
    old, new = ((0.96 * cos2 + 0.04).sqrt() for cos2 in (before, after))
    share = ((1 - g["bulge_q"]) / (1 - old).clamp(min=1e-3)).clamp(0.15, 0.5)
    g["bulge_q"] = torch.where(disc, 1 - (1 - new) * share, g["bulge_q"])
    g["ebv"] = (g["ebv"] * (old / new) ** 0.45).clamp(max=0.8)
    g["inclination"] = inclination
