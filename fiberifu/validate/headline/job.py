# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The experiment from nothing to a page: what ``fiberifu validate headline`` calls.

``Plan -> templates, held-out galaxies -> train_arms -> judge_arms -> headline.json, headline.ecsv, headline.html``
"""

import datetime
import importlib.util
import json
import logging
from pathlib import Path

import numpy as np

from ...output import atomic_path, settings_hash
from ...provenance import software_version
from .plan import Plan
from .run import train_arms

__all__ = ["headline_to_folder", "summary_lines"]

log = logging.getLogger(__name__)

PACK = "pack.npz"
FOLDERS = ("runs", "samples", "predictions", "truth", "control")
FILES = (PACK, "scores.json", "scores.ecsv", "headline.json", "headline.ecsv", "headline.html")


def headline_to_folder(
    folder,
    *,
    size="cpu",
    model=None,
    galaxies=None,
    held_out=None,
    templates=None,
    fetch=False,
    workers=None,
    device="cpu",
    stop_after=None,
    as_is=False,
    overwrite=False,
    resume=False,
    progress=False,
    pack=None,
    command=None,
    train=None,
):
    """Train all arms of a plan, judge them on the same held-out galaxies, and write tables and a page.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    size : str
        'smoke', 'cpu', 'full', or a TOML file (`Plan`).
    model : str or path-like, optional
        Other weights that are judged beside the arms, as for `VirtualIFU.from_pretrained
        <fiberifu.VirtualIFU.from_pretrained>`.
    galaxies : int, optional
        Held-out galaxies, in place of the plan's.
    held_out : path-like, optional
        Folder of held-out galaxies to read instead of making them.
    templates, fetch
        As for `fiberifu.simulate_job.read_templates`.
    workers : int, optional
        Processes that simulate galaxies; 0 simulates in this one. By default the plan's.
    device : str
        On which arms are trained.
    stop_after : float, optional
        Seconds of training after which its state is saved; with ``resume`` the same call goes on.
    as_is : bool
        Judge what is trained already and leave the rest, to go on later.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`.
    progress : bool
    pack : dict, optional
        Of templates, instead of ``templates``.
    command : str, optional
        To be recorded.
    train : callable, optional
        In place of `fiberifu.train.train`.

    Returns
    -------
    list of `~pathlib.Path`
        Table, all numbers, page; empty if the trainings are not finished.

    Raises
    ------
    ValueError, OSError
        For what is wrong with an argument, the folder, the plan or the templates.
    """
    from ..maps_job import _held_out, _prepare, _quiet

    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("baselines need scikit-learn: pip install 'fiberifu[validate]'")
    plan = Plan.read(size)
    if galaxies is not None and galaxies < 1:
        raise ValueError(f"galaxies is {galaxies}; give a whole number from 1")
    wanted = plan.galaxies if galaxies is None else galaxies
    pack, analytic = _templates(plan, pack, templates, fetch, progress)
    arms = plan.arms(**({} if workers is None else {"workers": workers}))
    folder = Path(folder)
    settings = {"plan": plan.title, "arms": {arm.name: arm.recipe.sha256() for arm in arms}, "analytic": analytic,
                "galaxies": wanted, "model": None if model is None else str(model),
                "held_out": None if held_out is None else str(held_out), "pack": _pack_hash(pack),
                "control_galaxies": plan.control_galaxies, "spaxels": plan.spaxels, "draws": plan.draws}  # fmt: skip
    if len(plan.cubes) < 2:
        log.warning("one number of cubes: what fibres are worth is not asked; give two or more")
    if held_out is not None:  # before the trainings, not after
        _same_universe(_held_out(Path(folder), held_out, wanted, _seed(), False, pack), settings["pack"])
    folder = _prepare(folder, settings, overwrite, resume, folders=FOLDERS, files=FILES)
    if not (folder / PACK).is_file():
        with atomic_path(folder / PACK) as temporary:
            np.savez(temporary, **pack)
    if not as_is and not train_arms(arms, folder / PACK, folder, stop_after=stop_after, device=device,
                                    progress=progress, train=train):  # fmt: skip
        return []
    from .judging import judge_arms
    from .page import write_page

    truth = _held_out(folder, held_out, wanted, _seed(), False, pack)
    truth.build(workers=max(workers or arms[0].recipe.workers, 1), progress=progress)
    with _quiet("fiberifu.decode"):
        report = judge_arms(plan, arms, pack, truth, folder, model=model, progress=progress)
    report["meta"] |= {
        "title": plan.title, "analytic": analytic, "command": command, "version": software_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), "settings_sha256": settings_hash(settings),
    }  # fmt: skip
    paths = write_tables(folder, report)
    return [*paths, write_page(folder, held_out=truth.folder)]


def _seed():
    from ..held_out import SEED

    return SEED


def _same_universe(truth, pack_sha256):
    """Refuse held-out galaxies from other templates, or of another simulator, than those that the arms learn from."""
    from ..realism.origin import simulator_hash

    wanted = {"templates": pack_sha256, "simulator": simulator_hash()}
    for name, value in wanted.items():
        if truth.settings[name] != value:
            raise ValueError(
                f"held_out: the galaxies in {truth.folder} are of other {name} ({truth.settings[name][:12]}) than the "
                f"trainings ({value[:12]}), which would be judged in a universe that they do not know; leave it out, "
                "or give galaxies of the same"
            )


def _pack_hash(pack):
    from ...simulate.identifiers import pack_sha256

    return pack_sha256(pack)


def _templates(plan, pack, templates, fetch, progress):
    """The template pack, and whether it is one from formulae."""
    from ...simulate import analytic_template_pack
    from ...simulate_job import read_templates

    if pack is not None:
        return pack, False
    try:
        return read_templates(templates, fetch=fetch, progress=progress), False
    except FileNotFoundError:
        if not plan.analytic or templates is not None:
            raise
        log.warning("no templates of stars and gas: this smoke test makes do with a few formulae")
        return analytic_template_pack(), True


def write_tables(folder, report):
    """``headline.json`` (everything) and ``headline.ecsv`` (one row for each score of the curves).

    Returns
    -------
    list of `~pathlib.Path`
    """
    from astropy.table import Table

    paths = [folder / "headline.ecsv", folder / "headline.json"]
    rows = [{key: np.nan if value is None else value for key, value in row.items()} for row in report["curves"]]
    table = Table(rows, meta={key: report["meta"][key] for key in ("title", "command", "version", "date", "arms")})
    with atomic_path(paths[0]) as temporary:
        table.write(temporary, format="ascii.ecsv")
    with atomic_path(paths[1]) as temporary:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return paths


def summary_lines(folder):
    """What came out, in words.

    Yields
    ------
    str
    """
    report = json.loads((Path(folder) / "headline.json").read_text())
    if report["meta"]["analytic"] or report["meta"]["title"] == "smoke test":
        yield "A smoke test: that it runs is all that it shows. Its numbers mean nothing."
    for one in report["worth"]:
        if (one["quantity"], one["region"]) == ("Ha", "off-centre"):
            yield f"{one['fibers']} are worth, in galaxies with cubes, by {one['score']} off-centre: {one['text']}"
    yield "Predicted from images of simulated galaxies: not observations."
