# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Does it work? The same network on one fibre per galaxy and on cubes, and how many cubes the fibres are worth.

``Plan -> train_arms -> samples of baselines -> score -> worth -> curves, page``
"""

from .plan import SIZES, Arm, Plan
from .run import train_arms

__all__ = ["SIZES", "Arm", "Plan", "train_arms"]
