# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Simulated data in the formats of the surveys; every file says ``DATATYPE = 'SIMULATED'`` and ``sim`` in its name.

``products (plain arrays) -> one writer per format -> a folder laid out as the survey's archive``
"""

from ..identifiers import brick_name, is_simulated_targetid, simulated_targetid
from .common import healpix_nested
from .desi import write_coadd, write_redrock, write_zcatalog
from .legacysurvey import write_brick, write_cutout, write_psf, write_tractor
from .manga import write_drpall, write_fitted_maps, write_logcube, write_truth_maps

__all__ = [
    "brick_name",
    "healpix_nested",
    "is_simulated_targetid",
    "simulated_targetid",
    "write_brick",
    "write_coadd",
    "write_cutout",
    "write_drpall",
    "write_fitted_maps",
    "write_logcube",
    "write_psf",
    "write_redrock",
    "write_tractor",
    "write_truth_maps",
    "write_zcatalog",
]
