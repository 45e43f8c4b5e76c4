# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Colours and spectra: simulated galaxies against SDSS photometry, the Brown et al. atlas, DESI and MaNGA spectra."""

import numpy as np

from .comparison import Comparison
from .measures import bootstrap, central_scatter, dn4000, energy_distance, matched_indices, residual_scatter
from .mixture import C_KMS, velocity_shift
from .real import read_atlas, read_colours, read_desi, read_manga_list
from .sample import REST_WAVE, ab_magnitudes

__all__ = ["compare_atlas", "compare_colours", "compare_surveys", "red_cut"]

_COLOURS = ("g-r", "r-i", "i-z")


def red_cut(redshift):
    """Observed g-r that parts red from blue galaxies in this module: 0.62 + 2.0 z up to z = 0.3, by eye in SDSS."""
    return 0.62 + 2.0 * np.asarray(redshift)


def compare_colours(sample, folder, half="all"):
    """Observed SDSS colours at the same redshift and magnitude."""
    real, g = read_colours(folder, half), sample["galaxy"]
    r = g["sdss"][:, 1]
    use = np.flatnonzero((r > 14) & (r < 17.77) & (g["redshift"] > 0.01) & (g["redshift"] < 0.3))
    index, near = matched_indices(
        np.stack([g["redshift"][use], r[use]], 1), np.stack([real["redshift"], real["r"]], 1), (0.01, 0.15)
    )
    sim, sky = use[near], index[near]
    colour_sim, colour_real = -np.diff(g["sdss"], axis=1), -np.diff(real["sdss"], axis=1)
    z_sim, z_real = g["redshift"][sim], real["redshift"][sky]
    against = "SDSS Main galaxies (kcorrect test sample), same redshift and r" + _half(half)
    note = "SDSS bands synthesised from simulated spectra (Doi et al. 2010 curves); nearest neighbours in (z, r)"
    rows = []

    def row(name, statistic, a, b, unit, threshold, kind="same", note=note):
        x, ex = bootstrap(statistic, *a)
        y, ey = bootstrap(statistic, *b)
        rows.append(
            Comparison(
                "Colours", name, x, ex, y, ey, unit, len(sim), len(sky), threshold, kind, against, "colours", note
            )
        )

    for i, name in enumerate(_COLOURS):
        a, b = colour_sim[sim, i], colour_real[sky, i]
        row(f"median {name}", np.median, [a], [b], "mag", 0.05 if i == 0 else 0.03)
        scatter = "noise of the real photometry is part of its scatter" if i else note
        row(
            f"scatter of {name} at fixed redshift", residual_scatter, [a, z_sim], [b, z_real], "mag", 0.03, note=scatter
        )
    row(
        "share of red galaxies",
        lambda c, z: float(np.mean(c > red_cut(z))),
        [colour_sim[sim, 0], z_sim],
        [colour_real[sky, 0], z_real],
        "",
        0.08,
    )
    red_sim, red_real = (c[:, 0] > red_cut(z) for c, z in ((colour_sim[sim], z_sim), (colour_real[sky], z_real)))
    for name, a, b in (("red", red_sim, red_real), ("blue", ~red_sim, ~red_real)):
        if min(a.sum(), b.sum()) < 8:
            continue
        # about the cut, which follows the redshift
        x, y = colour_sim[sim, 0][a] - red_cut(z_sim[a]), colour_real[sky, 0][b] - red_cut(z_real[b])
        rows.append(
            Comparison(
                *(
                    "Colours",
                    f"g-r of {name} galaxies, from the cut",
                    *bootstrap(np.median, x),
                    *bootstrap(np.median, y),
                ),
                *("mag", int(a.sum()), int(b.sum()), 0.05, "same", against, "colours", "cut: g-r = 0.62 + 2.0 z"),
            )
        )
    rng = np.random.default_rng(1)
    halves = rng.permutation(len(sky))
    first, second = np.array_split(halves, 2)
    pair = lambda c, i: c[i][:, :2]  # noqa: E731  (g-r, r-i)
    distance, error = bootstrap(
        lambda a, b: energy_distance(a, b, limit=600), pair(colour_sim, sim), pair(colour_real, sky), draws=40
    )
    floor = energy_distance(pair(colour_real, sky[first]), pair(colour_real, sky[second]))
    rows.append(
        Comparison(
            *("Colours", "energy distance in (g-r, r-i)", distance, error, floor, np.nan, "mag^0.5"),
            *(len(sim), len(sky), 0.10, "at most", "the same distance between two halves of the real sample"),
            *("colours", "0 for equal distributions"),
        )
    )
    drawn = {
        "z_real": real["redshift"],
        "colour_real": colour_real,
        "z_sim": z_sim,
        "colour_sim": colour_sim[sim],
        "z_matched": z_real,
        "colour_matched": colour_real[sky],
        "quenched": g["quenched"][sim],
    }
    return rows, drawn


def _half(half):
    return "" if half == "all" else f", {half} half"


def _measure_atlas(folder, mixture, half):
    out = []
    for galaxy in read_atlas(folder, half):
        wave, flux = galaxy["wave"], galaxy["flux"]
        use = (wave > REST_WAVE[0]) & (wave < REST_WAVE[-1] + 40) & (flux > 0)
        if use.sum() < 800 or not np.isfinite(dn4000(wave, flux)):  # no Dn4000: begins too red
            continue
        fit = mixture.fit(wave[use], flux[use], constant="wavelength")
        for _ in range(2):  # the wavelengths of some are off by several Angstrom
            shift = velocity_shift(wave[use], flux[use], fit)
            if abs(shift) < 30:
                break
            wave = wave / (1 + shift / C_KMS)
            use = (wave > REST_WAVE[0]) & (wave < REST_WAVE[-1] + 40) & (flux > 0)
            fit = mixture.fit(wave[use], flux[use], constant="wavelength")
        galaxy = galaxy | {"wave": wave}
        out.append(galaxy | {"fit": fit, "use": use})
    return out


def compare_atlas(sample, folder, mixture, *, half="all", limit=300, say=lambda text: None):
    """Integrated spectra against Brown et al. (2014): the same fits on both sides."""
    g = sample["galaxy"]
    local = np.flatnonzero(g["redshift"] < 0.12)[:limit]
    say(f"fitting {len(local)} simulated spectra and the atlas")
    sims = [mixture.fit(REST_WAVE, g["spectrum"][i], constant="wavelength") for i in local]
    atlas = _measure_atlas(folder, mixture, half)
    curves = sample["decam"]
    gr = np.array([-np.diff(ab_magnitudes(a["sed_wave"], a["sed_flux"], curves))[0] for a in atlas])
    dn = np.array([dn4000(a["wave"], a["flux"]) for a in atlas])
    table = {
        "sim": _table(sims, g["rest_gr"][local], g["dn4000"][local]),
        "real": _table([a["fit"] for a in atlas], gr, dn),
    }
    sim, real = table["sim"], table["real"]
    against = "Brown et al. 2014 atlas, the same fit on both sides" + _half(half)
    rows = []

    def add(name, a, b, unit, threshold, kind="same", n=None, note=""):
        n_sim, n_real = n or (len(local), len(atlas))
        rows.append(Comparison("Spectra", name, *a, *b, unit, n_sim, n_real, threshold, kind, against, "atlas", note))

    note = "what no non-negative mixture of the simulator's populations and lines makes; real: noise included"
    for key, name, threshold in (("rms", "", 0.03), ("fine", ", after a median over 200 A", 0.015)):
        rows.append(
            Comparison(
                *("Spectra", f"residual of the best mixture{name}"),
                *(*bootstrap(np.median, sim[key]), *bootstrap(np.median, real[key]), "of the light"),
                *(len(local), len(atlas), threshold, "same", against, "mixtures", note),
            )
        )
    twin, other, pool = _twins(g["spectrum"][local], atlas)
    rows.append(
        Comparison(
            *("Spectra", "distance of an atlas galaxy to its nearest simulated twin"),
            *(*bootstrap(np.median, twin), *bootstrap(np.median, other), "of the light", pool, len(twin), 0.02),
            *("at most", "distance to the nearest other atlas galaxy" + _half(half), "mixtures"),
            "rms of the ratio, lines included; as many simulated galaxies to choose from as others of the atlas",
        )
    )
    # at fixed colour: both samples about the relation of the real galaxies
    inside = (sim["gr"] > np.percentile(gr, 2)) & (sim["gr"] < np.percentile(gr, 98))
    curve = np.polynomial.Polynomial.fit(gr, dn, 2)
    add(
        "Dn4000 at fixed g-r (offset from the atlas's relation)",
        bootstrap(np.median, (sim["dn"] - curve(sim["gr"]))[inside]),
        bootstrap(np.median, dn - curve(gr)),
        "",
        0.05,
    )
    add(
        "scatter of Dn4000 at fixed g-r",
        bootstrap(residual_scatter, sim["dn"][inside], sim["gr"][inside]),
        bootstrap(residual_scatter, dn, gr),
        "",
        0.03,
    )
    strong_sim, strong_real = inside & (sim["ew"] > 3), (real["ew"] > 3) & (real["ew"] > 3 * real["ew_error"])
    n = (int(strong_sim.sum()), int(strong_real.sum()))
    curve = np.polynomial.Polynomial.fit(gr[strong_real], np.log10(real["ew"][strong_real]), 2)
    note = "H-alpha and both [N II] lines, above 3 A, over the sideband continuum; starlight fitted and taken out"
    offset = lambda t, keep: np.log10(t["ew"][keep]) - curve(t["gr"][keep])  # noqa: E731
    add(
        "log EW(H-alpha + [N II]) at fixed g-r (offset from the atlas's relation)",
        bootstrap(np.median, offset(sim, strong_sim)),
        bootstrap(np.median, offset(real, strong_real)),
        "dex",
        0.15,
        n=n,
        note=note,
    )
    noise = np.median(real["ew_error"][strong_real] / real["ew"][strong_real]) / np.log(10)
    scatter = bootstrap(residual_scatter, np.log10(real["ew"][strong_real]), gr[strong_real])
    scatter = (float(np.sqrt(max(scatter[0] ** 2 - noise**2, 0))), scatter[1])
    add(
        "scatter of log EW(H-alpha + [N II]) at fixed g-r",
        bootstrap(residual_scatter, np.log10(sim["ew"][strong_sim]), sim["gr"][strong_sim]),
        scatter,
        "dex",
        0.03,
        "at least",
        n=n,
        note=note + f"; measurement errors ({noise:.3f} dex) taken out of the real one",
    )
    weak = {k: t["gr"] > 0.66 for k, t in table.items()}
    n = tuple(int(weak[k].sum()) for k in ("sim", "real"))
    faint = {k: (table[k]["ew"][weak[k]] < 2).astype(float) for k in weak}
    add(
        "share of red galaxies (g-r > 0.66) with EW(H-alpha + [N II]) below 2 A",
        bootstrap(np.mean, faint["sim"]),
        bootstrap(np.mean, faint["real"]),
        "",
        0.15,
        n=n,
        note="systematic errors of weak lines are about 0.3 A on both sides",
    )
    lined = {k: (t["ha_ew"] > 6) & (t["ha_hb"] > 0) & (t["hb_snr"] > 5) for k, t in table.items()}
    n = tuple(int(lined[k].sum()) for k in ("sim", "real"))
    decrement = {k: np.log10(table[k]["ha_hb"][lined[k]]) for k in lined}
    add(
        "log H-alpha / H-beta",
        bootstrap(np.median, decrement["sim"]),
        bootstrap(np.median, decrement["real"]),
        "dex",
        0.08,
        n=n,
        note="EW(H-alpha) > 6 A; the atlas has many luminous infrared galaxies, which are dusty",
    )
    add(
        "scatter of log H-alpha / H-beta",
        bootstrap(central_scatter, decrement["sim"]),
        bootstrap(central_scatter, decrement["real"]),
        "dex",
        0.04,
        n=n,
    )
    order = np.argsort(real["fine"])
    show = [order[int(f * (len(order) - 1))] for f in (0.1, 0.5, 0.9)]
    drawn = {
        "table": table,
        "twin": twin,
        "other": other,
        "examples": [{k: atlas[i][k] for k in ("name", "wave", "flux", "use", "fit")} for i in show],
        "decrement": decrement,
    }
    return rows, drawn


def _table(fits, gr, dn):
    def get(f, kind, line):
        return f[kind].get(line, np.nan)

    ha, hb = (np.array([get(f, "lines", x) for f in fits]) for x in ("Ha", "Hb"))
    hb_error = np.array([get(f, "errors", "Hb") for f in fits])
    with np.errstate(all="ignore"):
        return {
            "gr": np.asarray(gr, dtype=float),
            "dn": np.asarray(dn, dtype=float),
            "rms": np.array([f["rms"] for f in fits]),
            "fine": np.array([f["fine"] for f in fits]),
            "ew": np.array([get(f, "ew", "Ha") + get(f, "ew", "N2") for f in fits]),
            "ha_ew": np.array([get(f, "ew", "Ha") for f in fits]),
            "ew_error": np.array([np.hypot(get(f, "ew_error", "Ha"), get(f, "ew_error", "N2")) for f in fits]),
            "ha_hb": np.where(hb > 0, ha / np.where(hb > 0, hb, 1), 0),
            "hb_snr": hb / hb_error,
        }


def _twins(spectra, atlas):
    """rms of the ratio of each atlas spectrum to the best simulated one, and to the best other one of the atlas.

    From equally many of both (their number is returned, too): more to choose from have nearer ones among them.
    """
    wave = np.arange(3750.0, 6775.0, 8.0)
    rebin = lambda w, f: np.array([f[(w >= a - 4) & (w < a + 4)].mean() for a in wave])  # noqa: E731
    real = np.array([rebin(a["wave"], a["flux"]) for a in atlas if a["wave"][0] < 3745 and a["wave"][-1] > 6775])
    pool = min(len(real) - 1, len(spectra))
    sim = np.array([rebin(REST_WAVE, s.astype(float)) for s in spectra[:pool]])
    real, sim = (np.clip(x / np.median(x, 1, keepdims=True), 1e-3, None) for x in (real, sim))

    def distances(one, many):
        ratio = np.log(one / many)
        return np.std(ratio, axis=1)

    twin = np.array([distances(row, sim).min() for row in real])
    other = np.array([np.sort(distances(row, real))[1] for row in real])
    return twin, other, pool


def compare_surveys(simulator, folder, mixture, cubes, *, seed=0, limit=8):
    """Mixtures fitted to real DESI and MaNGA spectra, and to simulated ones as a control.

    Parameters
    ----------
    simulator : `~fiberifu.simulate.Simulator`
    folder : path-like
    mixture : Mixture
    cubes : list of dict
        Simulated spaxels, see `~fiberifu.validate.realism.noise.manga_cubes`.
    seed : int
    limit : int
        Simulated DESI spectra.
    """
    against = "the same fit to simulated DESI fibres, r 19.5-21.5"
    drawn, rows = [], []
    desi, chi2_real = read_desi(folder), []
    widths = {"widths": (75.0, 130.0, 190.0, 260.0), "line_widths": (45, 60, 80, 100, 130, 170, 220)}
    for spectrum in desi:
        if not np.isfinite(spectrum["redshift"]):
            continue
        wave, flux, ivar = _joined(spectrum["arms"])
        fit, rest, f, s = _fit_observed(mixture, wave, flux, ivar, spectrum["redshift"], **widths)
        chi2_real.append(fit["chi2"])
        snr = np.median((f / s)[np.isfinite(s) & (s > 0)])
        drawn.append({"name": f"DESI {spectrum['name']}", "wave": rest, "flux": f, "fit": fit, "snr": snr})
    chi2_sim = []
    batch = simulator.batch(4 * limit, seed + 1)
    magnitude = 22.5 - 2.5 * np.log10(np.maximum(batch["truth"]["band"][:, 1].numpy(), 1e-6))
    for i in np.flatnonzero((magnitude > 19.5) & (magnitude < 21.5))[:limit]:
        wave = simulator.wave.double().numpy()
        flux, ivar = (batch[k][i].double().numpy() for k in ("flux", "ivar"))
        fit = _fit_observed(mixture, wave, flux, ivar, float(batch["fiber_redshift"][i]), **widths)[0]
        chi2_sim.append(fit["chi2"])
    rows.append(
        Comparison(
            *("Spectra", "reduced chi2 of the best mixture to real DESI galaxies"),
            *(
                *bootstrap(np.median, chi2_sim),
                *bootstrap(np.median, chi2_real),
                "",
                len(chi2_sim),
                len(chi2_real),
                0.3,
            ),
            *(
                "same",
                against,
                "surveys",
                "targets whose redshift the files give: z = 0.37, S/N 6 per pixel, and z = 0.007, S/N 0.6",
            ),
        )
    )
    fractions, rng = {"real": [], "simulated": []}, np.random.default_rng(seed)
    for spectrum in read_manga_list(folder):
        fit, use, snr, beyond = _beyond_noise(mixture, spectrum, widths)
        fractions["real"].append(beyond)
        rest = spectrum["wave"][use] / (1 + spectrum["redshift"])
        drawn.append({"name": spectrum["name"], "wave": rest, "flux": spectrum["flux"][use], "fit": fit, "snr": snr})
        for twin in _with_noise_of(cubes, spectrum, rng):
            fractions["simulated"].append(_beyond_noise(mixture, twin, widths)[3])
    rows.append(
        Comparison(
            *("Spectra", "residual of the best mixture to MaNGA spaxels, beyond the noise"),
            *(*bootstrap(np.median, fractions["simulated"]), *bootstrap(np.median, fractions["real"]), "of the light"),
            *(len(fractions["simulated"]), len(fractions["real"]), 0.02, "same"),
            *("the same fit to simulated spaxels with the noise of the real ones", "surveys"),
            "rms beyond the noise, after a median over 200 A, negative where the fit has taken some of the noise; "
            "S/N 15 to 150",
        )
    )
    return rows, drawn


def _beyond_noise(mixture, spectrum, widths):
    """Fit of a MaNGA spectrum, the pixels used, their median S/N, and the rms that neither fit nor noise explains.

    That is negative where the fit has taken some of the noise.
    """
    rest = spectrum["wave"] / (1 + spectrum["redshift"])
    use = (rest > 3650) & (rest < 7400)
    flux, sigma = spectrum["flux"][use], spectrum["sigma"][use]
    fit = mixture.fit(rest[use], flux, sigma, **widths)
    good = fit["good"]
    noise = np.sqrt(np.mean((sigma[good] / fit["model"][good]) ** 2))
    beyond = fit["fine"] ** 2 - noise**2
    beyond = np.sign(beyond) * np.sqrt(abs(beyond))
    return fit, use, np.median(flux[good] / sigma[good]), beyond


def _with_noise_of(cubes, real, rng, count=3):
    """The brightest spaxels of some cubes with the noise of a real spectrum, pixel by pixel at the same S/N."""
    out = []
    for cube in [cube for cube in cubes if len(cube["flux"])][:count]:
        flux = cube["flux"][np.argmax(np.median(cube["flux"], axis=1))]
        good = np.isfinite(real["sigma"])
        place = np.clip(np.searchsorted(real["wave"], cube["wave"]), 0, len(real["wave"]) - 1)  # the same pixels
        sigma = (real["sigma"] * np.median(flux) / np.median(real["flux"][good]))[place]
        noise = np.where(np.isfinite(sigma), rng.normal(size=len(flux)) * np.where(np.isfinite(sigma), sigma, 0), 0)
        out.append(cube | {"flux": flux + noise, "sigma": sigma})
    return out


def _joined(arms):
    """The arms in one: each pixel of the overlaps from the arm with more weight."""
    wave, flux, ivar = (np.concatenate([arms[a][k] for a in "brz"]) for k in range(3))
    order = np.argsort(wave, kind="stable")
    return wave[order], flux[order], ivar[order]


def _fit_observed(mixture, wave, flux, ivar, redshift, **widths):
    rest = wave / (1 + redshift)
    use = (rest > max(mixture.wave[0], 3300)) & (rest < 7400)
    sigma = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1)), np.inf)
    return mixture.fit(rest[use], flux[use], sigma[use], **widths), rest[use], flux[use], sigma[use]
