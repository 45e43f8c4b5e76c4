# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a report was made of: the command and a hash of the simulator; and the halves of the real samples."""

import hashlib
from importlib import resources

import numpy as np

__all__ = ["COMMAND", "HALVES", "in_half", "simulator_hash"]

#: What makes the page of the documentation.
COMMAND = "python benchmarks/realism.py --galaxies 700 -o docs/_static/realism"

#: Of the real samples with enough objects to be split.
HALVES = ("all", "tuning", "judging")


def simulator_hash():
    """SHA-256 of the source that makes galaxies, telescopes and surveys: the modules of `fiberifu.simulate`.

    Names and contents in alphabetical order. Its subpackages are left out: ``api`` only wraps these modules with units,
    and ``files`` writes what they have made; neither changes a number of the report.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    out = hashlib.sha256()
    folder = resources.files("fiberifu.simulate")
    for path in sorted((p for p in folder.iterdir() if p.name.endswith(".py")), key=lambda p: p.name):
        out.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return out.hexdigest()


def in_half(names, half):
    """Which objects belong to a half: the last bit of the first byte of the SHA-256 of the name, 0 for tuning.

    Parameters
    ----------
    names : sequence of str
    half : {'all', 'tuning', 'judging'}

    Returns
    -------
    ndarray (n,) of bool
    """
    if half not in HALVES:
        raise ValueError(f"half: got {half!r}, use one of {HALVES}")
    bit = np.array([hashlib.sha256(name.encode()).digest()[0] & 1 for name in names], dtype=int)
    return np.ones(len(bit), dtype=bool) if half == "all" else bit == (half == "judging")
