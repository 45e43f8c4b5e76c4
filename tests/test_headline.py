"""The headline experiment: plans, trainings that go on, what fibres are worth, the page from stored rows."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from test_validate_report import answer, galaxy

from fiberifu import cli
from fiberifu.model import FiberMAE, ModelConfig
from fiberifu.simulate import Simulator, analytic_template_pack
from fiberifu.simulate.recipe import Draws
from fiberifu.train import FiniteSurvey, ForeseeableSimulator, Recipe, Survey
from fiberifu.validate import PredictedMaps
from fiberifu.validate.headline import SIZES, Plan, train_arms
from fiberifu.validate.headline.job import headline_to_folder
from fiberifu.validate.headline.judging import measure_worth
from fiberifu.validate.headline.page import _comparable, make_page, write_page
from fiberifu.validate.headline.plan import simulated_visits
from fiberifu.validate.headline.run import arm_folder, is_trained, read_cost
from fiberifu.validate.headline.samples import sample_survey
from fiberifu.validate.headline.score import CURVES, curve_draws, curve_rows
from fiberifu.validate.headline.worth import crossing, monotone, worth_of

SMALL = {"title": "test", "fibers": [20, 40], "cubes": [2, 4, 8], "positions": 2, "control": 4, "draws": 20}
TINY = ModelConfig(name="tiny", width=16, depth=1, heads=2, local_width=16, rest_size=15309)


@pytest.fixture(scope="module")
def pack():
    return analytic_template_pack()


@pytest.fixture(scope="module")
def plan():
    return Plan.from_dict(SMALL)


# ---------------------------------------------------------------- plans
def test_arms_differ_in_the_survey_alone(plan):
    arms = plan.arms(workers=0)
    assert len(arms) == 2 + 3 + 2 + 1 and len({arm.folder for arm in arms}) == len(arms)
    assert [arm.kind for arm in arms[:2]] == ["fibres", "cubes"] and arms[0].galaxies == 40
    first = dataclasses.replace(arms[0].recipe, survey=None)
    for arm in arms:
        if arm.kind != "control":
            assert dataclasses.replace(arm.recipe, survey=None) == first
    control = arms[-1].recipe
    assert control.simulator == {"noise": False} and not control.survey.scatter
    places = {arm.placement: arm.recipe.survey.off_centre for arm in arms if arm.galaxies == 40}
    assert places == {"DESI-like": 0.15, "central": 0.0, "scattered": 1.0}
    assert len({arm.recipe.sha256() for arm in arms}) == len(arms)


@pytest.mark.parametrize("size", SIZES)
def test_packaged_plans(size):
    plan = Plan.read(size)
    arms = plan.arms()
    assert simulated_visits(arms[0].recipe) >= plan.fibers[-1]  # every fibre is seen
    assert plan.analytic == (size == "smoke")
    assert size != "cpu" or {30, 100, 300} <= set(plan.cubes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fibers": [40, 20]}, "fibers"),
        ({"cubes": []}, "cubes"),
        ({"placements": {"odd": 1.5}}, "placements"),
        ({"placements": {"DESI-like": 0.1, "DESI like": 0.2}}, "'DESI-like' and 'DESI like'"),
        ({"training": {"steps": 10, "batch": 4, "passes": 2, "shelf": 4}}, "got 40, .* visits 24"),
        ({"positions": 0}, "positions"),
        ({"training": {"model": 1}}, "training"),
        ({"training": {"stepz": 1}}, "stepz"),
        ({"colour": 1}, "colour"),
        ({"draws": "many"}, "draws"),
        ({"network": 3}, "network"),
    ],
)
def test_plans_refuse_what_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_dict(SMALL | change)


def test_plan_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('title = "mine"\nfibers = [10]\ncubes = [2, 3]\n[training]\nsteps = 7\n')
    assert {arm.recipe.steps for arm in Plan.read(path).arms()} == {7}
    path.write_text("title = ")
    with pytest.raises(ValueError, match=r"mine\.toml"):
        Plan.read(path)
    with pytest.raises(FileNotFoundError, match="smoke"):
        Plan.read(tmp_path / "none.toml")


def test_survey_without_scatter_keeps_other_hashes():
    recipe = Recipe(survey=Survey())
    other = dataclasses.replace(recipe, survey=Survey(scatter=False))
    assert recipe.sha256() != other.sha256()
    settings = {k: v for k, v in dataclasses.asdict(Survey()).items() if k != "scatter"}
    assert Survey.from_dict(settings) == Survey() and Survey.from_dict({"scatter": False}) == other.survey
    with pytest.raises(ValueError, match="scatter"):
        Survey.from_dict({"scatter": 1})


# ---------------------------------------------------------------- a universe without unseen scatter
def test_foreseeable_universe(pack):
    usual = Simulator(pack)
    plain = ForeseeableSimulator.like(usual)
    a, b = (one._draw(Draws(5, range(300))) for one in (usual, plain))
    for name in ("redshift", "re", "log_sfr", "gas_z_inner", "inclination", "clumps"):
        assert torch.equal(a[name], b[name])  # the same galaxies
    assert a["agn"].any() and not (b["agn"] | b["outflow"] | b["decoupled"]).any()
    assert a["burst"].std() > 0.1 and b["burst"].abs().max() == 0
    for name in ("ionising", "gas_dust", "diffuse", "diffuse_o3", "diffuse_low", "xi", "n_over_o"):
        middle, scatter = a[name].median().item(), a[name].std().item()
        assert abs(middle - b[name][0].item()) < 0.3 * scatter, name  # the middle of what is drawn
        assert b[name].std() < 1e-6
    d = Draws(5, range(3))
    plain._draw(d)
    ages = d.clump[..., 5] + d.clump[..., 6] + d.clump[..., 1]
    assert torch.allclose(ages, torch.full_like(ages, 1.5))
    survey = Survey(galaxies=2, scatter=False)
    assert isinstance(FiniteSurvey(usual, survey, 1).simulator, ForeseeableSimulator)


# ---------------------------------------------------------------- trainings
class Trainer:
    """In place of `fiberifu.train.train`: ten steps a call, and a state in the folder as that one has."""

    def __init__(self, killed_after=None):
        self.calls, self.killed_after = [], killed_after

    def __call__(self, recipe, pack_path, folder, *, start=None, stop_after=None, device="cpu", progress=False):
        if self.killed_after is not None and len(self.calls) == self.killed_after:
            raise KeyboardInterrupt
        state = folder / "steps"
        step = min(int(state.read_text()) + 10 if state.is_file() else 10, recipe.steps)
        state.write_text(str(step))
        self.calls.append(folder.name)
        return FiberMAE(recipe.model), step


@pytest.fixture
def arms(plan, monkeypatch):
    monkeypatch.setattr("fiberifu.train.training_range", lambda model, batches: {})
    return [dataclasses.replace(arm, recipe=dataclasses.replace(arm.recipe, model=TINY, steps=20))
            for arm in plan.arms()[:3]]  # fmt: skip


def test_killed_plan_goes_on(arms, tmp_path):
    trainer = Trainer(killed_after=3)
    assert not train_arms(arms, "pack.npz", tmp_path, train=trainer)  # a training that was stopped
    assert read_cost(tmp_path, arms[0])["steps"] == 10 and not is_trained(tmp_path, arms[0])
    assert not train_arms(arms, "pack.npz", tmp_path, train=trainer)  # finishes one, stops in the next
    assert is_trained(tmp_path, arms[0]) and read_cost(tmp_path, arms[0])["portions"] == 2
    with pytest.raises(KeyboardInterrupt):
        train_arms(arms, "pack.npz", tmp_path, train=trainer)
    again = Trainer()
    while not train_arms(arms, "pack.npz", tmp_path, train=again):
        pass
    assert arms[0].folder not in again.calls  # what is done stays done
    assert all(is_trained(tmp_path, arm) for arm in arms)
    card = (arm_folder(tmp_path, arms[1]) / "model" / "README.md").read_text()
    assert arms[1].name in card
    changed = dataclasses.replace(arms[0], recipe=dataclasses.replace(arms[0].recipe, learning_rate=1e-5))
    assert not is_trained(tmp_path, changed)
    assert not train_arms(arms, "pack.npz", tmp_path / "new", stop_after=0.0, train=again)


def test_job_stops_and_refuses_other_plans(plan, pack, tmp_path, monkeypatch):
    path, folder = tmp_path / "plan.toml", tmp_path / "out"
    path.write_text('title = "mine"\nfibers = [10]\ncubes = [2, 3]\n[training]\nsteps = 20\n')
    settings = {"size": path, "pack": pack, "train": Trainer()}
    assert headline_to_folder(folder, **settings) == []  # stopped in the first training
    assert (folder / "pack.npz").is_file() and len(list((folder / "runs").iterdir())) == 1
    with pytest.raises(FileExistsError, match="resume"):
        headline_to_folder(folder, **settings)
    with pytest.raises(ValueError, match="galaxies"):
        headline_to_folder(folder, resume=True, galaxies=7, **settings)
    whole = path.read_text()
    path.write_text("draws = 7\n" + whole)
    with pytest.raises(ValueError, match="draws"):
        headline_to_folder(folder, resume=True, **settings)
    path.write_text(whole)
    assert headline_to_folder(folder, resume=True, stop_after=0.0, **settings) == []
    (folder / "mine.txt").write_text("of the user")
    path.write_text(path.read_text().replace("20", "30"))
    assert headline_to_folder(folder, overwrite=True, **settings) == []
    assert (folder / "mine.txt").is_file() and (folder / "runs" / "10-fibres-desi-like" / "steps").read_text() == "10"


def test_held_out_galaxies_of_another_universe(pack, tmp_path):
    from fiberifu.simulate.identifiers import pack_sha256
    from fiberifu.validate.headline.job import _same_universe
    from fiberifu.validate.held_out import HeldOutSet

    truth, own = HeldOutSet(tmp_path / "truth", Simulator(pack), 2), pack_sha256(pack)
    _same_universe(truth, own)
    with pytest.raises(ValueError, match="other templates"):
        _same_universe(truth, "0" * 64)
    truth.settings = truth.settings | {"simulator": "0" * 64}
    with pytest.raises(ValueError, match="other simulator"):
        _same_universe(truth, own)


def test_samples_are_the_survey(pack):
    recipe = Plan.from_dict(SMALL | {"fibers": [3], "training": {"mixtures": 40}}).arms()[0].recipe
    sample = sample_survey(recipe, pack)
    survey = FiniteSurvey(Simulator(pack), recipe.survey, 10_000_000)
    assert sample.kind == "fibres" and sample.galaxy.tolist() == survey.galaxies.tolist()
    batch = survey.batch(0, 3)
    order = np.argsort(batch["galaxy"].numpy())
    assert np.allclose(sample.true_ew, batch["truth"]["line_ew"].numpy()[order], rtol=1e-4)
    with pytest.raises(ValueError, match="survey"):
        sample_survey(dataclasses.replace(recipe, survey=None), pack)


# ---------------------------------------------------------------- what fibres are worth
def test_crossing_by_hand():
    galaxies = (10, 100, 1000)
    curve = np.array([0.1, 0.3, 0.5])
    assert crossing(galaxies, curve, 0.3) == pytest.approx(100)
    assert crossing(galaxies, curve, 0.4) == pytest.approx(10**2.5)  # in the middle, of the logarithm
    assert crossing(galaxies, curve, 0.05) == 0 and np.isinf(crossing(galaxies, curve, 0.6))
    assert crossing(galaxies, np.array([0.1, 0.5, 0.3]), 0.3) == pytest.approx(10**1.5)  # the first time
    assert np.isnan(crossing(galaxies, np.array([0.1, np.nan, 0.5]), 0.3))
    with pytest.raises(ValueError, match="rising"):
        crossing((10, 10, 20), curve, 0.3)


def test_worth_and_its_interval():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 0.1, 2001)
    common[0] = 0
    curve = np.array([0.1, 0.3, 0.5])[:, None] + common  # both move together: paired
    found = worth_of((10, 100, 1000), curve, 0.4 + common)
    assert found.galaxies == pytest.approx(10**2.5) and found.low == pytest.approx(found.high)
    alone = worth_of((10, 100, 1000), curve, np.r_[0.4, 0.4 + rng.normal(0, 0.02, 2000)])
    assert alone.low < 10**2.5 < (alone.high or np.inf)
    error = worth_of((10, 100, 1000), -curve, -(0.4 + common), better=False)
    assert error.galaxies == pytest.approx(found.galaxies)
    more = worth_of((10, 100, 1000), curve, 0.9 + common)
    assert more.galaxies is None and more.more == 1 and "more than 1,000" in more.text
    fewer = worth_of((10, 100, 1000), curve, 0.0 + common)
    assert "fewer than 10" in fewer.text
    edge = worth_of((10, 100, 1000), curve, np.r_[0.49, 0.49 + rng.normal(0, 0.2, 2000)] + common)
    assert edge.high is None and "more than 1,000)" in edge.text


def test_worth_says_what_all_galaxies_say():
    """The curve falls and rises: where a score is beyond an end, the draws do not turn the direction round."""
    rng = np.random.default_rng(0)
    curve = np.array([0.30, 0.25, 0.31])[:, None] + np.c_[np.zeros(3), rng.normal(0, 0.1, (3, 2000))]
    score = np.r_[0.32, 0.32 + rng.normal(0, 0.1, 2000)]
    found = worth_of((30, 100, 300), curve, score)
    assert found.galaxies is None and found.beyond == (1, -1, 1) and found.fewer > 0.2
    assert found.text.startswith("more than 300 (fewer than 30 to more than 300; so ")
    nothing = worth_of((30, 100, 300), curve, np.full(2001, np.nan))
    assert nothing.text == "unknown" and nothing.more == nothing.fewer == 0
    alone = worth_of((30, 100, 300), np.array([[0.1], [0.2], [0.3]]), np.array([0.2]))
    assert alone.text == "100 (interval unknown)"


def test_noise_of_training_does_not_make_fibres_cheap():
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(2)
    noisy = np.array([0.2, 0.3, 0.4])[:, None] + rng.normal(0, 0.1, (3, 4000))
    smooth = monotone(noisy)
    for i in range(20):
        assert smooth[:, i] == pytest.approx(isotonic_regression(noisy[:, i]).x)
    assert np.isnan(monotone([0.1, np.nan, 0.2])).all()
    first, found = (np.median(crossing((30, 100, 300), curve, np.full(4000, 0.3))) for curve in (noisy, smooth))
    assert found == pytest.approx(100, rel=0.3) and first < found  # worth 100 in truth


# ---------------------------------------------------------------- scores and page
@pytest.fixture(scope="module")
def judged(plan):
    truths = [galaxy(i, strata=("agn",) if i % 2 else (), scale=0.5 + 0.2 * i) for i in range(8)]
    rng = np.random.default_rng(0)

    def method(error):
        out = []
        for truth in truths:
            one = answer(truth)
            factor = 10 ** rng.normal(0, error, one.ew.shape)
            out.append(PredictedMaps(flux=one.flux * factor, flux_sigma=one.flux_sigma, ew=one.ew * factor,
                                     ew_sigma=one.ew_sigma))  # fmt: skip
        return out

    errors = {"40 fibres, DESI-like": 0.2, "2 cubes": 0.3, "4 cubes": 0.25, "8 cubes": 0.1, "20 fibres, DESI-like": 0.5}
    errors |= {"40 fibres, central": 0.22}
    predictions = {name: method(error) for name, error in errors.items()}
    arms = [arm for arm in plan.arms() if arm.name in predictions]
    about = {arm.name: {"kind": arm.kind, "training_galaxies": arm.galaxies, "placement": arm.placement,
                        "method": "network"} for arm in arms}  # fmt: skip
    return arms, truths, predictions, curve_draws(predictions, truths, draws=20), about


def test_curve_scores_are_those_of_the_page_of_maps(judged):
    from fiberifu.validate import measure_scores

    _, truths, predictions, draws, about = judged
    rows = curve_rows(draws, about)
    wanted = {(r["predictor"], r["quantity"], r["region"], r["score"]): r for r in rows}
    name = "4 cubes"
    for row in measure_scores({name: predictions[name]}, truths, draws=20):
        key = tuple(row[part] for part in ("predictor", "quantity", "region", "score"))
        if row["stratum"] == "all" and key in wanted:
            assert wanted.pop(key)["value"] == pytest.approx(row["value"], abs=1e-6)
    assert not [key for key in wanted if key[0] == name]


def test_nothing_beyond_light_is_asked_of_light_alone(judged):
    _, _, _, draws, about = judged
    rows = curve_rows(draws, about | {"4 cubes": {"method": "central"}})
    kept = {(row["predictor"], row["score"]) for row in rows}
    assert ("4 cubes", "r after r-band") not in kept and ("4 cubes", "R2 log EW") in kept
    scores = [{"predictor": name, "score": "r after r-band"} for name in ("2 cubes", "4 cubes")]
    assert [row["predictor"] for row in _comparable({"curves": rows, "scores": scores})] == ["2 cubes"]


def test_worth_of_arms(plan, judged):
    arms, _, _, draws, _ = judged
    rows = {(r["fibers"], r["quantity"], r["region"], r["score"]): r for r in measure_worth(plan, arms, draws)}
    for score in ("R2 log EW", "MAE log EW [dex]"):
        assert 4 < rows["40 fibres, DESI-like", "Ha", "whole", score]["galaxies"] < 8
        assert rows["20 fibres, DESI-like", "Ha", "whole", score]["fewer"] == 1
    assert {key[3] for key in rows} == set(CURVES)


def test_page_from_stored_rows(plan, judged, tmp_path, monkeypatch):
    arms, _, _, draws, about = judged
    cards = [{"name": arm.name, "kind": arm.kind, "galaxies": arm.galaxies, "off_centre": 0.1, "steps": 20, "batch": 8,
              "spectra": 160, "simulated_visits": 80, "seed": 1, "seconds": 2.0, "cpu_seconds": 1.0, "device": "cpu",
              "recipe_sha256": "a" * 64, "weights_sha256": "b" * 64} for arm in arms]  # fmt: skip
    name = "40 fibres, DESI-like"
    meta = {"title": "smoke test", "analytic": True, "galaxies": 8, "arms": cards, "untrained": ["control, <b>"],
            "model": name, "predictors": [{"name": name, "kind": "judged", "about": "it"}], "command": "fiberifu x",
            "version": "1", "placement": "DESI-like"}  # fmt: skip
    report = {"meta": meta, "scores": [], "reliability": [], "curves": curve_rows(draws, about),
              "worth": measure_worth(plan, arms, draws), "control": {"rows": [], "unseen_scatter": None}}  # fmt: skip
    (tmp_path / "headline.json").write_text(json.dumps(report, allow_nan=False))
    text = write_page(tmp_path, held_out=tmp_path).read_text()
    assert "Smoke test" in text and "control, &lt;b&gt;" in text and "20 steps are few" in text
    assert text.count("data:image/png;base64,") == 3 and "<script" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)  # nothing from elsewhere
    for name in ("draw_curves", "draw_placements", "draw_worth"):  # which take a second
        monkeypatch.setattr(f"fiberifu.validate.headline.page.{name}", lambda report: None)
    assert "Smoke test" not in make_page(report | {"meta": meta | {"title": "x", "analytic": False}}, ())
    assert '<h2 id="doubt">Doubt</h2>' in make_page(report, (), extra=[("doubt", "Doubt", "<p></p>")])
    with pytest.raises(FileNotFoundError, match="--page-only"):
        write_page(tmp_path / "none")


def test_command_says_what_is_wrong(tmp_path, capsys):
    assert cli.main(["validate", "headline", "--size", "huge", "-o", str(tmp_path / "x")]) == 2
    assert "--size: huge is none of smoke, cpu, full" in capsys.readouterr().err
    assert cli.main(["validate", "headline", "--page-only", "-o", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
