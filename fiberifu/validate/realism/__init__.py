# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How realistic the simulated universe is: simulated galaxies against real ones and against published relations.

``simulator -> sample``, ``real files -> readers``, ``sample x real -> comparisons -> report (JSON, figures, page)``
"""

from .comparison import Comparison, check_report
from .measure import measure_realism, write_realism
from .measures import (
    bootstrap,
    central_scatter,
    dn4000,
    energy_distance,
    fit_line,
    matched_indices,
    residual_scatter,
    ridge_distance,
)
from .mixture import Mixture

__all__ = [
    "Comparison",
    "Mixture",
    "bootstrap",
    "central_scatter",
    "check_report",
    "dn4000",
    "energy_distance",
    "fit_line",
    "matched_indices",
    "measure_realism",
    "residual_scatter",
    "ridge_distance",
    "write_realism",
]
