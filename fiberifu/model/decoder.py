"""From what is read at a query to a mixture over coefficients; and hidden image patches from their place.

Shapes: F positions, J components, K coefficients, A of them amplitudes, R factors, C bands, D width.
"""

import dataclasses

import torch
from torch import nn

from .basis import RestBasis
from .distribution import CoefficientMixture
from .encoder import Block
from .lines import AMPLITUDES

__all__ = ["CoefficientHead", "Decoded", "UnitShapes", "PatchDecoder", "QueryDecoder", "anchor", "photometric_shape"]

APART = 0.8  # natural logarithm: how far the outer components start from the middle one
CALIBRATION_ERROR = 0.02  # relative error of the photometric zero points and of the aperture geometry
# log of typical amplitudes [rest-frame angstrom], in the order of AMPLITUDES: where the network starts
START = dict(O2_3726=1.0, O2_3729=1.2, Ne3_3869=-1.0, Hd=-0.3, Hg=0.3, Hb=1.0, O3_5007=1.0, He1_5876=-1.0,
             O1_6300=-1.0, Ha=2.3, N2_6583=1.3, S2_6716=0.8, S2_6731=0.5)  # fmt: skip


def anchor(shape_flux, flux, error):
    """Grey scale of a shape from photometry in linear flux, and its error.

    Parameters
    ----------
    shape_flux : Tensor (..., C)
        Synthetic photometry of continuum + lines of the unit shape [nanomaggy].
    flux, error : Tensor (..., C)
        Measured aperture photometry [nanomaggy]; error inf where there is none.

    Returns
    -------
    scale, scale_error : Tensor (...)
        Least squares over the bands; with no band at all the scale is 0 and its error inf.
    """
    variance = error**2 + (CALIBRATION_ERROR * flux) ** 2
    weight = 1 / variance
    norm = (weight * shape_flux**2).sum(-1)
    measured = norm > 0
    safe = norm.clamp(min=1e-30)
    scale = torch.where(measured, (weight * flux * shape_flux).sum(-1) / safe, 0.0)
    # bands share their zero points and the aperture's geometry, so the relative error does not average down
    return scale, torch.where(measured, (1 / safe + (CALIBRATION_ERROR * scale) ** 2).sqrt(), torch.inf)


@torch.no_grad()
def photometric_shape(photometry, flux, error, component_scale):
    """Continuum shape that the aperture colours alone ask for: where the network starts.

    Maximum a posteriori over the components with their population variance as the prior (a ridge fit in linear flux),
    without lines. Noise shrinks it to the mean shape, and so does missing photometry.

    Parameters
    ----------
    photometry : Tensor (F, C, K)
        Band fluxes of the continuum components [nanomaggy].
    flux, error : Tensor (F, C)
        Measured aperture photometry [nanomaggy]; error inf where there is none.
    component_scale : Tensor (K,)
        Population rms of the coefficients.

    Returns
    -------
    Tensor (F, K)
        First coefficient 1.
    """
    scale, _ = anchor(photometry[..., 0], flux, error)
    unit = scale.abs().clamp(min=1e-4)[:, None]
    weight = 1 / (error**2 + (CALIBRATION_ERROR * flux) ** 2) * unit**2  # of a unit shape; 0 where not measured
    design = photometry * component_scale
    normal = torch.einsum("fck,fc,fcj->fkj", design, weight, design)
    prior = torch.diag_embed(torch.where(torch.arange(len(component_scale)) > 0, 1.0, 0.01)).to(normal)
    shift = torch.einsum("fck,fc->fk", design, weight * torch.where(weight > 0, flux, 0.0) / unit)
    best = torch.linalg.solve((normal + prior).double(), shift.double()[..., None])[..., 0].float()
    shape = (best[:, 1:] / best[:, :1].clamp(min=0.2)).clamp(-5, 5) * (scale > 0)[:, None]
    return torch.cat([torch.ones_like(shape[:, :1]), shape * component_scale[1:]], 1)


@dataclasses.dataclass
class UnitShapes:
    """What the head says of the coefficients, in units of the continuum.

    Attributes
    ----------
    mean : Tensor (F, K)
        The centre, on which the components are built.
    logits : Tensor (F, J)
    shift : Tensor (F, J, A)
        Of the logarithms of the amplitudes, by component.
    scale : Tensor (F, J, K)
        Spreads.
    mix : Tensor (F, K, R)
        Factors in units of the spreads: which coefficients err together.
    sigma_gas : Tensor (F,)
        km/s.
    """

    mean: torch.Tensor
    logits: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor
    mix: torch.Tensor
    sigma_gas: torch.Tensor


class CoefficientHead(nn.Module):
    """Read-out with physical scales: centre, components, spreads and factors of the coefficients, gas dispersion.

    What an image does not tell is first of all how strong the lines are, and their distribution is skewed. So the
    components differ in their lines; the continuum and what errs together with what are common to them.
    """

    def __init__(self, config, basis: RestBasis):
        super().__init__()
        self.config, self.n, j, a = config, basis.n_coefficients, config.components, len(AMPLITUDES)
        self.mean = self._mlp(config, self.n)
        self.sizes = [j, j * a, config.n_continuum, j * a, self.n * config.rank, 1]
        self.spread = self._mlp(config, sum(self.sizes))
        self.register_buffer("start", torch.tensor([START[name] for name in AMPLITUDES]), persistent=False)
        self.register_buffer("apart", APART * torch.linspace(-1, 1, j) if j > 1 else torch.zeros(1), persistent=False)

    @staticmethod
    def _mlp(config, size):
        last = nn.Linear(config.local_width, size)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        return nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.local_width), nn.GELU(), last
        )  # fmt: skip

    def forward(self, x, start, component_scale):
        """`UnitShapes` of features (F, D); the continuum is a correction to the shape ``start`` (F, n_continuum)."""
        k, j = self.config.n_continuum, self.config.components
        mean = self.mean(x)
        # what is learned about errors reads the features and does not shape them
        logits, shift, smooth, lines, mix, gas = self.spread(x.detach()).split(self.sizes, -1)
        continuum = start[:, 1:] + component_scale[1:] * mean[:, 1:k]
        amplitude = (self.start + 6 * torch.tanh(mean[:, k:] / 6)).exp()
        first = torch.ones_like(mean[:, :1])
        shift = 3 * torch.tanh((shift.unflatten(1, (j, -1)) + self.apart[:, None]) / 3)
        # a relative error, not below that of 1 A; held, as the features are: the mean must not move to make it right
        width = amplitude.detach()[:, None] * shift.exp()
        width = torch.hypot(width, torch.ones_like(width)) * _positive(lines).unflatten(1, (j, -1))
        scale = torch.cat([0.05 * first, component_scale[1:].expand(len(x), -1)], 1) * _positive(smooth)
        return UnitShapes(
            mean=torch.cat([first, continuum, amplitude], 1),
            logits=logits,
            shift=shift,
            scale=torch.cat([scale[:, None].expand(-1, j, -1), width], -1),
            mix=mix.unflatten(1, (self.n, -1)),
            sigma_gas=20 + 280 * torch.sigmoid(gas[:, 0] - 1.5),
        )


def _positive(x):
    """Factors around 1/2, between 0.001 and 200."""
    return (6 * torch.tanh(x / 6) - 0.7).exp()


class Decoded:
    """What the network says at F positions: a mixture of physical coefficients and what belongs to it.

    Attributes
    ----------
    mixture : CoefficientMixture
        In 1e-17 erg/s/cm2/A (continuum) and 1e-17 erg/s/cm2/A x rest angstrom (amplitudes). Of what made its means,
        nothing is trained by it.
    mean : Tensor (F, K)
        The centre of the mixture in the same units: what trains the means.
    sigma_gas : Tensor (F,)
        Dispersion of the lines, km/s.
    scale, scale_error : Tensor (F,)
        The photometric anchor of the centre, 1e-17 erg/s/cm2/A.
    flux, error, predicted : Tensor (F, C)
        Aperture photometry, its error and what the mean of the mixture makes of it [nanomaggy].
    """

    def __init__(self, shapes, photometry, flux, error):
        self.flux, self.error, self.sigma_gas = flux, error, shapes.sigma_gas
        mean, n_lines = shapes.mean, len(AMPLITUDES)
        is_line = torch.arange(mean.shape[1], device=mean.device) >= mean.shape[1] - n_lines
        # lines add to the bands, and must not move to make the anchor right
        synthetic = torch.einsum("fck,fk->fc", photometry, torch.where(is_line, mean.detach(), mean))
        self.scale, self.scale_error = anchor(synthetic, flux, error)
        # in training the anchor is held for lines: the colours must not move to make a line flux right
        self.mean = torch.where(is_line, self.scale.detach()[:, None], self.scale[:, None]) * mean
        # every component is anchored, as bright lines are light in the bands; all of this is held: see `mixture`
        held = mean.detach()[:, None].expand(-1, shapes.shift.shape[1], -1)
        shape = torch.cat([held[..., :-n_lines], held[..., -n_lines:] * shapes.shift.exp()], -1)
        scale, scale_error = anchor(
            torch.einsum("fck,fjk->fjc", photometry, shape.detach()), flux[:, None], error[:, None]
        )
        factors = shapes.scale[..., None] * 0.3 * shapes.mix[:, None]
        # the anchor's error moves the whole spectrum together: two more factors, along the mean
        known = torch.isfinite(scale_error)
        common = torch.where(known, CALIBRATION_ERROR * scale.abs(), 0.0)
        noise = torch.where(known, (scale_error**2 - common**2).clamp(min=0).sqrt(), 0.0)
        grey = torch.stack([noise, common], -1)[..., None, :] * shape.detach()[..., None]
        self.mixture = CoefficientMixture(
            shapes.logits.softmax(-1),
            scale[..., None] * shape,
            scale.abs()[..., None] * shapes.scale,
            torch.cat([scale.abs()[..., None, None] * factors, grey], -1),
        )
        self.predicted = torch.einsum("fck,fj,fjk->fc", photometry, self.mixture.weight, self.mixture.mean)


class QueryDecoder(nn.Module):
    """Local view + gated context: coarse view and cross-attention to the encoded galaxy, started small."""

    def __init__(self, config, basis):
        super().__init__()
        self.around_scale = nn.Parameter(torch.full((config.width,), 0.05))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, 0.05) for _ in range(config.query_blocks))
        self.head = CoefficientHead(config, basis)

    def forward(self, near, around, offset, encoded, galaxy, start, component_scale):
        x = (near + self.around_scale * around)[:, None]
        single = len(encoded.tokens) == 1
        for block in self.blocks:
            key, value = block.attention.source(encoded.tokens, encoded.offset)
            if single:  # one galaxy: its F positions are F queries of one sequence, which never see each other
                source, keep = (key, value), encoded.keep
                x = block(x.transpose(0, 1), offset[None], keep, source).transpose(0, 1)
            else:
                x = block(x, offset[:, None], encoded.keep[galaxy], (key[galaxy], value[galaxy]))
        return self.head(x[:, 0], start, component_scale)


class PatchDecoder(nn.Module):
    """Predict hidden image patches from their place alone: the image half of the masked autoencoder."""

    def __init__(self, config):
        super().__init__()
        self.side = config.patch // config.pool
        self.query = nn.Parameter(torch.randn(config.width) * 0.05)
        self.block = Block(config.width, config.heads)
        self.out = nn.Linear(config.width, 2 * len(config.bands) * self.side**2)
        self.n_bands = len(config.bands)

    def forward(self, encoded, centres):
        """Mean and log sigma of compressed pixels, each (B, T, C, side*side)."""
        batch = len(encoded.tokens)
        offset = centres.expand(batch, -1, -1)
        source = self.block.attention.source(encoded.tokens, encoded.offset)
        x = self.block(self.query.expand(batch, len(centres), -1), offset, encoded.keep, source)
        mean, log_sigma = self.out(x).unflatten(-1, (2, self.n_bands, -1)).unbind(2)
        return mean, log_sigma.clamp(-5, 3)
