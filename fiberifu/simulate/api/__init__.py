# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The simulated universe for scripts, with units: a `Galaxy`, and what telescopes see of it.

``Galaxy -> Imager.decals().observe -> {band: CCDData}``, as `~fiberifu.VirtualIFU` takes it;
``-> FibreSpectrograph.desi().observe``, ``-> IFU.manga().observe -> Spectrum``, with true `~fiberifu.lines.LineMaps`.
"""

from .galaxy import Galaxy
from .instruments import IFU, FibreSpectrograph, Imager

__all__ = ["FibreSpectrograph", "Galaxy", "IFU", "Imager"]
