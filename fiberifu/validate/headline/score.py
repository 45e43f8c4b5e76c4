# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The scores of the curves with all their draws: ``predictions, truths -> pooled -> scores (1 + draws,) -> rows``.

As `fiberifu.validate.measure_scores` defines them, of what the curves show; draws are kept, so that an arm between two
others can be placed on each of them.
"""

import numpy as np

from .. import scores
from ..bootstrap import Bootstrap, interval
from ..pooling import pool_predictions, pool_truths
from ..predictors import NetworkPredictor, observed_image, sky_positions
from ..spaxels import QUANTITIES, complete

__all__ = ["CURVES", "ONLY_LIGHT", "LinePredictor", "curve_draws", "curve_rows"]

#: Scores of the curves, and whether more is better.
CURVES = {"R2 log EW": True, "MAE log EW [dex]": False, "r after r-band": True}
#: Methods without a word on lines beyond light: "r after r-band" is not set beside theirs, being none by construction.
ONLY_LIGHT = ("constant", "central")
REGIONS = ("whole", "off-centre")


class LinePredictor(NetworkPredictor):
    """`~fiberifu.validate.NetworkPredictor` without spectra, quantiles and covariances: three times as fast.

    Parameters
    ----------
    ifu : `~fiberifu.VirtualIFU`
    name : str
    """

    def __init__(self, ifu, name):
        from ...output import settings_hash

        super().__init__(ifu, name=name)
        self.key = settings_hash({"of": self.key, "what": "lines alone"})

    def predict(self, galaxy):
        """As `fiberifu.validate.Predictor.predict`."""
        import astropy.units as u

        from ...model import LINES
        from ..maps import PredictedMaps

        image = observed_image(galaxy)
        prediction = self.ifu.predict(image, sky_positions(galaxy, image), redshift=galaxy.redshift,
                                      wavelength=galaxy.wave * u.AA)  # fmt: skip
        maps = prediction.line_maps(LINES)

        def table(quantity, error=False):
            columns = []
            for line in LINES:
                data = getattr(maps, quantity)[line]
                value = data.uncertainty.array if error else data.data
                columns.append(np.where(maps.flux[line].mask, np.nan, value))
            return np.stack(columns, 1).astype(np.float32)

        return PredictedMaps(flux=table("flux"), flux_sigma=table("flux", error=True), ew=table("ew"),
                             ew_sigma=table("ew", error=True))  # fmt: skip


def curve_draws(predictions, truths, *, seed=0, draws=500):
    """Scores of all methods on the same spaxels of the same bootstrap samples.

    Parameters
    ----------
    predictions : dict of str to list of PredictedMaps
    truths : list of TruthMaps
    seed, draws : int

    Returns
    -------
    dict of (str, str, str, str) to (ndarray (1 + draws,), int, int)
        (method, quantity, region, score) -> the score, then those of the draws; galaxies; spaxels.

    Notes
    -----
    Where a method has no answer, it counts as a line that is absent, as among competing methods of `measure_scores`.
    """
    spaxels = pool_truths(truths)
    weights = Bootstrap(len(truths), draws, seed).weights
    out = {}
    for name, maps in predictions.items():
        answers = complete(spaxels, pool_predictions(maps, truths))
        for i, quantity in enumerate(QUANTITIES):
            known = np.isfinite(spaxels.ew[:, i]) & np.isfinite(answers.ew[:, i]) & spaxels.selected(quantity)
            floors = spaxels.floor(quantity)
            for region in REGIONS:
                where = np.flatnonzero(known & spaxels.region(region))
                if not len(where):
                    continue
                galaxy = spaxels.galaxy[where]
                found = _scores(spaxels, answers, i, where, floors, weights)
                for score, values in found.items():
                    out[name, quantity, region, score] = values, len(np.unique(galaxy)), len(where)
    return out


def _scores(spaxels, answers, i, where, floors, weights):
    galaxy = spaxels.galaxy[where]
    ew = np.log10(spaxels.ew[where, i]), np.log10(np.maximum(answers.ew[where, i], floors[0]))
    flux = np.log10(spaxels.flux[where, i]), np.log10(np.maximum(answers.flux[where, i], floors[1][where]))
    lit = spaxels.light[where] > 0
    light = np.log10(spaxels.light[where][lit])
    return {
        "R2 log EW": scores.r2(*ew, galaxy, weights),
        "MAE log EW [dex]": scores.mae(*ew, galaxy, weights),
        "r after r-band": scores.correlation_after(flux[0][lit], flux[1][lit], light, galaxy[lit], weights),
    }


def curve_rows(draws, about):
    """Tidy rows of `curve_draws`.

    Parameters
    ----------
    draws : dict
    about : dict of str to dict
        Method -> what is said of it in each of its rows: kind, training galaxies, placement.

    Returns
    -------
    list of dict
        predictor, quantity, region, stratum ("all"), score, value, low, high (16 and 84 %), galaxies, spaxels. No
        "r after r-band" of methods that are `ONLY_LIGHT`.
    """
    rows = []
    for (name, quantity, region, score), (values, galaxies, spaxels) in draws.items():
        if score == "r after r-band" and about.get(name, {}).get("method") in ONLY_LIGHT:
            continue
        value, low, high = interval(values, galaxies)
        rows.append({"predictor": name, "quantity": quantity, "region": region, "stratum": "all", "score": score,
                     "value": value, "low": low, "high": high, "galaxies": galaxies, "spaxels": spaxels,
                     **about.get(name, {})})  # fmt: skip
    return rows
