# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One number of a galaxy, or a few, from its positions: sums in 1 Re, radial profiles, metallicity gradients.

Neighbouring apertures overlap, so fluxes are never added: sums are of surface brightness x area of a cell of the grid.
"""

import numpy as np
from scipy.spatial.distance import pdist, squareform

from .bootstrap import galaxy_sums
from .maps import APERTURE_AREA, LEVELS
from .quantiles import quantiles_at
from .spaxels import EW_LIMIT, EW_LIMIT_HB, SNR_LIMIT
from .survey_truth import correlated_sigma

__all__ = [
    "BINS",
    "coherent_quantiles",
    "coherent_sigma",
    "galaxy_gradient",
    "o3n2_metallicity",
    "radial_profiles",
    "selected_sums",
    "sums_in_re",
    "truth_sigma",
]

#: Edges of the bins of radius, effective radii.
BINS = (0.0, 0.4, 0.8, 1.2, 1.6)

SPAXEL_AREA = 0.5**2  # of MaNGA's cubes, arcsec2
FEWEST = 5  # positions in a sum, or in a bin of a profile
FEWEST_GRADIENT = 10
BASELINE = 0.15  # rms of the radii of a gradient, Re: that of positions evenly from 0 to 0.5


def o3n2_metallicity(log_o3n2):
    """12 + log(O/H) = 8.533 - 0.214 O3N2; Marino et al. (2013, A&A 559, A114), eq. 2, for -1.1 < O3N2 < 1.7.

    O3N2 = log([O III] 5007 / H-beta x H-alpha / [N II] 6583).
    """
    return 8.533 - 0.214 * np.asarray(log_o3n2)


def sums_in_re(spaxels, values, ok, *, power=1):
    """Sum over the positions within 1 Re of each galaxy.

    Parameters
    ----------
    spaxels : `~fiberifu.validate.spaxels.Spaxels`
    values : ndarray (N,)
        Fluxes in the aperture; with ``power`` 2 their variances.
    ok : ndarray (N,) of bool
        Positions that have a value: the others are left out of all sums.
    power : {1, 2}
        Of cell area / aperture area, by which values are scaled. (Variances with 1: those of apertures side by side.)

    Returns
    -------
    ndarray (G,)
        1e-17 erg/s/cm2 (squared with ``power`` 2: the variance, for errors independent from position to position);
        NaN below 5 positions.
    """
    where = np.flatnonzero(ok & (spaxels.radius < 1))
    count, total = galaxy_sums(spaxels.galaxy[where], spaxels.size, 1, values[where])
    return np.where(count >= FEWEST, total * (spaxels.cell / APERTURE_AREA) ** power, np.nan)


def coherent_sigma(spaxels, sigma, ok, coherence):
    """1-sigma errors of sums in 1 Re whose positions err together: ``sqrt(sum_ij rho_ij sigma_i sigma_j)``.

    Parameters
    ----------
    spaxels : `~fiberifu.validate.spaxels.Spaxels`
    sigma : ndarray (N,)
        Errors of fluxes in the aperture.
    ok : ndarray (N,) of bool
        As of `sums_in_re`.
    coherence : ndarray (G, 2)
        Amplitude and length of the correlation ``rho = amplitude exp(-distance / length)``; rho of a position with
        itself is 1.

    Returns
    -------
    ndarray (G,)
        1e-17 erg/s/cm2; NaN below 5 positions.
    """
    where = np.flatnonzero(ok & (spaxels.radius < 1))
    count = np.bincount(spaxels.galaxy[where], minlength=spaxels.size)
    ends = np.cumsum(count)
    variance = np.full(spaxels.size, np.nan)
    for i in np.flatnonzero(count >= FEWEST):
        rows = where[ends[i] - count[i] : ends[i]]
        amplitude, length = coherence[i]
        s, rho = sigma[rows], amplitude * np.exp(-pdist(spaxels.place[rows]) / length)
        first, second = np.triu_indices(len(rows), 1)
        variance[i] = (s**2).sum() + 2 * (rho * s[first] * s[second]).sum()
    return np.sqrt(variance) * spaxels.cell / APERTURE_AREA


def coherent_quantiles(spaxels, quantiles, ok, coherence, *, draws=1000, seed=0):
    """Quantiles of sums in 1 Re whose positions err together, each by a distribution of its own: a Gaussian copula.

    Normal variables of the correlation ``amplitude exp(-distance / length)`` become fluxes by the quantile functions of
    their positions (Nelsen 2006, An Introduction to Copulas, 2.3), as coherent draws of a prediction do. Intervals are
    then as skewed as those of the positions.

    Parameters
    ----------
    spaxels : `~fiberifu.validate.spaxels.Spaxels`
    quantiles : ndarray (N, K)
        Of fluxes in the aperture, at `~fiberifu.validate.maps.LEVELS`; finite where ``ok``.
    ok : ndarray (N,) of bool
        As of `sums_in_re`.
    coherence : ndarray (G, 2)
        As of `coherent_sigma`.
    draws, seed : int
        Of the normal variables; those of a galaxy are its own.

    Returns
    -------
    ndarray (G, K)
        1e-17 erg/s/cm2; NaN below 5 positions.
    """
    where = np.flatnonzero(ok & (spaxels.radius < 1))
    count = np.bincount(spaxels.galaxy[where], minlength=spaxels.size)
    ends = np.cumsum(count)
    out = np.full((spaxels.size, len(LEVELS)), np.nan)
    for i in np.flatnonzero(count >= FEWEST):
        rows = where[ends[i] - count[i] : ends[i]]
        amplitude, length = coherence[i]
        rho = amplitude * np.exp(-squareform(pdist(spaxels.place[rows])) / length)
        np.fill_diagonal(rho, 1 + 1e-9)  # positive, to rounding, where all err as one
        normal = np.random.default_rng([seed, i]).standard_normal((len(rows), draws))
        fluxes = quantiles_at(np.linalg.cholesky(rho) @ normal, quantiles[rows])
        out[i] = np.quantile(fluxes.sum(0), LEVELS)
    return out * (spaxels.cell / APERTURE_AREA)[:, None]


def truth_sigma(spaxels, quantity, ok):
    """1-sigma errors (G,) of true sums in 1 Re from known errors of the truth in apertures on MaNGA's cubes.

    Errors of apertures side by side add up as independent ones do, but for the covariance of spaxels: it makes the
    error of n of them larger by a factor that depends on n (`~fiberifu.validate.correlated_sigma`). That of an aperture
    is in its error already, so what counts is the ratio of the factors of sum and aperture. Zero for errorless truth.
    """
    if spaxels.variance is None:
        return np.zeros(spaxels.size)
    side_by_side = np.sqrt(sums_in_re(spaxels, spaxels.variance[0][:, spaxels.column(quantity)], ok))
    area = np.bincount(spaxels.galaxy[ok & (spaxels.radius < 1)], minlength=spaxels.size) * spaxels.cell
    whole, aperture = (correlated_sigma(1.0, np.maximum(a / SPAXEL_AREA, 1)) for a in (area, APERTURE_AREA))
    return side_by_side * whole / aperture


def selected_sums(spaxels, quantity, ok):
    """True sums in 1 Re, their 1-sigma depth, and the galaxies whose true sum is strong enough.

    The depth is that of apertures side by side over the same area; the equivalent width is weighted by the light in r.

    Returns
    -------
    total, depth : ndarray (G,)
        1e-17 erg/s/cm2.
    strong : ndarray (G,) of bool
    """
    i = spaxels.column(quantity)
    total = sums_in_re(spaxels, spaxels.flux[:, i], ok)
    cells = sums_in_re(spaxels, np.ones(len(ok)), ok)  # area in apertures
    where = np.flatnonzero(ok & (spaxels.radius < 1))
    count, depth, light, weighted = galaxy_sums(
        spaxels.galaxy[where], spaxels.size, 1, spaxels.depth[where, i], spaxels.light[where],
        spaxels.light[where] * spaxels.ew[where, i],
    )  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = depth / count * np.sqrt(cells)
        ew = weighted / light
    limit = EW_LIMIT_HB if quantity == "Hb" else EW_LIMIT
    return total, depth, (total > SNR_LIMIT * depth) & (ew > limit)


def radial_profiles(spaxels, values, ok, weight=None):
    """Means in bins of radius (`BINS`) of each galaxy, over all positions: faint ones count.

    Parameters
    ----------
    spaxels : `~fiberifu.validate.spaxels.Spaxels`
    values : ndarray (N,)
    ok : ndarray (N,) of bool
    weight : ndarray (N,), optional
        The light, for equivalent widths: their mean is then nearly that of the summed light.

    Returns
    -------
    ndarray (G, 4)
        NaN below 5 positions.
    """
    bins = len(BINS) - 1
    place = np.digitize(spaxels.radius, BINS) - 1
    where = np.flatnonzero(ok & (place >= 0) & (place < bins))
    w = np.ones(len(where)) if weight is None else weight[where]
    cell = spaxels.galaxy[where] * bins + place[where]
    count, norm, total = galaxy_sums(cell, spaxels.size * bins, 1, w, w * values[where])
    good = (count >= FEWEST) & (norm > 0)
    return np.divide(total, norm, out=np.full(len(norm), np.nan), where=good).reshape(-1, bins)


def galaxy_gradient(radius, values, galaxy, n):
    """Slope of a straight line through values (N,) against radius in each of n galaxies, ndarray (n,).

    Least squares, all alike. NaN below 10 positions, or where their radii spread by less than 0.15 (rms).
    """
    count, x, y, xx, xy = galaxy_sums(galaxy, n, 1, radius, values, radius**2, radius * values)
    count = np.where(count >= FEWEST_GRADIENT, count, np.nan)
    xx, xy = xx - x**2 / count, xy - x * y / count
    return np.divide(xy, xx, out=np.full(n, np.nan), where=xx / count > BASELINE**2)
