# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How good predictions are, and how realistic the simulated universe is.

``held-out galaxies (TruthMaps) + predictors (PredictedMaps) -> metrics, calibration -> report``; beside it `realism`:
simulated galaxies against real ones.
"""

from .baselines import CentralTimesLight, FiberTrees, IFUTrees, LightTimesEW, PatchRidge, PositionOnly
from .calibration import measure_calibration
from .fiber_sample import LineSample, sample_fibers, sample_spaxels
from .held_out import HeldOutSet
from .judge import judge, read_predictions
from .maps import LEVELS, PredictedMaps, Predictor, TruthMaps
from .maps_job import judge_to_page, validate_maps_to_folder
from .metrics import measure_scores
from .nulls import Blank, NoiseFloor, Shuffled
from .ood import find_failures, ood_roc
from .predictors import NetworkPredictor
from .survey_truth import correlated_sigma, match_psf

__all__ = [
    "Blank",
    "CentralTimesLight",
    "FiberTrees",
    "HeldOutSet",
    "IFUTrees",
    "LEVELS",
    "LightTimesEW",
    "LineSample",
    "NetworkPredictor",
    "NoiseFloor",
    "PatchRidge",
    "PositionOnly",
    "PredictedMaps",
    "Predictor",
    "Shuffled",
    "TruthMaps",
    "correlated_sigma",
    "find_failures",
    "judge",
    "judge_to_page",
    "match_psf",
    "measure_calibration",
    "measure_scores",
    "ood_roc",
    "read_predictions",
    "sample_fibers",
    "sample_spaxels",
    "validate_maps_to_folder",
]
