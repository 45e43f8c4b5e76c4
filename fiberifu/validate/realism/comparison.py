# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One number of the simulation beside the same number of the sky, and the report that holds many of them."""

import math
from dataclasses import asdict, dataclass

from .origin import HALVES
from .tuned import BASES

__all__ = ["KINDS", "VERDICTS", "Comparison", "check_report", "count_verdicts", "rank"]

#: What must hold: the two are the same; the simulated value reaches the real one; does not exceed it; nothing.
KINDS = ("same", "at least", "at most", "context")
VERDICTS = ("agrees", "differs", "undecided", "context")


@dataclass(frozen=True)
class Comparison:
    """A number of the simulation and of the sky, with errors, and the largest difference that counts as agreement.

    Parameters
    ----------
    group, name : str
    simulated, simulated_error, real, real_error : float
        Errors are 1 sigma; NaN where unknown.
    unit : str
    n_simulated, n_real : int
        Objects behind each; 0 for a published relation.
    threshold : float
        Positive, in the unit of the values; stated before the comparison was made.
    kind : {'same', 'at least', 'at most', 'context'}
    against : str
        The data or the paper.
    figure : str
        Name of the figure that shows it.
    note : str
        What the reader has to know.
    basis : {'tuned', 'held out', ''}
        Whether constants of the simulator were set with this comparison; '' where not yet said.
    constants : str
        Which, or why none.
    """

    group: str
    name: str
    simulated: float
    simulated_error: float
    real: float
    real_error: float
    unit: str
    n_simulated: int
    n_real: int
    threshold: float
    kind: str
    against: str
    figure: str = ""
    note: str = ""
    basis: str = ""
    constants: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind: got {self.kind!r}, use one of {KINDS}")
        if not self.threshold > 0:
            raise ValueError(f"threshold: got {self.threshold}; give the largest difference that counts as agreement")

    @property
    def difference(self):
        """Simulated minus real."""
        return self.simulated - self.real

    @property
    def excess(self):
        """The difference that is held against the simulation, in units of the threshold; NaN where nothing is."""
        if self.kind == "context" or not math.isfinite(self.difference):
            return math.nan
        return {
            "same": abs(self.difference),
            "at least": max(-self.difference, 0.0),
            "at most": max(self.difference, 0.0),
        }[self.kind] / self.threshold

    @property
    def error(self):
        """1 sigma of the difference; unknown errors count as none."""
        return math.hypot(*(e if math.isfinite(e) else 0.0 for e in (self.simulated_error, self.real_error)))

    @property
    def verdict(self):
        """'agrees' within the threshold; 'undecided' within one error more; 'differs' beyond; 'context'."""
        if not math.isfinite(self.excess):
            return "context"
        if self.excess <= 1:
            return "agrees"
        return "undecided" if self.excess * self.threshold <= self.threshold + self.error else "differs"

    def to_dict(self):
        """Plain values for JSON; numbers that are not finite become None."""
        out = asdict(self) | {"difference": self.difference, "excess": self.excess, "verdict": self.verdict}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in out.items()}


def rank(comparisons):
    """Largest excess first; context last."""
    return sorted(comparisons, key=lambda c: -c.excess if math.isfinite(c.excess) else math.inf)


_FIELDS = {
    **dict.fromkeys(
        ("group", "name", "unit", "kind", "against", "figure", "note", "verdict", "basis", "constants"), str
    ),
    **dict.fromkeys(
        ("simulated", "simulated_error", "real", "real_error", "difference", "excess"), (float, type(None))
    ),
    "n_simulated": int,
    "n_real": int,
    "threshold": float,
}

_HEADER = {
    **dict.fromkeys(("version", "simulator", "pack", "command", "half"), str),
    **dict.fromkeys(("galaxies", "seed", "survey_galaxies"), int),
    "population": dict,
}


def check_report(report):
    """Whether a report has the promised form.

    Parameters
    ----------
    report : dict
        As read from ``realism.json``.

    Raises
    ------
    ValueError
        Naming what is missing or wrong.
    """
    for key in (*_HEADER, "comparisons", "summary", "summary_by_basis"):
        if key not in report:
            raise ValueError(f"report: no {key!r}")
    for key, kind in _HEADER.items():
        if not isinstance(report[key], kind):
            raise ValueError(f"report: {key!r} is {report[key]!r}")
    if report["half"] not in HALVES:
        raise ValueError(f"report: half is {report['half']!r}, use one of {HALVES}")
    names = set()
    for i, row in enumerate(report["comparisons"]):
        for key, kind in _FIELDS.items():
            if key not in row:
                raise ValueError(f"report: comparison {i} has no {key!r}")
            if kind is not str and isinstance(row[key], int) and not isinstance(row[key], bool):
                continue
            if not isinstance(row[key], kind):
                raise ValueError(f"report: comparison {i}, {key!r} is {row[key]!r}")
        if row["kind"] not in KINDS or row["verdict"] not in VERDICTS:
            raise ValueError(f"report: comparison {i} has kind {row['kind']!r}, verdict {row['verdict']!r}")
        if row["basis"] not in BASES:
            raise ValueError(f"report: comparison {i} has basis {row['basis']!r}, use one of {BASES}")
        if (row["group"], row["name"]) in names:
            raise ValueError(f"report: {row['group']!r}, {row['name']!r} comes twice")
        names.add((row["group"], row["name"]))
    counted = count_verdicts(report["comparisons"])
    if report["summary"] != counted:
        raise ValueError(f"report: summary {report['summary']} but the comparisons have {counted}")
    counted = {basis: count_verdicts(report["comparisons"], basis) for basis in BASES}
    if report["summary_by_basis"] != counted:
        raise ValueError(f"report: summary_by_basis {report['summary_by_basis']} but the comparisons have {counted}")


def count_verdicts(rows, basis=None):
    """How many comparisons (dicts of a report) have each verdict; of one basis only, where given."""
    return {v: sum(row["verdict"] == v and basis in (None, row["basis"]) for row in rows) for v in VERDICTS}
