"""Low-rank + diagonal Gaussian over basis coefficients, and its likelihood in pixels.

The covariance of the K coefficients of a position is ``diag(d^2) + U U^T``: one dictionary (the rendered basis) shared
by all positions, a covariance among its directions for each. Pixels, lines, bands and sums are linear in the
coefficients, hence Gaussian too.

Shapes: F positions, K coefficients, R factors, P pixels, M functionals.
"""

import dataclasses
import math

import torch

__all__ = ["CoefficientGaussian", "functional_nll", "pixel_nll"]


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
        """Draw coefficients (n, F, K)."""
        shape = (n, *self.mean.shape)
        noise = torch.randn(shape, generator=generator).to(self.mean)
        common = torch.randn(n, *self.factors.shape[::2], generator=generator).to(self.mean)
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
    Tensor (F,)
        Mean over good pixels; 0 where there is none.
    """
    good = ivar > 0
    weight = torch.where(good, 1 / (1 / ivar.clamp(min=1e-20) + floor**2), 0.0)
    residual = torch.where(good, flux - torch.einsum("fpk,fk->fp", basis, gaussian.mean), 0.0)
    root = torch.cat([torch.diag_embed(gaussian.diag), gaussian.factors], dim=-1)  # (F, K, K+R)
    precision = (basis * weight[..., None]).transpose(1, 2) @ basis  # B^T W B
    shift = torch.einsum("fpk,fp->fk", basis, weight * residual)
    inner = root.transpose(1, 2) @ precision @ root
    inner = inner + torch.eye(inner.shape[-1], device=inner.device)
    chol = torch.linalg.cholesky((inner + inner.transpose(1, 2)) / 2)
    half = torch.linalg.solve_triangular(chol, (root.transpose(1, 2) @ shift[..., None]), upper=False)
    quadratic = (weight * residual**2).sum(-1) - half.square().sum((-1, -2))
    logdet = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.where(
        good, weight.clamp(min=1e-30).log(), 0.0
    ).sum(-1)
    n = good.sum(-1)
    return 0.5 * torch.where(n > 0, (quadratic + logdet) / n.clamp(min=1) + math.log(2 * math.pi), 0.0)


def functional_nll(gaussian, basis, flux, ivar, floor, n_continuum):
    """Negative log-likelihood of the line amplitudes that the spectra themselves give.

    Amplitudes and errors come from weighted least squares of each spectrum on the basis (continuum marginalised); they
    are scored under the predicted marginal Gaussian widened by those errors. Pixels alone leave lines a sliver of
    the loss, and well calibrated pixels do not make calibrated line fluxes.

    Parameters
    ----------
    gaussian, basis, flux, ivar, floor
        As for `pixel_nll`.
    n_continuum : int
        Coefficients before the first amplitude.

    Returns
    -------
    Tensor (F,)
        Mean over the lines on good pixels; 0 where there is none. Free of units: a constant scale is taken out.
    """
    with torch.no_grad():
        weight = torch.where(ivar > 0, 1 / (1 / ivar.clamp(min=1e-20) + floor**2), 0.0)
        normal = ((basis * weight[..., None]).transpose(1, 2) @ basis).double()
        shift = torch.einsum("fpk,fp->fk", basis, weight * flux).double()
        scale = normal.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30).rsqrt()
        normal = normal * scale[:, :, None] * scale[:, None] + 1e-6 * torch.eye(normal.shape[-1]).to(normal)
        inverse = torch.linalg.inv(normal)
        best = (scale * (inverse @ (scale * shift)[..., None])[..., 0])[:, n_continuum:].float()
        error = (scale * inverse.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt())[:, n_continuum:].float()
        seen = (weight[..., None] * (basis[..., n_continuum:] > 0)).sum(1) > 0
        unit = gaussian.mean.abs()[:, :1].clamp(min=1e-3)  # the anchor
        usable = seen & torch.isfinite(best) & (error < 100 * unit)
    mean, k = gaussian.mean[:, n_continuum:], n_continuum
    variance = gaussian.diag[:, k:] ** 2 + gaussian.factors[:, k:].square().sum(-1)
    variance = (variance + torch.where(usable, error, 1.0) ** 2) / unit**2
    residual = torch.where(usable, best - mean, 0.0) / unit
    score = torch.where(usable, 0.5 * (residual**2 / variance + variance.log()), 0.0)
    return score.sum(-1) / usable.sum(-1).clamp(min=1)
