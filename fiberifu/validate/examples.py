# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What the page shows beside numbers: which galaxies are examples, their maps, and radial profiles.

``galaxies one by one (truth, answers) -> review -> {"examples": [...], "profiles": [...]}``, lists for JSON.
"""

import numpy as np

from .bootstrap import SURE
from .pooling import pool_predictions, pool_truths
from .profiles import BINS, radial_profiles
from .spaxels import EW_LIMIT, RATIOS

__all__ = ["EXAMPLE_STRATA", "FEWEST", "map_panels", "review", "unseen_scatter"]

#: Kinds of galaxies of which one example each is shown.
EXAMPLE_STRATA = ("quenched", "agn", "outflow", "off_centre_hii", "decoupled", "edge_on", "merger")
#: Chosen spaxels that a galaxy needs to be an example.
FEWEST = 30
PER_GALAXY, NEAR, NEIGHBOURS = 10, 200, 30  # spaxels for the unseen scatter
PROFILES = ("Ha EW", "Ha flux", "N2/Ha")


def review(galaxies, judged):
    """Choose the examples and measure the profiles in one pass.

    Parameters
    ----------
    galaxies : iterable of (`TruthMaps`, dict of str to `PredictedMaps` or None)
        One by one: nothing but a few numbers of each is kept.
    judged : str
        The method whose errors choose the examples.

    Returns
    -------
    dict
        examples : list of dict: position (in the iterable), name, why, stratum, score (mean absolute error of
        log EW(H-alpha), dex). profiles : list of dict, as `~fiberifu.validate.report_figures.draw_profiles` takes
        them, with the number of galaxies in each ring. unseen_scatter : float or None, dex, and
        unseen_scatter_interval : list of two floats or None; see `unseen_scatter`.
    """
    found, rings, light = [], {}, []
    for position, (galaxy, answers) in enumerate(galaxies):
        truth = pool_truths([galaxy])
        answers = {name: pool_predictions([maps], [galaxy]) for name, maps in answers.items() if maps is not None}
        light.append(_light(galaxy, truth))
        if judged in answers:
            good = truth.selected("Ha")
            true, said = _logs(truth, answers[judged], "Ha EW")
            error = np.abs(said - true)[good]
            if np.isfinite(error).sum() >= FEWEST:
                labels = [name for name, has in galaxy.strata.items() if has]
                found.append((float(np.nanmean(error)), position, galaxy.name, labels))
        for name, answer in answers.items():
            for quantity in PROFILES:
                rings.setdefault((name, quantity), []).append(_rings(truth, answer, quantity))
    scatter, *ends = unseen_scatter(np.concatenate(light)) if light else (None,) * 3
    return {
        "examples": _choose(found),
        "profiles": [_profile(*key, np.array(value)) for key, value in rings.items()],
        "unseen_scatter": scatter,
        "unseen_scatter_interval": None if scatter is None else ends,
    }


def _light(galaxy, truth):
    """Some chosen spaxels of a galaxy (k, 6): number, log EW(H-alpha), g-r, r-z, log r, redshift, of the truth."""
    good = np.flatnonzero(truth.selected("Ha") & (galaxy.band > 0).all(1))
    good = good[:: max(len(good) // PER_GALAXY, 1)][:PER_GALAXY]
    g, r, _, z = np.log10(galaxy.band[good]).T
    ew = np.log10(truth.ew[good, truth.column("Ha")])
    return np.column_stack([np.full(len(good), galaxy.index), ew, r - g, z - r, r, np.full(len(good), galaxy.redshift)])


def unseen_scatter(rows, *, draws=200, seed=0):
    """Scatter of log EW(H-alpha) at fixed colours, surface brightness and redshift: what an image cannot tell.

    Scores are worth something only if it is at least 0.25 dex; a simulator without it would make them easy.

    Parameters
    ----------
    rows : ndarray (n, 6)
        Of spaxels: number of the galaxy, log EW, two colours, log surface brightness, redshift.
    draws, seed : int
        Of the bootstrap over galaxies.

    Returns
    -------
    value, low, high : float or None
        dex: half the distance of the 16th and 84th percentile of the residuals, and 2.5 and 97.5 % of the bootstrap.
        None with fewer than 1000 spaxels or 50 galaxies.

    Notes
    -----
    A residual is log EW less what a linear fit to the nearest spaxels of 30 other galaxies, one of each, says at the
    same place. It is linear, since neighbours are far apart among few galaxies: in a mean of them the trend with colour
    would count as scatter. The fit has errors, too: with leverage h (its variance over that of one spaxel) the residual
    is divided by sqrt(1 + h), as in leave-one-out residuals.
    What curves between far neighbours still counts: with 200 galaxies some 0.03 to 0.05 dex too much, with 1000 0.01.
    """
    from scipy.spatial import cKDTree

    galaxies, owner = np.unique(rows[:, 0], return_inverse=True)
    if len(rows) < 1000 or len(galaxies) < 50:
        return None, None, None
    features = (rows[:, 2:] - rows[:, 2:].mean(0)) / rows[:, 2:].std(0).clip(1e-6)
    near = cKDTree(features).query(features, min(NEAR, len(rows)))[1]
    new = _first_of_each(owner[near], owner)
    order = np.argsort(~new, axis=1, kind="stable")[:, :NEIGHBOURS]
    near, used = (np.take_along_axis(a, order, 1) for a in (near, new))
    x = np.concatenate([np.ones((*near.shape, 1)), features[near] - features[:, None]], axis=2) * used[..., None]
    normal = np.einsum("nki,nkj->nij", x, x) + np.diag([0.0, *[1e-6] * 4])
    enough = used.sum(1) >= NEIGHBOURS // 2
    inverse = np.linalg.inv(normal[enough])
    fit = np.einsum("nj,nkj,nk->n", inverse[:, 0], x[enough], rows[near[enough], 1])
    residual = (rows[enough, 1] - fit) / np.sqrt(1 + inverse[:, 0, 0])
    owner = owner[enough]
    order = np.argsort(owner, kind="stable")
    parts = np.split(residual[order], np.searchsorted(owner[order], np.arange(1, len(galaxies))))
    rng, found = np.random.default_rng(seed), []
    for number in range(1 + draws):
        drawn = rng.integers(0, len(parts), len(parts)) if number else np.arange(len(parts))
        low, high = np.percentile(np.concatenate([parts[i] for i in drawn]), [16, 84])
        found.append((high - low) / 2)
    return float(found[0]), *(float(x) for x in np.percentile(found[1:] or found, SURE))


def _first_of_each(galaxy, own):
    """Whether each of the neighbours (n, k) is the first of its galaxy, and not of one's own (n,)."""
    order = np.argsort(galaxy, axis=1, kind="stable")
    there = np.take_along_axis(galaxy, order, 1)
    first = np.concatenate([np.ones((len(there), 1), bool), there[:, 1:] != there[:, :-1]], axis=1)
    out = np.empty_like(first)
    np.put_along_axis(out, order, first, 1)
    return out & (galaxy != own[:, None])


def _choose(found):
    """Galaxies at 10, 50 and 90 % of the score, then the median one of each kind; none twice."""
    found = sorted(found)
    out, taken = [], set()

    def take(ranked, part, why, stratum):
        place = part * (len(ranked) - 1)
        nearest = sorted(range(len(ranked)), key=lambda i: abs(i - place))
        free = [ranked[i] for i in nearest if ranked[i][1] not in taken]
        if free:
            score, position, name, _ = free[0]
            taken.add(position)
            out.append({"position": position, "name": name, "why": why, "stratum": stratum, "score": score})

    for part in (0.1, 0.5, 0.9):
        share = f"{100 * part:.0f} % of galaxies have a smaller error"
        take(found, part, share if part != 0.5 else "the median galaxy", "all")
    for stratum in EXAMPLE_STRATA:
        take([one for one in found if stratum in one[3]], 0.5, "the median one of its kind", stratum)
    return out


# ---------------------------------------------------------------- one galaxy
def map_panels(galaxy, predicted, quantity="Ha EW"):
    """Truth, prediction and pull of one quantity, for `~fiberifu.validate.report_figures.draw_maps`.

    Parameters
    ----------
    galaxy : TruthMaps
    predicted : PredictedMaps
    quantity : str
        Such as "Ha EW", "Ha flux", "N2/Ha".

    Returns
    -------
    dict
        truth, predicted : ndarray (n,), logarithms, NaN where not positive; pull : ndarray (n,), in linear EW or flux
        over the predicted error, of ratios in the logarithm; None for a method without errors; label : str.
    """
    truth, answer = pool_truths([galaxy]), pool_predictions([predicted], [galaxy])
    name, _, kind = quantity.partition(" ")
    with np.errstate(divide="ignore", invalid="ignore"):
        if name in RATIOS:
            a, b = (truth.column(part) for part in RATIOS[name])
            true, said = (np.log10(x.flux[:, a] / x.flux[:, b]) for x in (truth, answer))
            # var(ln a/b) to first order: of the relative errors, less their covariance
            c, f = answer.covariance, answer.flux
            variance = c[:, a, a] / f[:, a] ** 2 + c[:, b, b] / f[:, b] ** 2 - 2 * c[:, a, b] / (f[:, a] * f[:, b])
            pull = (said - true) * np.log(10) / np.sqrt(np.where(variance > 0, variance, np.nan))
            dark = ~(truth.selected(RATIOS[name][0]) & truth.selected(RATIOS[name][1]))  # no ratio without lines
            true, said, pull = (np.where(dark, np.nan, values) for values in (true, said, pull))
        else:
            i, field = truth.column(name), kind.lower()
            linear = getattr(truth, field)[:, i], getattr(answer, field)[:, i]
            pull = (linear[1] - linear[0]) / getattr(answer, f"{field}_sigma")[:, i]
            true, said = (np.log10(np.where(values > 0, values, np.nan)) for values in linear)
    label = {"EW": "log EW (Å)", "flux": "log flux (10$^{-17}$ erg/s/cm$^2$)"}.get(kind, "log ratio")
    return {"truth": true, "predicted": said, "pull": pull if np.isfinite(pull).any() else None, "label": label}


def _logs(truth, answer, quantity):
    """Logarithms, those of predictions not below the floor that the scores have."""
    name, _, kind = quantity.partition(" ")
    with np.errstate(divide="ignore", invalid="ignore"):
        if name in RATIOS:
            top, bottom = (np.stack(_logs(truth, answer, f"{part} flux")) for part in RATIOS[name])
            return tuple(top - bottom)
        i, floor = truth.column(name), truth.floor(name)[0 if kind == "EW" else 1]
        true, said = (getattr(x, kind.lower())[:, i] for x in (truth, answer))
        return np.log10(true), np.log10(np.maximum(said, floor))


def _rings(truth, answer, quantity):
    """Logs of the means in rings of one galaxy, truth and prediction (2, R); NaN where EW(H-alpha) is below 1 Angstrom.

    Rings are chosen on truth only, and all their positions count, faint ones too.
    """
    name, _, kind = quantity.partition(" ")

    def means(part, kind, side):
        i, field = truth.column(part), kind.lower()
        ok = np.isfinite(getattr(truth, field)[:, i]) & np.isfinite(getattr(answer, field)[:, i])
        ring = radial_profiles(truth, getattr(side, field)[:, i], ok, truth.light if kind == "EW" else None)[0]
        floor = truth.floor(part)[0 if kind == "EW" else 1]
        return np.maximum(ring, np.mean(floor))  # NaN stays

    rings = []
    for side in (truth, answer):
        if name in RATIOS:
            top, bottom = (means(part, "flux", side) for part in RATIOS[name])
            rings.append(np.log10(top / bottom))
        else:
            rings.append(np.log10(means(name, kind, side)))
    return np.where(means("Ha", "EW", truth) > EW_LIMIT, np.stack(rings), np.nan)


def _profile(predictor, quantity, rings):
    """Medians over galaxies, rings (G, 2, R)."""
    there = np.isfinite(rings).all(1)  # (G, R)
    columns = [(rings[there[:, k], 0, k], rings[there[:, k], 1, k]) for k in range(there.shape[1])]

    def each(function):
        return [float(function(t, p)) if len(t) else None for t, p in columns]

    return {
        "predictor": predictor,
        "quantity": quantity,
        "radius": [float(r) for r in np.add(BINS[1:], BINS[:-1]) / 2],
        "truth": each(lambda t, p: np.median(t)),
        "value": each(lambda t, p: np.median(p)),
        "difference": each(lambda t, p: np.median(p - t)),
        "low": each(lambda t, p: np.percentile(p - t, 16)),
        "high": each(lambda t, p: np.percentile(p - t, 84)),
        "galaxies": [int(n) for n in there.sum(0)],
    }
