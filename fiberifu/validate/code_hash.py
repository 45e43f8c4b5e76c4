# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which code made a cached result: ``files -> syntax trees without words -> sha256``."""

import ast
import functools
import hashlib
from pathlib import Path

__all__ = ["code_sha256", "prediction_sha256"]

#: Of the package, what decides what a `~fiberifu.VirtualIFU` predicts and which lines are read from it, and the view
#: of held-out galaxies that it is given. Folders: their modules, not those of folders inside.
PREDICTING = (
    *(
        "bands",
        "constants",
        "context",
        "datasets",
        "decode",
        "extinction",
        "flags",
        "image",
        "instrument",
        "kinematics",
        "line_functionals",
        "mixture",
    ),
    *("observe", "photometry", "pointing", "prediction", "prepared", "psf", "redshift", "resample", "shape", "stamps"),
    *("support", "model/*", "lines/maps", "lines/table", "simulate/observe", "validate/maps", "validate/predictors"),
)


def code_sha256(files):
    """Hash of the code in files; comments, docstrings and layout do not count.

    Parameters
    ----------
    files : iterable of `~pathlib.Path`

    Returns
    -------
    str
    """
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(f"{file.name} {ast.unparse(tree)}".encode())
    return digest.hexdigest()


@functools.cache
def prediction_sha256(root=Path(__file__).parents[1]):
    """Hash of the code that predicts (`PREDICTING`), in the package's folder ``root``.

    Raises
    ------
    FileNotFoundError
        If a module of the list is not there.
    """
    files = []
    for name in PREDICTING:
        found = sorted(root.glob(f"{name}.py"))
        if not found:
            raise FileNotFoundError(f"{root} has no {name}.py; PREDICTING in {__name__} names it")
        files += found
    return code_sha256(files)
