# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How good predictions are, and how realistic the simulated universe is.

``held-out galaxies (TruthMaps) + predictors (PredictedMaps) -> metrics, calibration -> report``; beside it `realism`:
simulated galaxies against real ones.
"""

from .calibration import measure_calibration
from .held_out import HeldOutSet
from .judge import judge, read_predictions
from .maps import PredictedMaps, Predictor, TruthMaps
from .metrics import measure_scores
from .predictors import NetworkPredictor
from .survey_truth import correlated_sigma, match_psf

__all__ = [
    "HeldOutSet",
    "NetworkPredictor",
    "PredictedMaps",
    "Predictor",
    "TruthMaps",
    "correlated_sigma",
    "judge",
    "match_psf",
    "measure_calibration",
    "measure_scores",
    "read_predictions",
]
