# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Noise of spectra, cubes and images: the simulator against real files."""

import numpy as np

from .comparison import Comparison
from .measures import bootstrap, central_scatter
from .real import read_cutout_noise, read_desi, read_manga_list

__all__ = ["MANGA_RANGES", "compare_cube_noise", "compare_noise", "manga_cubes", "photon_law"]

_NAN = float("nan")
_PARTS = 6  # of each arm
_ARMS = {"b": (3600.0, 5800.0), "r": (5760.0, 7620.0), "z": (7520.0, 9824.5)}  # A

#: Observed wavelengths over which the noise of cubes is compared, A; between 5800 and 6300 the spectrographs meet.
MANGA_RANGES = (
    (3650, 4300),
    (4300, 5000),
    (5000, 5800),
    (6300, 7200),
    (7200, 8200),
    (8200, 9200),
    (9200, 9900),
    (9900, 10300),
)


def compare_noise(simulator, sample, folder):
    """Inverse variance of real DESI spectra and of a real Legacy cutout, against the simulator's."""
    import torch

    from ...simulate.observe import encircled_energy

    spectra, seeing = read_desi(folder), 1.1
    wave = simulator.wave.double().numpy()
    models = {
        "": lambda inside, s: _training_sigma(simulator, inside, s, seeing),
        ", spectrograph": _spectrograph_sigma(simulator, seeing),
    }
    logs, curves = {}, []
    for s in spectra:
        if s["effective"] > 1.5 * s["seconds"]:  # so much better than nominal: TSNR2 counts exposures not in the coadd
            continue
        blur = torch.as_tensor(seeing * (wave / 6500.0) ** -0.2)
        inside = np.interp(wave, *_smooth_spectrum(s["arms"])) * encircled_energy(0.75, blur).numpy()
        real = {arm: (w[ivar > 0], ivar[ivar > 0] ** -0.5) for arm, (w, _, ivar) in s["arms"].items()}
        curve = {"name": s["name"], "wave": wave, "real": real, "sim": {}}
        for model, make in models.items():
            curve["sim"][model] = sigma = make(inside, s)  # per arm
            for arm, (arm_wave, noise) in real.items():
                ratio = (noise / np.interp(arm_wave, wave, sigma[arm])) ** 2
                edges = np.linspace(*_ARMS[arm], _PARTS + 1)
                for low, high in zip(edges[:-1], edges[1:], strict=True):
                    inside_part = (arm_wave >= low) & (arm_wave < high)
                    logs.setdefault((model, arm, low, high), []).append(np.log10(np.median(ratio[inside_part])))
        curves.append(curve)
    rows = []
    note = (
        "median over pixels of simulated / real, mean of the targets; effective dark seconds from TSNR2_LRG; the "
        "spectrograph in as many exposures as the coadd has"
    )
    for (model, arm, low, high), values in logs.items():
        value, error = bootstrap(np.mean, np.array(values))
        part = f"{model or ', training'}, {arm} {low:.0f}-{high:.0f} A"
        name = f"log inverse variance of DESI spectra{part}, simulated / real"
        rows.append(
            Comparison(
                *("Noise", name, value, error, 0.0, _NAN, "dex", len(values), len(values), 0.15, "same"),
                *("DESI EDR coadds, same flux and exposure", "noise", note),
            )
        )
    pixel, real = sample["noise"]["pixel_sigma"], read_cutout_noise(folder)
    for i, band in enumerate("griz"):
        if band not in real:
            continue
        values = pixel[:, i][np.isfinite(pixel[:, i])]
        rows.append(
            Comparison(
                *("Noise", f"log noise per pixel of Legacy images, {band}"),
                *(*bootstrap(np.median, np.log10(values)), float(np.log10(real[band])), _NAN, "dex (nanomaggy)"),
                *(len(values), 1, 0.15, "same", "inverse variance of one DR9 south cutout", "noise"),
                f"one place in the survey; simulated depths scatter by {central_scatter(np.log10(values)):.2f} dex",
            )
        )
    return rows, {"curves": curves, "pixel": pixel, "cutout": real}


def _training_sigma(simulator, inside, spectrum, seeing):
    """Noise of `Simulator.batch`'s spectra, calibrated as point sources, the same array for each arm.

    Given the whole effective time, as `spectrum_sigma` takes it: it counts the exposures, and their read noise, itself.
    """
    import torch

    from ...simulate.observe import spectrum_sigma

    blur = seeing * (simulator.wave / 6500.0) ** -0.2
    light, time = torch.as_tensor(inside).float()[None], torch.tensor([float(spectrum["effective"])])
    sigma = spectrum_sigma(light, simulator.wave, simulator.throughput, simulator.sky, blur[None], time)
    return dict.fromkeys("brz", sigma[0].double().numpy())


def _spectrograph_sigma(simulator, seeing):
    """Noise of the simulated spectrograph in each arm."""
    import torch

    from ...simulate.fiber import fiber_sigma
    from ...simulate.observe import encircled_energy

    blur = seeing * (simulator.wave.double() / 6500.0) ** -0.2
    caught = encircled_energy(0.75, blur).numpy()

    def sigma(inside, s):
        noise = fiber_sigma(simulator, inside, s["effective"], s["exposures"], shutter=s["seconds"]) / caught
        return dict(zip("brz", torch.as_tensor(noise).double().numpy(), strict=True))

    return sigma


def _smooth_spectrum(arms, size=201):
    """Wavelengths and flux of all arms, running means: what the source gives, without its noise."""
    wave, flux = [], []
    for arm in "brz":
        w, f, ivar = arms[arm]
        weight = np.convolve(ivar > 0, np.ones(size), mode="same").clip(1)
        wave.append(w)
        flux.append(np.convolve(np.where(ivar > 0, f, 0), np.ones(size), mode="same") / weight)
    wave, flux = np.concatenate(wave), np.concatenate(flux)
    order = np.argsort(wave, kind="stable")
    return wave[order], np.maximum(flux[order], 0)


def manga_cubes(simulator, seed, n):
    """Spectra of simulated MaNGA cubes whose pixels are all good, and their noise, which is not added.

    Parameters
    ----------
    simulator : Scenes
    seed, n : int
        The first ``n`` galaxies of the survey of a seed.

    Returns
    -------
    list of dict
        redshift; wave (N,); flux, sigma (S, N) of the spaxels with a median S/N above 3, 1e-17 erg/s/cm2/A/spaxel.
    """
    from ...simulate import observe_manga

    out = []
    for cube in observe_manga(simulator, seed, 0, n, noise=False):
        flux, ivar = (np.asarray(a, dtype=float).reshape(len(cube.wave), -1).T for a in (cube.flux, cube.ivar))
        good = (np.asarray(cube.mask).reshape(len(cube.wave), -1) == 0).T & (ivar > 0)
        sigma = np.where(good, np.where(good, ivar, 1.0) ** -0.5, np.inf)
        keep = (good.mean(1) > 0.9) & (np.median(flux / sigma, axis=1) > 3)
        row = {"redshift": cube.table["redshift"], "wave": np.asarray(cube.wave, dtype=float)}
        out.append(row | {"flux": flux[keep], "sigma": sigma[keep]})
    return out


def compare_cube_noise(cubes, folder):
    """Noise of real MaNGA spaxels against that of simulated ones of the same brightness in the same wavelengths.

    The noise of photons goes as sigma^2 = a + b flux: fitted to the simulated spaxels, few of which are as bright as
    the real ones.

    Parameters
    ----------
    cubes : list of dict
        Of `manga_cubes`.
    folder : path-like
    """
    rows, drawn = [], []
    real = read_manga_list(folder)
    for low, high in MANGA_RANGES:
        bright, noise = (
            np.concatenate([_medians(cube, key, low, high) for cube in cubes]) for key in ("flux", "sigma")
        )
        law = photon_law(bright, noise)
        values = []
        for spectrum in real:
            level, sigma = (float(_medians(spectrum, key, low, high)) for key in ("flux", "sigma"))
            values.append(np.log10(sigma**2 / law(level)))
            drawn.append((low, level, values[-1]))
        rows.append(
            Comparison(
                *("Noise", f"log inverse variance of MaNGA cubes, {low}-{high} A, simulated / real"),
                *(*bootstrap(np.mean, np.array(values)), 0.0, _NAN, "dex", len(bright), len(values), 0.15, "same"),
                *("real spaxels of the DAP's tests, same brightness", "noise"),
                "mean of the real ones; simulated: sigma^2 = a + b flux through all spaxels; nine exposures",
            )
        )
    return rows, {"points": np.array(drawn)}


def _medians(spectrum, key, low, high):
    inside = (spectrum["wave"] > low) & (spectrum["wave"] < high)
    return np.median(spectrum[key][..., inside], axis=-1)


def photon_law(flux, sigma):
    """sigma^2 = a + b flux by least squares of relative deviations, a and b not negative.

    Parameters
    ----------
    flux, sigma : array_like, shape (n,)
        Not all of one flux.

    Returns
    -------
    callable
        sigma^2 at a flux.
    """
    from scipy.optimize import nnls

    variance = np.asarray(sigma, dtype=float) ** 2
    design = np.stack([np.ones_like(variance), np.asarray(flux, dtype=float)], 1) / variance[:, None]
    scale = np.sqrt((design**2).sum(0))
    a, b = nnls(design / scale, np.ones_like(variance))[0] / scale
    return lambda f: a + b * np.maximum(f, 0)
