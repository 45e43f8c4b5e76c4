# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The measures: robust statistics with bootstrap errors, distances between samples, indices of spectra.

Everything takes and gives plain arrays.
"""

import numpy as np

__all__ = [
    "bootstrap",
    "central_scatter",
    "dn4000",
    "energy_distance",
    "fit_line",
    "matched_indices",
    "quadratic",
    "residual_scatter",
    "ridge_distance",
    "running_median",
]

#: Blue and red window of Dn(4000), vacuum Angstrom (Balogh et al. 1999, ApJ 527, 54; 3850-3950 and 4000-4100 in air).
DN4000_WINDOWS = ((3851.1, 3951.1), (4001.1, 4101.2))


def bootstrap(statistic, *samples, draws=200, seed=0):
    """Value of a statistic and its 1-sigma error: half the central 68 % over resampled rows.

    Parameters
    ----------
    statistic : callable
        Takes the samples.
    *samples : array_like, shape (n,) or (n, ...)
        Samples of one length are resampled together, row by row.
    draws, seed : int

    Returns
    -------
    value, error : float
        The error is NaN with fewer than three rows.

    Raises
    ------
    ValueError
        If the samples differ in length.
    """
    samples = [np.asarray(s) for s in samples]
    n = len(samples[0])
    if any(len(s) != n for s in samples):
        raise ValueError(f"samples: lengths {[len(s) for s in samples]}; rows are resampled together, give one length")
    if n < 3:
        return (float(statistic(*samples)) if n else np.nan), np.nan
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        rows = rng.integers(0, n, n)
        values.append(statistic(*[s[rows] for s in samples]))
    low, high = np.nanpercentile(values, [15.87, 84.13])
    return float(statistic(*samples)), float((high - low) / 2)


def central_scatter(x):
    """Half of the central 68 %: 1 sigma of a Gaussian, deaf to wings."""
    low, high = np.percentile(x, [15.87, 84.13])
    return (high - low) / 2


def quadratic(*columns):
    """Design matrix of all terms up to second order in the columns."""
    columns = [np.asarray(c, dtype=float) for c in columns]
    terms = [np.ones_like(columns[0]), *columns]
    terms += [a * b for i, a in enumerate(columns) for b in columns[i:]]
    return np.stack(terms, 1)


def residual_scatter(y, *columns):
    """Scatter of ``y`` at fixed columns: half of the central 68 % about a quadratic in them, fitted twice.

    The second fit leaves out what lies more than three scatters from the first. The scatter counts the degrees of
    freedom that the fit has used.
    """
    y, design = np.asarray(y, dtype=float), quadratic(*columns)
    keep = np.ones(len(y), dtype=bool)
    for _ in range(2):
        coefficients = np.linalg.lstsq(design[keep], y[keep], rcond=None)[0]
        residual = y - design @ coefficients
        scatter = central_scatter(residual)
        keep = np.abs(residual) <= 3 * max(scatter, 1e-12)
    used = design.shape[1]
    return scatter * np.sqrt(len(y) / max(len(y) - used, 1))


def fit_line(x, y, pivot=0.0):
    """Slope, value at the pivot, and scatter of a straight line; ordinary least squares, 3-sigma outliers left out."""
    x, y = np.asarray(x, dtype=float) - pivot, np.asarray(y, dtype=float)
    keep = np.ones(len(x), dtype=bool)
    for _ in range(3):
        slope, value = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1)[keep], y[keep], rcond=None)[0]
        residual = y - slope * x - value
        scatter = central_scatter(residual)
        keep = np.abs(residual) <= 3 * max(scatter, 1e-12)
    return slope, value, scatter


def energy_distance(a, b, *, limit=1500, seed=0):
    """Energy distance between two samples in one or more dimensions (Székely & Rizzo 2013, J. Stat. Plan. Inf. 143).

    The square root of ``2 E|A - B| - E|A - A'| - E|B - B'|``, in the root of the unit of the data, without the
    bias of small samples; 0 where sampling noise makes it negative.

    Parameters
    ----------
    a, b : array_like, shape (n,) or (n, d)
    limit : int
        Larger samples are thinned to this many rows.
    """
    from scipy.spatial.distance import cdist, pdist

    rng = np.random.default_rng(seed)

    def prepared(x):
        x = np.asarray(x, dtype=float).reshape(len(x), -1)
        return x if len(x) <= limit else x[rng.choice(len(x), limit, replace=False)]

    a, b = prepared(a), prepared(b)
    between = cdist(a, b).mean()
    return float(np.sqrt(max(2 * between - pdist(a).mean() - pdist(b).mean(), 0)))


def matched_indices(points, pool, scale, *, reach=1.0):
    """For every point the nearest member of a pool, and whether it is near enough.

    Parameters
    ----------
    points, pool : array_like, shape (n, d), (m, d)
    scale : array_like, shape (d,)
        What counts as one unit of distance on each axis.
    reach : float
        Largest distance, in these units.

    Returns
    -------
    index : ndarray (n,) of int
        Into ``pool``.
    near : ndarray (n,) of bool
    """
    from scipy.spatial import cKDTree

    scale = np.asarray(scale, dtype=float)
    distance, index = cKDTree(np.asarray(pool) / scale).query(np.asarray(points) / scale)
    return index, distance <= reach


def running_median(x, y, edges):
    """Centres of the bins that hold at least eight points, their medians, and the central scatter in them."""
    centre, median, scatter = [], [], []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (x >= low) & (x < high)
        if inside.sum() >= 8:
            centre.append((low + high) / 2)
            median.append(np.median(y[inside]))
            scatter.append(central_scatter(y[inside]))
    return np.array(centre), np.array(median), np.array(scatter)


def dn4000(wave, flux):
    """Dn(4000): ratio of the mean flux per frequency at 4000-4100 to that at 3850-3950 (Balogh et al. 1999).

    Parameters
    ----------
    wave : array_like, shape (n,)
        Rest frame, vacuum, Angstrom.
    flux : array_like, shape (..., n)
        Per wavelength.

    Returns
    -------
    ndarray, shape (...)
        NaN where the wavelengths do not reach over both windows.
    """
    wave, flux = np.asarray(wave, dtype=float), np.asarray(flux, dtype=float)
    step = np.gradient(wave)
    per_frequency = flux * wave**2
    if wave[0] > DN4000_WINDOWS[0][0] or wave[-1] < DN4000_WINDOWS[1][1]:
        return np.full(flux.shape[:-1], np.nan)
    blue, red = (
        (per_frequency * step)[..., inside].sum(-1) / step[inside].sum()
        for inside in ((wave > low) & (wave < high) for low, high in DN4000_WINDOWS)
    )
    return red / blue


def ridge_distance(x, y, ridge, *, low=-2.0, high=-0.1):
    """Signed distance in the plane of points from a falling curve, dex; positive above and to the right.

    Parameters
    ----------
    x, y : array_like, shape (n,)
    ridge : callable
        y of the curve at x.
    low, high : float
        The curve counts between these x.
    """
    grid = np.linspace(low, high, 1500)
    curve = ridge(grid)
    keep = np.isfinite(curve) & (curve > -3)
    grid, curve = grid[keep], curve[keep]
    x, y = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    distance = np.empty(len(x))
    for start in range(0, len(x), 2000):
        part = slice(start, start + 2000)
        distance[part] = np.hypot(x[part, None] - grid, y[part, None] - curve).min(1)
    return np.where(y > np.interp(x, grid, curve), distance, -distance)
