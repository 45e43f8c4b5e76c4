# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The network of Peng et al. (2026) behind the face of `~fiberifu.VirtualIFU`.

``image -> bands as they are, on one grid -> one pass per position -> flux and sigma of pixels -> PublishedPrediction``
"""

from .image import PublishedImage, fibre_place, network_image, prepare
from .predict import fibre_fraction, predict
from .prediction import PULL, PublishedPrediction

__all__ = [
    "PULL",
    "PublishedImage",
    "PublishedPrediction",
    "fibre_fraction",
    "fibre_place",
    "network_image",
    "predict",
    "prepare",
]
