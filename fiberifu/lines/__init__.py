# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Emission lines: fits and sums of any cube, the starlight below, maps and what they tell, files as the MaNGA DAP's."""

from fiberifu.lines.binning import bin_spectra, spread_bins, voronoi_bins
from fiberifu.lines.diagnostics import Classification
from fiberifu.lines.fit import fit_line_maps
from fiberifu.lines.io import read_dap_maps, write_dap_maps
from fiberifu.lines.maps import DAPMask, LineMaps, Totals
from fiberifu.lines.stellar import StellarFit, StellarTemplates, fit_starlight
from fiberifu.lines.sums import sum_line_maps
from fiberifu.lines.table import air_to_vacuum, line_table, resolve_line, vacuum_to_air

__all__ = [
    "Classification",
    "DAPMask",
    "LineMaps",
    "StellarFit",
    "StellarTemplates",
    "Totals",
    "air_to_vacuum",
    "bin_spectra",
    "fit_line_maps",
    "fit_starlight",
    "line_table",
    "read_dap_maps",
    "resolve_line",
    "spread_bins",
    "sum_line_maps",
    "vacuum_to_air",
    "voronoi_bins",
    "write_dap_maps",
]
