# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How good predictions are, and how realistic the simulated universe is.

``held-out galaxies (TruthMaps) + predictors (PredictedMaps) -> metrics, calibration -> report``; beside it `realism`:
simulated galaxies against real ones.
"""

from .baselines import CentralTimesLight, FiberTrees, IFUTrees, LightTimesEW, PatchRidge, PositionOnly
from .fiber_sample import LineSample, sample_fibers, sample_spaxels
from .maps import PredictedMaps, Predictor, TruthMaps
from .nulls import Blank, NoiseFloor, Shuffled

__all__ = [
    "Blank",
    "CentralTimesLight",
    "FiberTrees",
    "IFUTrees",
    "LightTimesEW",
    "LineSample",
    "NoiseFloor",
    "PatchRidge",
    "PositionOnly",
    "PredictedMaps",
    "Predictor",
    "Shuffled",
    "TruthMaps",
    "sample_fibers",
    "sample_spaxels",
]
