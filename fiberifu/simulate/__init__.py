"""A simulated universe of resolved galaxies, the telescopes that look at it, and the truth behind what they see.

``draws -> galaxy (maps) x stars, gas (spectra) -> imager, fibre, IFU -> batches, surveys``; everything is linear in the
maps. Objects with units, for scripts, are `Galaxy`, `Imager`, `FibreSpectrograph` and `IFU`: they need Astropy, the
rest does not, so they are imported when asked for.
"""

from .campaigns import observe_desi, observe_manga
from .fiber import DESI, FiberInstrument, observe_fibers
from .grid import SpectralGrid
from .ifu import MANGA, IFUInstrument, observe_ifu
from .imager import BASS_MZLS, DECALS, DES, Camera, observe_field, observe_images
from .observe import reanchor
from .photometry import Photometry
from .products import BandImages, FiberSpectra, IFUCube
from .survey import SimConfig, Simulator
from .targets import place_targets
from .templates import analytic_template_pack, build_template_pack, find_data_dir, load_template_pack

_WITH_UNITS = ("FibreSpectrograph", "Galaxy", "IFU", "Imager")

__all__ = [
    "BASS_MZLS",
    "DECALS",
    "DES",
    "DESI",
    "MANGA",
    "BandImages",
    "Camera",
    "FiberSpectra",
    "FiberInstrument",
    "FibreSpectrograph",
    "Galaxy",
    "IFU",
    "IFUCube",
    "IFUInstrument",
    "Imager",
    "Photometry",
    "SimConfig",
    "Simulator",
    "SpectralGrid",
    "analytic_template_pack",
    "build_template_pack",
    "find_data_dir",
    "load_template_pack",
    "observe_desi",
    "observe_field",
    "observe_fibers",
    "observe_ifu",
    "observe_images",
    "observe_manga",
    "place_targets",
    "reanchor",
]


def __getattr__(name):
    if name in _WITH_UNITS:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
