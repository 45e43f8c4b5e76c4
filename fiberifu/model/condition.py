"""What a few measured spectra of a galaxy say about the rest of it: ``fibres -> their errors -> errors anywhere``.

The errors of a prediction reach from one position to the next, as far as calibration found. So where a spectrum was
measured, the error of the prediction there tells that of its neighbours: Gaussian conditioning (Rasmussen & Williams
2006, eq. 2.19) of the latent variables that `CoefficientMixture.sample` draws: per position the place that picks a
component and the standard normal draws behind its errors. All of them have the same correlation with distance, so that
what is known at the fibres is carried to a position by the same few weights.

Shapes: N fibres, F positions, J components, K coefficients, T latent variables (K + R), M ways to pick components at
the fibres, D draws of places.
"""

import torch

from .distribution import CoefficientMixture, coefficient_nll, draw_latent, short_root

__all__ = ["FiberErrors"]

DRAWS = 4096  # places at the fibres before, and
KEPT = 256  # after what was measured there is known
JITTER = 1e-6


class FiberErrors:
    """Latent variables at N fibres, given what was measured there.

    Parameters
    ----------
    mixture : CoefficientMixture
        Predicted at the fibres.
    best, precision : Tensor (N, K), (N, K, K)
        What was measured, see `fiberifu.model.distribution.measure`.
    offset : Tensor (N, 2)
        arcsec.
    field : tuple of float
        Amplitude and length [arcsec] of the correlation of latent variables with distance.
    seed : int
        Of the draws of places.

    Attributes
    ----------
    log_evidence : float
        Logarithm of the likelihood of what was measured, up to a constant.
    """

    def __init__(self, mixture, best, precision, offset, field, seed=0):
        self.offset, self.field = offset.double(), field
        n, j, k = mixture.mean.shape
        root = mixture.root.double()  # (N, J, K, T)
        size = root.shape[-1]
        self.carried = torch.ones(size, dtype=torch.bool)
        self.carried[-2:] = False  # the noise of the image stays where it is; zero points are the same everywhere
        self.among = self._correlation(self.offset, self.offset)
        self.among.fill_diagonal_(1.0)
        half = torch.linalg.cholesky(self.among + _jitter(n))
        # independent standard normal variables behind those of all fibres: ``latent = spread @ e``
        spread = torch.zeros(n, size, n, size, dtype=torch.float64)
        rest = torch.arange(size - 2)
        spread[:, rest, :, rest] = half.expand(len(rest), n, n)
        spread[torch.arange(n), -2, torch.arange(n), -2] = 1.0
        spread[:, -1, 0, -1] = 1.0
        spread = spread.flatten(2).flatten(0, 1)
        place = half @ _normal_points(n, seed).T  # (N, D)
        edges = torch.special.ndtri(mixture.weight.double().cumsum(-1)[:, :-1].clamp(1e-9, 1 - 1e-9))
        picked = (place[:, None] > edges[..., None]).sum(1).T  # (D, N)
        ways, way = picked.unique(dim=0, return_inverse=True)
        fiber = torch.arange(n)
        mean = mixture.mean.double()[fiber, ways].flatten(1)  # (M, N K)
        roots = torch.zeros(len(ways), n, k, n, size, dtype=torch.float64)
        roots[:, fiber, :, fiber] = root[fiber, ways].transpose(0, 1)
        roots = roots.flatten(3).flatten(1, 2) @ spread  # (M, N K, N T)
        known = torch.block_diag(*precision.double())
        value = best.double().flatten().expand(len(ways), -1)
        evidence = -coefficient_nll(mean, roots, value, known.expand(len(ways), -1, -1)).double()
        self.log_evidence = float(evidence[way].logsumexp(0))
        # places that remain, all of the same weight: evenly along each way
        order = (way + torch.special.ndtr(place[0])).argsort()
        total = evidence[way].softmax(0)[order].cumsum(0)
        at = torch.searchsorted(total, (torch.arange(KEPT, dtype=torch.float64) + 0.5) / KEPT)
        at = order[at.clamp(max=len(total) - 1)]
        self.place, kept = place.T[at], way[at]
        ways, self.way = kept.unique(return_inverse=True)
        mean, roots, value = (x[ways] for x in (mean, roots, value))
        inverse = torch.linalg.inv(roots.transpose(1, 2) @ known @ roots + torch.eye(n * size, dtype=torch.float64))
        step = roots.transpose(1, 2) @ (known @ (value - mean)[..., None])
        self.mean = (spread @ inverse @ step)[..., 0].unflatten(1, (n, size))  # (M, N, T)
        self.covariance = (spread @ inverse @ spread.T).unflatten(2, (n, size)).unflatten(1, (n, size))

    def _correlation(self, a, b):
        amplitude, length = self.field
        return amplitude * torch.exp(-torch.cdist(a, b) / length)

    def weights(self, offset):
        """Of the fibres at positions (F, 2): (F, N), and the variance (F,) that is left."""
        cross = self._correlation(offset.double(), self.offset)
        n = len(self.offset)
        found = torch.linalg.solve(self.among + _jitter(n), cross.T).T
        return found, (1 - (found * cross).sum(-1)).clamp(min=JITTER)

    def condition(self, mixture, offset):
        """The mixture at positions, given the fibres: components stay, their weights, means and errors change.

        Parameters
        ----------
        mixture : CoefficientMixture
            Predicted at F positions.
        offset : Tensor (F, 2)
            arcsec.

        Returns
        -------
        CoefficientMixture
            Without independent errors (``diag`` is 0): all are in the factors.
        """
        parts = [self._condition(mixture.take(rows), offset[rows]) for rows in torch.arange(len(offset)).split(512)]
        return CoefficientMixture(*(torch.cat(x).to(mixture.mean) for x in zip(*parts, strict=True)))

    def _condition(self, mixture, offset):
        carry, left = self.weights(offset)
        joint = torch.zeros(*mixture.weight.shape, len(self.mean), dtype=torch.float64)  # (F, J, M)
        below = self._below(mixture, carry, left)  # (F, D, J + 1)
        joint.index_add_(2, self.way, below.diff(dim=-1).transpose(1, 2))
        weight = joint.sum(-1)
        share = joint / weight.clamp(min=1e-30)[..., None]
        each = carry[..., None] * self.carried  # (F, N, T)
        each[:, 0, -1] = 1.0
        left = left[:, None] * self.carried
        left[:, -2] = 1.0
        middle = torch.einsum("fnt,mnt->fmt", each, self.mean)
        mean = torch.einsum("fjm,fmt->fjt", share, middle)
        square = torch.einsum("fnt,mntqs,fqs->fmts", each, self.covariance, each)
        square = square + middle[..., None] * middle[..., None, :]
        covariance = torch.einsum("fjm,fmts->fjts", share, square) - mean[..., None] * mean[..., None, :]
        covariance = covariance + torch.diag_embed(left + JITTER)[:, None]
        root = mixture.root.double()
        moved = mixture.mean.double() + (root @ mean[..., None])[..., 0]
        factors = short_root(root @ torch.linalg.cholesky(covariance))
        weight = weight / weight.sum(-1, keepdim=True)
        return weight, moved, torch.zeros_like(moved), factors

    def sample(self, mixture, offset, generator):
        """Draw coefficients (F, K) given the fibres, coherent from one position to the next.

        A draw of everything without the fibres is corrected by what it got wrong at them (Matheron's rule: Wilson et
        al. 2020, ICML, "Efficiently sampling functions from Gaussian process posteriors").

        Parameters
        ----------
        mixture : CoefficientMixture
            Predicted at F positions, without the fibres.
        offset : Tensor (F, 2)
            arcsec.
        generator : torch.Generator
        """
        n = len(self.offset)
        draw = draw_latent(torch.cat([offset.double(), self.offset]), mixture.root_size, self.field, generator).double()
        here, there = draw[:-n], draw[-n:]
        one = int(torch.randint(len(self.place), (), generator=generator))
        way = self.way[one]
        half = torch.linalg.cholesky(self.covariance[way].flatten(2).flatten(0, 1) + _jitter(n * mixture.root_size))
        noise = torch.randn(len(half), generator=generator, dtype=torch.float64)
        fiber = torch.cat([self.place[one][:, None], self.mean[way] + (half @ noise).unflatten(0, (n, -1))], 1)
        carried = torch.cat([torch.ones(1, dtype=torch.bool), self.carried])
        latent = torch.where(carried, here + self.weights(offset)[0] @ (fiber - there), here)
        latent[:, -1] = fiber[0, -1]
        return mixture.at(latent.to(mixture.mean))

    def _below(self, mixture, carry, left):
        """Probability (F, D, J + 1) of a place below the edges of the components, for each draw at the fibres."""
        edges = torch.special.ndtri(mixture.weight.double().cumsum(-1)[:, :-1].clamp(1e-9, 1 - 1e-9))
        middle = carry @ self.place.T  # (F, D)
        inner = torch.special.ndtr((edges[:, None] - middle[..., None]) / left.sqrt()[:, None, None]) / len(self.place)
        zero = torch.zeros_like(inner[..., :1])
        return torch.cat([zero, inner, zero + 1 / len(self.place)], -1)


def _jitter(n):
    return JITTER * torch.eye(n, dtype=torch.float64)


def _normal_points(n, seed):
    """Evenly spread standard normal points (D, N), the same for a seed."""
    points = torch.quasirandom.SobolEngine(n, scramble=True, seed=seed).draw(DRAWS, dtype=torch.float64)
    return torch.special.ndtri(points.clamp(1e-9, 1 - 1e-9))
