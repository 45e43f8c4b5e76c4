"""Simulated batches on disk: what several trainings see is simulated once, by whichever comes first."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

__all__ = ["cached"]


def cached(make, folder, about, pack_path):
    """A function like ``make`` that reads what it has made before.

    Parameters
    ----------
    make : callable
        ``(step, piece, pieces, n)`` -> dict of ndarray.
    folder : path-like
        Made if it does not exist; may be shared by runs of other settings and by processes.
    about : dict
        What else decides what is made.
    pack_path : path-like
        Template pack, known by its content, as is the simulator by its code.

    Returns
    -------
    callable
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    package = Path(__file__).parents[1]
    for path in [pack_path, *sorted((package / "simulate").glob("*.py")), package / "train" / "finite_survey.py"]:
        digest.update(Path(path).read_bytes())
    folder = Path(folder) / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)

    def read_or_make(*piece):
        path = folder / ("-".join(map(str, piece)) + ".npz")
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        batch = make(*piece)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        with open(part, "wb") as file:
            np.savez(file, **batch)
        os.replace(part, path)
        return batch

    return read_or_make
