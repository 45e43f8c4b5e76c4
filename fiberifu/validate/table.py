# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The tidy table: one row per number, ``scores of all draws -> value, 16 %, 84 %``."""

import numpy as np

from .bootstrap import FEWEST, SURE, interval

__all__ = ["ScoreTable"]


class ScoreTable:
    """Collects rows.

    Parameters
    ----------
    weights : ndarray (1 + draws, G)

    Attributes
    ----------
    rows : list of dict
        ``predictor, quantity, region, stratum, score, value, low, high, galaxies, spaxels``; of differences also
        ``low95, high95``.
    """

    def __init__(self, weights):
        self.weights = weights
        self.rows = []
        self._draws = {}

    def add(self, predictor, quantity, region, stratum, values, galaxies, spaxels):
        """Rows of scores: ``values`` maps names to ndarrays (1 + draws,), or to value, low, high that are known."""
        key = predictor, quantity, region, stratum
        for score, draws in values.items():
            if isinstance(draws, tuple):
                ends = draws[1:] if galaxies >= FEWEST else (None, None)
                self._row(key, score, (draws[0], *ends), galaxies, spaxels)
                continue
            self._draws[*key, score] = draws, int(spaxels)
            self._row(key, score, interval(draws, galaxies), galaxies, spaxels)

    def _row(self, key, score, found, galaxies, spaxels, **more):
        names = ("predictor", "quantity", "region", "stratum")
        value, low, high = found
        self.rows.append(
            dict(zip(names, key, strict=True), score=score, value=value, low=low, high=high, **more,
                 galaxies=int(galaxies), spaxels=int(spaxels))
        )  # fmt: skip

    def compare(self, reference, methods=None, floored=()):
        """Rows of paired differences: each score less that of the method ``reference`` on the same draws.

        Of ``methods``, by default all others, where both were scored on the same number of positions: else it would be
        other positions that make the difference. 2.5 and 97.5 % of the draws, ``low95`` and ``high95``, are for
        verdicts. Of scores whose names start with one of ``floored`` the reference's counts as 0 at least: rows are
        then named "<score>, minus max(0, <reference>)".
        """
        for row in list(self.rows):
            name, *place = key = tuple(row[part] for part in ("predictor", "quantity", "region", "stratum"))
            own, other = (self._draws.get((one, *place, row["score"])) for one in (name, reference))
            if name == reference or (methods is not None and name not in methods) or own is None or other is None:
                continue
            if own[1] == other[1]:
                floor = row["score"].startswith(floored)
                difference = own[0] - (np.maximum(other[0], 0) if floor else other[0])
                against = f"max(0, {reference})" if floor else reference
                _, low, high = interval(difference, row["galaxies"], SURE)
                self._row(key, f"{row['score']}, minus {against}", interval(difference, row["galaxies"]),
                          row["galaxies"], row["spaxels"], low95=low, high95=high)  # fmt: skip
