# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What baselines learn from: ``survey of an arm -> its galaxies, one after the other -> measured lines (LineSample)``.

Fibres and apertures of cubes are those of the arm's training, with the same noise. A survey of fewer galaxies is the
beginning of one of more.
"""

import numpy as np

from ...output import settings_hash
from ..fiber_sample import _grow, _Maker, _sampling_sha256, simulator_sha256

__all__ = ["sample_survey"]

BATCH = 16  # galaxies simulated together


def sample_survey(recipe, pack, path=None, *, per_galaxy=1, progress=None):
    """Positions of all galaxies of a finite survey, in the order of their numbers, with measured lines.

    Parameters
    ----------
    recipe : `~fiberifu.train.Recipe`
        With a ``survey``.
    pack : dict
        Template pack.
    path : path-like, optional
        npz in which they are kept; an interrupted run goes on.
    per_galaxy : int
        Positions of each galaxy: of its fibres, those of the first visit that reads as many.
    progress : callable, optional
        Called with the number of positions at hand.

    Returns
    -------
    `~fiberifu.validate.LineSample`
        ``galaxy`` are numbers within the seed, so that those of a smaller survey can be picked out.

    Raises
    ------
    ValueError
        For a recipe without a survey; or a ``path`` of other settings.
    """
    from ...simulate.identifiers import pack_sha256

    if recipe.survey is None:
        raise ValueError("recipe: has no [survey]; sample_fibers takes such recipes")
    key = settings_hash({"kind": "survey", "recipe": recipe.sha256(), "per_galaxy": per_galaxy, "batch": BATCH,
                         "pack": pack_sha256(pack), "simulator": simulator_sha256(),
                         "code": _sampling_sha256()})  # fmt: skip
    maker = _SurveyMaker(recipe, pack, per_galaxy)
    return _grow(path, key, recipe.survey.galaxies * per_galaxy, maker, progress)


class _SurveyMaker(_Maker):
    """Parts of `BATCH` galaxies, as `fiberifu.validate.fiber_sample` joins them."""

    def __init__(self, recipe, pack, per_galaxy):
        import dataclasses

        from ...train import FiniteSurvey
        from ...train.batches import _batch_seed

        super().__init__(recipe, pack)
        self.kind = "fibres" if recipe.survey.instrument == "desi" else "spaxels"
        survey = dataclasses.replace(recipe.survey, positions=per_galaxy)
        self.survey = FiniteSurvey(self.simulator(recipe.simulator), survey, _batch_seed(recipe.seed, 0))
        self.survey.visits = self._in_order

    def _in_order(self, step, n):
        """In place of `FiniteSurvey.visits`: everything once."""
        index = self.survey.galaxies[step * BATCH : step * BATCH + n]
        return np.zeros(len(index), int), index

    def part(self, number):
        """Arrays of the positions of `BATCH` galaxies; None after the last."""
        left = len(self.survey.galaxies) - number * BATCH
        if left <= 0:
            return None
        batch = self.survey.batch(number, min(left, BATCH))
        return self.measured(batch, batch["galaxy"][batch["fiber_galaxy"]].numpy(), self.recipe.model)
