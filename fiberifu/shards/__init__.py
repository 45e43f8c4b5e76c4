# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From survey files to records for training: what ``fiberifu shards`` does.

``DESI tree --plan--> galaxies in units --unit--> spectra (DESI) + stamps (bricks) -> shards (fiberifu.train.shards)``
"""

from .job import shards_to_folder

__all__ = ["shards_to_folder"]
