"""Low-rank + diagonal Gaussian over basis coefficients, and its likelihood in pixels.

The covariance of the K coefficients of a position is ``diag(d^2) + U U^T``: one dictionary (the rendered basis) shared
by all positions, a covariance among its directions for each. Pixels, lines, bands and sums are linear in the
coefficients, hence Gaussian too.

Shapes: F positions, K coefficients, R factors, P pixels, M functionals.
"""

import dataclasses
import math

import torch
from torch import nn

__all__ = ["CoefficientGaussian", "coefficient_nll", "compress", "fit_coefficients", "marginal_variance", "measure",
           "pixel_nll"]  # fmt: skip

BLOCK = 256  # pixels
SOFTENING = 3.0  # measured errors, where the scale of line amplitudes turns from linear to logarithmic


@dataclasses.dataclass
class CoefficientGaussian:
    """Coefficients in physical units: mean (F, K), diag (F, K) standard deviations, factors (F, K, R)."""

    mean: torch.Tensor
    diag: torch.Tensor
    factors: torch.Tensor

    @property
    def root(self):
        """A root (F, K, K + R) of the covariance."""
        return torch.cat([torch.diag_embed(self.diag), self.factors], dim=-1)

    def project(self, weights):
        """Mean and variance (F, M) of linear functionals ``weights`` (M, K) or (F, M, K)."""
        if weights.dim() == 2:
            weights = weights.expand(len(self.mean), -1, -1)
        mean = torch.einsum("fmk,fk->fm", weights, self.mean)
        variance = torch.einsum("fmk,fk->fm", weights**2, self.diag**2)
        return mean, variance + (weights @ self.factors).square().sum(-1)

    def sample(self, n, generator=None):
        """Draw coefficients (n, F, K). The last factor, the photometric scale, is common to all positions of a draw."""
        shape = (n, *self.mean.shape)
        noise = torch.randn(shape, generator=generator).to(self.mean)
        common = torch.randn(n, *self.factors.shape[::2], generator=generator).to(self.mean)
        common[..., -1] = common[:, :1, -1]
        return self.mean + self.diag * noise + torch.einsum("fkr,nfr->nfk", self.factors, common)


def fit_coefficients(basis, flux, weight):
    """Weighted least squares of spectra on the basis: sums over blocks of pixels in float32, over blocks in float64.

    Parameters
    ----------
    basis : Tensor (F, P, K)
    flux, weight : Tensor (F, P)

    Returns
    -------
    best : Tensor (F, K)
        A coefficient that no pixel sees is 0.
    precision : Tensor (F, K, K)
        ``B^T W B``.
    """
    root = weight.sqrt()
    design = torch.cat([basis * root[..., None], (flux * root)[..., None]], -1)
    design = nn.functional.pad(design, (0, 0, 0, -design.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    normal = (design.transpose(-2, -1) @ design).double().sum(1)
    precision, shift = normal[:, :-1, :-1], normal[:, :-1, -1]
    unit = precision.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30).rsqrt()
    ridge = 1e-9 * torch.eye(precision.shape[-1], device=precision.device, dtype=precision.dtype)
    best = unit * torch.linalg.solve(precision * unit[:, :, None] * unit[:, None] + ridge, unit * shift)
    return best, precision


def coefficient_nll(mean, root, best, precision):
    """What the coefficients add to the negative log-likelihood, ``0.5 (d^T (C + P^-1)^-1 d + log det(1 + C P))``.

    ``d`` is ``best - mean`` and ``C = root root^T``; by the Woodbury identity and the matrix determinant lemma
    (Rasmussen & Williams 2006, appendix A.3) the precision P need not have an inverse.

    Parameters
    ----------
    mean, best : Tensor (F, K)
    root : Tensor (F, K, R)
    precision : Tensor (F, K, K)

    Returns
    -------
    Tensor (F,)
    """
    root, step = root.double(), best - mean.double()
    pull = (precision @ step[..., None])[..., 0]
    inner = root.transpose(1, 2) @ precision @ root
    inner = (inner + inner.transpose(1, 2)) / 2 + torch.eye(inner.shape[-1], device=inner.device, dtype=inner.dtype)
    chol, failed = torch.linalg.cholesky_ex(inner)  # a step that is not finite is skipped by the loop, not raised here
    half = torch.linalg.solve_triangular(chol, root.transpose(1, 2) @ pull[..., None], upper=False)
    quadratic = (step * pull).sum(-1) - half.square().sum((-1, -2))
    value = (0.5 * quadratic + chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)).float()
    return torch.where(failed == 0, value, torch.nan)


def measure(basis, flux, ivar, floor):
    """What spectra say about the coefficients, and how badly the basis can follow them.

    Parameters
    ----------
    basis : Tensor (F, P, K)
    flux, ivar : Tensor (F, P)
        Pixels with ``ivar = 0`` have weight zero.
    floor : Tensor (F, P)
        Independent model error per pixel.

    Returns
    -------
    misfit : Tensor (F,)
        Negative log-likelihood of the best coefficients, mean over good pixels; 0 where there is none.
    best, precision : Tensor (F, K), (F, K, K)
        See `fit_coefficients`; constants.
    """
    good = ivar > 0
    weight = torch.where(good, 1 / (1 / ivar.clamp(min=1e-20) + floor**2), 0.0)
    with torch.no_grad():  # at its minimum the misfit does not depend on the coefficients
        best, precision = fit_coefficients(basis, flux, weight)
    residual = torch.where(good, flux - torch.einsum("fpk,fk->fp", basis, best.float()), 0.0)
    logs = torch.where(good, weight.clamp(min=1e-30).log(), 0.0)
    n = good.sum(-1)
    misfit = 0.5 * ((weight * residual**2 - logs).sum(-1) / n.clamp(min=1) + math.log(2 * math.pi))
    return torch.where(n > 0, misfit, 0.0), best, precision


def pixel_nll(gaussian, basis, flux, ivar, floor):
    """Negative log-likelihood (F,) of noisy spectra, marginalised over the coefficients, summed over good pixels.

    ``flux ~ N(B m, B C B^T + diag(1/ivar + floor^2))`` splits into the misfit of the best coefficients and the distance
    of the predicted coefficients from them. Training weighs and transforms the parts (`FiberMAE.spectrum_nll`); here
    they are as they come. Arguments as of `measure`.
    """
    misfit, best, precision = measure(basis, flux, ivar, floor)
    return misfit * (ivar > 0).sum(-1) + coefficient_nll(gaussian.mean, gaussian.root, best, precision)


def marginal_variance(precision):
    """Diagonal (F, K) of the inverse of ``precision`` (F, K, K); very large where a coefficient is not measured."""
    scale = precision.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).rsqrt()
    ridge = 1e-9 * torch.eye(precision.shape[-1], device=precision.device, dtype=precision.dtype)
    inverse = torch.linalg.inv_ex(precision * scale[:, :, None] * scale[:, None] + ridge).inverse
    return scale**2 * inverse.diagonal(dim1=-2, dim2=-1)


def compress(gaussian, best, precision, first):
    """Means, spreads and measurements in units of the continuum, with asinh of the amplitudes.

    Line amplitudes spread over decades, and in linear flux one starburst outweighs a hundred galaxies. Here they are
    ``asinh(x / a)`` with ``a`` three times the measured error (marginal over the other coefficients) and 1 A in
    quadrature: logarithms where they are well measured, linear within the noise, as a curve there would bias the mean
    of noisy amplitudes. The predicted spread is taken along at the mean, the measured error at the best amplitude:
    ``d asinh(x / a) = dx / sqrt(a^2 + x^2)``.

    Parameters
    ----------
    gaussian : CoefficientGaussian
    best, precision : Tensor (F, K), (F, K, K)
    first : int
        Index of the first amplitude.

    Returns
    -------
    mean, root, best, precision : Tensor
        As `coefficient_nll` takes them.
    """
    unit = gaussian.mean[:, :1].detach().abs().clamp(min=1e-3)
    mean, root, best, precision = (
        gaussian.mean / unit, gaussian.root / unit[..., None], best / unit, precision * unit[..., None] ** 2
    )  # fmt: skip
    is_line = torch.arange(mean.shape[-1], device=mean.device) >= first
    variance = marginal_variance(precision)
    soft = (1 + (SOFTENING**2 * variance).clamp(max=1e6)).sqrt()
    at_mean, at_best = (torch.where(is_line, (soft**2 + x**2).rsqrt(), 1.0) for x in (mean.detach(), best))
    mean, best = (torch.where(is_line, (x / soft).asinh(), x) for x in (mean, best))
    return mean, root * at_mean[..., None], best, precision / at_best[:, :, None] / at_best[:, None]
