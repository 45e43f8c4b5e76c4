# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of survey files: each turns a survey's own format into objects of astropy and specutils."""

from fiberifu.surveys._images import cut_image
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
from fiberifu.surveys.image import read_image
from fiberifu.surveys.legacysurvey import (
    BrickIndex,
    fetch_cutout,
    fetch_psf,
    read_legacysurvey,
    read_legacysurvey_brick,
    read_tractor,
)
from fiberifu.surveys.manga import read_manga_cube, read_manga_spectra
from fiberifu.surveys.manga_catalog import DAPQuality, DRPQuality, read_drpall
from fiberifu.surveys.manga_maps import read_manga_maps
from fiberifu.surveys.match import match_fibers, match_images
from fiberifu.surveys.match_spaxels import extract_fibers, spaxel_weights
from fiberifu.surveys.ps1 import read_ps1
from fiberifu.surveys.sami import read_sami_cube, read_sami_map
from fiberifu.surveys.sdss import read_sdss_fiber
from fiberifu.surveys.sdss_frame import read_sdss_frame
from fiberifu.surveys.unwise import read_unwise

__all__ = [
    "BrickIndex",
    "DAPQuality",
    "DRPQuality",
    "FiberFlag",
    "cut_image",
    "extract_fibers",
    "fetch_cutout",
    "fetch_psf",
    "fiber_context",
    "fiber_spectrum",
    "find_desi",
    "is_good_galaxy",
    "list_desi",
    "match_fibers",
    "match_images",
    "read_des",
    "read_desi",
    "read_desi_targets",
    "read_drpall",
    "read_image",
    "read_legacysurvey",
    "read_legacysurvey_brick",
    "read_manga_cube",
    "read_manga_maps",
    "read_manga_spectra",
    "read_ps1",
    "read_sami_cube",
    "read_sami_map",
    "read_sdss_fiber",
    "read_sdss_frame",
    "read_tractor",
    "read_unwise",
    "select_galaxies",
    "spaxel_weights",
    "take_fibers",
]
