# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The DESI Legacy Imaging Surveys: cutouts of the viewer, bricks of the coadds, Tractor catalogues, and a way to fetch.

``fetch -> cutout file``; ``cutout, brick -> {band: CCDData}``; ``tractor -> QTable``.  Pixels are nanomaggy, AB zero
point 22.5, not corrected for Galactic extinction.  Formats: https://www.legacysurvey.org/dr9/files and
https://www.legacysurvey.org/viewer.
"""

from fiberifu.surveys.legacysurvey.brick import BrickIndex, read_legacysurvey_brick
from fiberifu.surveys.legacysurvey.cutout import read_legacysurvey
from fiberifu.surveys.legacysurvey.fetch import fetch_cutout, fetch_psf
from fiberifu.surveys.legacysurvey.tractor import read_tractor

__all__ = ["BrickIndex", "fetch_cutout", "fetch_psf", "read_legacysurvey", "read_legacysurvey_brick", "read_tractor"]
