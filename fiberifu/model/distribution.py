"""Mixture of low-rank + diagonal Gaussians over basis coefficients, and its likelihood in pixels.

The covariance of the K coefficients of a position is ``diag(d^2) + U U^T`` in each component: one dictionary (the
rendered basis) shared by all positions, a covariance among its directions for each. Pixels, lines, bands and sums are
linear in the coefficients, hence one-dimensional mixtures of Gaussians (`fiberifu.mixture` has their quantiles).

Shapes: F positions, J components, K coefficients, R factors, P pixels, M functionals.
"""

import dataclasses
import math

import torch
from torch import nn

__all__ = ["CoefficientGaussian", "CoefficientMixture", "coefficient_nll", "compress", "draw_latent",
           "fit_coefficients", "functional_nll", "marginal_variance", "measure", "mixture_nll", "pixel_nll",
           "random_fields", "unit_inverse"]  # fmt: skip

BLOCK = 256  # pixels
WAVES = 256  # of a random field
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


@dataclasses.dataclass
class CoefficientMixture:
    """Components in physical units: weight (F, J), mean (F, J, K), diag (F, J, K), factors (F, J, K, R).

    The last two factors of a component are errors of the photometric scale: the noise of the image in the aperture, and
    what is common to all positions, zero points and the aperture's geometry.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    diag: torch.Tensor
    factors: torch.Tensor

    @property
    def root(self):
        """A root (F, J, K, K + R) of the covariance of each component."""
        return torch.cat([torch.diag_embed(self.diag), self.factors], dim=-1)

    def take(self, rows):
        """Those of some positions."""
        return CoefficientMixture(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def in_units(self, unit):
        """The same in units (F,) of each position."""
        unit = unit[:, None, None]
        return CoefficientMixture(self.weight, self.mean / unit, self.diag / unit, self.factors / unit[..., None])

    def collapse(self):
        """The `CoefficientGaussian` of the same mean and covariance: what is between the components becomes factors."""
        weight = self.weight[..., None]
        mean = (weight * self.mean).sum(1)
        root = weight.sqrt()
        between = root * (self.mean - mean[:, None])  # (F, J, K)
        within = (root[..., None] * self.factors).transpose(1, 2).flatten(2)  # (F, K, J R)
        diag = (weight * self.diag**2).sum(1).sqrt()
        factors = torch.cat([within, between.transpose(1, 2)], -1)
        if factors.shape[-1] > factors.shape[-2] and not diag.any():  # as few as there are coefficients do
            factors = short_root(factors)
        return CoefficientGaussian(mean, diag, factors)

    def project(self, weights):
        """Mean and variance (F, J, M) by component of linear functionals ``weights`` (M, K) or (F, M, K)."""
        if weights.dim() == 2:
            weights = weights.expand(len(self.mean), -1, -1)
        mean = torch.einsum("fmk,fjk->fjm", weights, self.mean)
        variance = torch.einsum("fmk,fjk->fjm", weights**2, self.diag**2)
        return mean, variance + (weights[:, None] @ self.factors).square().sum(-1)

    def sample(self, offset, generator=None, field=(0.0, 1.0)):
        """Draw coefficients (F, K), coherent from one position to the next.

        Parameters
        ----------
        offset : Tensor (F, 2)
            arcsec.
        generator : torch.Generator, optional
        field : tuple of float
            Amplitude and length [arcsec] of the correlation ``amplitude exp(-distance / length)`` of what decides: the
            component, and the errors within it. Noise of the image is drawn for each position, and the error of zero
            points for all.
        """
        return self.at(draw_latent(offset, self.root_size, field, generator).to(self.mean))

    @property
    def root_size(self):
        """Number of latent variables behind the errors, K + R."""
        return self.mean.shape[-1] + self.factors.shape[-1]

    def at(self, latent):
        """Coefficients (F, K) of latent variables (F, 1 + K + R), see `draw_latent`."""
        k = self.mean.shape[-1]
        place = torch.special.ndtr(latent[:, :1])
        picked = (self.weight.cumsum(-1)[:, :-1] < place).sum(-1)
        row = torch.arange(len(latent))
        mean, diag, factors = (x[row, picked] for x in (self.mean, self.diag, self.factors))
        return mean + diag * latent[:, 1 : 1 + k] + torch.einsum("fkr,fr->fk", factors, latent[:, 1 + k :])


def short_root(root):
    """A root (..., K, K) of the same covariance as that of ``root`` (..., K, R), R > K."""
    return torch.linalg.qr(root.transpose(-1, -2).double(), mode="r").R.transpose(-1, -2).to(root)


def draw_latent(offset, size, field, generator):
    """Standard normal variables (F, 1 + size) behind coefficients at offsets (F, 2): the first picks the component.

    All but the last two are coherent from one position to the next, see `CoefficientMixture.sample`; the last but one
    is drawn for each position, and the last one for all.
    """
    coherent = random_fields(offset, size - 1, field, generator)
    common = torch.randn((1, 1), generator=generator).expand(len(offset), 1)
    return torch.cat([coherent, torch.randn((len(offset), 1), generator=generator), common], 1)


def random_fields(offset, n, coherence, generator):
    """Standard normal fields (F, n) at offsets (F, 2), correlated as ``amplitude exp(-distance / length)``.

    Random Fourier features (Rahimi & Recht 2007, NIPS): waves whose numbers follow the transform of the exponential in
    two dimensions, a bivariate Cauchy distribution.
    """
    amplitude, length = coherence
    normal = torch.randn((WAVES, 3), generator=generator, dtype=torch.float64)
    number = normal[:, :2] / (length * normal[:, 2:].abs())
    phase = offset.double() @ number.T
    waves = torch.cat([phase.cos(), phase.sin()], 1).float() / WAVES**0.5
    field = waves @ torch.randn((2 * WAVES, n), generator=generator)
    white = torch.randn((len(offset), n), generator=generator)  # last, so that the waves are the same for any positions
    return amplitude**0.5 * field + (1 - amplitude) ** 0.5 * white


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


def mixture_nll(mixture, best, precision):
    """What the coefficients add to the negative log-likelihood (F,), the component summed over: `coefficient_nll`."""
    each = coefficient_nll(
        mixture.mean.flatten(0, 1), mixture.root.flatten(0, 1), *(_repeat(x, mixture) for x in (best, precision))
    ).unflatten(0, mixture.weight.shape)
    return -torch.logsumexp(mixture.weight.clamp(min=1e-12).log() - each, -1)


def _repeat(x, mixture):
    return x[:, None].expand(-1, mixture.weight.shape[1], *x.shape[1:]).flatten(0, 1)


def functional_nll(mixture, weights, best, precision, limit):
    """Negative log-likelihood of linear functionals one by one, measured with what the pixels know of them.

    The joint likelihood is dominated by what is measured best; here every line and band counts alike, and the
    intervals that are quoted for them are what is fitted.

    Parameters
    ----------
    mixture : CoefficientMixture
    weights : Tensor (F, M, K)
    best : Tensor (F, K)
    precision : Tensor (F, K, K)
    limit : float
        Functionals that are measured worse than this (standard deviation) are left out.

    Returns
    -------
    Tensor (F,)
        Mean over the functionals that are measured; 0 where none is.
    """
    weights = weights.double()
    inverse, unit = unit_inverse(precision)
    scaled = weights * unit[:, None]
    noise = torch.einsum("fmk,fkl,fml->fm", scaled, inverse, scaled)
    good = (noise > 0) & (noise < limit**2)
    value = torch.einsum("fmk,fk->fm", weights, best.double()).float()
    mean, variance = mixture.project(weights.float())
    variance = variance + torch.where(good, noise, 1.0).float()[:, None]
    logs = -0.5 * ((value[:, None] - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))
    total = -torch.logsumexp(mixture.weight.clamp(min=1e-12).log()[..., None] + logs, 1)
    return torch.where(good, total, 0.0).sum(-1) / good.sum(-1).clamp(min=1)


def pixel_nll(mixture, basis, flux, ivar, floor):
    """Negative log-likelihood (F,) of noisy spectra, marginalised over the coefficients, summed over good pixels.

    ``flux ~ sum_j w_j N(B m_j, B C_j B^T + diag(1/ivar + floor^2))`` splits into the misfit of the best coefficients
    and the distance of the predicted coefficients from them. Training weighs and transforms the parts
    (`FiberMAE.spectrum_nll`); here they are as they come. Arguments as of `measure`.
    """
    misfit, best, precision = measure(basis, flux, ivar, floor)
    return misfit * (ivar > 0).sum(-1) + mixture_nll(mixture, best, precision)


def marginal_variance(precision):
    """Diagonal (F, K) of the inverse of ``precision`` (F, K, K); very large where a coefficient is not measured."""
    inverse, unit = unit_inverse(precision)
    return unit**2 * inverse.diagonal(dim1=-2, dim2=-1)


def unit_inverse(precision):
    """Inverse (F, K, K) of ``precision`` in units (F, K) in which its diagonal is 1, and these units."""
    unit = precision.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).rsqrt()
    ridge = 1e-9 * torch.eye(precision.shape[-1], device=precision.device, dtype=precision.dtype)
    return torch.linalg.inv_ex(precision * unit[:, :, None] * unit[:, None] + ridge).inverse, unit


def compress(mean, best, precision, first):
    """Means and measurements in units of the continuum, with asinh of the amplitudes.

    Line amplitudes spread over decades, and in linear flux one starburst outweighs a hundred galaxies. Here they are
    ``asinh(x / a)`` with ``a`` three times the measured error (marginal over the other coefficients) and 1 A in
    quadrature: logarithms where they are well measured, linear within the noise, as a curve there would bias the mean
    of noisy amplitudes. The measured error is taken along at the best amplitude:
    ``d asinh(x / a) = dx / sqrt(a^2 + x^2)``.

    Parameters
    ----------
    mean : Tensor (F, K)
    best, precision : Tensor (F, K), (F, K, K)
    first : int
        Index of the first amplitude.

    Returns
    -------
    mean, best, precision : Tensor
        As `coefficient_nll` takes them.
    """
    unit = mean[:, :1].detach().abs().clamp(min=1e-3)
    mean, best, precision = mean / unit, best / unit, precision * unit[..., None] ** 2
    is_line = torch.arange(mean.shape[-1], device=mean.device) >= first
    variance = marginal_variance(precision)
    soft = (1 + (SOFTENING**2 * variance).clamp(max=1e6)).sqrt()
    at_best = torch.where(is_line, (soft**2 + best**2).rsqrt(), 1.0)
    mean, best = (torch.where(is_line, (x / soft).asinh(), x) for x in (mean, best))
    return mean, best, precision / at_best[:, :, None] / at_best[:, None]
