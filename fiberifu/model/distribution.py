"""Low-rank + diagonal Gaussian over basis coefficients, and its likelihood in pixels.

The covariance of the K coefficients of a position is ``diag(d^2) + U U^T``: one dictionary (the rendered basis) shared
by all positions, a covariance among its directions for each. Pixels, lines, bands and sums are linear in the
coefficients, hence Gaussian too.

Shapes: F positions, K coefficients, R factors, P pixels, M functionals.
"""

import dataclasses
import math

import torch

__all__ = ["CoefficientGaussian", "amplitude_nll", "pixel_nll"]


@dataclasses.dataclass
class CoefficientGaussian:
    """Coefficients in physical units: mean (F, K), diag (F, K) standard deviations, factors (F, K, R)."""

    mean: torch.Tensor
    diag: torch.Tensor
    factors: torch.Tensor

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


def pixel_nll(gaussian, basis, flux, ivar, floor):
    """Negative log-likelihood per pixel of noisy spectra, marginalised over the coefficients.

    ``flux ~ N(B m, B C B^T + diag(1/ivar + floor^2))`` by the Woodbury identity and the matrix determinant lemma
    (Rasmussen & Williams 2006, appendix A.3): only a (K+R) x (K+R) system is solved. Pixels with ``ivar = 0``
    have weight zero.

    Parameters
    ----------
    gaussian : CoefficientGaussian
    basis : Tensor (F, P, K)
    flux, ivar : Tensor (F, P)
    floor : Tensor (F, P)
        Independent model error per pixel.

    Returns
    -------
    nll : Tensor (F,)
        Mean over good pixels; 0 where there is none.
    precision, shift : Tensor (F, K, K), (F, K)
        ``B^T W B`` and ``B^T W (flux - B m)``: the normal equations of the residual.
    """
    good = ivar > 0
    weight = torch.where(good, 1 / (1 / ivar.clamp(min=1e-20) + floor**2), 0.0)
    residual = torch.where(good, flux - torch.einsum("fpk,fk->fp", basis, gaussian.mean), 0.0)
    root = torch.cat([torch.diag_embed(gaussian.diag), gaussian.factors], dim=-1)  # (F, K, K+R)
    precision = (basis * weight[..., None]).transpose(1, 2) @ basis  # B^T W B
    shift = torch.einsum("fpk,fp->fk", basis, weight * residual)
    inner = (root.transpose(1, 2) @ precision @ root).double()
    # `precision` is a float32 sum over thousands of pixels: 1e-5 of the diagonal covers its rounding
    inner = (inner + inner.transpose(1, 2)) / 2 + torch.diag_embed(1 + 1e-5 * inner.diagonal(dim1=-2, dim2=-1))
    chol = torch.linalg.cholesky(inner)
    half = torch.linalg.solve_triangular(chol, (root.transpose(1, 2) @ shift[..., None]).double(), upper=False).float()
    quadratic = (weight * residual**2).sum(-1) - half.square().sum((-1, -2))
    logdet = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1).float() - torch.where(
        good, weight.clamp(min=1e-30).log(), 0.0
    ).sum(-1)
    n = good.sum(-1)
    nll = 0.5 * torch.where(n > 0, (quadratic + logdet) / n.clamp(min=1) + math.log(2 * math.pi), 0.0)
    return nll, precision, shift


def amplitude_nll(gaussian, precision, shift, n_continuum):
    """Negative log-likelihood of the line amplitudes that the spectra themselves give.

    Amplitudes and errors come from weighted least squares of each spectrum on the basis (continuum marginalised); they
    are scored under the predicted marginal Gaussian widened by those errors. Pixels alone leave lines a sliver of
    the loss, and well calibrated pixels do not make calibrated line fluxes.

    Parameters
    ----------
    gaussian : CoefficientGaussian
    precision, shift : Tensor (F, K, K), (F, K)
        Normal equations of the residual, as from `pixel_nll`.
    n_continuum : int
        Coefficients before the first amplitude.

    Returns
    -------
    Tensor (F,)
        Mean over the lines on good pixels; 0 where there is none. Amplitudes are in units of the anchor.
    """
    mean, k = gaussian.mean[:, n_continuum:], n_continuum
    with torch.no_grad():
        normal = precision.double()
        scale = normal.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30).rsqrt()
        ridge = 1e-6 * torch.eye(normal.shape[-1], device=normal.device, dtype=normal.dtype)
        inverse = torch.linalg.inv(normal * scale[:, :, None] * scale[:, None] + ridge)
        step = (scale * (inverse @ (scale * shift)[..., None])[..., 0])[:, k:].float()
        error = (scale * inverse.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt())[:, k:].float()
        best = mean + step
        unit = gaussian.mean.abs()[:, :1].clamp(min=1e-3)
        seen = normal.diagonal(dim1=-2, dim2=-1)[:, k:] > 1e-12
        usable = seen & torch.isfinite(best) & (error < 100 * unit)
    variance = gaussian.diag[:, k:] ** 2 + gaussian.factors[:, k:].square().sum(-1)
    variance = (variance + torch.where(usable, error, 1.0) ** 2) / unit**2
    residual = torch.where(usable, best - mean, 0.0) / unit
    score = torch.where(usable, 0.5 * (residual**2 / variance + variance.log()), 0.0)
    return score.sum(-1) / usable.sum(-1).clamp(min=1)
