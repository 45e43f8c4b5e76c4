"""Rendering many positions of one galaxy at one redshift: the basis is rendered once, lines only where they are.

Shapes: N positions, P pixels, K coefficients, R factors, L lines, W window.
"""

import dataclasses
import functools

import torch

from ..constants import C_KMS
from .basis import desi_lsf
from .condition import FiberErrors
from .distribution import CoefficientMixture

__all__ = ["Node", "Renderer", "reweighted"]

TEMPLATE_POWER = 1800.0  # resolving power of the stellar basis (MaStar, Yan et al. 2019, ApJ 883, 175)


@dataclasses.dataclass
class Node:
    """Coefficients of N positions at one redshift of a marginalisation, with the weight of that redshift."""

    redshift: float
    weight: float
    mixture: CoefficientMixture
    sigma_lines: torch.Tensor  # (N,) km/s, without the instrument
    fibers: FiberErrors | None = None  # measured in the same galaxy: what ``mixture`` is conditioned on, and
    alone: CoefficientMixture | None = None  # the mixture without them

    def given(self, fibers, offset):
        """The node whose coefficients, at offsets (N, 2), know what was measured with ``fibers``."""
        return dataclasses.replace(
            self, mixture=fibers.condition(self.mixture, offset), fibers=fibers, alone=self.mixture
        )

    def sample(self, offset, generator, field):
        """Draw coefficients (N, K) at offsets (N, 2), see `CoefficientMixture.sample`."""
        if self.fibers is None:
            return self.mixture.sample(offset, generator, field)
        return self.fibers.sample(self.alone, offset, generator)

    @functools.cached_property
    def gaussian(self):
        """`CoefficientGaussian` of the mixture's mean and covariance."""
        return self.mixture.collapse()


def reweighted(nodes):
    """Nodes of redshifts, those under which the fibres were likelier with more weight (Bayes' rule)."""
    if any(node.fibers is None for node in nodes):
        return nodes
    logs = torch.tensor([node.fibers.log_evidence for node in nodes], dtype=torch.float64)
    weights = torch.tensor([node.weight for node in nodes]) * (logs - logs.max()).exp()
    return [dataclasses.replace(node, weight=float(w)) for node, w in zip(nodes, weights / weights.sum(), strict=True)]


class Renderer:
    """Pixels on one wavelength grid.

    Parameters
    ----------
    basis : RestBasis
    edges : Tensor (P + 1,)
        Pixel edges, observed angstrom.
    lsf : callable, optional
        Observed wavelengths (Tensor) to the instrumental sigma, both in angstrom; DESI's by default.
    floor : float
        Independent model error of a pixel, relative to its mean.
    transmission : Tensor (P,), optional
        Multiplies the spectrum: Galactic extinction to be put back.
    """

    def __init__(self, basis, edges, *, lsf=desi_lsf, floor=0.0, transmission=None):
        self.basis, self.edges, self.lsf, self.floor = basis, edges, lsf, floor
        self.transmission = torch.ones(len(edges) - 1) if transmission is None else transmission
        self._cache = {}

    def continuum(self, redshift):
        """Continuum basis (P, K) at a redshift, broadened where the resolution asked for is coarser than its own."""
        if redshift not in self._cache:
            z = torch.tensor([redshift])
            wave = (self.edges[1:] + self.edges[:-1]).float() / 2
            excess = (self.lsf(wave) / wave * C_KMS) ** 2 - (C_KMS / TEMPLATE_POWER / 2.354820045) ** 2
            sharp = self.basis.render_continuum(self.edges, z)[0]
            if self.lsf is desi_lsf or bool((excess <= 0).all()):
                self._cache[redshift] = sharp  # never sharper than the templates: nothing is deconvolved
            else:
                self._cache[redshift] = self._broaden(sharp, excess.clamp(min=0), redshift)
        return self._cache[redshift]

    def _broaden(self, sharp, variance, redshift, levels=5):
        """Blend copies of the basis broadened to ``levels`` dispersions, linearly in variance [(km/s)^2] per pixel."""
        grid = torch.linspace(0, float(variance.max()), levels)
        copies = [sharp]
        rest = self.basis.continuum
        frequency = torch.fft.rfftfreq(rest.shape[1])
        for level in grid[1:]:
            pixels = level.sqrt() / (C_KMS * self.basis.config.rest_step)
            kernel = torch.exp(-2 * (torch.pi * frequency * pixels) ** 2)
            edge = rest[:, :1] + (rest[:, -1:] - rest[:, :1]) * torch.linspace(0, 1, rest.shape[1])
            smooth = torch.fft.irfft(torch.fft.rfft(rest - edge) * kernel, rest.shape[1]) + edge
            copies.append(self.basis.render_continuum(self.edges, torch.tensor([redshift]), smooth)[0])
        place = variance / grid[1] if levels > 1 else variance
        index = place.long().clamp(max=levels - 2)
        part = (place - index)[:, None]
        stack, pixel = torch.stack(copies), torch.arange(len(variance))
        return stack[index, pixel] * (1 - part) + stack[index + 1, pixel] * part

    def covered(self, redshift):
        """Which pixels (P,) lie wholly inside the rest-frame basis at a redshift."""
        wave = self.basis.rest_wave[[0, -1]] * (1 + redshift)
        return (self.edges[:-1] >= wave[0]) & (self.edges[1:] <= wave[1])

    def mean(self, node, coefficients=None, rows=slice(None)):
        """Spectra (n, P) of ``coefficients`` (n, K), by default the node's mean, at its positions ``rows``."""
        values = node.gaussian.mean[rows] if coefficients is None else coefficients
        out = self._linear(node, values[..., None], rows)[..., 0]
        return out * self.transmission

    def moments(self, node, rows=slice(None)):
        """Mean and variance (n, P) at the positions ``rows`` of a node."""
        gaussian, k = node.gaussian, self.basis.config.n_continuum
        linear = self._linear(node, torch.cat([gaussian.mean[rows, :, None], gaussian.factors[rows]], -1), rows)
        mean = linear[..., 0]
        diag = gaussian.diag[rows]
        variance = linear[..., 1:].square().sum(-1) + diag[:, :k] ** 2 @ (self.continuum(node.redshift) ** 2).T
        index, profile = self._profiles(node, rows)
        # amplitudes are independent beyond the factors; tied lines are never close enough to overlap
        scale = torch.einsum("la,na->nl", self.basis.tie**2, diag[:, k:] ** 2)
        variance.index_add_(1, index.flatten(), (profile**2 * scale[..., None]).flatten(1))
        variance = variance + (self.floor * mean) ** 2
        return mean * self.transmission, variance * self.transmission**2

    def _linear(self, node, values, rows):
        """Spectra (n, P, M) of M coefficient vectors ``values`` (n, K, M) at each position."""
        k = self.basis.config.n_continuum
        out = torch.einsum("pk,nkm->nmp", self.continuum(node.redshift), values[:, :k]).contiguous()
        index, profile = self._profiles(node, rows)
        lines = torch.einsum("la,nam->nml", self.basis.tie, values[:, k:])
        add = lines[..., None] * profile[:, None]
        out.index_add_(2, index.flatten(), add.flatten(2))
        return out.transpose(1, 2)

    def _profiles(self, node, rows):
        """Pixel indices (L, W) and profiles (n, L, W) per unit amplitude; zero for lines off the grid."""
        sigma = node.sigma_lines[rows]
        z = torch.tensor([node.redshift])
        wave = self.basis.line_wave * (1 + node.redshift)
        first, size = self.basis.line_window(self.edges, z, float(node.sigma_lines.max()), self.lsf(wave))
        _, profile = self.basis.render_lines(self.edges, z.expand(len(sigma)), sigma, self.lsf(wave),
                                             (first.expand(len(sigma), -1), size))  # fmt: skip
        on = (wave > self.edges[0]) & (wave < self.edges[-1])
        return first[0][:, None] + torch.arange(size), profile * on[:, None] * (1 + node.redshift)
