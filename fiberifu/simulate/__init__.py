"""A simulated universe of resolved galaxies: images, fibre spectra, and the truth they came from.

``draws -> galaxy (maps) x stars, gas (spectra) -> imager, fibre -> batch``; everything is linear in the maps.
"""

from .grid import SpectralGrid
from .observe import reanchor
from .survey import SimConfig, Simulator
from .templates import analytic_template_pack, build_template_pack, find_data_dir, load_template_pack

__all__ = [
    "SimConfig",
    "Simulator",
    "SpectralGrid",
    "analytic_template_pack",
    "build_template_pack",
    "find_data_dir",
    "load_template_pack",
    "reanchor",
]
