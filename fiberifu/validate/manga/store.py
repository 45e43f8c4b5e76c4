# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A galaxy's comparison as a file: ``Comparison -> NAME_predicted.npz``, and back; plain arrays, nothing pickled."""

import dataclasses
import json

import numpy as np

from ...output import atomic_path
from ..maps import LEVELS, PredictedMaps, TruthMaps
from .compare import Comparison

__all__ = ["plain", "read_comparison", "write_comparison"]

PLAIN = (str, int, float, bool, dict, tuple)  # of fields that go into the JSON text


def write_comparison(path, comparison, about):
    """Write a comparison and what the page needs to draw it.

    Parameters
    ----------
    path : `~pathlib.Path`
        With ``predicted`` in its name.
    comparison : Comparison
    about : dict
        Plain values, among them ``provenance``, cards of headers; and arrays, which are written as they are.
    """
    arrays = {key: value for key, value in about.items() if isinstance(value, np.ndarray)}
    text = {"about": {key: value for key, value in about.items() if key not in arrays}}
    text |= {"names": list(comparison.answers), "continuum_dex": comparison.continuum_dex, "levels": LEVELS}
    out = {f"about/{key}": value for key, value in arrays.items()}
    out |= {"mask": comparison.mask, "noise_flux": comparison.noise[0], "noise_ew": comparison.noise[1]}
    for name, part in {"truth": comparison.truth, **comparison.answers}.items():
        plain = {}
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name == "quantiles":
                out |= {f"{name}/quantiles {key}": array.astype(np.float32) for key, array in (value or {}).items()}
            elif isinstance(value, PLAIN):
                plain[field.name] = value
            elif value is not None:
                out[f"{name}/{field.name}"] = value.astype(np.float32) if value.dtype == float else value
        text[name] = plain
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, text=np.array(json.dumps(text)), **out)


def read_comparison(path):
    """What `write_comparison` wrote.

    Returns
    -------
    Comparison
    about : dict

    Raises
    ------
    ValueError
        If the file is none of those.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            data = {name: stored[name] for name in stored.files}
        text = json.loads(str(data["text"]))
        if tuple(text["levels"]) != LEVELS:
            raise ValueError("quantiles at other levels")
        truth = TruthMaps(**_fields(data, "truth"), **text["truth"])
        answers = {}
        for name in text["names"]:
            fields = _fields(data, name)
            quantiles = {key.removeprefix("quantiles "): fields.pop(key) for key in list(fields) if " " in key}
            more = {key: tuple(value) if isinstance(value, list) else value for key, value in text[name].items()}
            answers[name] = PredictedMaps(**fields, **more, quantiles=quantiles or None)
        noise = data["noise_flux"], data["noise_ew"]
        about = text["about"] | _fields(data, "about")
        return Comparison(truth, answers, data["mask"], noise, text["continuum_dex"]), about
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not written by fiberifu validate manga ({error}); run again with --resume"
        ) from error


def _fields(data, name):
    return {key.removeprefix(f"{name}/"): value for key, value in data.items() if key.startswith(f"{name}/")}


def plain(value):
    """For JSON: NumPy's numbers as Python's, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
