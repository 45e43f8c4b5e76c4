# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Scores and calibration are honest: what is known beforehand comes out, and what is no skill is not called skill."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import integrate, stats

from fiberifu.model import LINES
from fiberifu.psf import moffat_psf
from fiberifu.validate import PredictedMaps, TruthMaps, measure_calibration, measure_scores, reliability, scores
from fiberifu.validate.bootstrap import Bootstrap, galaxy_quantile, galaxy_ranks, interval, weighted_quantile
from fiberifu.validate.depth import aperture_factor
from fiberifu.validate.maps import APERTURE_AREA
from fiberifu.validate.pooling import pool_predictions, pool_truths
from fiberifu.validate.profiles import galaxy_gradient, o3n2_metallicity, sums_in_re, truth_sigma
from fiberifu.validate.reliability import below, covered, gaussian_crps, tally, verdict
from fiberifu.validate.score_notes import null_verdicts
from fiberifu.validate.survey_truth import correlated_sigma, match_psf

HA, N2 = LINES.index("Ha"), LINES.index("N2_6583")

#: Flux relative to H-alpha, without and with metals.
RATIO = dict(O2_3726=0.5, O2_3729=0.7, Ne3_3869=0.05, Hd=0.09, Hg=0.16, Hb=0.33, O3_4959=0.1, O3_5007=0.3,
             He1_5876=0.04, O1_6300=0.03, N2_6548=0.1, Ha=1.0, N2_6583=0.3, S2_6716=0.2, S2_6731=0.15)  # fmt: skip


def make_truth(index, rng, n=60, pixels=0):
    """A disc whose H-alpha does not follow its light: log EW scatters by 0.3 dex inside, by 0.2 between galaxies."""
    radius = np.sqrt(rng.uniform(0, 1.8**2, n))
    angle = rng.uniform(0, 2 * np.pi, n)
    light = 10 ** (0.5 - 0.7 * radius + rng.normal(0, 0.05, n))
    log_ew = 1.0 + rng.normal(0, 0.2) + rng.normal(0, 0.3, n)
    metals = 0.25 - rng.normal(0.3, 0.2) * radius + rng.normal(0, 0.05, n)  # log [N II]/H-alpha above its mean
    oxygen = rng.normal(0, 0.4) - 0.8 * metals + rng.normal(0, 0.1, n)
    ratio = np.array([RATIO[line] for line in LINES]) * np.ones((n, 1))
    for line, shift in (("N2_6548", metals), ("N2_6583", metals), ("O3_4959", oxygen), ("O3_5007", oxygen)):
        ratio[:, LINES.index(line)] *= 10**shift
    ew = 10 ** log_ew[:, None] * ratio
    wave = np.linspace(4000, 9000, pixels)
    place = np.arange(n)
    nothing = np.zeros(0)
    return TruthMaps(
        name=f"SIM 1-{index}", seed=1, index=index, image=nothing, sigma=nothing, present=np.ones(4, bool),
        psf_fwhm=1.2, pixel_scale=0.262, redshift=0.05, spaxel=0.75, row=place // 10, column=place % 10,
        east=4 * radius * np.cos(angle), north=4 * radius * np.sin(angle), radius=radius,
        flux=ew * light[:, None], ew=ew,
        depth=np.full(15, 0.1), band=light[:, None] * np.array([0.5, 1, 1.3, 1.5]), velocity=150 * np.cos(angle),
        peak_distance=4 * radius, strata={"agn": index % 3 == 0, "merger": False},
        properties={"inclination": float(rng.uniform(0, 90)), "re_arcsec": 4.0}, wave=wave,
        spectrum_at=place[:: n // 2], spectrum=rng.uniform(1, 2, (len(place[:: n // 2]), pixels)),
        central_flux=nothing, central_ivar=nothing, central_offset=np.zeros(2),
    )  # fmt: skip


def make_truths(galaxies=40, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [make_truth(i, rng, **options) for i in range(galaxies)]


def as_prediction(truth, flux=None, ew=None, flux_sigma=None, ew_sigma=None, **rest):
    flux, ew = (truth.flux if flux is None else flux), (truth.ew if ew is None else ew)
    nothing = np.full(truth.flux.shape, np.nan)
    return PredictedMaps(
        flux=flux, flux_sigma=nothing if flux_sigma is None else flux_sigma, ew=ew,
        ew_sigma=nothing if ew_sigma is None else ew_sigma, **rest,
    )  # fmt: skip


def find(rows, score, quantity="Ha", region="whole", stratum="all", predictor=None):
    key = dict(score=score, quantity=quantity, region=region, stratum=stratum)
    key |= {} if predictor is None else {"predictor": predictor}
    found = [row for row in rows if all(row[k] == v for k, v in key.items())]
    assert len(found) == 1, f"{len(found)} rows of {key}"
    return found[0]


NOISE = 0.15  # dex, of the prediction "noisy"


@pytest.fixture(scope="module")
def truths():
    return make_truths(80)


@pytest.fixture(scope="module")
def rows(truths):
    """Scores of predictions whose scores are known beforehand."""
    rng = np.random.default_rng(5)
    methods = {name: [] for name in ("perfect", "noisy", "light", "permuted")}
    for truth, other in zip(truths, [*truths[1:], truths[0]], strict=True):
        factor = 10 ** rng.normal(0, NOISE, truth.flux.shape)
        constant = np.tile(10.0 * np.array([RATIO[line] for line in LINES]), (len(truth), 1))
        methods["perfect"].append(as_prediction(truth, velocity=truth.velocity))
        methods["noisy"].append(
            as_prediction(truth, truth.flux * factor, truth.ew * factor, velocity=-truth.velocity / 2)
        )
        methods["light"].append(as_prediction(truth, constant * truth.band[:, 1:2], constant))
        methods["permuted"].append(as_prediction(truth, other.flux, other.ew, velocity=other.velocity))
    for name in ("light",):  # takes no part in what it does not predict
        assert all(maps.velocity is None for maps in methods[name])
    return measure_scores(methods, truths, draws=40, reference="light")


def value(rows, predictor, score, *where, **options):
    return find(rows, score, *where, predictor=predictor, **options)["value"]


# ---------------------------------------------------------------- honesty
def test_perfect_prediction_scores_perfectly(rows):
    best = ("R2", "AUC", "Spearman", "cosine", "kappa", "r after", "sense", "amplitude")
    worst = ("MAE", "bias", "RMS", "spread", "no answer")
    perfect = [row for row in rows if row["predictor"] == "perfect" and ", minus" not in row["score"]]
    assert {row["quantity"] for row in perfect} >= {"Ha", "Hb", "O3", "N2", "S2", "O2", "N2/Ha", "bpt", "velocity"}
    defined = [row for row in perfect if row["value"] is not None]
    assert len(defined) > 0.99 * len(perfect)
    for row in defined:
        assert row["score"].startswith((*best, *worst))
        np.testing.assert_allclose(row["value"], row["score"].startswith(best), atol=1e-6, err_msg=str(row))


def test_noise_floor_is_where_theory_puts_it(rows, truths):
    """R2 = 1 - noise variance / variance of the truth; mean absolute error = sigma sqrt(2 / pi)."""
    ew, flux = (np.concatenate([getattr(t, f)[t.radius < 1.6, HA] for t in truths]) for f in ("ew", "flux"))
    strong = (ew > 1) & (flux > 0.3)
    for label, true in (("EW", ew), ("flux", flux)):
        floor = 1 - NOISE**2 / np.log10(true[strong]).var()
        assert value(rows, "noisy", f"R2 log {label}") == pytest.approx(floor, abs=0.01)
    assert value(rows, "noisy", "R2 log EW within galaxies") == pytest.approx(1 - NOISE**2 / 0.3**2, abs=0.03)
    assert value(rows, "noisy", "MAE log EW [dex]") == pytest.approx(NOISE * np.sqrt(2 / np.pi), rel=0.03)
    assert value(rows, "noisy", "bias log EW [dex]") == pytest.approx(0, abs=0.01)
    # A ratio of two lines has the noise of both.
    assert value(rows, "noisy", "MAE log ratio [dex]", "N2/Ha") == pytest.approx(NOISE * 2 / np.sqrt(np.pi), rel=0.04)


def test_light_profile_alone_does_not_look_good(rows):
    assert value(rows, "light", "R2 log EW within galaxies") == pytest.approx(0, abs=1e-9)
    assert value(rows, "light", "R2 log EW") < 0.1
    assert value(rows, "light", "r after r-band") == 0  # by construction, whatever rounding leaves
    assert value(rows, "light", "Spearman EW, median") == 0
    assert value(rows, "light", "AUC EW > 3 A") == pytest.approx(0.5)
    # The absolute flux and the published score are taken in: they see that gas lies where light is.
    assert value(rows, "light", "R2 log flux within galaxies") > 0.4
    assert value(rows, "light", "cosine (published)") > 0.6


def test_permuted_galaxies_score_nothing(rows):
    for score in ("R2 log EW", "R2 log EW within galaxies", "R2 log flux within galaxies"):
        assert value(rows, "permuted", score) < 0, score
    for score, nothing in (("r after r-band", 0), ("Spearman EW, median", 0), ("AUC EW > 3 A", 0.5)):
        assert value(rows, "permuted", score) == pytest.approx(nothing, abs=0.06), score
    assert value(rows, "permuted", "kappa BPT", "bpt") == pytest.approx(0, abs=0.12)
    assert value(rows, "permuted", "sense of rotation agrees", "velocity") == pytest.approx(0.5, abs=0.2)


def test_paired_differences(rows):
    row = find(rows, "R2 log EW, minus light", predictor="noisy")
    assert row["value"] == pytest.approx(value(rows, "noisy", "R2 log EW") - value(rows, "light", "R2 log EW"))
    assert 0 < row["low"] < row["value"] < row["high"]
    assert not [r for r in rows if r["predictor"] == "light" and ", minus" in r["score"]]


def test_rotation_has_sign_and_amplitude(rows):
    assert value(rows, "noisy", "sense of rotation agrees", "velocity") == 0
    assert value(rows, "noisy", "amplitude of rotation, median", "velocity") == pytest.approx(-0.5)
    assert not [r for r in rows if r["predictor"] == "light" and r["quantity"] == "velocity"]


def test_rows_are_tidy_and_json(rows):
    keys = "predictor quantity region stratum score value low high galaxies spaxels".split()
    more = [*keys[:8], "low95", "high95", *keys[8:]]
    assert all(list(row) == (more if ", minus" in row["score"] else keys) for row in rows)
    assert len({tuple(row[k] for k in keys[:5]) for row in rows}) == len(rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    strata = {row["stratum"] for row in rows if row["quantity"] == "Ha"}
    assert strata >= {"all", "agn", "inclined", "near a peak", "S/N 3-10", "0.4-0.8 Re"}
    assert {row["region"] for row in rows} == {"whole", "centre", "off-centre", "sum", "profile", "gradient"}
    agn = find(rows, "R2 log EW", stratum="agn", predictor="noisy")
    assert agn["galaxies"] == 27  # every third of 80


def test_known_errors_of_the_truth_are_taken_out():
    """A perfect prediction judged by a noisy truth: the corrected score is that of an errorless truth."""
    rng = np.random.default_rng(2)
    exact = make_truths(80, seed=8)
    noisy, noise = [], []
    for truth in exact:
        factor = 1 + 0.15 * rng.normal(size=truth.flux.shape)
        noisy.append(dataclasses.replace(truth, flux=truth.flux * factor, ew=truth.ew * factor))
        noise.append((0.15 * truth.flux, 0.15 * truth.ew))
    rows = measure_scores({"exact": [as_prediction(t) for t in exact]}, noisy, noise=noise, draws=0)
    sigma = 0.15 / np.log(10)
    raw = find(rows, "R2 log EW within galaxies")["value"]
    assert raw == pytest.approx(1 - sigma**2 / (0.3**2 + sigma**2), abs=0.01)
    assert find(rows, "R2 log EW within galaxies, truth noise removed")["value"] == pytest.approx(1, abs=0.006)
    assert (
        find(rows, "R2 log sum, truth noise removed", region="sum")["value"]
        > find(rows, "R2 log sum", region="sum")["value"]
    )
    assert find(rows, "RMS asinh EW")["value"] > 0.12
    assert find(rows, "RMS asinh EW, truth noise removed")["value"] < 0.06


# ---------------------------------------------------------------- differences
def test_verdicts_are_made_from_95_per_cent(rows, truths):
    difference = find(rows, "MAE log EW [dex], minus light", predictor="noisy")
    assert difference["low95"] < difference["low"] < difference["value"] < difference["high"] < difference["high95"]
    assert "low95" not in find(rows, "MAE log EW [dex]", predictor="noisy")


def test_nulls_are_compared_with_their_limit(truths):
    """Paired differences of a null to what knows position alone, on the same positions."""
    truths = truths[:6]
    limit = [as_prediction(t, ew=0.7 * t.ew) for t in truths]
    null = [as_prediction(t, ew=np.where(np.arange(60)[:, None] < 5, np.nan, 0.5 * t.ew)) for t in truths]
    methods = {"model": [as_prediction(t) for t in truths], "null": null, "limit": limit}
    got = measure_scores(methods, truths, draws=20, reference="model", competing=["model"], nulls={"null": "limit"})
    found = find(got, "MAE log EW [dex], minus limit", predictor="null")
    own, other = (find(got, "MAE log EW [dex]", predictor=name) for name in ("null", "limit"))
    assert found["value"] == pytest.approx(own["value"] - other["value"]) and own["spaxels"] == other["spaxels"]
    assert found["low95"] > 0 and not [r for r in got if r["score"].count("minus") > 1]
    meta = {"predictors": [{"name": "model", "kind": "judged"}, {"name": "null", "kind": "reference", "role": "null"}]}
    meta["predictors"].append({"name": "limit", "kind": "reference", "role": "null limit"})
    words = {r["verdict"] for r in null_verdicts({"meta": meta, "scores": got}) if r["score"] == "MAE log EW [dex]"}
    assert words == {"holds"}
    meta["predictors"][1]["role"], meta["predictors"][2]["role"] = "null limit", "null"  # the better one as the null
    turned = measure_scores(methods, truths, draws=20, competing=["model"], nulls={"limit": "null"})
    words = {r["verdict"] for r in null_verdicts({"meta": meta, "scores": turned}) if r["score"] == "MAE log EW [dex]"}
    assert words == {"fails"}
    # a limit that is worse than ignorance is none: neither a constant nor noise fails against it
    rng, wrong = np.random.default_rng(3), [as_prediction(t, 1 / t.flux, 1 / t.ew) for t in truths]
    for null in (
        [as_prediction(t, np.ones_like(t.flux), np.ones_like(t.ew)) for t in truths],
        [as_prediction(t, *10 ** rng.normal(0, 0.3, (2, *t.ew.shape))) for t in truths],
    ):
        got = measure_scores({"null": wrong, "limit": null}, truths, draws=40, nulls={"limit": "null"})
        assert find(got, "r after r-band", predictor="null")["value"] < 0
        words = {r["score"]: r["verdict"] for r in null_verdicts({"meta": meta, "scores": got})}
        assert {"R2 log EW", "r after r-band"} < set(words)
        assert "fails" not in {word for score, word in words.items() if score[0] in "Rr"}, words
    with pytest.raises(ValueError, match="nulls has"):
        measure_scores(methods, truths, nulls={"null": "nobody"})


# ---------------------------------------------------------------- which positions count
def with_holes(truths):
    holes = [as_prediction(t, flux=t.flux.copy(), ew=t.ew.copy()) for t in truths]
    for maps in holes[:3]:
        maps.flux[:20, HA] = maps.ew[:20, HA] = np.nan
        maps.flux[:, N2] = maps.ew[:, N2] = np.nan
    holes[5] = None  # a galaxy that failed
    return holes


def test_no_answer_is_no_gain(truths):
    """All that compete are scored on the same positions; where one has no answer, the line counts as absent for it."""
    truths = truths[:6]
    whole, holes = [as_prediction(t) for t in truths], with_holes(truths)
    rows = measure_scores({"whole": whole, "holes": holes}, truths, draws=10)
    both = [find(rows, "MAE log EW [dex]", predictor=name) for name in ("whole", "holes")]
    assert both[0]["spaxels"] == both[1]["spaxels"] and both[0]["galaxies"] == both[1]["galaxies"] == 6
    ew, flux, radius = (
        np.concatenate(a) for a in zip(*((t.ew[:, HA], t.flux[:, HA], t.radius) for t in truths), strict=True)
    )
    strong = (ew > 1) & (flux > 0.3) & (radius < 1.6)
    missing = np.concatenate([np.arange(60) < (20 if i < 3 else 60 if i == 5 else 0) for i in range(6)])
    assert both[0]["value"] == 0
    assert both[1]["value"] == pytest.approx((np.log10(ew) + 1)[strong & missing].sum() / strong.sum())
    assert value(rows, "holes", "no answer, EW") == pytest.approx(missing[strong].mean())
    assert value(rows, "whole", "no answer, EW") == 0
    # a method that predicts a line nowhere takes no part in it
    for maps in holes[3:5]:
        maps.flux[:, N2], maps.ew[:, N2] = np.nan, np.nan
    rows = measure_scores({"whole": whole, "holes": holes}, truths, draws=0)
    assert find(rows, "R2 log EW", "N2")["predictor"] == "whole"


def test_no_answer_is_no_good_ratio():
    """[O III]/H-beta is near 1 here, as the ratio of two floors is."""
    truths = make_truths(8, seed=4)
    lines = [LINES.index(line) for line in ("Hb", "O3_5007")]
    whole = [as_prediction(t) for t in truths]
    rows = measure_scores({"whole": whole}, truths, draws=0)
    kappa = value(rows, "whole", "kappa BPT", "bpt")
    for gone, least in ((lines, 0.49), (lines[:1], 0.3), (lines[1:], 0.3)):
        some = [as_prediction(t, flux=t.flux.copy()) for t in truths]
        for maps in some[::2]:
            maps.flux[:, gone] = np.nan
        found = measure_scores({"some": some, "whole": whole}, truths, draws=0)
        assert value(found, "some", "MAE log ratio [dex]", "O3/Hb") > least
        assert value(found, "some", "R2 log ratio", "O3/Hb") < 0
        assert value(found, "some", "kappa BPT", "bpt") < min(0.4, kappa)
        assert value(found, "some", "MAE log ratio [dex]", "N2/Ha") == 0
        assert find(found, "MAE log ratio [dex]", "O3/Hb", predictor="whole")["value"] == 0
    assert value(found, "whole", "kappa BPT", "bpt") == kappa == 1


def test_references_take_nothing_away(truths):
    """A reference without answers neither restricts the others nor is punished."""
    truths = truths[:6]
    half = [as_prediction(t, ew=0.5 * t.ew, flux_sigma=t.flux, ew_sigma=t.ew) for t in truths]
    holes = with_holes(truths)
    for maps in filter(None, holes):
        maps.flux_sigma[:], maps.ew_sigma[:] = 1.0, 1.0
    alone, alone_curves = (
        measure({"half": half}, truths, draws=0) for measure in (measure_scores, measure_calibration)
    )
    options = dict(draws=0, competing=["half"])
    rows = measure_scores({"half": half, "holes": holes}, truths, **options)
    assert [row for row in rows if row["predictor"] == "half"] == alone
    found = find(rows, "MAE log EW [dex]", predictor="holes")
    assert found["value"] == 0 and found["galaxies"] == 5
    assert find(rows, "MAE of sum [dex]", region="sum", predictor="holes")["value"] == pytest.approx(0, abs=1e-9)
    rows, curves = measure_calibration({"half": half, "holes": holes}, truths, draws=0)
    assert [row for row in rows if row["predictor"] == "half"] == alone_curves[0]
    # nor does it to anyone's calibration; who answers too little has no verdict
    missing = np.concatenate([np.arange(60) < (20 if i < 3 else 60 if i == 5 else 0) for i in range(6)])
    inside = np.concatenate([t.radius for t in truths]) < 1.6
    for name, there in (("half", np.ones(360, bool)), ("holes", ~missing)):
        curve = find_curve(curves, name, "Ha")
        assert curve["values"] == (there & inside).sum()
        assert curve["answered"] == pytest.approx(there[inside].mean())
        assert value(rows, name, "answered") == curve["answered"]
        assert (curve["verdict"] == "void") == (name == "holes")
    assert find_curve(curves, "holes", "Ha", "sum")["verdict"] == "void"
    assert find_curve(curves, "holes", "N2/Ha")["answered"] < 0.5
    with pytest.raises(ValueError, match="competing has"):
        measure_scores({"half": half}, truths, competing=["other"])


def test_selection_is_on_truth_and_faint_predictions_count():
    truth = make_truths(1, n=200)[0]
    none = as_prediction(truth, np.zeros_like(truth.flux), -np.ones_like(truth.ew))
    rows = measure_scores({"no lines": [none]}, [truth], draws=0)
    selected = (truth.ew[:, HA] > 1) & (truth.flux[:, HA] > 3 * truth.depth[HA]) & (truth.radius < 1.6)
    row = find(rows, "bias log EW [dex]")
    assert row["spaxels"] == selected.sum()
    assert row["value"] == pytest.approx(-1 - np.log10(truth.ew[selected, HA]).mean())
    hb = LINES.index("Hb")
    selected = (truth.ew[:, hb] > 0.5) & (truth.flux[:, hb] > 0.3) & (truth.radius >= 0.7) & (truth.radius < 1.6)
    assert find(rows, "bias log EW [dex]", "Hb", "off-centre")["spaxels"] == selected.sum()


def test_masks(truths):
    truths = truths[:3]
    maps = [as_prediction(t, ew=np.where(np.arange(60)[:, None] < 30, 1000.0, t.ew)) for t in truths]
    masks = [np.arange(60) < 30, np.repeat(np.arange(60)[:, None] < 30, 15, axis=1), np.arange(60) < 30]
    rows = measure_scores({"half": maps}, truths, masks=masks, draws=0)
    assert find(rows, "R2 log EW")["value"] == 1 and find(rows, "MAE log EW [dex]", "S2")["value"] == 0


def test_bad_spaxels_and_galaxies_do_not_stop_the_rest(truths):
    """Off the survey's grid, without continuum, without light, failed: left out, without a warning."""
    truths = [dataclasses.replace(t, ew=t.ew.copy(), flux=t.flux.copy(), band=t.band.copy()) for t in truths[:8]]
    maps = [as_prediction(t, flux_sigma=0.1 * t.flux, ew_sigma=0.1 * t.ew, velocity=t.velocity) for t in truths]
    depth = truths[0].depth.copy()
    depth[HA], depth[N2] = np.inf, 0.0
    truths[0] = dataclasses.replace(truths[0], depth=depth)
    truths[1].ew[:10] = np.nan
    truths[2].flux[:10] = 0.0
    truths[3].flux[:10] *= -1
    truths[4].band[:] = 0.0
    truths[5] = dataclasses.replace(truths[5], radius=np.full(60, np.nan), velocity=np.full(60, np.nan))
    maps[6] = None
    maps[7] = dataclasses.replace(maps[7], flux=maps[7].flux.copy(), flux_sigma=np.zeros((60, 15)))
    maps[7].flux[:5], maps[7].flux[5:10] = np.inf, -np.inf
    rows = measure_scores({"perfect": maps}, truths, draws=5, competing=())
    assert find(rows, "R2 log EW")["value"] == 1 and find(rows, "R2 log EW")["galaxies"] == 5
    assert find(rows, "R2 log flux", "S2")["value"] == 1 and find(rows, "R2 log flux", "S2")["galaxies"] == 6
    scored, curves = measure_calibration({"perfect": maps}, truths, draws=5)
    assert find_curve(curves, "perfect", "EW Ha")["galaxies"] == 6
    assert json.dumps([rows, scored, curves], allow_nan=False)


def test_bad_input(truths):
    maps = [as_prediction(t) for t in truths[:2]]
    for predictions, galaxies, options, message in (
        ({}, truths[:2], {}, "predictions is empty"),
        ({"a": maps}, [], {}, "truths is empty"),
        ({"a": maps}, truths[:3], {}, "2 entries for 3 galaxies"),
        ({"a": maps}, truths[:2], {"reference": "b"}, "reference is 'b'"),
        ({"a": maps}, truths[:2], {"masks": [None]}, "masks has 1 entries"),
        ({"a": maps}, truths[:2], {"masks": [np.zeros(3, bool)] * 2}, r"masks\[0\] has the shape"),
        ({"a": [dataclasses.replace(maps[0], ew=maps[0].ew[:5])] * 2}, truths[:2], {}, "ew predicted for SIM 1-0"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_scores(predictions, galaxies, **options)
    with pytest.raises(ValueError, match="predictions is empty"):
        measure_calibration({}, truths)


# ---------------------------------------------------------------- the parts
def test_bootstrap_is_that_of_repeated_galaxies():
    rng = np.random.default_rng(0)
    boot = Bootstrap(30, draws=6, seed=3)
    assert np.all(boot.weights[0] == 1) and np.all(boot.weights.sum(1) == 30)
    np.testing.assert_array_equal(boot.weights, Bootstrap(30, draws=6, seed=3).weights)
    values = np.where(rng.random(30) < 0.2, np.nan, rng.normal(size=30))
    for q in (0.1, 0.5):
        repeated = [np.nanquantile(np.repeat(values, w.astype(int)), q) for w in boot.weights]
        np.testing.assert_allclose(weighted_quantile(values, boot.weights, q), repeated)
    # R2 and AUC of a draw are those of its galaxies, each as often as it was drawn.
    galaxy = np.sort(rng.integers(0, 30, 900))
    truth = rng.normal(size=900)
    predicted = truth + rng.normal(size=900)
    copies = [np.repeat(np.arange(900), w.astype(int)[galaxy]) for w in boot.weights]
    for score, tolerance in (
        (lambda t, p, g, w=None: scores.r2(t, p, g, w), 1e-12),
        (lambda t, p, g, w=None: scores.auc(t > 0.3, p, g, w), 2e-3),  # draws use bins of rank
    ):
        repeated = [score(truth[i], predicted[i], galaxy[i]) for i in copies]
        np.testing.assert_allclose(score(truth, predicted, galaxy, boot.weights), repeated, atol=tolerance)
        assert isinstance(score(truth, predicted, galaxy), float)


def test_bootstrap_error_is_that_of_galaxies_not_spaxels():
    """The mean of a number that a galaxy shares has the error sigma / sqrt(galaxies), however many spaxels it has."""
    shared = np.random.default_rng(1).normal(0, 1, 400)
    galaxy = np.repeat(np.arange(400), 50)
    draws = scores.bias(np.zeros(20000), shared[galaxy], galaxy, Bootstrap(400, 400).weights)
    _, low, high = interval(draws, 400)
    assert (high - low) / 2 == pytest.approx(1 / 20, rel=0.15)
    assert interval(draws, 3)[1:] == (None, None) and interval(np.array([np.nan]), 400) == (None, None, None)


def test_ranks_and_quantiles_of_galaxies():
    rng = np.random.default_rng(4)
    galaxy = rng.permutation(np.repeat(np.arange(5), 13))[:60]
    values = rng.integers(0, 9, 60).astype(float)
    ranks, quantiles = galaxy_ranks(values, galaxy), galaxy_quantile(values, galaxy, 6, 0.25)
    spearman = scores.galaxy_spearman(values, np.roll(values, 1), galaxy, 6)
    for g in range(5):
        own = values[galaxy == g]
        np.testing.assert_allclose(ranks[galaxy == g], stats.rankdata(own) - 1)
        assert quantiles[g] == pytest.approx(np.quantile(own, 0.25))
        if len(own) >= 10:
            assert spearman[g] == pytest.approx(stats.spearmanr(own, np.roll(values, 1)[galaxy == g])[0])
    assert np.isnan(quantiles[5]) and np.isnan(spearman[5])
    positive = values > 5
    pairs = np.subtract.outer(ranks[positive], ranks[~positive])
    assert scores.auc(positive, ranks, galaxy) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


def test_kappa():
    """Cohen's own definition on a table of 50, and the linear weights by hand."""
    truth = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    predicted = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    galaxy = np.arange(50) % 7
    assert scores.kappa(truth, predicted, galaxy, 3) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    near, far = (scores.kappa(np.array([0, 1, 2] * 5), np.array(p * 5), np.zeros(15, int), 3, linear=True)
                 for p in ([1, 1, 2], [2, 1, 2]))  # fmt: skip
    assert 1 > near > far


def test_correlation_after_light():
    rng = np.random.default_rng(6)
    galaxy = np.repeat(np.arange(50), 40)
    light, gas = rng.normal(size=(2, 2000))
    truth, predicted = 0.8 * light + gas, 1.3 * light + gas + rng.normal(size=2000)
    assert scores.correlation_after(truth, predicted, light, galaxy) == pytest.approx(1 / np.sqrt(2), abs=0.03)
    assert scores.correlation_after(truth, light / 3 + 7, light, galaxy) == 0
    assert np.isnan(scores.correlation_after(truth[:9], predicted[:9], light[:9], galaxy[:9]))
    for k in range(3):  # NaN in, NaN out
        given = [values.copy() for values in (truth, predicted, light)]
        given[k][5] = np.nan
        assert np.isnan(scores.correlation_after(*given, galaxy))


def test_sums_are_of_surface_brightness_times_area(truths):
    truth = truths[0]
    spaxels = pool_truths([truth])
    inside = truth.radius < 1
    total = sums_in_re(spaxels, spaxels.flux[:, 0], np.ones(60, bool))
    assert total[0] == pytest.approx(truth.flux[inside, HA].sum() / APERTURE_AREA * 0.75**2)
    error = sums_in_re(spaxels, np.ones(60), np.ones(60, bool), power=2)
    assert np.sqrt(error[0]) == pytest.approx(np.sqrt(inside.sum()) * 0.75**2 / APERTURE_AREA)
    rows = measure_scores({"bright": [as_prediction(t, flux=2 * t.flux) for t in truths]}, truths, draws=0)
    assert find(rows, "bias of sum [dex]", region="sum")["value"] == pytest.approx(np.log10(2))
    profile = find(rows, "bias of profile log SB [dex]", region="profile", stratum="0.8-1.2 Re")
    assert profile["value"] == pytest.approx(np.log10(2))


def test_metallicity_gradient(truths):
    """A prediction whose log [N II] falls by 0.2 dex / Re more has a gradient that is steeper by 0.214 x 0.2."""
    radius = np.linspace(0, 1, 40)
    slope = galaxy_gradient(radius, 8.6 - 0.3 * radius, np.zeros(40, int), 2)
    assert slope[0] == pytest.approx(-0.3) and np.isnan(slope[1])
    assert o3n2_metallicity(0.0) == 8.533
    maps = []
    for truth in truths:
        flux = truth.flux.copy()
        flux[:, N2] *= 10 ** (-0.2 * truth.radius)
        maps.append(as_prediction(truth, flux=flux))
    rows = measure_scores({"steep": maps}, truths, draws=0)
    row = find(rows, "bias of gradient [dex/Re]", "12+log(O/H)", "gradient")
    assert row["value"] == pytest.approx(-0.214 * 0.2, rel=0.02) and row["galaxies"] > 40


def test_doublets_use_the_covariance(truths):
    truth = truths[0]
    sigma = np.full(truth.flux.shape, 0.2)
    a, b = LINES.index("S2_6716"), LINES.index("S2_6731")
    covariance = np.tile(0.04 * np.eye(15), (len(truth), 1, 1))
    covariance[:, a, b] = covariance[:, b, a] = 0.03
    maps = as_prediction(truth, flux_sigma=sigma, ew_sigma=3 * sigma, covariance=covariance)
    answer = pool_predictions([maps], [truth])
    np.testing.assert_allclose(answer.flux[:, 4], truth.flux[:, a] + truth.flux[:, b])
    np.testing.assert_allclose(answer.flux_sigma[:, 4], np.sqrt(0.08 + 0.06))
    np.testing.assert_allclose(answer.ew_sigma[:, 4], 3 * np.sqrt(0.08 + 0.06))
    np.testing.assert_allclose(answer.covariance[:, 4, 4], 0.14, rtol=1e-6)
    np.testing.assert_allclose(answer.flux_sigma[:, 0], 0.2)


@pytest.mark.parametrize("shape", ["gaussian", "moffat"])
def test_psf_matching(shape):
    """A star seen at 1.2 arcsec becomes one seen at 2.0 arcsec."""
    x, y = np.meshgrid(*[(np.arange(41) - 20) * 0.5] * 2)

    def star(fwhm):
        if shape == "moffat":
            return moffat_psf(fwhm, 0.5, 41)
        image = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm**2)
        return image / image.sum()

    matched = match_psf(star(1.2), 0.5, 1.2, 2.0, shape=shape)
    inner = slice(1, -1)  # corners see a quarter of the kernel
    np.testing.assert_allclose(matched[inner, inner], star(2.0)[inner, inner], atol=0.005 * star(2.0).max())
    assert np.nansum(matched) == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(match_psf(star(1.2), 0.5, 1.2, 1.2, shape=shape), star(1.2))


def test_psf_matching_with_holes():
    flat = np.full((25, 25), 3.0)
    flat[12, 12] = flat[:, :5] = np.nan
    matched = match_psf(flat, 0.5, 1.2, 2.5)
    inner = slice(3, -3)
    np.testing.assert_array_equal(np.isnan(matched)[inner], np.isnan(flat)[inner])
    assert np.isnan(matched[0, -1])  # a corner knows a quarter of what its value would be made of
    np.testing.assert_allclose(matched[np.isfinite(matched)], 3.0)
    with pytest.raises(ValueError, match="target not narrower"):
        match_psf(flat, 0.5, 2.0, 1.2)
    with pytest.raises(ValueError, match="shape is 'airy'"):
        match_psf(flat, 0.5, 1.0, 1.2, shape="airy")


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_errors_of_true_sums_are_those_of_the_fibres(step):
    """Of even noise in apertures, whatever the grid: the error of a disc as the weights of the fibres have it."""
    y, x = (np.indices((21, 21)).reshape(2, -1) - 10) * step
    n, diameter = len(x), 8.0
    base = make_truth(0, np.random.default_rng(0), n=n)
    truth = dataclasses.replace(base, spaxel=step, radius=2 * np.hypot(x, y) / diameter)
    sigma = np.full((n, 15), 0.3)
    spaxels = pool_truths([truth], noise=[(sigma, sigma)])
    found = truth_sigma(spaxels, "Ha", np.ones(n, bool))[0]
    exact = 0.3 * aperture_factor(diameter) / aperture_factor(1.5)
    assert found == pytest.approx(exact, rel=0.1)


def test_spaxel_covariance_multiplies_sigma():
    np.testing.assert_allclose(correlated_sigma(2.0, [1, 10, 100, 1000]), 2 * np.array([1, 2.62, 4.24, 4.24]))
    with pytest.raises(ValueError, match="n is 0"):
        correlated_sigma(1.0, 0)


# ---------------------------------------------------------------- calibration
SCALES = {"right": 1.0, "overconfident": 0.6, "underconfident": 1.7}


@pytest.fixture(scope="module")
def calibration():
    """Predictions with errors of known size; those of [N II] and H-alpha share half of their variance."""
    rng = np.random.default_rng(7)
    truths = make_truths(120, seed=3, pixels=40)
    methods = {name: [] for name in (*SCALES, "no covariance", "no errors")}
    for truth in truths:
        n = len(truth)
        sigma = 0.06 * truth.flux
        shared = np.zeros((15, 15))
        shared[np.ix_([HA, N2], [HA, N2])] = 0.8
        np.fill_diagonal(shared, 1)
        covariance = shared * sigma[:, :, None] * sigma[:, None, :]
        draw = rng.normal(size=(n, 15)) @ np.linalg.cholesky(shared).T
        flux, ew = truth.flux + sigma * draw, truth.ew * (1 + 0.06 * draw)
        spectrum = truth.spectrum + 0.1 * rng.normal(size=truth.spectrum.shape)
        for name, scale in SCALES.items():
            errors = dict(flux_sigma=scale * sigma, ew_sigma=scale * 0.06 * truth.ew)
            pixels = dict(spectrum=spectrum, spectrum_sigma=np.full(spectrum.shape, 0.1 * scale))
            maps = as_prediction(truth, flux, ew, covariance=scale**2 * covariance, **errors, **pixels)
            methods[name].append(maps)
        methods["no covariance"].append(dataclasses.replace(methods["right"][-1], covariance=None))
        methods["no errors"].append(as_prediction(truth, flux, ew))
    return measure_calibration(methods, truths, draws=60)


@pytest.mark.parametrize("quantity", ["Ha", "EW Ha", "S2", "N2/Ha", "O3/Hb", "pixels", "sum"])
def test_false_errors_are_caught(calibration, quantity):
    rows, curves = calibration
    region = "sum" if quantity == "sum" else "whole"
    quantity = "Ha" if quantity == "sum" else quantity
    for name, scale in SCALES.items():
        curve = find_curve(curves, name, quantity, region)
        expected = {"right": "calibrated"}.get(name, name)
        assert curve["verdict"] == expected, (name, curve)
        slack = 4 * 0.5 / np.sqrt(curve["values"])
        for p, found in zip(curve["nominal"], curve["covered"], strict=True):
            assert found == pytest.approx(2 * stats.norm.cdf(scale * stats.norm.ppf(0.5 + p / 2)) - 1, abs=slack)
        assert sum(curve["pit"]) == pytest.approx(1) and len(curve["pit"]) == 20
        row = find(rows, "coverage 68 %", quantity, region, predictor=name)
        assert row["low"] < row["value"] < row["high"] and row["spaxels"] == curve["values"]
    ks = [find(rows, "PIT KS", quantity, region, predictor=name)["value"] for name in SCALES]
    assert ks[0] < ks[1] and ks[0] < ks[2]
    crps = [r for r in rows if r["score"].startswith("CRPS") and (r["quantity"], r["region"]) == (quantity, region)]
    crps = {r["predictor"]: r["value"] for r in crps if r["stratum"] == "all"}
    assert crps["right"] < min(crps["overconfident"], crps["underconfident"])


def test_distance_from_uniform_is_0_for_perfect_errors():
    """The interval of a largest distance holds 0 for perfect errors in 68 % of samples at least."""
    rng, held, naive = np.random.default_rng(3), 0, 0
    for _ in range(40):
        pit = rng.integers(0, 200, (100, 10))
        counts = np.stack([np.bincount(row, minlength=200) for row in pit]).astype(float)
        none = np.zeros(100)
        weights = Bootstrap(100, 60, 1).weights
        value, low, high = reliability.Tally(counts, none, none, none).results(weights, "A")[0]["PIT KS"]
        fractions = weights @ counts / 1000
        naive += np.percentile(np.abs(np.cumsum(fractions, 1) - np.arange(1, 201) / 200).max(1)[1:], 16) > value
        held += low == 0
        assert low <= value <= high <= value + 0.06
    assert held >= 0.68 * 40 and naive > 0.5 * 40
    # errors half as large as they should be: far from 0, and what theory says is inside
    pull = stats.norm.cdf(2 * rng.standard_normal((100, 10)))
    counts = np.stack([np.bincount(row, minlength=200) for row in (pull * 200).astype(int)]).astype(float)
    value, low, high = reliability.Tally(counts, none, none, none).results(weights, "A")[0]["PIT KS"]
    edges = np.arange(1, 201) / 200
    assert 0.08 < low < np.abs(stats.norm.cdf(stats.norm.ppf(edges) / 2) - edges).max() < high


def find_curve(curves, predictor, quantity, region="whole", stratum="all"):
    key = dict(predictor=predictor, quantity=quantity, region=region, stratum=stratum)
    (found,) = [curve for curve in curves if all(curve[k] == v for k, v in key.items())]
    return found


def test_ratios_need_the_covariance(calibration):
    rows, curves = calibration
    assert find_curve(curves, "no covariance", "N2/Ha")["verdict"] == "underconfident"
    assert find_curve(curves, "no covariance", "Ha")["verdict"] == "calibrated"
    assert find(rows, "sharpness [dex]", "N2/Ha", predictor="right")["value"] == pytest.approx(
        0.06 * np.sqrt(2 - 2 * 0.8) / np.log(10), rel=0.03
    )


def test_calibration_is_tidy(calibration):
    rows, curves = calibration
    assert json.loads(json.dumps([rows, curves], allow_nan=False)) == [rows, curves]
    assert "no errors" not in {row["predictor"] for row in rows}
    assert find(rows, "sharpness [dex]", predictor="right")["value"] == pytest.approx(0.06 / np.log(10), rel=0.01)
    # Errors that every position has for itself: as if shared by all, they are far too large for a sum.
    assert find_curve(curves, "right", "Ha", "sum, coherent errors")["verdict"] == "underconfident"
    assert {c["stratum"] for c in curves if c["quantity"] == "Ha"} >= {"all", "selected on truth", "agn", "near a peak"}
    assert {c["stratum"] for c in curves if c["quantity"] == "pixels"} >= {"all", "agn"}


def test_crps_closed_form():
    for truth, mean, sigma in ((0.3, 0.0, 1.0), (-2.0, 1.0, 0.5)):
        cdf = stats.norm(mean, sigma).cdf
        below = integrate.quad(lambda x, cdf=cdf: cdf(x) ** 2, -30, truth, points=[mean])[0]
        above = integrate.quad(lambda x, cdf=cdf: (1 - cdf(x)) ** 2, truth, 30, points=[mean])[0]
        assert gaussian_crps(truth, mean, sigma) == pytest.approx(below + above, rel=1e-6)
    assert gaussian_crps(3.0, 1.0, 0.0) == 2.0


def verdict_of(fractions, values):
    shares = {q: below(fractions, q) for q in (0.16, 0.5, 0.84)}
    return verdict({p: covered(fractions, p) for p in (0.68, 0.95)}, values, shares)


def test_bias_is_no_calibration():
    """Predictions that are always too low, or off by 0.6 sigma but wide, cover what they should and are wrong."""
    z = np.random.default_rng(11).normal(size=40000)
    galaxy = np.repeat(np.arange(400), 100)
    weights = Bootstrap(400, 50).weights
    for truth, width, expected in (
        (z, 1.0, "calibrated"),
        (z + 0.03, 1.0, "calibrated"),  # sure, but too little to matter
        (np.abs(z), 1.0, "biased"),
        (-np.abs(z), 1.0, "biased"),
        (z + 0.6, 1.18, "biased"),
        (z - 0.3, 0.5, "overconfident, biased"),
        (z, 1.5, "underconfident"),
    ):
        one = tally(truth, np.zeros(40000), np.full(40000, width), galaxy, 400)
        found, fractions = one.results(weights, "")
        assert verdict_of(fractions, 40000) == expected, (width, expected)
    assert found["below 50 %"][0] == pytest.approx(0.5, abs=0.01)


def test_sharpness_does_not_know_the_truth():
    """Twice as good a truth, or one near zero, leaves it as it is; predictions near zero count as the floor."""
    mean, sigma = np.array([1.0, 2.0, 0.0, -5.0]), np.full(4, 0.1)
    width = [tally(t, mean, sigma, np.zeros(4, int), 1, floor=0.5).results(np.ones((1, 1)), "")[0]["sharpness [dex]"]
             for t in (mean, np.full(4, 1e-9))]  # fmt: skip
    expected = np.exp(np.log(0.1 / np.array([1, 2, 0.5, 0.5]) / np.log(10)).mean())
    np.testing.assert_allclose(width, expected)


def test_selection_on_truth_breaks_calibration():
    """Why calibration takes all positions: a perfect posterior covers too little where the truth is picked high."""
    rng = np.random.default_rng(9)
    truth = rng.normal(size=20000)
    seen = truth + rng.normal(size=20000)
    galaxy = np.repeat(np.arange(200), 100)
    weights = Bootstrap(200, 50).weights

    def judge(where):
        sigma = np.full(where.sum(), np.sqrt(0.5))
        _, fractions = tally(truth[where], seen[where] / 2, sigma, galaxy[where], 200).results(weights, "")
        return verdict_of(fractions, where.sum())

    assert judge(np.ones(20000, bool)) == "calibrated"
    assert judge(seen > 1) == "calibrated"
    assert judge(truth > 1) == "overconfident, biased"


def test_verdicts():
    rng = np.random.default_rng(0)

    def draws(value, error):
        return np.r_[value, value + error * rng.normal(size=100)]

    for coverage, expected in (
        ({0.68: draws(0.68, 0.2), 0.95: draws(0.95, 0.1)}, "undecided"),  # too few galaxies
        ({0.68: draws(0.68, 0.01), 0.95: draws(0.95, 0.01)}, "calibrated"),
        ({0.68: draws(0.64, 0.01), 0.95: draws(0.94, 0.01)}, "overconfident"),
        ({0.68: draws(0.66, 0.001), 0.95: draws(0.94, 0.001)}, "calibrated"),  # sure, but too little to matter
        ({0.68: draws(0.75, 0.01), 0.95: draws(0.90, 0.01)}, "wrong shape"),
        ({0.68: draws(0.60, 0.06), 0.95: draws(0.94, 0.02)}, "undecided"),
        ({0.68: np.array([0.5]), 0.95: np.array([0.9])}, "undecided"),  # no draws
    ):
        assert verdict(coverage, 10_000) == expected
    # Five galaxies that all lie inside: every draw is alike, and nothing is known.
    assert verdict({0.68: np.full(50, 1.0), 0.95: np.full(50, 1.0)}, 5) == "undecided"


def test_certain_and_right():
    one = tally(np.array([1.0, 2.0]), np.array([1.0, 1.5]), np.zeros(2), np.zeros(2, int), 1)
    found, fractions = one.results(np.ones((1, 1)), "A")
    assert found["CRPS [A]"][0] == 0.25 and fractions[0, 100] == fractions[0, -1] == 0.5
    assert np.isnan(found["sharpness [dex]"][0])
