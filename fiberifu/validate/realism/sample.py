# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure simulated galaxies as real ones are measured: total light, boxes across the disc, and survey fibres."""

from importlib import resources

import numpy as np

from .measures import dn4000

__all__ = ["REST_WAVE", "SURVIVING", "ab_magnitudes", "decam_curves", "read_sdss_curves", "simulated_sample"]

#: Rest wavelengths of the integrated spectra: as in the Brown et al. atlas, 2.75 A.
REST_WAVE = np.arange(3650.0, 6781.0, 2.75)
#: log10 of the share of the mass formed that is still in stars after some Gyr (Kroupa IMF, FSPS: 0.6-0.65).
SURVIVING = -0.2
_OBSERVED = np.arange(3500.0, 11501.0, 2.0)  # covers the SDSS bands; rest DECam g and r up to z = 0.6
_FWHM = 8.0  # A, of the spectra behind the atlas (Moustakas & Kennicutt 2006, ApJS 164, 81)
_SEEING = 2.5  # arcsec FWHM, of the resolved relations: CALIFA's and MaNGA's cubes
_PIXEL_BOX = 4  # image pixels on a side of the boxes: 1.05 arcsec
_MPC = 3.0857e24  # cm


def read_sdss_curves():
    """SDSS g, r, i, z responses at 1.3 airmasses (Doi et al. 2010, AJ 139, 1628, table 4).

    Returns
    -------
    dict of str to (wave, response)
    """
    from astropy.table import Table

    table = Table.read(resources.files(__package__) / "data" / "sdss2010.ecsv", format="ascii.ecsv")
    return {band: (np.array(table["wavelength"]), np.array(table[band])) for band in "griz"}


def ab_magnitudes(wave, flux, curves):
    """AB magnitudes (..., n_band) of photon-counting bands up to a constant common to all of them.

    Parameters
    ----------
    wave : array_like, shape (n,)
        Angstrom, as the curves.
    flux : array_like, shape (..., n)
        Per wavelength, any unit.
    curves : dict of str to (wave, response)
    """
    wave, flux = np.asarray(wave, dtype=float), np.asarray(flux, dtype=float)
    step = np.gradient(wave)
    out = []
    for curve_wave, response in curves.values():
        t = np.interp(wave, curve_wave, response, left=0, right=0)
        signal = (flux * t * wave * step).sum(-1)
        out.append(-2.5 * np.log10(np.maximum(signal, 1e-300) / (t / wave * step).sum()))
    return np.stack(out, -1)


def simulated_sample(simulator, n, seed, *, start=0, size=24, progress=None):
    """Measurements of ``n`` simulated galaxies.

    Parameters
    ----------
    simulator : `~fiberifu.simulate.Simulator`
    n, seed, start : int
        Galaxies ``start`` to ``start + n`` of a seed.
    size : int
        Galaxies at a time.
    progress : callable, optional
        Called with the number of galaxies done.

    Returns
    -------
    dict of dict of ndarray
        ``galaxy``: integrated colours, spectra, sizes, velocities and truth, one row each; ``fiber``: truth in
        DESI-like fibres; ``box``: surface densities and lines in boxes of 1.05 arcsec; ``noise``: of the images, per
        band; ``decam``: response curves of the simulator's g and r.
    """
    import torch

    parts = {"galaxy": [], "fiber": [], "box": [], "noise": []}
    with torch.no_grad():
        for first in range(start, start + n, size):
            count = min(size, start + n - first)
            scene = simulator.scene(seed, range(first, first + count))
            parts["galaxy"].append(_integrated(simulator, scene))
            parts["box"].append(_boxes(simulator, scene, first))
            fiber, noise = _fibers(simulator.batch(count, seed, start=first), simulator.config.pixel_scale, first)
            parts["fiber"].append(fiber)
            parts["noise"].append(noise)
            if progress is not None:
                progress(first - start + count)
    out = {name: {key: np.concatenate([row[key] for row in rows]) for key in rows[0]} for name, rows in parts.items()}
    return out | {"decam": decam_curves(simulator)}


def _numpy(d, keys):
    return {key: d[key].cpu().numpy().copy() for key in keys if key in d}


def _grid(simulator):
    import torch

    from ...simulate import SpectralGrid

    wave = torch.as_tensor(_OBSERVED, device=simulator.device)
    edges = torch.cat([wave - 1.0, wave[-1:] + 1.0])
    lsf = torch.full_like(wave, _FWHM / 2.3548).float()
    return SpectralGrid(wave, edges, lsf, 299792.458 * _FWHM / 2.3548 / 5500.0)


def _integrated(simulator, scene):
    """Total light of each galaxy, without its neighbour on the sky."""
    import torch

    g, maps, stack = scene["g"], scene["maps"], scene["stack"]
    n = len(stack)
    other = scene["band"].shape[2] - 1
    area = simulator.config.pixel_scale**2
    amount = stack.sum((-2, -1)) * area
    amount[:, other] = 0
    owner = torch.arange(n, device=stack.device)
    seen = simulator.spectra(scene, owner, amount, _grid(simulator))
    flux, z = seen["flux"].double().cpu().numpy(), g["redshift"].cpu().numpy().astype(float)
    red_end = float(simulator.stars.wave[-1]) * (1 + z)
    for row, end in zip(flux, red_end, strict=True):  # no template beyond: continue flat
        beyond = _OBSERVED > end - 4
        row[beyond] = np.median(row[(_OBSERVED > end - 304) & ~beyond]) if beyond.any() else 0
    rest = np.stack([np.interp(REST_WAVE, _OBSERVED / (1 + a), f * (1 + a)) for a, f in zip(z, flux, strict=True)])
    out = _numpy(
        g,
        (
            *("redshift", "log_mass", "log_sfr", "quenched", "post_starburst", "green", "agn", "outflow", "spheroid"),
            *("decoupled", "inclination", "axis_ratio", "re_kpc", "gas_z_inner", "gas_z_outer", "bulge_fraction"),
        ),
    )
    sdss = ab_magnitudes(_OBSERVED, flux, read_sdss_curves())
    # 1e-17 erg/s/cm2/A to AB: f_nu = f_lambda lambda^2 / c, with lambda in A and c in A/s
    out["sdss"] = sdss - 2.5 * np.log10(1e-17 / 2.99792458e18) - 48.60
    out["spectrum"] = rest.astype(np.float32)
    long = np.arange(3800.0, 7201.0, 2.75)
    full = np.stack([np.interp(long, _OBSERVED / (1 + a), f) for a, f in zip(z, flux, strict=True)])
    gr = ab_magnitudes(long, full, decam_curves(simulator))
    out["rest_gr"] = gr[:, 0] - gr[:, 1]
    out["dn4000"] = dn4000(REST_WAVE, rest)
    for key in ("line_flux", "line_ew"):
        out[key] = seen[key].cpu().numpy()
    # how large the light and the gas are, along the major axis, kpc
    light = torch.einsum("bj,bjyx->byx", scene["band"][:, 1, :other], stack[:, :other])
    n_mass, made = maps["mass"].flatten(1, 2).shape[1], scene["made"]["line_out"].flatten(1, 2)
    ha = torch.einsum("bj,bjyx->byx", made[..., _line("Ha")], stack[:, n_mass : n_mass + made.shape[1]])
    kpc = (g["re_kpc"] / g["re"]).cpu().numpy()
    radius = maps["radius"] * g["re"][:, None, None]
    out["r50"] = _half_radius(light, radius) * kpc
    out["r50_ha"] = _half_radius(ha, radius) * kpc
    out["re_arcsec"] = g["re"].cpu().numpy().copy()
    out["v80"] = _rotation(simulator, scene)
    return out


def _line(name):
    from ...model.lines import LINES

    return LINES.index(name)


def _rotation(simulator, scene, reach=1.8, width=0.25):
    """Speed of the gas (B,), km/s, in boxes on the major axis, over sin i; NaN where the field ends before.

    At the radius with 80 % of the light of an exponential disc, 1.8 effective radii (Reyes et al. 2011: V80).
    """
    import torch
    from torch.nn.functional import avg_pool2d

    g, stack = scene["g"], scene["stack"]
    n, size, pixel = len(stack), stack.shape[-1], simulator.config.pixel_scale
    axis = (torch.arange(size, device=stack.device) - (size - 1) / 2) * pixel
    dx, dy = axis[None, None, :] - g["east"][:, None, None], axis[None, :, None] - g["north"][:, None, None]
    along = dx * torch.cos(g["pa"])[:, None, None] + dy * torch.sin(g["pa"])[:, None, None]
    along = along / (scene["maps"]["radius"] * g["re"][:, None, None])
    along, radius = (avg_pool2d(a[:, None], _PIXEL_BOX)[:, 0].flatten(1) for a in (along, scene["maps"]["radius"]))
    value = along.abs() - 2 * (radius - reach).abs()
    best = value.topk(4, dim=1).indices
    pooled = avg_pool2d(stack, _PIXEL_BOX).flatten(2)
    amount = torch.gather(pooled, 2, best[:, None].expand(-1, stack.shape[1], -1)).transpose(1, 2)
    amount = amount.flatten(0, 1) * (_PIXEL_BOX * pixel) ** 2
    owner = torch.arange(n, device=stack.device).repeat_interleave(4)
    speed = simulator.truth(scene, owner, amount)["velocity"].abs().unflatten(0, (n, 4))
    good = (torch.gather(radius, 1, best) - reach).abs() < width
    good &= torch.gather(along, 1, best).abs() > 0.9
    speed = torch.where(good, speed / torch.gather(along, 1, best).abs(), torch.nan)
    return (speed.nanmean(1) / torch.sin(torch.deg2rad(g["inclination"])).clamp(min=0.05)).cpu().numpy()


def decam_curves(simulator):
    """DECam g and r of the simulator, back from its photometric weights to responses: dict of (wave, response)."""
    stars = simulator.stars
    rest = stars.wave.cpu().numpy().astype(float)
    wave = rest[0] * np.exp(stars.step * np.arange(stars.band_curves.shape[1]))
    weights = stars.band_curves.cpu().numpy()
    return {b: (wave, weights[stars.bands.index(b)] / wave**2) for b in "gr"}


def _half_radius(light, radius):
    """Radius (B,) of the ellipse with half of the light of maps (B, H, W)."""
    light, radius = light.flatten(1).double().cpu().numpy(), radius.flatten(1).cpu().numpy()
    out = np.empty(len(light))
    for i, (weight, r) in enumerate(zip(light, radius, strict=True)):
        order = np.argsort(r)
        running = np.cumsum(weight[order])
        out[i] = r[order][np.searchsorted(running, running[-1] / 2)] if running[-1] > 0 else np.nan
    return out


def _boxes(simulator, scene, first, *, per_galaxy=24):
    """Boxes within two effective radii of nearby star-forming galaxies: surface densities, lines."""
    import torch
    from torch.nn.functional import avg_pool2d

    from ...simulate.observe import convolve, moffat_transfer
    from ...simulate.stars import luminosity_distance

    g, maps, stack = scene["g"], scene["maps"], scene["stack"]
    side = _PIXEL_BOX * simulator.config.pixel_scale
    chosen = torch.nonzero((g["redshift"] < 0.08) & ~g["quenched"] & (g["re"] > 2))[:, 0]
    rng = np.random.default_rng(first)
    owners, places = [], []
    transfer = moffat_transfer(simulator.k, torch.tensor(_SEEING, device=stack.device))
    seen = convolve(stack[chosen], transfer) if len(chosen) else stack[chosen]  # no FFT of nothing
    pooled = avg_pool2d(seen, _PIXEL_BOX)
    radius = avg_pool2d(maps["radius"][chosen][:, None], _PIXEL_BOX)[:, 0]
    for i, owner in enumerate(chosen.tolist()):
        inside = np.flatnonzero((radius[i] < 2).flatten().cpu().numpy())
        take = rng.choice(inside, min(per_galaxy, len(inside)), replace=False)
        owners += [owner] * len(take)
        places.append(pooled[i].flatten(1)[:, take].T)
    if not owners:
        places = [stack.new_zeros(0, stack.shape[1])]
    owner = torch.as_tensor(owners, dtype=torch.int64, device=stack.device)
    amount = torch.cat(places) * side**2
    amount[:, scene["band"].shape[2] - 1] = 0
    truth = simulator.truth(scene, owner, amount)
    kpc2 = (side * g["re_kpc"] / g["re"])[owner] ** 2
    n_mass = maps["mass"].flatten(1, 2).shape[1]
    mass = amount[:, :n_mass].sum(1)
    luminosity = 4 * np.pi * (luminosity_distance(g["redshift"]).double()[owner] * _MPC) ** 2 * 1e-17  # erg/s per unit
    return {
        "galaxy": owner.cpu().numpy() + first,
        "log_sigma_mass": torch.log10((mass / kpc2).clamp(min=1)).cpu().numpy() + SURVIVING,
        "line_luminosity": (truth["line_flux"] * luminosity[:, None]).cpu().numpy(),
        "line_ew": truth["line_ew"].cpu().numpy(),
        "kpc2": kpc2.cpu().numpy(),
        "agn": g["agn"][owner].cpu().numpy(),
    }


def _fibers(batch, pixel, first):
    import torch

    truth, owner = batch["truth"], batch["fiber_galaxy"]
    out = _numpy(truth, ("line_flux", "line_ew", "band", "fiber_radius"))
    out["galaxy"] = owner.cpu().numpy() + first
    for key in ("redshift", "log_mass", "log_sfr", "agn", "quenched", "outflow", "decoupled"):
        out[key] = truth[key][owner].cpu().numpy()
    # the faintest fifth of the pixels has hardly any light of the galaxy
    faint = torch.quantile(batch["sigma"].flatten(2), 0.2, dim=2) * pixel**2
    return out, {"pixel_sigma": torch.where(torch.isfinite(faint), faint, torch.nan).cpu().numpy()}
