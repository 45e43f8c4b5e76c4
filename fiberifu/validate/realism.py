# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every comparison of the simulation with the sky; `measure_realism` makes them, `write_realism` writes them down.

Each function takes measurements and gives rows (`Comparison`) and what its figure draws.
"""

import json
from pathlib import Path

import numpy as np

from .comparison import VERDICTS, check_report, rank
from .physics import compare_lines, compare_noise, compare_scaling, compare_survey
from .starlight import compare_atlas, compare_colours, compare_surveys

__all__ = ["measure_realism", "write_realism"]


def measure_realism(simulator, pack, folder, *, galaxies=1200, seed=2026, progress=None):
    """Compare simulated galaxies with the real files and with published relations.

    Parameters
    ----------
    simulator : `~fiberifu.simulate.Simulator`
        Made of ``pack``.
    pack : dict
        Its templates: the mixtures are made of them.
    folder : path-like
        Of the real files, see `~fiberifu.simulate.find_data_dir`.
    galaxies : int
        24 or more; errors shrink as usual, and below some hundreds most rows are undecided.
    seed : int
    progress : callable, optional
        Called with a line of text now and then.

    Returns
    -------
    report : dict
        See `check_report`: version, galaxies, seed, summary, comparisons (largest differences first).
    figures : dict
        What the figures draw, by name.
    """
    from fiberifu import __version__

    from .mixture import Mixture, stellar_templates
    from .sample import simulated_sample

    if galaxies < 24:
        raise ValueError(f"galaxies: got {galaxies}, at least 24 are needed")
    say = progress if progress is not None else (lambda text: None)
    sample = simulated_sample(
        simulator, galaxies, seed, progress=lambda n: say(f"{n} of {galaxies} galaxies") if n % 240 == 0 else None
    )
    mixture = Mixture(*stellar_templates(pack))
    rows, figures = [], {}
    for name, make in {
        "colours": lambda: compare_colours(sample, folder),
        "atlas": lambda: compare_atlas(sample, folder, mixture, say=say),
        "surveys": lambda: compare_surveys(simulator, folder, mixture, seed=seed),
        "noise": lambda: compare_noise(simulator, sample, folder),
        "lines": lambda: compare_lines(sample, folder),
        "scaling": lambda: compare_scaling(sample),
        "survey": lambda: compare_survey(sample),
    }.items():
        say(name)
        found, drawn = make()
        rows += found
        figures[name] = drawn
    rows = rank(rows)
    report = {
        "version": __version__,
        "galaxies": galaxies,
        "seed": seed,
        "summary": {v: sum(row.verdict == v for row in rows) for v in VERDICTS},
        "comparisons": [row.to_dict() for row in rows],
    }
    check_report(report)
    return report, figures


def write_realism(report, figures, folder):
    """Write ``realism.json``, ``realism.html`` (one file, no scripts), the docs' table and the figures as PNG.

    Returns
    -------
    list of `~pathlib.Path`
    """
    from .page import make_page, make_table
    from .realism_figures import draw_figures

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(figures, folder)
    out = [folder / name for name in ("realism.json", "realism.html", "realism_table.inc")]
    out[0].write_text(json.dumps(report, indent=1, default=_plain) + "\n", encoding="utf-8")
    out[1].write_text(make_page(report, pictures), encoding="utf-8")
    out[2].write_text(make_table(report), encoding="utf-8")
    return out + list(pictures.values())


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} has no place in a report")
