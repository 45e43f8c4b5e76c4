# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of survey files: each turns a survey's own format into objects of astropy and specutils."""

from fiberifu.surveys.des import read_des
from fiberifu.surveys.desi import read_desi
from fiberifu.surveys.desi_tree import find_desi, list_desi, read_desi_targets
from fiberifu.surveys.fibers import (
    FiberFlag,
    fiber_context,
    fiber_spectrum,
    is_good_galaxy,
    select_galaxies,
    take_fibers,
)
from fiberifu.surveys.legacysurvey import read_legacysurvey
from fiberifu.surveys.manga import read_manga_cube, read_manga_spectra
from fiberifu.surveys.sami import read_sami_cube, read_sami_map
from fiberifu.surveys.sdss import read_sdss_fiber

__all__ = [
    "FiberFlag",
    "fiber_context",
    "fiber_spectrum",
    "find_desi",
    "is_good_galaxy",
    "list_desi",
    "read_des",
    "read_desi",
    "read_desi_targets",
    "read_legacysurvey",
    "read_manga_cube",
    "read_manga_spectra",
    "read_sami_cube",
    "read_sami_map",
    "read_sdss_fiber",
    "select_galaxies",
    "take_fibers",
]
