# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One loop judges every method: ``held-out galaxies x predictors -> cached predictions -> metrics -> scores``.

A folder of scores holds ``predictions/<name>/00000.npz`` and on, one for each shard of the held-out galaxies, and
``scores.json`` and ``scores.ecsv``.
"""

import importlib.metadata
import logging
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..output import atomic_path, prepare_output_folder
from ..provenance import software_version
from .held_out import remove_halves
from .maps import LEVELS, PredictedMaps
from .pooling import check_coherence
from .quantiles import check_quantiles
from .score_files import write_scores

__all__ = ["judge", "prediction_folder", "read_predictions", "read_shard"]

log = logging.getLogger(__name__)

_LINES = ("flux", "flux_sigma", "ew", "ew_sigma")
_HALF = ("spectrum", "spectrum_sigma")
_OPTIONAL = ("covariance", "velocity", "velocity_sigma", *_HALF)
_QUANTILES = "quantiles/"  # before their keys
_TRIANGLE = np.tril_indices(15)
_MOST = 6e4  # below the largest half-precision number


def judge(
    held_out, predictors, folder, *, seed=0, draws=200, overwrite=False, progress=False, meta=None, measures=None
):
    """Predict all held-out galaxies by every method, and measure how good the predictions are.

    What is predicted already, by the same method for the same galaxies, is not predicted again; a run that is killed
    goes on when it is called again. Where a method fails the galaxy is logged and has NaN, and the rest goes on; the
    next call tries it again.

    Parameters
    ----------
    held_out : HeldOutSet
        What is missing of it is built, if it has a simulator.
    predictors : sequence of Predictor
        The one that is judged first, to which the others are compared. ``kind`` ("judged", "rival", "reference") and
        ``about``, where they have them, are for the page of scores.
    folder : path-like
        For predictions and scores; made if it does not exist.
    seed, draws : int
        Of the bootstrap over galaxies.
    overwrite : bool
        Whether predictions of a method that has changed, or of other galaxies, are thrown away.
    progress : bool
    meta : dict, optional
        Recorded, too: the command that calls this, the model and its weights.
    measures : sequence of callable, optional
        ``(predictions, truths, seed=, draws=)`` -> rows, or rows and reliability curves; by default those of
        `fiberifu.validate.metrics` and `fiberifu.validate.calibration`.

    Returns
    -------
    dict
        What is in ``scores.json``: meta, scores (rows), reliability (curves).

    Raises
    ------
    ValueError
        For two predictors of one name, or predictions in the folder that are of others (see ``overwrite``).
    RuntimeError
        When a method fails on all galaxies of a shard.
    """
    predictors, folder = list(predictors), Path(folder)
    places = [prediction_folder(folder, p.name) for p in predictors]
    if not predictors or len(set(places)) < len(places):
        raise ValueError(f"predictors: got {[p.name for p in predictors]}; give one or more, each of its own name")
    if measures is None:
        from .calibration import measure_calibration
        from .metrics import measure_scores

        first = predictors[0].name if len(predictors) > 1 else None
        racing = [p.name for number, p in enumerate(predictors) if _kind(p, number) != "reference"]
        of_role = {role: [p.name for p in predictors if _role(p) == role] for role in ("null", "null limit")}
        nulls = dict.fromkeys(of_role["null"], of_role["null limit"][0]) if of_role["null limit"] else {}
        measures = (
            partial(measure_scores, reference=first, competing=racing, nulls=nulls),
            measure_calibration,
        )
    held_out.build(progress=progress)
    for predictor in predictors:
        _predict(held_out, predictor, folder, overwrite, progress)
    truths = held_out.truths()
    predictions, methods = {}, []
    for number, predictor in enumerate(predictors):
        predictions[predictor.name], failed, seconds = _load(held_out, prediction_folder(folder, predictor.name))
        own = {"name": predictor.name, "kind": _kind(predictor, number), "role": _role(predictor)}
        own |= {"about": getattr(predictor, "about", None), "key": predictor.key}
        methods.append(own | {"failed": failed, "seconds_per_galaxy": round(seconds, 3)})
    rows, curves = [], []
    for measure in measures:
        got = measure(predictions, truths, seed=seed, draws=draws)
        rows += got[0] if isinstance(got, tuple) else got
        curves += got[1] if isinstance(got, tuple) else []
    meta = {
        **(meta or {}),
        "datatype": "PREDICTED",
        "software": "fiberifu",
        "version": software_version(),
        "versions": _versions(),
        "held_out": {"key": held_out.key, **held_out.settings},
        "galaxies": len(held_out),
        "positions": sum(len(t) for t in truths),
        "chosen_spaxels": _chosen(truths),
        "predictors": methods,
        "seed": seed,
        "draws": draws,
    }
    scores = _plain({"meta": meta, "scores": rows, "reliability": curves})
    write_scores(folder, scores)
    return scores


def _kind(predictor, number):
    return getattr(predictor, "kind", "rival" if number else "judged")


def _role(predictor):
    return getattr(predictor, "role", "")


def _chosen(truths):
    """Spaxels of whole galaxies whose true H-alpha is strong enough: what most scores are made of."""
    from .pooling import pool_truths

    pooled = (pool_truths([truth]) for truth in truths)  # one by one, for the memory
    return sum(int((one.selected("Ha") & one.region("whole")).sum()) for one in pooled)


def prediction_folder(folder, name):
    """Where the predictions of a method are: the name in lower case, with hyphens."""
    return Path(folder) / "predictions" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read_predictions(folder, name, held_out):
    """What a method predicted.

    Parameters
    ----------
    folder : path-like
        Of the scores.
    name : str
        Of the predictor.
    held_out : HeldOutSet

    Returns
    -------
    list of PredictedMaps
        One for each galaxy; of NaN where the method failed.
    """
    return _load(held_out, prediction_folder(folder, name))[0]


def read_shard(folder, name, number):
    """What a method predicted for the galaxies of one shard: as `read_predictions`, without the others in memory.

    Raises
    ------
    FileNotFoundError
        When it is not there.
    """
    path = prediction_folder(folder, name) / f"{number:05d}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; judge() makes it")
    return _read(path)[0]


# --- predictions


def _predict(held_out, predictor, folder, overwrite, progress):
    place = prediction_folder(folder, predictor.name)
    settings = {"kind": "predictions", "name": predictor.name, "key": predictor.key, "held_out": held_out.key}
    try:
        prepare_output_folder(place, resume=True, settings=settings)
    except ValueError:
        if not overwrite:
            raise
        for old in place.glob("*.npz"):
            old.unlink()
        prepare_output_folder(place, overwrite=True, settings=settings)
    remove_halves(place)
    paths = [place / f"{k:05d}.npz" for k in range(held_out.shards)]
    left = [_not_predicted(path, held_out.per_shard) for path in paths]  # how many of each shard
    total = held_out.shards * held_out.per_shard
    done = total - sum(left)
    if done:
        log.info("%s: %d of %d galaxies are predicted already", predictor.name, done, total)
    with tqdm(total=total, initial=done, unit="galaxy", desc=predictor.name, disable=not progress, leave=False) as bar:
        for number in np.flatnonzero(left):
            galaxies, path = held_out.shard(number), paths[number]
            made, failed, seconds = [None] * len(galaxies), ["not tried"] * len(galaxies), [0.0] * len(galaxies)
            if path.is_file():
                made, failed, seconds = map(list, _read(path))
            for i, galaxy in enumerate(galaxies):
                if not failed[i]:
                    continue
                start = time.perf_counter()
                made[i], failed[i] = _predict_one(predictor, galaxy)
                seconds[i] = time.perf_counter() - start
                bar.update()
            if all(failed):
                raise RuntimeError(f"{predictor.name} fails on every galaxy of shard {number}, first with {failed[0]}")
            _write(path, galaxies, made, failed, seconds)


def _not_predicted(path, per_shard):
    """Galaxies of a shard that are to be predicted: all, or those on which the method failed before.

    What failed may have done so for want of memory: it is tried again.
    """
    if not path.is_file():
        return per_shard
    with np.load(path, allow_pickle=False) as stored:
        return int((stored["failed"] != "").sum())


def _predict_one(predictor, galaxy):
    """Maps, or none and what went wrong."""
    try:
        maps = predictor.predict(galaxy)
        _check(maps, galaxy)
    except Exception as error:  # whatever it is, the other galaxies can do without this one
        log.warning("%s fails on %s: %s: %s", predictor.name, galaxy.name, type(error).__name__, error)
        return None, f"{type(error).__name__}: {error}"
    return maps, ""


def _check(maps, galaxy):
    for name in _LINES:
        if np.shape(getattr(maps, name)) != galaxy.flux.shape:
            raise ValueError(f"{name} has the shape {np.shape(getattr(maps, name))}; it must be {galaxy.flux.shape}")
    check_quantiles(maps.quantiles, len(galaxy), galaxy.name)
    if maps.coherence is not None:
        check_coherence(maps.coherence, galaxy.name)


def _shapes(galaxy):
    """Of all that a method may predict."""
    n, lines = galaxy.flux.shape
    spectra = galaxy.spectrum.shape
    return {name: (n, lines) for name in _LINES} | {
        "covariance": (n, lines, lines),
        "velocity": (n,),
        "velocity_sigma": (n,),
        "spectrum": spectra,
        "spectrum_sigma": spectra,
    }


def _write(path, galaxies, made, failed, seconds):
    out = {"length": np.array([len(g) for g in galaxies]), "failed": np.array(failed), "seconds": np.array(seconds)}
    out["spectra"] = np.array([len(g.spectrum_at) for g in galaxies])
    given = [name for name in _OPTIONAL if any(m is not None and getattr(m, name) is not None for m in made)]
    for name in (*_LINES, *given):
        parts = []
        for galaxy, maps in zip(galaxies, made, strict=True):
            value = None if maps is None else getattr(maps, name)
            shape = _shapes(galaxy)[name]
            value = np.full(shape, np.nan, np.float32) if value is None else np.broadcast_to(value, shape)
            parts.append(value[:, *_TRIANGLE] if name == "covariance" else value)
        values = np.concatenate(parts).astype(np.float32)
        out[name] = values.clip(-_MOST, _MOST).astype(np.float16) if name in _HALF else values
    given = [{} if maps is None else maps.quantiles or {} for maps in made]
    for key in dict.fromkeys(key for one in given for key in one):
        blanks = (np.full((len(galaxy), len(LEVELS)), np.nan) for galaxy in galaxies)
        parts = [one.get(key, blank) for one, blank in zip(given, blanks, strict=True)]
        out |= {_QUANTILES + key: np.concatenate(parts).astype(np.float32), "levels": np.array(LEVELS)}
    coherence = [None if maps is None else maps.coherence for maps in made]
    if any(pair is not None for pair in coherence):
        out["coherence"] = np.array([(np.nan, np.nan) if pair is None else pair for pair in coherence])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **out)


def _read(path):
    """Predictions of a shard, what failed, seconds."""
    with np.load(path, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    if "levels" in data and not np.array_equal(data["levels"], LEVELS):
        raise ValueError(
            f"{path} has quantiles at {data['levels'].tolist()}, not at {LEVELS}; predict with overwrite=True"
        )
    ends = {False: np.cumsum(data["length"]), True: np.cumsum(data["spectra"])}
    starts = {key: value - data["spectra" if key else "length"] for key, value in ends.items()}
    out = []
    for i, failed in enumerate(data["failed"]):
        values = {}
        for name in (*_LINES, *_OPTIONAL):
            if name not in data or (failed and name in _OPTIONAL):
                continue
            of_spectrum = name in _HALF
            value = data[name][starts[of_spectrum][i] : ends[of_spectrum][i]].astype(np.float32)
            if name == "covariance":
                square = np.empty((len(value), 15, 15), np.float32)
                square[:, *_TRIANGLE] = square[:, _TRIANGLE[1], _TRIANGLE[0]] = value
                value = square
            values[name] = value
        if not failed:
            rows = slice(starts[False][i], ends[False][i])
            keys = [name for name in data if name.startswith(_QUANTILES)]
            values["quantiles"] = {name.removeprefix(_QUANTILES): data[name][rows] for name in keys} or None
            if "coherence" in data and np.isfinite(data["coherence"][i]).all():
                values["coherence"] = tuple(data["coherence"][i].tolist())
        out.append(PredictedMaps(**values))
    return out, data["failed"].tolist(), data["seconds"]


def _load(held_out, place):
    """Predictions of all galaxies of a set, names of those that failed, median seconds."""
    made, failed, seconds = [], [], []
    for number in range(held_out.shards):
        path = place / f"{number:05d}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; judge() makes it")
        part = _read(path)
        made, failed, seconds = made + part[0], failed + part[1], [*seconds, *part[2]]
    count = len(held_out)
    return made[:count], sum(map(bool, failed[:count])), float(np.median(seconds[:count]))


# --- scores


def _plain(value):
    """For JSON: NumPy's numbers and arrays as Python's, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _versions():
    out = {}
    for name in ("numpy", "scipy", "astropy", "torch", "scikit-learn"):
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = None
    return out
