# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Emission lines: their table, their maps, and files of maps in the layout of the MaNGA DAP."""

from fiberifu.lines.fit import fit_line_maps
from fiberifu.lines.io import read_dap_maps, write_dap_maps
from fiberifu.lines.maps import DAPMask, LineMaps
from fiberifu.lines.table import air_to_vacuum, line_table, resolve_line, vacuum_to_air

__all__ = [
    "DAPMask",
    "LineMaps",
    "air_to_vacuum",
    "fit_line_maps",
    "line_table",
    "read_dap_maps",
    "resolve_line",
    "vacuum_to_air",
    "write_dap_maps",
]
