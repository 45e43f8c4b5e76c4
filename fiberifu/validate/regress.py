# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Learning from noisy lines: ``features, measured value and error -> regression of asinh(value), with its spread``.

Fibres differ in noise by a factor of a hundred. Weights and the slope of asinh are taken at the *predicted* value: at
the measured one, whatever noise has scattered up would count more. And asinh of a noisy value is on average too small:
where noise matters, its tangent at the prediction takes its place, in which noise averages out.
"""

import numpy as np

__all__ = ["LineRegression", "make_ridge", "make_trees"]

#: Scatter of asinh(EW) around a prediction, for the weights: about what trees on colours leave of H-alpha.
SCATTER = 0.7
#: Noise in asinh from which on its tangent is used alone; mixed in proportion below.
NOISY = 0.5
#: Largest deviation of a value from the prediction that counts, in asinh.
OUTLIER = 4.0
FOLDS = 3
BIN = 400  # values in a bin of predicted value, for the spread
LEAST = 60  # values that a line must have
QUANTILES = np.arange(1, 250) / 250  # edges of the bins of features


class LineRegression:
    """asinh(value / 1 unit) of one line as a function of features.

    Three models of two thirds of the galaxies predict the rest; at their predictions p, weights
    ``1 / (scatter^2 + noise^2)`` and targets are evaluated for the final model: asinh(value) where the noise is small,
    its tangent ``p + (value - sinh p) / cosh p`` where it is not. The spread around a prediction is that of the
    out-of-fold residuals beyond their noise, in bins of predicted value.

    Parameters
    ----------
    make : callable
        Makes an estimator with ``fit(x, y, sample_weight)`` and ``predict(x)``.
    x : ndarray (n, m)
    value, sigma : ndarray (n,)
        Measured, 1 sigma; rows that are not finite are left out.
    group : ndarray (n,)
        Rows of one galaxy are in one fold.

    Raises
    ------
    ValueError
        For fewer than `LEAST` usable values.
    """

    def __init__(self, make, x, value, sigma, group):
        GroupKFold = _sklearn("model_selection").GroupKFold
        use = np.isfinite(value) & np.isfinite(sigma)
        if use.sum() < LEAST or len(np.unique(group[use])) < FOLDS:
            raise ValueError(f"value has {use.sum()} usable entries; at least {LEAST} are needed: make a larger sample")
        x, value, sigma, group = x[use], value[use], sigma[use], group[use]
        y = np.arcsinh(value)
        first, noise = np.empty_like(y), sigma / np.cosh(np.median(y))
        for train, test in GroupKFold(FOLDS).split(x, y, group):
            model = make()
            model.fit(x[train], y[train], sample_weight=1 / (SCATTER**2 + noise[train] ** 2))
            first[test] = model.predict(x[test])
        noise = sigma / np.cosh(first)
        tangent = first + (value - np.sinh(first)) / np.cosh(first)
        share = np.minimum(noise / NOISY, 1.0)
        y = first + np.clip(share * tangent + (1 - share) * y - first, -OUTLIER, OUTLIER)
        self.model = make()
        self.model.fit(x, y, sample_weight=1 / (SCATTER**2 + noise**2))
        self.centre, self.spread = _spread(first, y - first, noise)

    def predict(self, x):
        """Value and its error (n,): the median in asinh, and the spread there brought to the value."""
        y = self.model.predict(x)
        spread = np.interp(y, self.centre, self.spread)
        return np.sinh(y), np.cosh(y) * spread


def _spread(predicted, residual, noise):
    """Standard deviation beyond the noise, in bins of predicted value: their centres and values."""
    order = np.argsort(predicted)
    bins = np.array_split(order, max(len(order) // BIN, 1))
    centre = np.array([predicted[b].mean() for b in bins])
    variance = []
    for b in bins:
        weight = 1 / (SCATTER**2 + noise[b] ** 2) ** 2
        variance.append(np.sum(weight * (residual[b] ** 2 - noise[b] ** 2)) / np.sum(weight))
    return centre, np.sqrt(np.maximum(variance, 0.05**2))


def make_trees(trees=200, leaves=16, least=30, seed=0):
    """Gradient-boosted trees of so many leaves with at least so many rows; a missing feature is a value of its own."""
    return _Trees(max_iter=trees, max_leaf_nodes=leaves, min_samples_leaf=least, random_state=seed)


class _Trees:
    """HistGradientBoostingRegressor on quantiles of the features: its own, weighted, take longer than the trees."""

    def __init__(self, **settings):
        # no early stopping: its random split would put spaxels of one galaxy on both sides
        make = _sklearn("ensemble").HistGradientBoostingRegressor
        self.trees = make(learning_rate=0.05, early_stopping=False, **settings)

    def fit(self, x, y, sample_weight):
        self.edges = [
            np.unique(np.quantile(c[np.isfinite(c)], QUANTILES)) if np.isfinite(c).any() else c[:0] for c in x.T
        ]
        self.trees.fit(self._bin(x), y, sample_weight=sample_weight)
        return self

    def predict(self, x):
        return self.trees.predict(self._bin(x))

    def _bin(self, x):
        columns = [np.searchsorted(edges, c).astype(float) for edges, c in zip(self.edges, x.T, strict=True)]
        return np.where(np.isfinite(x), np.column_stack(columns), np.nan)


def make_ridge():
    """Ridge regression on standardised features; missing ones are at their mean, the penalty is cross-validated."""
    return _Ridge()


class _Ridge:
    def fit(self, x, y, sample_weight):
        pipeline = _sklearn("pipeline")
        self.steps = pipeline.make_pipeline(
            _sklearn("impute").SimpleImputer(keep_empty_features=True),
            _sklearn("preprocessing").StandardScaler(),
            _sklearn("linear_model").RidgeCV(alphas=10.0 ** np.arange(-1, 6)),
        )
        self.steps.fit(x, y, ridgecv__sample_weight=sample_weight / sample_weight.mean())
        return self

    def predict(self, x):
        return self.steps.predict(x)


def _sklearn(module):
    """A module of scikit-learn, an optional dependency."""
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError("baselines need scikit-learn: pip install 'fiberifu[validate]'") from error
