"""Galaxies with properties of one's choice.

Shapes: B galaxies.
"""

import math

import torch

from .stars import kpc_per_arcsec

__all__ = ["choose"]

# How sizes, speeds and star formation go with mass in the recipe: dex per dex.
_WITH_MASS = {"re": 0.22, "re_kpc": 0.22, "bulge_re": 0.22}
_SPEEDS = {"v_max": 0.278, "sigma_star": 0.29}


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

    Returns
    -------
    dict of str to Tensor (B,)
    """
    g = dict(g)

    def scale(names, factor):
        for name in names:
            if name in g:
                g[name] = g[name] * factor

    if log_mass is not None:
        if not 7 <= log_mass <= 12.5:
            raise ValueError(f"log_mass: got {log_mass}; log10 of solar masses between 7 and 12.5 is needed")
        step = log_mass - g["log_mass"]
        g["log_mass"], g["log_sfr"] = g["log_mass"] + step, g["log_sfr"] + 0.84 * step
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
        old = g["axis_ratio"]
        thick = g.get("thickness", torch.full_like(old, 0.18))
        cos2 = math.cos(math.radians(inclination)) ** 2
        ratio = ((1 - thick**2) * cos2 + thick**2).sqrt()
        disc = ~g["spheroid"]
        g["inclination"] = torch.full_like(old, inclination)
        g["axis_ratio"] = torch.where(disc, ratio, old)
        if "thin_ratio" in g:  # of gas and young stars
            thin = torch.full_like(old, 0.07)
            g["thin_ratio"] = torch.where(disc, ((1 - thin**2) * cos2 + thin**2).sqrt(), g["thin_ratio"])
        share = (1 - g["bulge_q"]) / (1 - old).clamp(min=0.02)
        g["bulge_q"] = torch.where(disc, 1 - (1 - g["axis_ratio"]) * share.clamp(0.15, 0.5), g["bulge_q"])
        g["edge_on"] = (g["inclination"] > 75) & disc
        g["ebv"] = torch.where(disc, (g["ebv"] * (old / g["axis_ratio"]) ** 0.35).clamp(max=0.8), g["ebv"])
    if pa is not None:
        g["pa"] = torch.full_like(g["pa"], math.radians(90 - pa) % (2 * math.pi))
    for name, value in (labels or {}).items():
        if name not in g or g[name].dtype != torch.bool:
            known = sorted(key for key, a in g.items() if a.dtype == torch.bool)
            raise ValueError(f"labels: got {name!r}, use some of {known}")
        g[name] = torch.full_like(g[name], bool(value))
    return g
