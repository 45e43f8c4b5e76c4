# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pictures: a spectrum with its error band, a map, a diagnostic diagram, a pointing over the image, a one-page summary.

Every map and image is drawn North up, East left, whatever its WCS.  What was predicted says so.
"""

from .axes import style
from .census import plot_offset_census
from .diagnostics import plot_bpt, plot_whan
from .lines import plot_line_maps
from .maps import plot_map
from .pointing import plot_pointing
from .spectrum import plot_spectrum
from .summary import plot_summary

__all__ = [
    "plot_bpt",
    "plot_line_maps",
    "plot_map",
    "plot_offset_census",
    "plot_pointing",
    "plot_spectrum",
    "plot_summary",
    "plot_whan",
    "style",
]
