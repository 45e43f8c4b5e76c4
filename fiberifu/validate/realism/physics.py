# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Gas and scaling relations: simulated galaxies against real maps and published relations."""

import numpy as np

from ...lines.diagnostics import KAUFFMANN_2003, KEWLEY_2001
from .comparison import Comparison
from .measures import bootstrap, central_scatter, fit_line, residual_scatter, ridge_distance
from .real import read_ifu_lines
from .relations import (
    SOLAR_OH,
    abundance_ridge,
    andrews_martini_2013,
    kewley_ellison_n2,
    n2_metallicity,
    sfr_from_halpha,
    size_early,
    size_late,
    tremonti_2004,
)
from .sample import SURVIVING

__all__ = ["compare_lines", "compare_scaling", "line_ratios"]

_NAN = float("nan")


def _lines():
    from ...model.lines import LINES

    return list(LINES)


def line_ratios(flux):
    """log10 ratios of line fluxes (n, 15): dict of N2, S2, O1 over H-alpha, O3 over H-beta, H-alpha over H-beta."""
    names = _lines()
    at = {name: np.maximum(flux[..., i].astype(float), 1e-30) for i, name in enumerate(names)}
    return {
        "N2": np.log10(at["N2_6583"] / at["Ha"]),
        "S2": np.log10((at["S2_6716"] + at["S2_6731"]) / at["Ha"]),
        "O1": np.log10(at["O1_6300"] / at["Ha"]),
        "O3": np.log10(at["O3_5007"] / at["Hb"]),
        "HaHb": np.log10(at["Ha"] / at["Hb"]),
    }


def compare_lines(sample, folder):
    """BPT planes of fibres against curves and real spaxels, and the scatter of EW(H-alpha) that no image tells."""
    f, names = sample["fiber"], _lines()
    ha = names.index("Ha")
    ratio, ew = line_ratios(f["line_flux"]), f["line_ew"][:, ha]
    real = read_ifu_lines(folder)
    sky = {key: np.log10(real[key] / real["Ha"]) for key in ("N2", "S2", "O1")} | {
        "O3": np.log10(real["O3"] / real["Hb"])
    }
    with np.errstate(invalid="ignore"):
        star_forming = (ew > 6) & (ratio["O3"] < KAUFFMANN_2003(ratio["N2"]))
        sky_forming = sky["O3"] < KAUFFMANN_2003(sky["N2"])
    galaxies = len(np.unique(real["source"][sky_forming]))
    rows = []

    def row(name, sim, sky_value, unit, threshold, kind, against, n_real, note="", n=None):
        rows.append(
            Comparison(
                *("Emission lines", name, *sim, *sky_value, unit, n or int(star_forming.sum()), n_real),
                *(threshold, kind, against, "bpt", note),
            )
        )

    ridge = "mean star-forming sequence at z = 0, Kewley et al. 2013 (ApJ 774, 100)"
    distance = ridge_distance(ratio["N2"][star_forming], ratio["O3"][star_forming], abundance_ridge)
    sky_distance = ridge_distance(sky["N2"][sky_forming], sky["O3"][sky_forming], abundance_ridge)
    chosen = "star-forming: EW(H-alpha) > 6 A and below Kauffmann et al. 2003"
    row(
        "distance from the ridge in [N II]",
        bootstrap(np.median, distance),
        (0.0, _NAN),
        "dex",
        0.1,
        "same",
        ridge,
        0,
        chosen,
    )
    maps = f"MaNGA and SAMI spaxels of {galaxies} galaxies, S/N > 5"
    row(
        "scatter about the ridge in [N II]",
        bootstrap(central_scatter, distance),
        bootstrap(central_scatter, sky_distance),
        *("dex", 0.05, "same", maps, int(sky_forming.sum()), chosen + "; few real galaxies, whose spaxels are alike"),
    )
    for key, name, threshold in (("S2", "[S II]", 0.1), ("O1", "[O I]", 0.15)):
        y = sky[key]
        ok = sky_forming & np.isfinite(y)
        curve = np.polynomial.Polynomial.fit(sky["N2"][ok], y[ok], 1)
        low, high = np.percentile(sky["N2"][ok], [2, 98])
        same = star_forming & (ratio["N2"] > low) & (ratio["N2"] < high)
        row(
            f"log {name} / H-alpha at fixed [N II] / H-alpha",
            bootstrap(np.median, (ratio[key] - curve(ratio["N2"]))[same]),
            bootstrap(np.median, y[ok] - curve(sky["N2"][ok])),
            *("dex", threshold, "same", maps, int(ok.sum()), "offset from the line through the real spaxels"),
            int(same.sum()),
        )
    below = ratio["O3"] < KEWLEY_2001["S2"](ratio["S2"])
    row(
        "star-forming fibres below the maximum-starburst curve in [S II]",
        bootstrap(np.mean, below[star_forming].astype(float)),
        (1.0, _NAN),
        *("", 0.05, "at least", "Kewley et al. 2001, 2006", 0, "the two planes must tell the same story"),
    )
    lit = (ew > 6) & ~f["agn"]
    with np.errstate(invalid="ignore"):
        composite = ~(ratio["O3"] < KAUFFMANN_2003(ratio["N2"]))
    row(
        "fibres without an active nucleus above Kauffmann et al. 2003",
        bootstrap(np.mean, composite[lit].astype(float)),
        (0.07, 0.02),
        *(
            "",
            0.08,
            "at most",
            "composites among the galaxies of Kewley et al. 2006 (MNRAS 372, 961), central fibres",
            0,
        ),
        *("EW(H-alpha) > 6 A; [N II] too strong, or [O III], for H II regions alone", int(lit.sum())),
    )
    active = f["agn"] & (ew > 3)
    over = ratio["O3"] > KAUFFMANN_2003(ratio["N2"])
    row(
        "fibres of AGN hosts above Kauffmann et al. 2003",
        bootstrap(np.mean, over[active].astype(float)) if active.sum() > 2 else (_NAN, _NAN),
        (1.0, _NAN),
        *(
            "",
            0.25,
            "context",
            "Kauffmann et al. 2003",
            0,
            "label of the simulation; EW(H-alpha) > 3 A, whole disc under the fibre",
        ),
        int(active.sum()),
    )
    # the scatter that the image cannot tell
    band = np.maximum(f["band"].astype(float), 1e-6)
    gr, rz = (-2.5 * np.log10(band[:, a] / band[:, b]) for a, b in ((0, 1), (1, 3)))
    surface = 22.5 - 2.5 * np.log10(band[:, 1] / (np.pi / 4 * 1.5**2))
    lit = ew > 1
    columns = [c[lit] for c in (gr, rz, surface, f["redshift"].astype(float))]
    row(
        "scatter of log EW(H-alpha) at fixed g-r, r-z, r surface brightness and redshift",
        bootstrap(residual_scatter, np.log10(ew[lit]), *columns),
        (0.25, _NAN),
        *("dex", 0.02, "at least", "the value below which scores on simulations mean little", 0),
        *("truth in fibres, EW(H-alpha) > 1 A; about a quadratic", int(lit.sum())),
    )
    drawn = {"ratio": ratio, "ew": ew, "agn": f["agn"], "sky": sky, "source": real["source"], "distance": distance}
    return rows, drawn | {"sky_distance": sky_distance, "gr": gr}


def _corrected_halpha(luminosity, ha_hb):
    """L(H-alpha) behind no dust: Calzetti et al. (2000) screen, intrinsic ratio 2.86."""
    k_ha, k_hb = 3.33, 4.60
    ebv = np.clip(2.5 / (k_hb - k_ha) * (ha_hb - np.log10(2.86)), 0, 2)
    return luminosity * 10 ** (0.4 * k_ha * ebv)


def compare_scaling(sample):
    """Tully-Fisher, mass-metallicity, main sequences, sizes."""
    g, box, names = sample["galaxy"], sample["box"], _lines()
    ha = names.index("Ha")
    mass = g["log_mass"].astype(float) + SURVIVING  # stellar mass now, Kroupa IMF
    rows = []

    def row(name, sim, sky, unit, threshold, against, figure="scaling", note="", n=0, kind="same"):
        rows.append(
            Comparison("Scaling relations", name, *sim, *sky, unit, n, 0, threshold, kind, against, figure, note)
        )

    ratio = line_ratios(g["line_flux"])
    ew = g["line_ew"][:, ha]
    disc = ~g["spheroid"] & ~g["quenched"]

    # --- Tully-Fisher
    keep = disc & (g["inclination"] > 30) & (g["inclination"] < 75) & (g["v80"] > 10) & (mass > 9)
    x, y = mass[keep], np.log10(g["v80"][keep])
    against = "Reyes et al. 2011 (MNRAS 417, 2347): V80, Kroupa IMF"
    note = f"rotation at 1.8 effective radii / sin i; mass now = mass formed {SURVIVING:+.1f} dex"
    for i, (name, sky, unit, threshold) in enumerate(
        (
            ("Tully-Fisher slope", (0.278, 0.010), "dex/dex", 0.04),
            ("Tully-Fisher log V80 at log M = 10.10", (2.142, 0.004), "dex (km/s)", 0.04),
            ("Tully-Fisher scatter in log V80", (0.056, 0.005), "dex", 0.03),
        )
    ):
        row(
            name,
            bootstrap(lambda a, b, i=i: fit_line(a, b, 10.10)[i], x, y),
            sky,
            unit,
            threshold,
            against,
            note=note,
            n=len(x),
        )

    # --- metals
    formed = disc & (ew > 6) & ~g["agn"] & (mass > 9) & (mass < 11.3) & (g["redshift"] < 0.2)
    m = mass[formed]
    oxygen = SOLAR_OH + g["gas_z_inner"][formed] + (g["gas_z_outer"] - g["gas_z_inner"])[formed] / 3
    n2 = n2_metallicity(ratio["N2"][formed])
    for part, some in (("log M < 10", m < 10), ("log M > 10", m >= 10)):
        tremonti = np.median(oxygen[some] - tremonti_2004(m[some])) if some.any() else _NAN
        row(
            f"true 12 + log(O/H) at fixed mass, {part}",
            bootstrap(np.median, oxygen[some] - andrews_martini_2013(m[some])),
            (0.0, 0.05),
            *("dex", 0.15, "Andrews & Martini 2013, electron temperatures", "scaling"),
            f"at one effective radius; solar gas phase {SOLAR_OH}; scales of abundance differ by 0.2 dex (Tremonti et "
            f"al. 2004: {tremonti:+.2f} dex)",
            int(some.sum()),
        )
        row(
            f"12 + log(O/H) by N2 at fixed mass, {part}",
            bootstrap(np.median, n2[some] - kewley_ellison_n2(m[some])),
            (0.0, 0.03),
            *("dex", 0.07, "Pettini & Pagel 2004 N2, SDSS relation of Kewley & Ellison 2008", "scaling"),
            "lines of the total light, against SDSS fibres of 3 arcsec: 0.03 dex of gradient between them",
            int(some.sum()),
        )
    row(
        "scatter of N2 metallicity at fixed mass",
        bootstrap(lambda a, b: residual_scatter(a, b), n2, m),
        (0.10, 0.02),
        *("dex", 0.04, "Tremonti et al. 2004: 0.1 dex"),
        n=len(m),
    )

    # --- main sequence, as measured from H-alpha
    near = disc & (ew > 6) & (g["redshift"] < 0.12) & (mass > 8.7) & ~g["agn"]
    luminosity = g["line_flux"][:, ha].astype(float) * _sphere(g["redshift"])
    sfr = np.log10(np.maximum(sfr_from_halpha(_corrected_halpha(luminosity, ratio["HaHb"])), 1e-6))
    against = "Renzini & Peng 2015 (ApJ 801, L29), SDSS: 0.76 log M - 7.64"
    note = "SFR from dust-corrected H-alpha (Kennicutt & Evans 2012); EW(H-alpha) > 6 A, z < 0.12"
    for i, (name, sky, unit, threshold) in enumerate(
        (
            ("main-sequence slope", (0.76, 0.02), "dex/dex", 0.15),
            ("main-sequence log SFR at log M = 10", (-0.04, 0.05), "dex (Msun/yr)", 0.2),
            ("main-sequence scatter", (0.30, 0.03), "dex", 0.1),
        )
    ):
        statistic = lambda a, b, i=i: fit_line(a, b, 10.0)[i]  # noqa: E731
        row(
            name,
            bootstrap(statistic, mass[near], sfr[near]),
            sky,
            unit,
            threshold,
            against,
            note=note,
            n=int(near.sum()),
        )
    row(
        "log SFR(H-alpha) / true SFR",
        bootstrap(np.median, (sfr - g["log_sfr"])[near]),
        (0.0, _NAN),
        *("dex", 0.15, "Kennicutt & Evans 2012: H-alpha measures star formation"),
        note="true: mean over 1e8 yr; the tables of Gutkin et al. 2016 give 0.1-0.35 dex more H-alpha for a star "
        "formation rate than the calibration has, lost ionising photons take 0.14 dex on average",
        n=int(near.sum()),
    )

    # --- resolved main sequence
    b_ratio = line_ratios(box["line_luminosity"])
    area = np.log10(np.maximum(box["kpc2"].astype(float), 1e-6))
    b_ew = box["line_ew"][:, ha]
    area_ok = (area > np.log10(0.25)) & (area < np.log10(2.25))
    use = area_ok & (b_ew > 6) & (b_ratio["O3"] < KAUFFMANN_2003(b_ratio["N2"])) & (box["log_sigma_mass"] > 6.5)
    b_sfr = (
        np.log10(
            np.maximum(
                sfr_from_halpha(_corrected_halpha(box["line_luminosity"][:, ha].astype(float), b_ratio["HaHb"])), 1e-12
            )
        )
        - area
    )
    bx, by = box["log_sigma_mass"][use].astype(float), b_sfr[use]
    against = "Cano-Diaz et al. 2016 (ApJ 821, L26), CALIFA: 0.72 log S - 7.95, scatter 0.23"
    note = (
        "boxes of 1.05 arcsec at 2.5 arcsec seeing, 0.5-1.5 kpc wide; star-forming as on the BPT plane; least squares"
    )
    for i, (name, sky, unit, threshold) in enumerate(
        (
            ("resolved main-sequence slope", (0.72, 0.04), "dex/dex", 0.1),
            ("resolved log SFR density at 1e8 Msun/kpc2", (-2.19, 0.1), "dex (Msun/yr/kpc2)", 0.3),
            ("resolved main-sequence scatter", (0.23, 0.02), "dex", 0.1),
        )
    ):
        statistic = lambda a, b, i=i: fit_line(a, b, 8.0)[i]  # noqa: E731
        value = bootstrap(statistic, bx, by) if len(bx) > 10 else (_NAN, _NAN)
        row(name, value, sky, unit, threshold, against, note=note, n=len(bx))

    # --- sizes
    small = g["re_arcsec"] < 8  # what lies inside the simulated field
    late, early = disc & small & (mass > 9), g["quenched"] & g["spheroid"] & small & (mass > 10.3)
    size = np.log10(g["r50"])
    table = "van der Wel et al. 2014 (ApJ 788, 28), z = 0.25"
    note = "half-light radius in r along the major axis, no seeing"
    for name, kept, curve, scatter in (("late types", late, size_late, 0.16), ("early types", early, size_early, 0.10)):
        rest = size[kept] - curve(mass[kept])
        few = kept.sum() < 3
        median = (_NAN, _NAN) if few else bootstrap(np.median, rest)
        width = (_NAN, _NAN) if few else bootstrap(central_scatter, rest)
        row(f"log size of {name} at fixed mass", median, (0.0, 0.02), "dex", 0.1, table, "sizes", note, int(kept.sum()))
        row(
            f"scatter of log size of {name}", width, (scatter, 0.02), "dex", 0.05, table, "sizes", note, int(kept.sum())
        )
    gas = disc & small & (ew > 6) & ~g["agn"] & np.isfinite(g["r50_ha"])
    ratio_size = np.log10(g["r50_ha"] / g["r50"])[gas]
    row(
        "log H-alpha size / r size",
        bootstrap(np.median, ratio_size),
        (float(np.log10(1.14)), 0.027),
        *("dex", 0.06, "Koopmann et al. 2006 (AJ 131, 716), field spirals: scale lengths 1.14 +- 0.07", "sizes"),
        "half-light radii, not scale lengths of exponential fits",
        int(gas.sum()),
    )
    drawn = {
        "tf": (x, y),
        "metal": (m, oxygen, n2),
        "sequence": (mass[near], sfr[near]),
        "resolved": (bx, by),
        "size": (mass, size, late, early),
        "ratio": ratio_size,
    }
    return rows, drawn


def _sphere(redshift):
    """4 pi D_L^2 x 1e-17, cm2: from line flux in 1e-17 erg/s/cm2 to erg/s."""
    import torch

    from ...simulate.stars import luminosity_distance

    metres = luminosity_distance(torch.as_tensor(np.asarray(redshift, dtype=float))).numpy() * 3.0857e24
    return 4 * np.pi * metres**2 * 1e-17
