# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The tidy table: one row per number, ``scores of all draws -> value, 16 %, 84 %``."""

from .bootstrap import interval

__all__ = ["ScoreTable"]


class ScoreTable:
    """Collects rows.

    Parameters
    ----------
    weights : ndarray (1 + draws, G)

    Attributes
    ----------
    rows : list of dict
        ``predictor, quantity, region, stratum, score, value, low, high, galaxies, spaxels``.
    """

    def __init__(self, weights):
        self.weights = weights
        self.rows = []
        self._draws = {}

    def add(self, predictor, quantity, region, stratum, values, galaxies, spaxels):
        """Rows of scores: ``values`` maps names to ndarrays (1 + draws,)."""
        for score, draws in values.items():
            self._draws[predictor, quantity, region, stratum, score] = draws
            self._row(predictor, quantity, region, stratum, score, draws, galaxies, spaxels)

    def _row(self, predictor, quantity, region, stratum, score, draws, galaxies, spaxels):
        value, low, high = interval(draws, galaxies)
        self.rows.append(
            dict(predictor=predictor, quantity=quantity, region=region, stratum=stratum, score=score, value=value,
                 low=low, high=high, galaxies=int(galaxies), spaxels=int(spaxels))
        )  # fmt: skip

    def compare(self, reference):
        """Rows of paired differences: each score less that of the method ``reference`` on the same draws."""
        for row in list(self.rows):
            key = tuple(row[name] for name in ("quantity", "region", "stratum", "score"))
            own, other = (self._draws.get((name, *key)) for name in (row["predictor"], reference))
            if row["predictor"] != reference and own is not None and other is not None:
                *where, score = key
                self._row(row["predictor"], *where, f"{score}, minus {reference}", own - other, row["galaxies"],
                          row["spaxels"])  # fmt: skip
