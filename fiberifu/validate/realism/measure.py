# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every comparison of the simulation with the sky; `measure_realism` makes them, `write_realism` writes them down.

Each function takes measurements and gives rows (`Comparison`) and what its figure draws.
"""

import json
from pathlib import Path

import numpy as np

from .comparison import check_report, count_verdicts, rank
from .noise import compare_cube_noise, compare_noise, manga_cubes
from .origin import HALVES, simulator_hash
from .physics import compare_lines, compare_scaling
from .population import compare_population, make_population, make_population_table, read_population
from .starlight import compare_atlas, compare_colours, compare_surveys
from .tuned import BASES, mark

__all__ = ["measure_realism", "write_realism"]


def measure_realism(
    simulator,
    pack,
    folder,
    *,
    galaxies=1200,
    survey_galaxies=200,
    cubes=6,
    half="judging",
    seed=2026,
    command=None,
    progress=None,
):
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
    survey_galaxies : int
        Of the simulated DESI and MaNGA surveys each, for the quantiles of their properties; 8 or more.
    cubes : int
        Simulated MaNGA cubes, whose spaxels are held against real ones.
    half : {'judging', 'tuning', 'all'}
        Of the SDSS galaxies and of the atlas: judge with one half, set constants of the simulator with the other.
    seed : int
    command : str, optional
        That makes this report, to be written into it; by default this call.
    progress : callable, optional
        Called with a line of text now and then.

    Returns
    -------
    report : dict
        See `check_report`: version, simulator and pack (hashes), command, galaxies, survey_galaxies, half, seed,
        summary, summary_by_basis, population, comparisons (largest differences first).
    figures : dict
        What the figures draw, by name.
    """
    from fiberifu import __version__

    from ...simulate.identifiers import pack_sha256
    from .mixture import Mixture, stellar_templates
    from .sample import simulated_sample

    if galaxies < 24:
        raise ValueError(f"galaxies: got {galaxies}, at least 24 are needed")
    if survey_galaxies < 8 or cubes < 1:
        raise ValueError(f"survey_galaxies, cubes: got {survey_galaxies} and {cubes}; 8 and 1 are the fewest")
    if half not in HALVES:
        raise ValueError(f"half: got {half!r}, use one of {HALVES}")
    call = f"measure_realism({galaxies=}, {survey_galaxies=}, {cubes=}, {half=}, {seed=})"
    say = progress if progress is not None else (lambda text: None)
    sample = simulated_sample(
        simulator, galaxies, seed, progress=lambda n: say(f"{n} of {galaxies} galaxies") if n % 240 == 0 else None
    )
    mixture = Mixture(*stellar_templates(pack))
    say(f"{cubes} simulated MaNGA cubes")
    spaxels = manga_cubes(simulator, seed, cubes)
    say(f"{survey_galaxies} galaxies of each survey")
    population = read_population(simulator, seed, survey_galaxies)
    rows, figures = [], {}
    for name, make in {
        "colours": lambda: compare_colours(sample, folder, half),
        "atlas": lambda: compare_atlas(sample, folder, mixture, half=half, say=say),
        "surveys": lambda: compare_surveys(simulator, folder, mixture, spaxels, seed=seed),
        "noise": lambda: compare_noise(simulator, sample, folder),
        "cubes": lambda: compare_cube_noise(spaxels, folder),
        "lines": lambda: compare_lines(sample, folder),
        "scaling": lambda: compare_scaling(sample),
        "survey": lambda: compare_population(*population),
    }.items():
        say(name)
        found, drawn = make()
        rows += found
        figures[name] = drawn
    g = sample["galaxy"]
    figures["survey"] |= {"redshift": g["redshift"], "r": g["sdss"][:, 1]}
    comparisons = [row.to_dict() for row in rank([mark(row) for row in rows])]
    report = {
        "version": __version__,
        "simulator": simulator_hash(),
        "pack": pack_sha256(pack),
        "command": command or call,
        "galaxies": galaxies,
        "survey_galaxies": survey_galaxies,
        "cubes": cubes,
        "half": half,
        "seed": seed,
        "summary": count_verdicts(comparisons),
        "summary_by_basis": {basis: count_verdicts(comparisons, basis) for basis in BASES},
        "population": make_population(*population),
        "comparisons": comparisons,
    }
    check_report(report)
    return report, figures


def write_realism(report, figures, folder):
    """Write ``realism.json``, ``realism.html`` (one file, no scripts), the docs' tables and the figures as PNG.

    Returns
    -------
    list of `~pathlib.Path`
    """
    from .figures import draw_figures
    from .page import make_page, make_table

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(figures, folder)
    out = [folder / name for name in ("realism.json", "realism.html", "realism_table.inc", "population.inc")]
    out[0].write_text(json.dumps(report, indent=1, default=_plain) + "\n", encoding="utf-8")
    out[1].write_text(make_page(report, pictures), encoding="utf-8")
    out[2].write_text(make_table(report), encoding="utf-8")
    out[3].write_text(make_population_table(report["population"]), encoding="utf-8")
    return out + list(pictures.values())


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} has no place in a report")
