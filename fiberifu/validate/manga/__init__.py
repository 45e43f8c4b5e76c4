# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Predicted maps against those of MaNGA (or SAMI), galaxy by galaxy.

``files -> what was observed, what is predicted at the same spaxels and PSF -> comparison -> scores, figures, a page``
"""

from .compare import Comparison, Ellipse, compare, galaxy_row
from .cube_fit import fit_cube
from .find import GalaxyFiles, find_galaxies
from .images import cube_image, maps_image
from .job import summary_lines, validate_manga_to_folder
from .observe import Seen, predict_spaxels
from .observed import Observed, Unusable, read_maps
from .store import read_comparison

__all__ = [
    "Comparison",
    "Ellipse",
    "GalaxyFiles",
    "Observed",
    "Seen",
    "Unusable",
    "compare",
    "cube_image",
    "find_galaxies",
    "fit_cube",
    "galaxy_row",
    "maps_image",
    "predict_spaxels",
    "read_comparison",
    "read_maps",
    "summary_lines",
    "validate_manga_to_folder",
]
