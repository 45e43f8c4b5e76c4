# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Starlight by pPXF (Cappellari 2023, MNRAS 526, 3273), where it is installed: the same question, another solver."""

import numpy as np
from scipy.interpolate import CubicSpline

from fiberifu.constants import C_KMS

__all__ = ["PPXF"]

ROOM = 100  # pixels


class PPXF:
    """pPXF with templates that are broadened to the resolution of the data, for one spectrum at a time.

    Parameters
    ----------
    log_wave : ndarray (R,)
        Of the templates: natural logarithm of the rest wavelength, evenly spaced.
    templates : ndarray (R, T)
    rest : ndarray (P,)
        The same logarithm for the pixels of the data.
    degree : int
        Of the multiplicative polynomial.
    reach : float
        km/s, of velocities.

    Raises
    ------
    ImportError
        Where pPXF is not installed.
    """

    def __init__(self, log_wave, templates, rest, degree, reach):
        try:
            from ppxf import ppxf, ppxf_util
        except ImportError as error:
            raise ImportError(
                "starlight='ppxf' needs pPXF (pip install ppxf), whose licence is for non-commercial use"
            ) from error
        self.solve, self.rebin = ppxf.ppxf, ppxf_util.log_rebin
        step = log_wave[1] - log_wave[0]
        self.ratio = max(1, round(float(np.median(np.diff(rest))) / step))
        self.velscale = C_KMS * step * self.ratio
        # it wants room at the ends for any velocity, which those of the data do not need
        self.templates = np.pad(templates, ((ROOM, ROOM), (0, 0)), mode="edge")
        self.template_wave = np.exp(log_wave[0] + step * (np.arange(len(self.templates)) - ROOM))
        self.rest, self.degree, self.reach = rest, degree, reach

    def fit(self, data, weight, start):
        """Model (P,), velocity, dispersion, their errors, light (T,), chi2 and pixels; as `_fit_one` of `stellar`."""
        used = weight > 0
        norm = abs(np.median(data[used])) or 1.0
        wave = np.exp(self.rest)
        variance = np.divide(1, weight, out=np.zeros(len(weight)), where=used)
        # over bad pixels the data are continued: they count as little as their share of a pixel
        filled = np.interp(self.rest, self.rest[used], data[used])
        variance[~used] = np.interp(self.rest[~used], self.rest[used], variance[used])
        rows = np.stack([filled, variance, used.astype(float)], 1)
        (flux, variance, share), log_new, _ = _transposed(self.rebin(wave, rows, velscale=self.velscale))
        # of pixels that are a mixture of others: the error of a mean over as many
        variance = variance * np.interp(np.exp(log_new), wave, np.gradient(wave)) / np.gradient(np.exp(log_new))
        good = (share > 0.45) & (variance > 0)
        noise = np.sqrt(np.where(good, variance / share.clip(0.45, 1), np.median(variance))) / norm
        out = self.solve(
            self.templates, flux / norm, noise, self.velscale, list(start), moments=2, degree=-1,
            mdegree=self.degree, lam=np.exp(log_new), lam_temp=self.template_wave, velscale_ratio=self.ratio,
            mask=good, bounds=[[-self.reach, self.reach], [self.velscale / 100, self.reach]], quiet=True,
        )  # fmt: skip
        velocity, sigma = out.sol[:2]
        if not out.weights.any() or (np.asarray(out.error[:2]) <= 0).any():  # no light, nothing known
            out.error = np.full(2, np.nan)
        model = CubicSpline(log_new, out.bestfit)(self.rest.clip(log_new[0], log_new[-1])) * norm
        # its velocities are c ln(wavelength / rest) (Cappellari 2017, MNRAS 466, 798, eq. 8)
        return (model, C_KMS * np.expm1(velocity / C_KMS), sigma, *out.error[:2], out.weights * norm,
                float((weight[used] * (data - model)[used] ** 2).sum()), int(used.sum()))  # fmt: skip


def _transposed(rebinned):
    rows, *rest = rebinned
    return rows.T, *rest
