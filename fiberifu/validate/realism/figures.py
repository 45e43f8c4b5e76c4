# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The figures of the realism page: real in grey or black, simulated in colour."""

from pathlib import Path

import numpy as np

from ...lines.diagnostics import KAUFFMANN_2003, KEWLEY_2001
from .measures import running_median
from .relations import abundance_ridge, andrews_martini_2013, kewley_ellison_n2, size_early, size_late

__all__ = ["CAPTIONS", "draw_figures"]

SIM, REAL, CURVE = "#d1495b", "0.35", "#00798c"

#: Figures in the order of the page, and what each shows.
CAPTIONS = {
    "colours": "Observed SDSS colours against redshift: 9,700 real galaxies (grey), simulated galaxies (red), running "
    "medians of both at the same redshift and r; right: g-r from the cut between red and blue, matched samples.",
    "mixtures": "Best mixtures of the simulator's populations and lines (red) for three atlas galaxies (black): those "
    "at 10, 50 and 90 % of the residuals; bottom: residuals of the atlas and of simulated galaxies, and distances to "
    "the nearest twin.",
    "atlas": "Integrated spectra: Dn4000 and EW(H-alpha + [N II]) against rest-frame g-r, and H-alpha / H-beta; atlas "
    "(black), simulated (red).",
    "surveys": "Best mixtures (red) for real MaNGA and DESI spectra (black, means over 4 A, or 12 A where noisy) and "
    "what they leave (grey).",
    "noise": "Noise of real DESI coadds (grey) and of the simulator at the same flux and effective exposure (red); "
    "then noise per pixel of simulated Legacy images, and of a real cutout (dashed); inverse variance of simulated "
    "MaNGA spaxels over that of six real ones of the same brightness, in seven ranges of wavelength.",
    "bpt": "Simulated fibres (red; hosts of active nuclei: crosses) and real spaxels (grey) on the BPT planes, with "
    "the curves of Kauffmann et al. 2003 (dashed), Kewley et al. 2001 (full) and the star-forming ridge of Kewley et "
    "al. 2013 (green); right: distance from the ridge.",
    "scaling": "Scaling relations: simulated (points) and published (lines). Boxes of the resolved main sequence are "
    "0.5-1.5 kpc wide.",
    "sizes": "Half-light radii in r along the major axis against mass, with the relations of van der Wel et al. 2014 "
    "and their scatter.",
    "survey": "Galaxies that train the network (grey; redshift and r) and those that the simulated surveys choose; "
    "dashed: published medians of redshift (BGS 0.2, MaNGA Primary 0.03) and the limit of BGS Bright.",
}


def draw_figures(figures, folder, *, limit=120_000):
    """Draw every figure as PNG of at most ``limit`` bytes.

    Parameters
    ----------
    figures : dict
        Of `~fiberifu.validate.realism.measure_realism`.
    folder : path-like

    Returns
    -------
    dict of str to `~pathlib.Path`
        In the order of `CAPTIONS`.
    """
    import matplotlib

    from fiberifu.plot import style

    draw = {
        "colours": lambda: _colours(figures["colours"]),
        "mixtures": lambda: _mixtures(figures["atlas"]),
        "atlas": lambda: _atlas(figures["atlas"]),
        "surveys": lambda: _surveys(figures["surveys"]),
        "noise": lambda: _noise(figures["noise"], figures["cubes"]["points"]),
        "bpt": lambda: _bpt(figures["lines"]),
        "scaling": lambda: _scaling(figures["scaling"]),
        "sizes": lambda: _sizes(figures["scaling"]),
        "survey": lambda: _survey(figures["survey"]),
    }
    out = {}
    with style(), matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8}):
        import matplotlib.pyplot as plt

        for name in CAPTIONS:
            figure = draw[name]()
            out[name] = Path(folder) / f"{name}.png"
            _save(figure, out[name], limit)
            plt.close(figure)
    return out


def _save(figure, path, limit):
    """PNG with as many dots as fit into the limit."""
    from io import BytesIO

    from PIL import Image

    for dpi in (130, 110, 90, 75):
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        packed = BytesIO()
        picture.save(packed, format="png", optimize=True)
        if packed.tell() <= limit:
            break
    Path(path).write_bytes(packed.getvalue())


def _axes(*layout, size, **options):
    import matplotlib.pyplot as plt

    return plt.subplots(*layout, figsize=size, layout="constrained", **options)


def _points(ax, x, y, **options):
    ax.plot(x, y, ls="", marker="o", ms=2.2, mew=0, rasterized=True, **options)


def _colours(d):
    figure, axes = _axes(1, 4, size=(13, 3.3))
    edges = np.arange(0.01, 0.31, 0.03)
    for i, (ax, name) in enumerate(zip(axes, ("g-r", "r-i", "i-z"), strict=False)):
        _points(ax, d["z_real"], d["colour_real"][:, i], color="0.75", label="SDSS")
        _points(ax, d["z_sim"], d["colour_sim"][:, i], color=SIM, alpha=0.6, label="simulated")
        for x, y, colour in ((d["z_matched"], d["colour_matched"], "k"), (d["z_sim"], d["colour_sim"], "#8c1c2c")):
            ax.plot(*running_median(x, y[:, i], edges)[:2], color=colour, lw=2)
        middle = np.median(d["colour_real"][:, i])
        ax.set(xlim=(0, 0.3), ylim=(middle - (0.8, 0.35, 0.35)[i], middle + (0.8, 0.35, 0.35)[i]))
        ax.set(xlabel="redshift", ylabel=f"{name} (mag)")
    z = np.array([0.0, 0.3])
    axes[0].plot(z, 0.62 + 2.0 * z, color=CURVE, ls="--", label="red / blue")
    axes[0].legend(loc="upper left")
    bins = np.arange(-0.8, 0.81, 0.05)
    for x, z, colour, label in (
        (d["colour_matched"][:, 0], d["z_matched"], REAL, "SDSS, matched"),
        (d["colour_sim"][:, 0], d["z_sim"], SIM, "simulated"),
    ):
        axes[3].hist(x - 0.62 - 2.0 * z, bins, histtype="step", lw=1.6, color=colour, density=True, label=label)
    axes[3].axvline(0, color=CURVE, ls="--")
    axes[3].set(xlabel="g-r - (0.62 + 2.0 z) (mag)", ylabel="density")
    axes[3].legend(loc="upper left")
    return figure


def _mixtures(d):
    figure, axes = _axes(4, 1, size=(9, 9))
    for ax, one in zip(axes, d["examples"], strict=False):
        wave, flux, fit = one["wave"][one["use"]], one["flux"][one["use"]], one["fit"]
        level = np.median(flux)
        ax.plot(wave, flux / level, color="k", lw=0.8, label=one["name"])
        ax.plot(wave, fit["model"] / level, color=SIM, lw=0.9, label=f"mixture: rms {100 * fit['rms']:.1f} %")
        ax.plot(wave, (flux - fit["model"]) / level, color=REAL, lw=0.5)
        ax.axhline(0, color="0.7", lw=0.5)
        ax.set(xlim=(3650, 6800), ylim=(-0.4, np.percentile(flux / level, 99.7) * 1.15), ylabel="flux")
        ax.legend(loc="upper left", ncols=2)
    axes[2].set_xlabel("rest wavelength, vacuum (Å)")
    bins = np.linspace(0, 20, 41)
    series = (
        (d["table"]["real"]["rms"], "k", "residual, atlas"),
        (d["table"]["sim"]["rms"], SIM, "residual, simulated"),
        (d["twin"], CURVE, "atlas to nearest simulated"),
        (d["other"], "0.6", "atlas to nearest other of the atlas"),
    )
    for x, colour, label in series:
        axes[3].hist(np.clip(100 * x, 0, 19.9), bins, histtype="step", lw=1.5, color=colour, density=True, label=label)
    axes[3].set(xlabel="rms (% of the light)", ylabel="density", ylim=(0, 0.6))
    axes[3].legend()
    return figure


def _atlas(d):
    figure, axes = _axes(1, 3, size=(12, 3.6))
    real, sim = d["table"]["real"], d["table"]["sim"]
    for ax, key, label in ((axes[0], "dn", "Dn4000"), (axes[1], "ew", "EW(H$\\alpha$ + [N II]) (Å)")):
        _points(ax, real["gr"], real[key], color="k", label="Brown et al. 2014")
        _points(ax, sim["gr"], sim[key], color=SIM, alpha=0.7, label="simulated")
        ax.set(xlabel="rest-frame g-r (mag)", ylabel=label, xlim=(-0.25, 1.0))
    axes[0].set_ylim(0.8, 2.2)
    axes[1].set(yscale="log", ylim=(0.1, 600))
    axes[0].legend(loc="upper left")
    bins = np.linspace(0.3, 1.2, 31)
    for key, colour, label in (("real", "k", "Brown et al. 2014"), ("sim", SIM, "simulated")):
        axes[2].hist(d["decrement"][key], bins, histtype="step", lw=1.6, color=colour, density=True, label=label)
    axes[2].axvline(np.log10(2.86), color=CURVE, ls="--", label="case B")
    axes[2].set(xlabel="log H$\\alpha$ / H$\\beta$", ylabel="density")
    axes[2].legend()
    return figure


def _surveys(rows):
    manga = sorted((r for r in rows if r["name"].startswith("MaNGA")), key=lambda r: -r["snr"])
    shown = [*manga[::2], *(r for r in rows if r["name"].startswith("DESI"))]
    figure, axes = _axes(len(shown), 1, size=(9, 1.9 * len(shown)), sharex=True)
    for ax, one in zip(np.atleast_1d(axes), shown, strict=True):
        step = 4.0 if one["snr"] > 3 else 12.0
        grid = np.arange(max(3600, one["wave"][0]), min(7400, one["wave"][-1]), step)
        good = one["fit"]["good"]
        real, model = (
            _rebin(one["wave"], y, grid)
            for y in (np.where(good, one["flux"], one["fit"]["model"]), one["fit"]["model"])
        )
        level = np.nanmedian(model)
        ax.plot(grid, real / level, color="k", lw=0.8)
        ax.plot(grid, model / level, color=SIM, lw=0.8)
        ax.plot(grid, (real - model) / level, color="0.6", lw=0.5)
        ax.set_ylim(-0.5, np.clip(np.nanpercentile(model / level, 99.9) * 1.1, 1.6, 9))
        snr = f"{one['snr']:.{0 if one['snr'] > 10 else 1}f}"
        text = f"{one['name']}: S/N {snr} per pixel, reduced $\\chi^2$ {one['fit']['chi2']:.2f}"
        if one["snr"] > 10:
            text += f", residual {100 * one['fit']['fine']:.1f} %"
        ax.set_title(text)
        ax.set_ylabel("flux")
    np.atleast_1d(axes)[-1].set_xlabel("rest wavelength (Å)")
    return figure


def _rebin(wave, y, grid):
    """Means of ``y`` in bins centred on the grid; NaN where a bin is empty."""
    parts = np.split(y, np.searchsorted(wave, (grid[1:] + grid[:-1]) / 2))
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def _noise(d, cubes):
    import matplotlib

    n = len(d["curves"])
    columns = (n + 2 + 1) // 2
    figure, axes = _axes(2, columns, size=(4.2 * columns, 6.2))
    axes = axes.ravel()
    for ax, one in zip(axes, d["curves"], strict=False):
        for wave, sigma in one["real"].values():
            ax.plot(wave, sigma, color="0.6", lw=0.4, rasterized=True)
        model = list(one["sim"].values())[-1]
        for arm, (wave, _) in one["real"].items():
            inside = (one["wave"] >= wave[0]) & (one["wave"] <= wave[-1])
            ax.plot(one["wave"][inside], model[arm][inside], color=SIM, lw=0.4, rasterized=True)
        top = 3 * np.median(np.concatenate([sigma for _, sigma in one["real"].values()]))
        ax.set(ylim=(0, top), xlabel="wavelength (Å)", title=one["name"].split(" ")[0])
        ax.set_ylabel("noise (1e-17 erg/s/cm$^2$/Å)")
    bins = np.linspace(-3.0, -1.6, 43)
    ax = axes[n]
    for i, (band, colour) in enumerate(zip("griz", ("#2a9d4b", SIM, "#b08900", "#5b2a86"), strict=True)):
        values = np.log10(d["pixel"][:, i][np.isfinite(d["pixel"][:, i])])
        ax.hist(values, bins, histtype="step", color=colour, lw=1.5, label=band)
        if band in d["cutout"]:
            ax.axvline(np.log10(d["cutout"][band]), color=colour, ls="--", lw=1.2)
    ax.set(xlabel="log noise per pixel (nanomaggy)", ylabel="galaxies", title="images; real cutout dashed")
    ax.legend()
    ax = axes[n + 1]
    levels = np.unique(cubes[:, 0])
    for level, colour in zip(levels, matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(levels))), strict=True):
        ours = cubes[cubes[:, 0] == level]
        x = np.log10(np.maximum(ours[:, 1], 1e-3))
        ax.plot(x, ours[:, 2], ls="", marker="o", ms=4, color=colour, label=f"from {level:.0f} Å")
    ax.axhline(0, color="0.5", lw=1)
    ax.set(xlabel="log flux of the spaxel", ylabel="log ivar, simulated / real", title="MaNGA cubes")
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.6 * (high - low), high)  # room for the legend
    ax.legend(ncols=2, loc="lower left")
    for ax in axes[n + 2 :]:
        ax.set_axis_off()
    return figure


def _bpt(d):
    figure, axes = _axes(1, 3, size=(13, 4.2))
    keep = d["ew"] > 3
    for ax, key, label, low, high in (
        (axes[0], "N2", "log [N II] / H$\\alpha$", -1.7, 0.6),
        (axes[1], "S2", "log [S II] / H$\\alpha$", -1.3, 0.5),
    ):
        _points(ax, d["sky"][key], d["sky"]["O3"], color="0.72", label="MaNGA, SAMI spaxels")
        plain = keep & ~d["agn"]
        _points(ax, d["ratio"][key][plain], d["ratio"]["O3"][plain], color=SIM, alpha=0.6, label="simulated fibres")
        active = keep & d["agn"]
        ax.plot(
            d["ratio"][key][active], d["ratio"]["O3"][active], ls="", marker="x", ms=4, color="k", label="AGN hosts"
        )
        x = np.linspace(low, high, 400)
        ax.plot(x, np.where((y := KEWLEY_2001[key](x)) > -2, y, np.nan), color="k", lw=1)
        if key == "N2":
            ax.plot(x, np.where((y := KAUFFMANN_2003(x)) > -2, y, np.nan), color="k", lw=1, ls="--")
            ax.plot(x, np.where((y := abundance_ridge(x)) > -2, y, np.nan), color=CURVE, lw=2)
        ax.set(xlim=(low, high), ylim=(-1.3, 1.3), xlabel=label, ylabel="log [O III] / H$\\beta$")
    axes[0].legend(loc="lower left")
    bins = np.linspace(-0.4, 0.6, 41)
    for values, colour, label in (
        (d["sky_distance"], REAL, "spaxels of 3 galaxies"),
        (d["distance"], SIM, "simulated fibres"),
    ):
        axes[2].hist(values, bins, histtype="step", lw=1.6, color=colour, density=True, label=label)
    axes[2].axvline(0, color=CURVE)
    axes[2].set(xlabel="distance from the ridge (dex)", ylabel="density")
    axes[2].legend()
    return figure


def _scaling(d):
    figure, axes = _axes(2, 3, size=(12, 7))
    axes = axes.ravel()
    x = np.linspace(8.5, 11.6, 50)

    def panel(ax, points, curves, xlabel, ylabel, **limits):
        _points(ax, *points, color=SIM, alpha=0.5)
        for cx, cy, label, line in curves:
            ax.plot(cx, cy, color=CURVE, lw=2, ls=line, label=label)
        ax.set(xlabel=xlabel, ylabel=ylabel, **limits)
        ax.legend(loc="best")

    mass = "log stellar mass (M$_\\odot$)"
    panel(
        axes[0],
        d["tf"],
        [(x, 2.142 + 0.278 * (x - 10.1), "Reyes+2011", "-")],
        mass,
        "log V$_{80}$ (km/s)",
        xlim=(8.5, 11.6),
    )
    m, oxygen, n2 = d["metal"]
    panel(
        axes[1],
        (m, oxygen),
        [(x, andrews_martini_2013(x), "Andrews & Martini 2013", "-")],
        *(mass, "true 12 + log(O/H) at R$_e$"),
        ylim=(8.0, 9.3),
    )
    panel(
        axes[2],
        (m, n2),
        [(x, kewley_ellison_n2(x), "Kewley & Ellison 2008", "-")],
        mass,
        "12 + log(O/H) by N2",
        ylim=(8.0, 9.1),
    )
    panel(
        axes[3],
        d["sequence"],
        [(x, 0.76 * x - 7.64, "Renzini & Peng 2015", "-")],
        mass,
        "log SFR from H$\\alpha$ (M$_\\odot$/yr)",
    )
    s = np.linspace(6.5, 9.5, 20)
    panel(
        axes[4],
        d["resolved"],
        [
            (s, -2.19 + 0.72 * (s - 8), "slope 0.72, Cano-Díaz+2016", "-"),
            (s, -2.2 + 1.0 * (s - 8), "slope 1, Sánchez 2020", "--"),
        ],
        *("log $\\Sigma_*$ (M$_\\odot$/kpc$^2$)", "log $\\Sigma_{SFR}$ (M$_\\odot$/yr/kpc$^2$)"),
    )
    axes[5].hist(d["ratio"], np.linspace(-0.4, 0.4, 41), histtype="step", lw=1.6, color=SIM)
    axes[5].axvline(np.log10(1.14), color=CURVE, label="Koopmann+2006, field spirals")
    axes[5].set(xlabel="log H$\\alpha$ size / r size", ylabel="galaxies")
    axes[5].legend(loc="upper right")
    axes[5].set_ylim(0, axes[5].get_ylim()[1] * 1.25)
    return figure


def _sizes(d):
    figure, axes = _axes(1, 2, size=(10, 3.8), sharey=True)
    mass, size, late, early = d["size"]
    x = np.linspace(9, 11.6, 50)
    for ax, keep, curve, scatter, label in (
        (axes[0], late, size_late, 0.16, "late types"),
        (axes[1], early, size_early, 0.10, "early types"),
    ):
        _points(ax, mass[keep], size[keep], color=SIM, alpha=0.6)
        ax.plot(x, curve(x), color=CURVE, lw=2, label="van der Wel+2014")
        ax.fill_between(x, curve(x) - scatter, curve(x) + scatter, color=CURVE, alpha=0.2, lw=0)
        ax.set(xlabel="log stellar mass (M$_\\odot$)", title=label, ylim=(-0.6, 1.7))
        ax.legend()
    axes[0].set_ylabel("log half-light radius (kpc)")
    return figure


def _survey(d):
    figure, axes = _axes(1, 4, size=(13, 3.2))
    series = (("DESI", SIM), ("MaNGA", CURVE))
    for ax, key, label, bins in (
        (axes[0], "redshift", "redshift", np.linspace(0, 0.6, 31)),
        (axes[1], "r", "r (mag)", np.linspace(12, 21, 31)),
        (axes[2], "log_mass", "log stellar mass (M$_\\odot$)", np.linspace(8, 12, 31)),
        (axes[3], "log_ssfr", "log sSFR (1/yr)", np.linspace(-14, -8.5, 31)),
    ):
        if key in d:
            ax.hist(d[key], bins, histtype="step", color="0.6", lw=1.2, density=True, label="training")
        for survey, colour in series:
            ax.hist(d[survey][key], bins, histtype="step", color=colour, lw=1.6, density=True, label=survey)
        ax.set(xlabel=label)
    axes[0].axvline(0.2, color=SIM, ls="--", lw=1, label="DESI, published")
    axes[0].axvline(0.03, color=CURVE, ls="--", lw=1, label="MaNGA Primary, published")
    axes[1].axvline(19.5, color=SIM, ls="--", lw=1, label="limit of BGS Bright")
    axes[0].set_ylabel("density")
    for ax in axes[:2]:
        ax.legend()
    return figure
