"""What held-out fibres said about the errors of a network, and how it is applied to what the network says.

``passport["calibration"]`` of a model folder holds, for every group of lines, how far amplitudes were off and how much
too narrow or wide their distributions were at several S/N of the image (`fiberifu.train.calibrate` measures it), and
how far errors reach from one position to the next.

Shapes: F positions, J components, K coefficients, B bins of S/N.
"""

import torch

from .distribution import CoefficientMixture
from .lines import AMPLITUDES

__all__ = ["LINE_GROUPS", "aperture_snr", "apply_calibration"]

LINE_GROUPS = {
    "O2": ("O2_3726", "O2_3729"),
    "Ne3": ("Ne3_3869",),
    "Balmer": ("Hd", "Hg", "Hb", "Ha"),
    "O3": ("O3_5007",),
    "He1": ("He1_5876",),
    "O1": ("O1_6300",),
    "N2": ("N2_6583",),
    "S2": ("S2_6716", "S2_6731"),
}
LEAST_SNR = 0.1  # so that S/N has a logarithm


def aperture_snr(flux, error):
    """S/N (F,) of the image in the aperture, in the band where it is best: ``flux, error`` (F, C), error inf or NaN
    where there is no band."""
    snr = torch.where(torch.isfinite(error) & (error > 0), flux / error, 0.0)
    return snr.max(-1).values.clamp(min=LEAST_SNR)


def apply_calibration(mixture, snr, calibration):
    """The mixture with its lines moved by ``factor`` and its distributions stretched by ``temperature``.

    The coefficient ``c`` of a line becomes ``factor (m + temperature (c - m))``, ``m`` its mean over the components:
    linear, so that the result is a mixture of the same kind. Between bins, linear in log S/N; beyond them, constant.

    Parameters
    ----------
    mixture : CoefficientMixture
    snr : Tensor (F,)
        See `aperture_snr`.
    calibration : dict
        ``snr`` (B,), ``groups``: {name: {"factor": (B,), "temperature": (B,)}}.

    Returns
    -------
    CoefficientMixture
    """
    first = mixture.mean.shape[-1] - len(AMPLITUDES)
    factor, temperature = torch.ones(2, len(snr), mixture.mean.shape[-1])
    for name, group in calibration["groups"].items():
        for i in (first + AMPLITUDES.index(line) for line in LINE_GROUPS[name]):
            factor[:, i] = _interpolate(snr, calibration["snr"], group["factor"])
            temperature[:, i] = _interpolate(snr, calibration["snr"], group["temperature"])
    stretch = (factor * temperature)[:, None]
    mean = (mixture.weight[..., None] * mixture.mean).sum(1, keepdim=True)
    return CoefficientMixture(
        mixture.weight,
        factor[:, None] * mean + stretch * (mixture.mean - mean),
        stretch * mixture.diag,
        stretch[..., None] * mixture.factors,
    )


def _interpolate(snr, nodes, values):
    x, nodes, values = snr.log(), torch.tensor(nodes).log(), torch.tensor(values)
    if len(nodes) == 1:
        return values.expand(len(x))
    high = torch.searchsorted(nodes, x.contiguous()).clamp(1, len(nodes) - 1)
    part = ((x - nodes[high - 1]) / (nodes[high] - nodes[high - 1]).clamp(min=1e-6)).clamp(0, 1)
    return values[high - 1] + part * (values[high] - values[high - 1])
