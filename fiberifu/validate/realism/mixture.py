# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Best non-negative mixture of the simulator's stellar populations, behind dust, plus emission lines."""

import numpy as np

__all__ = ["LINE_GROUPS", "Mixture", "stellar_templates", "velocity_shift"]

C_KMS = 299792.458
_SIDEBANDS = {"Ha": ((6483.0, 6513.0), (6623.0, 6653.0)), "Hb": ((4798.9, 4838.9), (4885.6, 4925.6))}

#: Lines with free fluxes, and their parts: (rest vacuum Angstrom, share). [N II] 6583 / 6548 = 3.05 and [O III] 5007 /
#: 4959 = 2.98 (Storey & Zeippen 2000); the [O II] doublet is one, being unresolved.
LINE_GROUPS = {
    "O2": ((3727.1, 0.43), (3729.9, 0.57)),
    "Ne3": ((3869.9, 1.0),),
    "H9": ((3836.5, 1.0),),
    "H8": ((3890.2, 1.0),),
    "He": ((3971.2, 1.0),),
    "Hd": ((4102.9, 1.0),),
    "Hg": ((4341.7, 1.0),),
    "Hb": ((4862.7, 1.0),),
    "O3": ((4960.3, 1 / 3.98), (5008.2, 2.98 / 3.98)),
    "He1": ((5877.2, 1.0),),
    "O1": ((6302.0, 0.76), (6365.5, 0.24)),
    "Ha": ((6564.6, 1.0),),
    "N2": ((6549.9, 1 / 4.05), (6585.3, 3.05 / 4.05)),
    "S2a": ((6718.3, 1.0),),
    "S2b": ((6732.7, 1.0),),
}

LINE_WIDTHS = (60, 80, 100, 120, 140, 160, 180, 200, 220, 245, 270, 300, 340)


def stellar_templates(pack, reddenings=(0.0, 0.1, 0.25, 0.5, 0.9)):
    """Every simple population of a template pack behind several Calzetti screens.

    Parameters
    ----------
    pack : dict
        Of `~fiberifu.simulate.load_template_pack`.
    reddenings : sequence of float
        E(B-V) of starlight.

    Returns
    -------
    wave : ndarray (N,)
        Rest vacuum Angstrom, equal steps in the logarithm.
    templates : ndarray (n, N)
        Mean 1 between 5000 and 6000 A.
    """
    import torch

    from ...simulate.stars import calzetti

    wave = np.asarray(pack["wave"], dtype=float)
    ssp = np.asarray(pack["ssp"], dtype=float).reshape(-1, wave.size)
    k = calzetti(torch.as_tensor(wave)).numpy()
    dust = 10 ** (-0.4 * np.multiply.outer(np.asarray(reddenings), k))
    templates = (ssp[:, None] * dust[None]).reshape(-1, wave.size)
    middle = (wave > 5000) & (wave < 6000)
    return wave, templates / templates[:, middle].mean(1, keepdims=True)


class Mixture:
    """Non-negative least squares with stellar templates and Gaussian emission lines.

    Parameters
    ----------
    template_wave : array_like, shape (N,)
        Rest vacuum Angstrom, equal steps in the logarithm.
    templates : array_like, shape (n, N)
    resolution : float
        1-sigma, km/s, that the templates have already.
    """

    def __init__(self, template_wave, templates, *, resolution=70.0):
        self.wave, self.templates = np.asarray(template_wave, dtype=float), np.asarray(templates, dtype=float)
        self.resolution = resolution
        self._smoothed = {}

    def _stars(self, sigma):
        """Templates broadened to ``sigma`` km/s."""
        from scipy.ndimage import gaussian_filter1d

        key = round(float(sigma))
        if key not in self._smoothed:
            extra = np.sqrt(max(sigma**2 - self.resolution**2, 0)) / C_KMS / np.log(self.wave[1] / self.wave[0])
            self._smoothed[key] = gaussian_filter1d(self.templates, extra, axis=1) if extra > 0.3 else self.templates
        return self._smoothed[key]

    def _on(self, wave, width, every=1):
        """Columns (n, n_template) at the given wavelengths."""
        return np.stack([np.interp(wave, self.wave, t) for t in self._stars(width)[::every]], 1)

    def fit(
        self, wave, flux, sigma=None, *, widths=(150.0, 200.0, 260.0), line_widths=LINE_WIDTHS, constant="velocity"
    ):
        """Fit one spectrum; the widths of stars and lines that fit best are chosen from those given.

        Parameters
        ----------
        wave, flux : array_like, shape (n,)
            Rest frame, vacuum.
        sigma : array_like, shape (n,), optional
            Errors, inf where a pixel does not count; by default the same share of the local light everywhere.
        widths, line_widths : sequence of float
            1-sigma of starlight and of lines as observed, km/s.
        constant : {'velocity', 'wavelength'}
            Whether all lines are equally wide in km/s or in Angstrom (then ``line_widths`` are those of H-alpha).

        Returns
        -------
        dict
            model, continuum (n,) on the given wavelengths; rms: of flux / model - 1, over pixels that count and are
            1000 km/s from lines; fine: the same after a running median over 200 A is taken out; lines and errors:
            dicts of fluxes by `LINE_GROUPS`; ew: of H-alpha, [N II] (both lines) and H-beta, A; chi2: reduced, where
            errors are given.
        """
        from scipy.ndimage import median_filter

        wave, flux = np.asarray(wave, dtype=float), np.asarray(flux, dtype=float)
        if constant not in ("velocity", "wavelength"):
            raise ValueError(f"constant: got {constant!r}, use 'velocity' or 'wavelength'")
        given = sigma is not None
        step = np.gradient(wave)
        if not given:
            sigma = 0.02 * np.maximum(
                median_filter(flux, max(int(150 / np.median(step)) | 1, 3)), 0.02 * np.median(flux)
            )
        good = np.isfinite(sigma) & (np.asarray(sigma) > 0) & np.isfinite(flux)
        if good.sum() < 100:
            raise ValueError(f"flux: only {good.sum()} pixels count; at least 100 are needed")
        weight = np.where(good, 1 / np.where(good, sigma, 1.0), 0.0)
        flux = np.where(good, flux, 0.0)
        level = max(np.median(np.abs(flux[good])), 1e-30)
        scaled, weight = flux / level, weight * level
        lines_at = {w: _line_columns(wave, w, constant) for w in line_widths}
        best = np.inf
        for width in widths:  # of the stars, with lines of a middling width
            trial = self._on(wave, width, every=4)  # some of them tell the width
            chi2 = _solve(trial, lines_at[line_widths[len(line_widths) // 2]][0], scaled, weight)[0]
            if chi2 < best:
                best, star_width = chi2, width
        stars = self._on(wave, star_width)
        coefficients = _solve(stars, lines_at[line_widths[len(line_widths) // 2]][0], scaled, weight)[1]
        rest = scaled - stars @ coefficients[: stars.shape[1]]
        nothing = np.zeros((len(wave), 0))
        line_width = min(line_widths, key=lambda w: _solve(nothing, lines_at[w][0], rest, weight)[0])
        columns, names = lines_at[line_width]
        chi2, coefficients = _solve(stars, columns, scaled, weight)
        n = stars.shape[1]
        continuum = level * (stars @ coefficients[:n])
        model = continuum + level * (columns @ coefficients[n:])
        residual = np.where(good & (model > 0), flux / np.where(model > 0, model, 1.0) - 1, np.nan)
        smooth = _running(residual, max(int(200 / np.median(step)), 3))
        noise = 1.4826 * np.nanmedian(np.abs(residual - smooth)) * continuum
        lines = dict(zip(names, level * coefficients[n:], strict=True))
        errors = {}
        for name in names:
            centre = LINE_GROUPS[name][-1][0]
            spread = 2 * np.sqrt(np.pi) * centre * line_width / C_KMS  # noise-equivalent width of a Gaussian
            i = min(np.searchsorted(wave, centre), len(wave) - 1)
            errors[name] = float(noise[i] * np.sqrt(spread * step[i]))
        centres = np.array([centre for parts in LINE_GROUPS.values() for centre, _ in parts])
        apart = np.abs(wave[:, None] / centres - 1).min(1) > 1000 / C_KMS
        kept = good & np.isfinite(residual) & apart
        used = (coefficients > 0).sum()
        return {
            "model": model,
            "continuum": continuum,
            "good": good,
            "rms": float(np.sqrt(np.mean(residual[kept] ** 2))),
            "fine": float(np.sqrt(np.mean((residual - smooth)[kept] ** 2))),
            "lines": {key: float(value) for key, value in lines.items()},
            "errors": errors,
            "ew": _equivalent_widths(wave, continuum, lines),
            "ew_error": _equivalent_widths(wave, continuum, errors),
            "chi2": float(chi2 / max(good.sum() - used, 1)) if given else np.nan,
            "width": star_width,
            "line_width": line_width,
        }


def velocity_shift(wave, flux, fit, reach=600.0, step=25.0):
    """Velocity, km/s, by which a spectrum lies to the red of its fit: least squares of the model shifted."""
    good = fit["good"].copy()
    edge = int(np.ceil(reach / C_KMS * wave[-1] / np.median(np.diff(wave)))) + 1
    good[:edge] = good[-edge:] = False
    trial = np.arange(-reach, reach + step / 2, step)
    weight = 1 / np.maximum(np.abs(fit["model"]), 1e-3 * np.median(np.abs(fit["model"])))
    cost = []
    for v in trial:
        model = np.interp(wave / (1 + v / C_KMS), wave, fit["model"])
        cost.append((((flux - model) * weight)[good] ** 2).sum())
    return float(trial[int(np.argmin(cost))])


def _line_columns(wave, width, constant):
    """Unit-flux Gaussians (n, L) of the groups inside the wavelengths, and their names."""
    columns, names = [], []
    for name, parts in LINE_GROUPS.items():
        if parts[0][0] < wave[0] + 15 or parts[-1][0] > wave[-1] - 15:
            continue
        column = 0
        for centre, share in parts:
            s = (centre if constant == "velocity" else 6564.6) * width / C_KMS
            column = column + share * np.exp(-0.5 * ((wave - centre) / s) ** 2) / (np.sqrt(2 * np.pi) * s)
        columns.append(column)
        names.append(name)
    return np.stack(columns, 1), names


def _solve(stars, columns, flux, weight):
    from scipy.optimize import nnls

    design = np.concatenate([stars, columns], 1) * weight[:, None]
    scale = np.sqrt((design**2).sum(0)).clip(1e-30)
    target = flux * weight
    # the orthogonal factor makes the system square: the same solution, much faster
    q, r = np.linalg.qr(design / scale)
    projected = q.T @ target
    coefficients, rest = nnls(r, projected, maxiter=20 * design.shape[1])
    outside = max(target @ target - projected @ projected, 0)
    return rest**2 + outside, coefficients / scale


def _running(x, size):
    """Running median, deaf to NaN, over ``size`` pixels (in coarse steps)."""
    centres = np.arange(0, len(x), max(size // 4, 1))
    medians = np.array(
        [
            np.nanmedian(part) if np.isfinite(part := x[max(c - size // 2, 0) : c + size // 2 + 1]).any() else np.nan
            for c in centres
        ]
    )
    ok = np.isfinite(medians)
    return np.interp(np.arange(len(x)), centres[ok], medians[ok])


def _equivalent_widths(wave, continuum, lines):
    """H-alpha, [N II] and H-beta over the pseudo-continuum of the sidebands (MaNGA DAP; Belfiore et al. 2019)."""
    out = {}
    for band, members in (("Ha", ("Ha", "N2")), ("Hb", ("Hb",))):
        level, centre = [], []
        for low, high in _SIDEBANDS[band]:
            inside = (wave > low) & (wave < high)
            if not inside.any():
                break
            level.append(continuum[inside].mean())
            centre.append((low + high) / 2)
        if len(level) < 2:
            continue
        pseudo = np.interp(LINE_GROUPS[band][0][0], centre, level)
        out |= {name: float(lines[name] / pseudo) for name in members if name in lines and pseudo > 0}
    return out
