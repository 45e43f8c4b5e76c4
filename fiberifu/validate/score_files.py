# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Scores as files: ``report -> scores.json (everything), scores.ecsv (the table)``, and back."""

import json

import numpy as np

__all__ = ["COLUMNS", "read_scores", "write_scores"]

#: Of the table: one row for each number.
COLUMNS = ("predictor", "quantity", "region", "stratum", "score", "value", "low", "high", "low95", "high95",
           "galaxies", "spaxels")  # fmt: skip
NUMBERS = ("value", "low", "high", "low95", "high95")  # masked where not defined: the last two but of differences


def write_scores(folder, report):
    """Write ``scores.json`` (everything) and ``scores.ecsv`` (the table).

    Parameters
    ----------
    folder : `~pathlib.Path`
    report : dict
        meta, scores (rows), reliability (curves), and what else the page shows; no NaN.

    Returns
    -------
    list of `~pathlib.Path`

    Raises
    ------
    ValueError
        If there is a NaN or an infinity, which JSON does not have; the files stay as they were.
    """
    from astropy.table import MaskedColumn, Table

    from ..output import atomic_path

    paths = [folder / "scores.json", folder / "scores.ecsv"]
    with atomic_path(paths[0]) as temporary:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    table = Table(meta=report["meta"])
    for name in COLUMNS:
        values = [row.get(name) for row in report["scores"]]
        if name in NUMBERS:
            values = MaskedColumn(np.array(values, float), mask=[value is None for value in values])
        table[name] = values
    with atomic_path(paths[1]) as temporary:
        table.write(temporary, format="ascii.ecsv")
    return paths


def read_scores(folder):
    """What `write_scores` wrote.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is none.
    """
    path = folder / "scores.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run without --page-only first, which makes it")
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON: {error}; run again with --resume") from error
    if missing := {"meta", "scores", "reliability"} - set(report):
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}: not written by fiberifu validate maps")
    return report
