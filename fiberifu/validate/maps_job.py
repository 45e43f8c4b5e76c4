# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Judging a model from nothing to a page: what ``fiberifu validate maps`` calls.

``held-out galaxies + model + baselines -> judge -> review -> scores.json, scores.ecsv, maps.html``
"""

import contextlib
import datetime
import functools
import importlib.util
import logging
import shutil
from importlib import resources
from pathlib import Path

from tqdm import tqdm

from ..output import MANIFEST, atomic_path, prepare_output_folder
from ..provenance import software_version
from .methods import BASELINES, JUDGED, make_baselines, parse_baselines
from .score_files import read_scores, write_scores
from .score_notes import judged_in, kinds_of, select, verdicts

__all__ = ["PAGE", "judge_to_page", "summary_lines", "training_recipes", "validate_maps_to_folder", "write_page"]

log = logging.getLogger(__name__)

PAGE = "maps.html"
FOLDERS = ("truth", "predictions", "samples")
DRAWS = 500  # of the bootstrap


def validate_maps_to_folder(
    folder,
    *,
    model=None,
    galaxies=None,
    fibers=40_000,
    seed=None,
    baselines="all",
    recipes=(),
    held_out=None,
    templates=None,
    fetch=False,
    workers=1,
    overwrite=False,
    resume=False,
    progress=False,
    pack=None,
    command=None,
    draws=DRAWS,
):
    """Judge a model on held-out galaxies beside baselines, and write scores and a page.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    model : str or path-like, optional
        As for `VirtualIFU.from_pretrained <fiberifu.VirtualIFU.from_pretrained>`.
    galaxies : int, optional
        Held-out galaxies; by default all that ``held_out`` has, or 2000.
    fibers : int
        Fibres (and spaxels) that baselines learn from.
    seed : int, optional
        Of the held-out galaxies; by default `fiberifu.validate.held_out.SEED`.
    baselines : str
        "all", "none", or names of `~fiberifu.validate.methods.BASELINES` with commas.
    recipes : sequence of path-like
        By which the model was trained: baselines learn from the same fibres. By default that of the package which
        made the weights, see `training_recipes`.
    held_out : path-like, optional
        Folder of held-out galaxies to read instead of making them.
    templates, fetch
        As for `fiberifu.simulate_job.read_templates`.
    workers : int
        Processes that simulate held-out galaxies; they do not depend on it.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`; ``overwrite`` removes what an earlier run cached.
    progress : bool
    pack : dict, optional
        Of templates, instead of ``templates``.
    command : str, optional
        To be recorded.
    draws : int
        Of the bootstrap.

    Returns
    -------
    list of `~pathlib.Path`
        Scores, table, page.

    Raises
    ------
    ValueError, OSError
        For what is wrong with an argument, the folder, the model or the templates.
    """
    from ..observe import VirtualIFU
    from ..simulate_job import read_templates
    from .held_out import SEED, check_seed
    from .predictors import NetworkPredictor

    for name, value in (("galaxies", galaxies), ("fibers", fibers), ("workers", workers)):
        if not (isinstance(value, int) and value >= 1 or (name == "galaxies" and value is None)):
            raise ValueError(f"{name} is {value!r}; give a whole number from 1")
    if seed is not None:
        check_seed(seed)
    names = parse_baselines(baselines)
    learn = any(BASELINES[name].needs in ("fibers", "spaxels") for name in names)
    if learn and importlib.util.find_spec("sklearn") is None:
        raise ValueError("baselines need scikit-learn: pip install 'fiberifu[validate]', or give --baselines none")
    ifu = VirtualIFU.from_pretrained(model)
    stages = training_recipes(ifu.passport, recipes) if learn else []
    if pack is None and (learn or held_out is None):
        pack = read_templates(templates, fetch=fetch, progress=progress)
    truth = _held_out(Path(folder), held_out, galaxies, SEED if seed is None else seed, seed is not None, pack)
    check_seed(truth.seed)  # of galaxies that were made elsewhere, too
    settings = {"weights": ifu.weights_sha256, "held_out": truth.key, "galaxies": len(truth), "baselines": names,
                "fibers": fibers if learn else None, "recipes": [stage.sha256() for stage in stages], "draws": draws,
                "software": software_version()}  # fmt: skip
    folder = _prepare(Path(folder), settings, overwrite, resume)
    truth.build(workers=workers, progress=progress)
    network = NetworkPredictor(ifu, name=JUDGED)
    network.kind, network.about = "judged", f"the model {ifu.config.name}, from the image alone"
    samples = _samples(folder / "samples", stages, pack, fibers, progress)
    methods = [network, *make_baselines(names, network=network, galaxies=truth, **samples)]
    meta = _about(ifu, fibers if learn else None, command)
    return judge_to_page(truth, methods, folder, draws=draws, progress=progress, meta=meta)


def judge_to_page(held_out, predictors, folder, *, draws=DRAWS, progress=False, meta=None):
    """Judge methods, choose examples, and write scores and page.

    Parameters
    ----------
    held_out, predictors, folder, draws, progress, meta
        As for `~fiberifu.validate.judge`.

    Returns
    -------
    list of `~pathlib.Path`
        Scores, table, page.
    """
    from .doubt import measure_doubt
    from .judge import judge

    folder, predictors = Path(folder), list(predictors)
    with _quiet("fiberifu.decode"):
        report = judge(held_out, predictors, folder, draws=draws, progress=progress, meta=meta)
    report |= _review(held_out, folder, report, progress)
    first = next(p for p in predictors if p.name == judged_in(report))
    with _quiet("fiberifu.decode"):
        if doubt := measure_doubt(held_out, first, folder, draws=draws, progress=progress):
            report["doubt"] = doubt
    return [*write_scores(folder, report), write_page(folder, held_out=held_out.folder)]


def training_recipes(passport, paths=()):
    """Recipes whose fibres the baselines learn from.

    Parameters
    ----------
    passport : dict
        Of the model.
    paths : sequence of path-like
        By default the recipe in the package that the passport names: of a model trained in stages the last, since
        earlier stages may have seen galaxies that an earlier simulator made.

    Returns
    -------
    list of `~fiberifu.train.Recipe`

    Raises
    ------
    ValueError
        If no paths are given and the package has no recipe that made the model.
    """
    from ..train import Recipe

    last = passport.get("recipe_sha256")
    if paths:
        stages = [Recipe.read(path) for path in paths]
        if last is not None and stages[-1].sha256() != last:
            log.warning(
                "the model was trained by another recipe than %s: baselines see other fibres than it", paths[-1]
            )
        return stages
    folder = resources.files("fiberifu.train") / "recipes"
    for name in sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml")):
        with resources.as_file(folder / name) as path:
            recipe = Recipe.read(path)
        if recipe.sha256() == last:
            return [recipe]
    raise ValueError(
        "recipes: the model was trained by a recipe that the package does not have; give it (--recipe FILE), so that "
        "baselines learn from the same fibres, or do without them (--baselines none)"
    )


def write_page(folder, *, held_out=None):
    """Draw the page from the scores, and the examples from the galaxies and predictions beside them.

    Parameters
    ----------
    folder : path-like
    held_out : path-like, optional
        Where the galaxies are; ``truth`` in the folder by default. Without them the page has no maps.

    Returns
    -------
    `~pathlib.Path`
    """
    from .report import make_page
    from .report_sections import draw_sections

    folder = Path(folder)
    report = read_scores(folder)
    try:
        examples = _read_examples(folder, report, held_out)
    except (OSError, ValueError) as error:
        log.warning("no maps on the page: %s", error)
        examples = {}
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(make_page(report, draw_sections(report, examples)), encoding="utf-8")
    return folder / PAGE


def summary_lines(folder):
    """What came out, in words.

    Yields
    ------
    str
    """
    report = read_scores(Path(folder))
    key = judged_in(report), "R2 log EW"
    for region in ("whole", "off-centre"):
        rows = [row for row in select(report, "Ha", region) if (row["predictor"], row["score"]) == key]
        for row in (row for row in rows if row["value"] is not None):
            ends = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
            yield f"R2 of log EW(H-alpha), {region}: {row['value']:.2f}{ends}, {row['galaxies']} galaxies"
    found = [row["verdict"] for row in verdicts(report)]
    if "void" in found:
        yield "against the best rival: void, the galaxies may hide too little from an image"
    elif "too few galaxies" in found:
        yield "against the best rival: too few galaxies for a verdict"
    elif found:
        yield (
            f"against the best rival: better in {found.count('better')} of {len(found)} comparisons, worse in "
            f"{found.count('worse')}, undecided in {found.count('undecided')}"
        )
    yield "Predicted from images of simulated galaxies: not observations."


# ---------------------------------------------------------------- parts of the job
def _held_out(folder, held_out, galaxies, seed, asked, pack):
    from .held_out import HeldOutSet

    if held_out is None:
        from ..simulate import Simulator

        return HeldOutSet(folder / "truth", Simulator(pack), galaxies, seed)
    try:
        found = HeldOutSet(held_out, galaxies=galaxies)
    except FileNotFoundError as error:
        inside = Path(held_out) / "truth"
        hint = inside if inside.is_dir() else "the folder truth of an earlier run"
        raise FileNotFoundError(f"held_out is {held_out}, which holds no held-out galaxies; give {hint}") from error
    if asked and found.seed != seed:
        raise ValueError(f"seed is {seed}, and the galaxies in {held_out} are of {found.seed}; give one of the two")
    if found.missing() or not len(found):
        there = (found.shards - len(found.missing())) * found.per_shard
        raise ValueError(f"galaxies is {galaxies}, and {held_out} has {there}; give {there} at most, or no number")
    return found


def _prepare(folder, settings, overwrite, resume, *, folders=FOLDERS, files=("scores.json", "scores.ecsv", PAGE)):
    if overwrite and folder.is_dir():
        # until the old files are gone nothing may vouch for them: a run killed meanwhile cannot be resumed
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in folders:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in files:
            (folder / name).unlink(missing_ok=True)
    return prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)


def _samples(folder, stages, pack, n, progress):
    """Functions that make the samples when they are first asked for."""

    def sample(kind, recipes):
        from . import fiber_sample

        folder.mkdir(exist_ok=True)
        make = {"fibers": fiber_sample.sample_fibers, "spaxels": fiber_sample.sample_spaxels}[kind]
        with tqdm(total=n, unit=kind[:-1], disable=not progress, leave=False) as bar:
            return make(recipes, pack, n, folder / f"{kind}.npz", progress=lambda done: bar.update(done - bar.n))

    return {
        "fibers": functools.cache(lambda: sample("fibers", stages)),
        "spaxels": functools.cache(lambda: sample("spaxels", stages[-1])),
    }


@contextlib.contextmanager
def _quiet(name):
    """Without what the library announces of each of thousands of galaxies."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _about(ifu, fibers, command):
    """What was judged, beside all that the loop knows."""
    return {
        "model": ifu.config.name,
        "weights_sha256": ifu.weights_sha256,
        **{key: ifu.passport.get(key) for key in ("training_data", "training_galaxies", "recipe_sha256")},
        "fibers": fibers,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": command,
    }


def _review(truth, folder, report, progress):
    """Examples, profiles and unseen scatter, shard by shard."""
    from .examples import review
    from .judge import read_shard

    def pairs():
        for number in tqdm(range(truth.shards), unit="shard", disable=not progress, leave=False):
            answers = {name: read_shard(folder, name, number) for name in kinds_of(report)}
            for i, galaxy in enumerate(truth.shard(number)):
                if number * truth.per_shard + i < len(truth):
                    yield galaxy, {name: maps[i] for name, maps in answers.items()}

    return review(pairs(), judged_in(report))


def _read_examples(folder, report, held_out):
    """Truth and prediction of the examples, by position."""
    from .held_out import HeldOutSet
    from .judge import read_shard

    truth = HeldOutSet(folder / "truth" if held_out is None else held_out, galaxies=report["meta"]["galaxies"])
    if truth.key != report["meta"]["held_out"]["key"]:
        raise ValueError(f"{truth.folder} holds other galaxies than those that were judged")
    out, judged = {}, judged_in(report)
    for example in report.get("examples", ()):
        shard, i = divmod(example["position"], truth.per_shard)
        out[example["position"]] = truth[example["position"]], read_shard(folder, judged, shard)[i]
    return out
