# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""All arms and baselines before one judge: ``weights, samples -> judge -> scores, curves with draws, worth``.

Some methods are *shown*: they have all scores, strata, errors and maps, as of ``fiberifu validate maps``; all others
have what the curves need.
"""

import dataclasses
import json
import logging

from ..judge import judge
from ..methods import BASELINES
from .plan import simulated_visits
from .run import arm_folder, is_trained, read_cost
from .score import CURVES, LinePredictor, curve_draws, curve_rows
from .worth import worth_of

__all__ = ["judge_arms", "measure_worth"]

log = logging.getLogger(__name__)

CONTROL = "control"


def judge_arms(plan, arms, pack, truth, folder, *, model=None, progress=False):
    """Judge the trained arms and the baselines.

    Parameters
    ----------
    plan : Plan
    arms : list of Arm
        All of the plan; those that are not trained are left out.
    pack : dict
    truth : HeldOutSet
    folder : `~pathlib.Path`
    model : str, optional
        Other weights, judged too.
    progress : bool

    Returns
    -------
    dict
        meta, scores, reliability as of `~fiberifu.validate.judge`, examples and profiles of the page; curves (rows),
        worth (rows), control (rows of the arm without scatter and noise), all of them for JSON.
    """
    from ..maps_job import _review

    trained = [arm for arm in arms if is_trained(folder, arm)]
    judged = [arm for arm in trained if arm.kind != CONTROL]
    networks, about = _networks(plan, judged, folder, model)
    learned = _baselines(plan, arms, pack, folder, about)
    if not judged:  # somebody has to be looked at closely
        (networks or [one for one in learned if one.kind == "rival"])[-1].kind = "judged"
    shown = {one.name for one in [*networks, *learned] if one.kind != "curve"}
    curves, methods = _Curves(), [*networks, *learned]
    report = judge(truth, methods, folder, draws=plan.draws, progress=progress, overwrite=True,
                   measures=[curves, *_of_shown(shown)])  # fmt: skip
    report["meta"]["predictors"] = [one for one in report["meta"]["predictors"] if one["name"] in shown]
    report |= _review(truth, folder, report, progress)
    report["curves"] = curve_rows(curves.draws, about)
    report["worth"] = measure_worth(plan, judged, curves.draws)
    report["control"] = _control(plan, trained, pack, folder, progress)
    report["meta"] |= {"arms": _cards(trained, folder), "untrained": [arm.name for arm in arms if arm not in trained]}
    report["meta"] |= {"placement": next(iter(plan.placements))} | _weights_of(methods)
    return report


class _Curves:
    """A measure for `judge` without rows of its own, which keeps the draws."""

    def __call__(self, predictions, truths, *, seed, draws):
        self.draws = curve_draws(predictions, truths, seed=seed, draws=draws)
        return []


def _of_shown(shown):
    """The measures of the page of maps, of some methods only."""
    from ..calibration import measure_calibration
    from ..metrics import measure_scores

    def of(measure):
        def measured(predictions, truths, **keywords):
            return measure({name: maps for name, maps in predictions.items() if name in shown}, truths, **keywords)

        return measured

    return of(measure_scores), of(measure_calibration)


# ---------------------------------------------------------------- methods
def _networks(plan, arms, folder, model):
    """Predictors of the arms, the one that is looked at closely first; and what is said of each in its rows."""
    from ...observe import VirtualIFU
    from ..predictors import NetworkPredictor

    main = max((arm for arm in arms if arm.kind == "fibres" and arm.placement == next(iter(plan.placements))),
               key=lambda arm: arm.galaxies, default=next(iter(arms), None))  # fmt: skip
    main = None if main is None else main.name
    others = {f"{plan.cubes[-1]} cubes"}
    about = {arm.name: {"kind": arm.kind, "training_galaxies": arm.galaxies, "placement": arm.placement,
                        "method": "network"} for arm in arms}  # fmt: skip
    out = []
    for arm in sorted(arms, key=lambda arm: arm.name != main):
        ifu = VirtualIFU.from_pretrained(arm_folder(folder, arm) / "model")
        out.append(NetworkPredictor(ifu, name=arm.name) if arm.name == main else LinePredictor(ifu, arm.name))
        out[-1].kind = "judged" if arm.name == main else "reference" if arm.name in others else "curve"
        out[-1].about = "the network, on cubes" if arm.kind == "cubes" else "the network, on single fibres"
    if model is not None:
        ifu = VirtualIFU.from_pretrained(model)
        out.append(NetworkPredictor(ifu, name=f"{ifu.config.name}, as given"))
        out[-1].kind, out[-1].about = "reference", "weights that were given, trained elsewhere"
        stages = ", in the last stage of its training alone" if ifu.passport.get("started_from_sha256") else ""
        if seen := ifu.passport.get("training_galaxies"):
            out[-1].about += f"; {seen:,} galaxies{stages}"
        given = {"training_galaxies": ifu.passport.get("training_galaxies") or 0, "placement": "", "method": "network"}
        about[out[-1].name] = {"kind": "given"} | given
    return out, about


def _baselines(plan, arms, pack, folder, about):
    """The methods of the page of maps on the largest number of fibres; trees at all numbers of fibres and of cubes."""
    from .. import baselines
    from .samples import sample_survey

    (folder / "samples").mkdir(exist_ok=True)
    first = next(iter(plan.placements))
    on = {arm.name: arm for arm in arms}
    fibers = sample_survey(on[f"{plan.fibers[-1]} fibres, {first}"].recipe, pack, folder / "samples" / "fibers.npz")
    spaxels = sample_survey(on[f"{plan.cubes[-1]} cubes"].recipe, pack, folder / "samples" / "spaxels.npz",
                            per_galaxy=plan.spaxels)  # fmt: skip
    most = {"training_galaxies": plan.fibers[-1], "placement": first, "kind": "fibres"}
    simple = {
        "constant": baselines.LightTimesEW(fibers),
        "ridge": baselines.PatchRidge(fibers),
        "wide-trees": baselines.PatchTrees(fibers),
        "central": baselines.CentralTimesLight(fibers),
        "position": baselines.PositionOnly(fibers),
    }
    out = []
    for name, one in simple.items():
        if name in ("ridge", "wide-trees", "position") and not _learns(one):
            continue
        one.kind, one.about = BASELINES[name].kind, BASELINES[name].about
        about[one.name] = most | {"method": name} | ({"kind": "reference"} if one.kind == "reference" else {})
        out.append(one)
    for n in plan.fibers:
        out += _trees(baselines.FiberTrees, fibers[:n], f"trees, {n} fibres", n == plan.fibers[-1], about,
                      {**most, "training_galaxies": n, "method": "trees"})  # fmt: skip
    for n in plan.cubes:
        out += _trees(baselines.IFUTrees, spaxels[: n * plan.spaxels], f"trees, {n} cubes", False, about,
                      {"training_galaxies": n, "placement": "", "kind": "cubes", "method": "trees"})  # fmt: skip
    return out


def _trees(make, sample, name, shown, about, said):
    """Trees in a list, or none where the sample is too small for a single line."""
    trees = make(sample, name=name)
    if not _learns(trees):
        return []
    trees.kind, trees.about = "rival" if shown else "curve", BASELINES["trees"].about
    about[name] = said
    return [trees]


def _learns(method):
    """Whether a regression finds enough in its sample; it is trained by this."""
    try:
        return bool(method.regressions)
    except ValueError as error:
        log.warning("no %s: %s", method.name, error)
        return False


# ---------------------------------------------------------------- what the fibres are worth
def measure_worth(plan, arms, draws):
    """How many cubes each arm on fibres is worth, by every line, region and score; of the network and of the trees.

    Returns
    -------
    list of dict
        fibers (name of the arm), method, quantity, region, score; fields of `Worth` and its text.
    """
    families = {
        "network": ([arm.name for arm in arms if arm.kind == "fibres"], "{} cubes"),
        "trees": ([f"trees, {n} fibres" for n in plan.fibers], "trees, {} cubes"),
    }
    places = list(dict.fromkeys(key[1:] for key in draws if key[3] in CURVES))
    out = []
    for method, (fibers, cubes) in families.items():
        for place in places:
            curve = {n: draws.get((cubes.format(n), *place)) for n in plan.cubes}
            curve = {n: found[0] for n, found in curve.items() if found is not None}
            for name in fibers if len(curve) > 1 else ():
                if (name, *place) in draws:
                    worth = worth_of(list(curve), list(curve.values()), draws[name, *place][0], CURVES[place[2]])
                    said = dict(zip(("quantity", "region", "score"), place, strict=True))
                    said |= dataclasses.asdict(worth) | {"text": worth.text}
                    out.append({"fibers": name, "method": method, **said})
    return out


# ---------------------------------------------------------------- the control
def _control(plan, arms, pack, folder, progress):
    """Rows of the arm without unseen scatter and noise, on galaxies of its own universe; and what scatter is left."""
    from ...observe import VirtualIFU
    from ...simulate import SimConfig
    from ...train import ForeseeableSimulator
    from .. import baselines
    from ..held_out import SEED, HeldOutSet
    from .samples import sample_survey

    arm = next((arm for arm in arms if arm.kind == CONTROL), None)
    if arm is None:
        return {"rows": [], "unseen_scatter": None}
    simulator = ForeseeableSimulator(pack, SimConfig(**arm.recipe.simulator))
    truth = HeldOutSet(folder / "control" / "truth", simulator, plan.control_galaxies, SEED)
    truth.build(progress=progress)
    ifu = VirtualIFU.from_pretrained(arm_folder(folder, arm) / "model")
    methods = [LinePredictor(ifu, arm.name)]
    about = {arm.name: {"kind": CONTROL, "training_galaxies": arm.galaxies, "placement": "", "method": "network"}}
    few = {"training_galaxies": min(arm.galaxies, plan.cubes[-1]), "placement": "", "kind": CONTROL}
    recipe = _fewer(arm.recipe, few["training_galaxies"])
    spaxels = sample_survey(recipe, pack, folder / "samples" / "control.npz", per_galaxy=plan.spaxels)
    methods += _trees(baselines.IFUTrees, spaxels, f"control, trees, {few['training_galaxies']} cubes", False, about,
                      few | {"method": "trees"})  # fmt: skip
    curves = _Curves()
    judge(truth, methods, folder / "control", draws=plan.draws, progress=progress, overwrite=True, measures=[curves])
    from ..examples import review

    found = review(((galaxy, {}) for galaxy in truth), "")
    return {"rows": curve_rows(curves.draws, about), "galaxies": len(truth),
            **{key: found[key] for key in ("unseen_scatter", "unseen_scatter_interval")}}  # fmt: skip


def _fewer(recipe, galaxies):
    return dataclasses.replace(recipe, survey=dataclasses.replace(recipe.survey, galaxies=galaxies))


# ---------------------------------------------------------------- where it comes from
def _cards(arms, folder):
    """Of each arm: what it was trained on, for how long, and its weights."""
    from ...model import weights_sha256

    out = []
    for arm in arms:
        place, survey = arm_folder(folder, arm), arm.recipe.survey
        passport = json.loads((place / "model" / "config.json").read_text())["passport"]
        cost = read_cost(folder, arm)
        seen = arm.recipe.steps * arm.recipe.batch
        out.append({
            "name": arm.name, "kind": arm.kind, "galaxies": arm.galaxies, "off_centre": survey.off_centre,
            "steps": arm.recipe.steps, "batch": arm.recipe.batch, "spectra": seen * survey.positions,
            "simulated_visits": simulated_visits(arm.recipe), "seed": arm.recipe.seed,
            "seconds": round(cost["seconds"], 1), "cpu_seconds": round(cost["cpu_seconds"], 1),
            "device": cost.get("device", ""), "recipe_sha256": passport["recipe_sha256"],
            "weights_sha256": weights_sha256(place / "model"),
        })  # fmt: skip
    return out


def _weights_of(methods):
    """The method that is looked at closely, as the page of maps names it."""
    first = next(one for one in methods if one.kind == "judged")
    weights = getattr(getattr(first, "ifu", None), "weights_sha256", None)
    return {"model": first.name, "weights_sha256": weights, "training_data": "fiberifu.simulate"}
