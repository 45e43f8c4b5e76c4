# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of survey files: each turns a survey's own format into objects of astropy."""

from fiberifu.surveys.des import read_des
from fiberifu.surveys.legacysurvey import read_legacysurvey

__all__ = ["read_des", "read_legacysurvey"]
