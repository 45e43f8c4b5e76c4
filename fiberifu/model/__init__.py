"""The network: a masked autoencoder of images and fibre spectra in plain torch, without units or astropy.

``image -> tokens -> encoder -> (query: local view + context) -> coefficients -> basis -> pixels, lines, bands``
"""

from .basis import RestBasis, desi_lsf, pixel_edges
from .calibration import LINE_GROUPS, aperture_snr, apply_calibration
from .checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from .condition import FiberErrors
from .config import ModelConfig
from .decoder import Decoded, anchor, photometric_shape
from .distribution import CoefficientGaussian, CoefficientMixture, pixel_nll
from .lines import AMPLITUDES, LINE_WAVELENGTH, LINES
from .mae import Encoded, FiberMAE, Losses
from .published import PublishedConfig, PublishedMAE, PublishedOutput
from .published_checkpoint import (
    convert_published,
    file_sha256,
    is_published,
    load_published,
    read_lightning_checkpoint,
)
from .render import Node, Renderer, reweighted

__all__ = [
    "AMPLITUDES",
    "LINES",
    "LINE_GROUPS",
    "LINE_WAVELENGTH",
    "CoefficientGaussian",
    "CoefficientMixture",
    "Decoded",
    "Encoded",
    "FiberErrors",
    "FiberMAE",
    "Losses",
    "ModelConfig",
    "Node",
    "PublishedConfig",
    "PublishedMAE",
    "PublishedOutput",
    "Renderer",
    "RestBasis",
    "anchor",
    "aperture_snr",
    "apply_calibration",
    "convert_published",
    "desi_lsf",
    "file_sha256",
    "is_published",
    "load_checkpoint",
    "load_published",
    "photometric_shape",
    "pixel_edges",
    "pixel_nll",
    "read_lightning_checkpoint",
    "reweighted",
    "save_checkpoint",
    "weights_sha256",
]
