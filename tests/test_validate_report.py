"""The page of scores (from synthetic scores and galaxies; that it stands alone), and the job that makes it."""

import base64
import dataclasses
import json
import shutil
from html.parser import HTMLParser
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

from fiberifu import VirtualIFU, cli
from fiberifu.simulate import Simulator, analytic_template_pack
from fiberifu.validate import HeldOutSet, LineSample, NetworkPredictor, PredictedMaps, TruthMaps
from fiberifu.validate.doubt import doubt_table, draw_doubt
from fiberifu.validate.examples import map_panels, review, unseen_scatter
from fiberifu.validate.maps_job import training_recipes, validate_maps_to_folder
from fiberifu.validate.methods import BASELINES, COSTLY, make_baselines, parse_baselines
from fiberifu.validate.ood import ood_roc
from fiberifu.validate.report import make_page
from fiberifu.validate.report_figures import (
    draw_maps,
    draw_profiles,
    draw_reliability,
    draw_strata,
    map_data,
    method_colors,
)
from fiberifu.validate.score_files import read_scores, write_scores
from fiberifu.validate.score_notes import best, loss_interval, verdicts

HA = 11  # of fiberifu.model.LINES
METHODS = ("nano", "trees", "light x constant EW", "noise floor")
KINDS = ("judged", "rival", "rival", "reference")


def galaxy(index=0, side=21, strata=(), scale=1.0):
    """A disc with a bright region in the **East** (and a little North), whose lines are as strong as ``scale``."""
    y, x = (np.indices((48, 48)) - 23.5) * 0.6
    image = np.stack([np.exp(-np.hypot(x, 1.5 * y) / 4) * part for part in (0.6, 1.0, 1.3, 1.5)]).astype(np.float32)
    row, column = np.divmod(np.arange(side**2), side)
    east, north = column - (side - 1) / 2, row - (side - 1) / 2
    radius = np.hypot(east, 1.5 * north) / 6
    ew = scale * (20 * np.exp(-radius) + 80 * np.exp(-((east - 6) ** 2 + (north - 2) ** 2) / 4))
    ew = ew[:, None] * np.linspace(0.2, 1, 15)
    n = side**2
    return TruthMaps(
        name=f"SIM 1-{index}", seed=1, index=index, image=image, sigma=np.full_like(image, 0.01),
        present=np.ones(4, bool), psf_fwhm=1.2, pixel_scale=0.6, redshift=0.03, spaxel=1.0, row=row, column=column,
        east=east, north=north, radius=radius, flux=ew * np.exp(-radius)[:, None], ew=ew, depth=np.full(15, 0.01),
        band=np.exp(-radius)[:, None] * np.ones(4), velocity=np.zeros(n), peak_distance=np.zeros(n),
        strata=dict.fromkeys(strata, True), properties={}, wave=np.array([5e3]), spectrum_at=np.zeros(0, int),
        spectrum=np.zeros((0, 1)), central_flux=np.zeros(1), central_ivar=np.zeros(1), central_offset=np.zeros(2),
    )  # fmt: skip


def answer(g, factor=1.0, errors=True):
    """A prediction that is ``factor`` times the truth, with errors of 10 % of the truth."""
    sigma = 0.1 if errors else np.nan
    return PredictedMaps(flux=factor * g.flux, flux_sigma=sigma * g.flux, ew=factor * g.ew, ew_sigma=sigma * g.ew)


def difference(predictor, score, value, half, region="whole"):
    """Of a method and the model, with the interval that a verdict is made from."""
    found = row(predictor, f"{score}, minus nano", value, half / 2, region=region)
    return found | {"low95": value - half, "high95": value + half}


def row(predictor, score, value, half=0.01, quantity="Ha", region="whole", stratum="all"):
    low, high = (None, None) if half is None else (value - half, value + half)
    return {
        **{"predictor": predictor, "quantity": quantity, "region": region, "stratum": stratum, "score": score},
        **{"value": value, "low": low, "high": high, "galaxies": 40, "spaxels": 4000},
    }


@pytest.fixture
def report():
    """Scores of four methods; the floor is best everywhere, and no rival."""
    rows = []
    for region in ("whole", "off-centre"):
        for method, r2, mae in zip(METHODS, (0.6, 0.4, -0.1, 0.9), (0.2, 0.205, 0.4, 0.05), strict=True):
            rows += [row(method, "R2 log EW", r2, region=region), row(method, "MAE log EW [dex]", mae, region=region)]
        rows.append(difference("trees", "R2 log EW", -0.2, 0.02, region))
    rows.append(row("nano", "coverage 68 %", 0.8))
    rows += [row(METHODS[i], "R2 log EW", 0.5 - 0.1 * i, stratum=s) for i in (0, 1) for s in ("agn", "edge_on")]
    rows.append(row("nano", "R2 log ratio", 0.3, quantity="N2/Ha"))
    rows.append(row("nano", "R2 log EW", None, half=None, quantity="O2"))
    curve = {"predictor": "nano", "quantity": "Ha", "region": "whole", "stratum": "all", "galaxies": 40, "values": 4000}
    nominal = np.linspace(0.05, 0.95, 19)
    curve |= {"nominal": nominal.tolist(), "covered": (nominal**0.5).tolist(), "pit": [0.05] * 20, "verdict": "biased"}
    predictors = [
        {"name": name, "key": "0" * 64, "kind": kind, "about": f"about <{name}>"}
        for name, kind in zip(METHODS, KINDS, strict=True)
    ]
    meta = {"model": "nano", "weights_sha256": "f" * 64, "training_data": "fiberifu.simulate", "galaxies": 40}
    return {"meta": meta | {"seed": 3, "predictors": predictors}, "scores": rows, "reliability": [curve]}


# ---------------------------------------------------------------- which is best
def test_best_needs_disjoint_intervals():
    assert best([row("a", "R2 log EW", 0.6), row("b", "R2 log EW", 0.5)]) == 0
    assert best([row("a", "MAE log EW [dex]", 0.6), row("b", "MAE log EW [dex]", 0.5)]) == 1
    assert best([row("a", "R2 log EW", 0.6), row("b", "R2 log EW", 0.59)]) is None  # they overlap
    assert best([row("a", "R2 log EW", 0.6, half=None), row("b", "R2 log EW", 0.5)]) is None  # no interval
    assert best([row("a", "sharpness [dex]", 0.1), row("b", "sharpness [dex]", 0.5)]) is None  # no direction


def test_targets():
    """A bias is good near zero, a coverage near its nominal share, from either side."""
    assert best([row("a", "bias log EW [dex]", -0.02), row("b", "bias log EW [dex]", 0.2)]) == 0
    assert best([row("a", "coverage 68 %", 0.95), row("b", "coverage 68 %", 0.66)]) == 1
    assert loss_interval(row("a", "bias log EW [dex]", 0.005)) == (0.0, pytest.approx(0.015))


def test_verdicts(report):
    """Against the best rival, never against a reference; undecided without the interval of a difference."""
    assert {v["verdict"] for v in verdicts(report)} == {"too few galaxies"}  # 40
    report |= {"meta": report["meta"] | {"galaxies": 500}, "unseen_scatter_interval": [0.26, 0.3]}
    found = {(v["region"], v["score"]): v for v in verdicts(report)}
    assert found["whole", "R2 log EW"]["verdict"] == "better"
    assert found["whole", "R2 log EW"]["rival"]["predictor"] == "trees"
    assert found["off-centre", "MAE log EW [dex]"]["verdict"] == "undecided"
    # the paired difference of the same samples decides, by its 95 % interval
    for half, word in ((0.003, "worse"), (0.006, "undecided")):
        rows = [*report["scores"], difference("trees", "MAE log EW [dex]", -0.005, half, "off-centre")]
        found = {(v["region"], v["score"]): v for v in verdicts(report | {"scores": rows})}
        assert found["off-centre", "MAE log EW [dex]"]["verdict"] == word
    # too little that an image cannot tell, or not known how much: nothing counts
    for interval in ([0.24, 0.3], None, [None, None]):
        void = report | {"unseen_scatter": 0.27, "unseen_scatter_interval": interval}
        assert {v["verdict"] for v in verdicts(void)} == {"void"}
        assert "comparisons are void" in make_page(void, []) and "All are void" in make_page(void, [])


def test_light_is_no_rival_beyond_light(report):
    """Neither is a score of light x constant EW below that of the trees."""
    for name, value in (("nano", 0.4), ("trees", 0.3), ("light", 0.35)):
        report["scores"].append(row(name, "r after r-band", value))
    report["meta"]["predictors"].append({"name": "light", "kind": "rival", "role": "light only"})
    found = {(v["region"], v["score"]): v for v in verdicts(report)}
    assert found["whole", "r after r-band"]["rival"]["predictor"] == "trees"
    assert found["whole", "R2 log EW"]["rival"]["predictor"] == "trees"


@pytest.mark.parametrize("n", [80, 400])
def test_unseen_scatter_of_few_galaxies(n):
    """What is told by colour, steeply, is not counted as scatter, however far apart the neighbours are."""
    rng = np.random.default_rng(n)
    owner = np.repeat(np.arange(n), 13)
    seen = rng.normal(size=(n, 4))[owner] + 0.3 * rng.normal(size=(13 * n, 4))
    hidden = 0.1 * rng.normal(size=n)[owner] + 0.15 * rng.normal(size=13 * n)
    rows = np.column_stack([owner, seen @ [0.4, -0.3, 0.2, 0.1] + hidden, seen])
    value, low, high = unseen_scatter(rows)
    true = np.hypot(0.1, 0.15)
    assert value == pytest.approx(true, rel=0.1) and low < value < high < low + 0.15
    assert unseen_scatter(rows[:900]) == (None, None, None)


# ---------------------------------------------------------------- maps
def test_maps_are_north_up_east_left():
    g = galaxy()
    figure = draw_maps(g, map_panels(g, answer(g, 1.5)), method="nano", quantity="EW")
    axes = [ax for ax in figure.axes if hasattr(ax, "coords")]
    assert len(axes) == 4
    figure.canvas.draw()
    data = map_data(g, g.ew[:, HA])
    east, north = (g.column == 20) & (g.row == 10), (g.column == 10) & (g.row == 20)
    middle = (g.column == 10) & (g.row == 10)
    for ax in axes:
        sky = ax.get_transform(data.wcs)
        x, y = np.array([sky.transform((g.column[k][0], g.row[k][0])) for k in (middle, east, north)]).T
        assert x[1] < x[0] - 20  # the East is left
        assert y[2] > y[0] + 20  # the North is up
    brightest = np.argmax(g.ew[:, HA])
    assert g.east[brightest] == 6  # and what is drawn in the East is what lies there
    assert np.nanargmax(data.data.ravel()) == brightest


def test_maps_share_their_scale_and_say_what_they_are():
    g = galaxy()
    figure = draw_maps(g, map_panels(g, answer(g, 1.5)), method="nano", quantity="EW", title="SIM 1-0")
    image, truth, predicted, pull = (ax for ax in figure.axes if hasattr(ax, "coords"))
    assert truth.images[0].get_clim() == predicted.images[0].get_clim()
    assert pull.images[0].get_clim() == (-3, 3)
    words = [[text.get_text() for text in ax.texts] for ax in (image, truth, predicted, pull)]
    assert ["predicted from image" in text for text in words] == [False, False, True, True]
    assert all("N" in text and "E" in text for text in words)
    assert "simulated" in image.get_title(loc="left") and "truth" in truth.get_title(loc="left")
    labels = [ax.get_ylabel() for ax in figure.axes if not hasattr(ax, "coords")]
    assert labels == ["log EW (Å)"] * 2 + ["(prediction - truth) / error"]


def test_pull_and_difference():
    g = galaxy()
    panels = map_panels(g, answer(g, 1.3))
    np.testing.assert_allclose(panels["pull"], 3.0, rtol=1e-6)  # 30 % off, errors of 10 %
    np.testing.assert_allclose(panels["predicted"] - panels["truth"], np.log10(1.3), rtol=1e-6)
    panels = map_panels(g, answer(g, 1.3, errors=False))
    assert panels["pull"] is None
    figure = draw_maps(g, panels, method="trees", quantity="EW")
    assert figure.axes[-1].get_ylabel() == "prediction - truth (dex)"


def test_pull_of_a_ratio():
    """The error of a ratio is that of both lines, less their covariance."""
    g = galaxy()
    p = answer(g)
    flux = p.flux.copy()
    flux[:, 12] *= 1.2  # [N II]
    independent = map_panels(g, PredictedMaps(flux, p.flux_sigma, p.ew, p.ew_sigma), "N2/Ha")
    expected = np.log(1.2) / np.hypot(0.1 / 1.2, 0.1)
    np.testing.assert_allclose(independent["pull"][np.isfinite(independent["pull"])], expected, rtol=1e-4)
    covariance = p.flux_sigma[:, :, None] ** 2 * np.eye(15)
    covariance[:, 11, 12] = covariance[:, 12, 11] = 0.5 * p.flux_sigma[:, 11] * p.flux_sigma[:, 12]
    together = map_panels(g, PredictedMaps(flux, p.flux_sigma, p.ew, p.ew_sigma, covariance), "N2/Ha")
    expected = np.log(1.2) / np.sqrt((0.1 / 1.2) ** 2 + 0.1**2 - 0.1**2 / 1.2)
    np.testing.assert_allclose(together["pull"][np.isfinite(together["pull"])], expected, rtol=1e-4)


def test_maps_without_light_or_lines():
    g = galaxy(scale=0.0)
    g.image[...] = 0
    figure = draw_maps(g, map_panels(g, answer(g)), method="nano", quantity="EW")
    figure.canvas.draw()
    assert sum("no usable value" in t.get_text() for ax in figure.axes for t in ax.texts) == 3


# ---------------------------------------------------------------- examples and profiles
def test_examples_are_chosen_by_rule():
    pairs = []
    for i in range(21):
        g = galaxy(i, strata=("agn",) if i > 17 else ("outflow",) if i == 3 else ())
        pairs.append((g, {"nano": answer(g, 10 ** (0.01 * (20 - i))), "trees": None}))
    pairs.append((galaxy(21, scale=0.0), {"nano": answer(galaxy(21, scale=0.0))}))  # no line: no example
    pairs.append((galaxy(22), {"nano": None}))  # failed: left out
    found = review(pairs, "nano")
    chosen = {(one["stratum"], one["why"][:4]): one["position"] for one in found["examples"]}
    assert chosen["all", "10 %"] == 18 and chosen["all", "the "] == 10 and chosen["all", "90 %"] == 2
    assert chosen["agn", "the "] == 19 and chosen["outflow", "the "] == 3
    assert found["examples"][0]["score"] == pytest.approx(0.02)
    json.dumps(found, allow_nan=False)


def test_profiles():
    g = galaxy(side=31)
    found = review([(g, {"nano": answer(g, 2.0)}) for _ in range(3)], "nano")["profiles"]
    profile = next(p for p in found if p["quantity"] == "Ha EW")
    np.testing.assert_allclose(profile["difference"], np.log10(2), rtol=1e-6)
    inner = g.radius < 0.4
    expected = np.log10(np.average(g.ew[inner, HA], weights=g.band[inner, 1]))  # weighted by the light
    assert profile["truth"][0] == pytest.approx(expected)
    assert profile["galaxies"] == [3, 3, 3, 3]
    figure = draw_profiles(found, method_colors(["nano"]))
    top = figure.axes[0]
    assert top.get_title(loc="left") == "EW of Hα" and top.get_ylabel() == "log EW (Å)"
    assert [line.get_label() for line in top.lines] == ["truth", "nano"]


# ---------------------------------------------------------------- reliability, strata
def test_reliability_diagram(report):
    figure = draw_reliability(report["reliability"], method_colors(METHODS), ["O3", "Ha"])
    top, bottom = figure.axes[:2]
    assert top.get_xlim() == top.get_ylim() == (0, 1)
    np.testing.assert_allclose(top.lines[0].get_ydata(), report["reliability"][0]["covered"])
    np.testing.assert_allclose(bottom.patches[0].get_data().values, 1.0)  # 20 bins of 5 %: density 1
    assert top.lines[0].get_color() == method_colors(METHODS)["nano"]


def test_strata(report):
    rows = [r for r in report["scores"] if (r["quantity"], r["region"], r["score"]) == ("Ha", "whole", "R2 log EW")]
    colors = method_colors(METHODS)
    two = {name: colors[name] for name in METHODS[:2]}
    figure = draw_strata([{"rows": rows, "target": 1.0}, {"rows": rows, "limits": (0.45, 1)}], two)
    ax, cut = figure.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["all  (40)", "AGN  (40)", "edge-on  (40)"]
    assert [t.get_text() for t in ax.texts] == ["kind of galaxy", "view"]  # groups
    assert cut.get_xlabel() == "R² log EW" and sum(line.get_marker() == "<" for line in cut.lines) == 3
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # "all" on top
    points = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert sorted(points) == pytest.approx([0.4, 0.4, 0.4, 0.5, 0.5, 0.6])


# ---------------------------------------------------------------- the page
class Page(HTMLParser):
    """Tags, what they point at, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.alts, self.open, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[key] for key in ("src", "href", "srcset", "data", "action") if key in attrs]
        self.alts += [attrs.get("alt", "")] if tag == "img" else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.words.append(data)


def test_page_stands_alone(report):
    figures = [
        (
            "errors",
            "reliability of <Ha>",
            "a caption",
            draw_reliability(report["reliability"], method_colors(METHODS), ["O3", "Ha"]),
        )
    ]
    text = make_page(report, figures)
    page = Page(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    anchors = [link for link in page.links if link.startswith("#")]
    pictures = [link for link in page.links if link not in anchors]
    assert pictures and all(link.startswith("data:image/png;base64,") for link in pictures)
    assert "#errors" in anchors and "#examples" not in anchors  # sections without figures are left out
    assert [f'<h2 id="{link[1:]}">' in text for link in anchors] == [True] * len(anchors)
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert page.alts == ["reliability of <Ha>"]
    assert "<td>40</td><td>4,000</td><td>biased</td>" in text
    picture = Image.open(BytesIO(base64.b64decode(pictures[0].split(",")[1])))
    assert picture.size[0] > 400
    assert not plt.get_fignums()  # figures are closed once they are in the page


def test_page_says_what_it_is(report):
    report["scores"].append(row("trees", "R2 log EW, minus nano", -0.2))
    text = make_page(report, [])
    words = " ".join(Page(text).words)
    assert "spaxels chosen for" not in words
    chosen = make_page(report | {"meta": report["meta"] | {"chosen_spaxels": 4321}}, [])
    assert "<td><code>4,321</code></td>" in chosen and "4,321 of them show Hα" in chosen
    assert '<meta name="DATATYPE" content="PREDICTED">' in text and '<meta name="ORIGIN" content="fiberifu">' in text
    assert "Predicted from image: nothing on this page was observed." in words
    assert "f" * 64 in words and "40 galaxies are too few" in words
    assert "minus nano" not in words
    assert "about <trees>" in words and "<trees>" not in text  # escaped


def test_page_bold(report):
    """Bold is the best of the model and its rivals, and only if it is beyond the errors."""
    text = make_page(report, [])
    table = text[text.index('<h2 id="halpha">') : text.index('<h2 id="others">')]
    assert "<b>0.600</b>" not in table and "<b>0.60</b>" in table
    assert "<b>0.90</b>" not in table  # the floor is no rival
    assert "<b>0.20</b>" not in table  # the errors overlap
    assert "<b>0.80</b>" not in table  # nobody to compare with
    assert table.index("off-centre") > table.index("whole galaxies")


def test_page_of_little():
    """No figures, no rows, an unknown score: still a page."""
    meta = {"model": "x", "galaxies": 3000, "predictors": [{"name": "x", "key": "1", "kind": "judged"}]}
    empty = Page(make_page({"meta": meta, "scores": [], "reliability": []}, []))
    assert "Not known" in " ".join(empty.words) and "too few" not in " ".join(empty.words)
    odd = make_page({"meta": meta, "scores": [row("x", "new [K]", 1234.5, quantity="T")], "reliability": []}, [])
    assert "new [K]" in odd and "1234" in odd


# ---------------------------------------------------------------- files
def test_scores_come_back(report, tmp_path):
    write_scores(tmp_path, report)
    assert read_scores(tmp_path) == report
    table = Table.read(tmp_path / "scores.ecsv")
    assert len(table) == len(report["scores"]) and table.meta["weights_sha256"] == "f" * 64
    assert table["value"][0] == 0.6 and table["value"].mask.tolist() == [False] * (len(table) - 1) + [True]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_scores(tmp_path, report | {"scores": [row("nano", "R2 log EW", np.nan)]})
    assert read_scores(tmp_path) == report  # what was there stays


def test_scores_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="page-only"):
        read_scores(tmp_path)
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(ValueError, match="no readable JSON"):
        read_scores(tmp_path)
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match="meta, reliability, scores"):
        read_scores(tmp_path)


# ---------------------------------------------------------------- the job
@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Two galaxies, large enough to be examples."""
    folder = tmp_path_factory.mktemp("held") / "truth"
    return HeldOutSet(folder, Simulator(analytic_template_pack()), 2, per_shard=2).build()


@pytest.fixture(scope="module")
def judged(held_out, tmp_path_factory):
    """Folder of the bundled model, judged beside the floor of noise."""
    folder = tmp_path_factory.mktemp("scores") / "out"
    validate_maps_to_folder(folder, baselines="floor", held_out=held_out.folder, draws=20, command="a <b>")
    return folder


def test_job(judged, held_out):
    names = {path.name for path in judged.iterdir()}
    assert names == {"manifest.json", "predictions", "scores.json", "scores.ecsv", "maps.html"}
    report = read_scores(judged)
    meta = report["meta"]
    assert [(m["name"], m["kind"]) for m in meta["predictors"]] == [
        ("network", "judged"),
        ("repeat observation (MaNGA)", "reference"),
    ]
    assert meta["weights_sha256"] == VirtualIFU.from_pretrained().weights_sha256
    assert meta["held_out"]["seed"] == held_out.seed and meta["galaxies"] == 2 and meta["datatype"] == "PREDICTED"
    value = {(r["predictor"], r["score"]): r["value"] for r in report["scores"] if r["stratum"] == "all"
             and (r["quantity"], r["region"]) == ("Ha", "whole")}  # fmt: skip
    assert value["repeat observation (MaNGA)", "MAE log flux [dex]"] < value["network", "MAE log flux [dex]"]
    assert [row["name"] for row in report["doubt"]["rows"][:2]] == ["error", "pull"]
    (scores,) = map(np.load, (judged / "predictions" / "network-oddity").glob("*.npy"))
    assert len(scores) == 2 and np.isfinite(scores).all()
    page = Page((judged / "maps.html").read_text(encoding="utf-8"))
    assert meta["weights_sha256"] in " ".join(page.words) and "a <b>" in " ".join(page.words)
    assert sum("true and predicted, and pull" in alt for alt in page.alts) == len(report["examples"])


def test_page_says_whether_it_knows_when_it_fails(report):
    truths = [galaxy(i) for i in range(12)]
    answers = [answer(truth) for truth in truths]
    odd = np.arange(12.0)
    for truth, one in zip(truths[8:], answers[8:], strict=True):
        one.flux[:] = truth.flux * 10  # those that look oddest fail
    rows = ood_roc(odd, truths, answers, worst=0.3, draws=10)
    doubt = {"rows": rows, "curves": [{"name": "error", "false": [0, 0, 1], "found": [0, 1, 1]}]}
    figure = draw_doubt(doubt)
    assert rows[0]["auc"] == 1 and "area 1.00" in figure.legends[0].get_texts()[1].get_text()
    page = make_page(report | {"doubt": doubt}, [("doubt", "roc", "", figure)])
    assert "Does it know when it fails?" in page and "1.00" in doubt_table(doubt)
    assert "Does it know when it fails?" not in make_page(report, [])


@pytest.fixture
def quick(monkeypatch):
    """Empty figures: `judged` has drawn the real ones once."""
    for name in ("maps", "reliability", "strata", "profiles"):
        monkeypatch.setattr(
            f"fiberifu.validate.report_sections.draw_{name}", lambda *a, **k: plt.figure(figsize=(1, 1))
        )


def test_page_only(judged, held_out, capsys, quick):
    before, scores = (judged / "maps.html").read_text(), (judged / "scores.json").read_bytes()
    arguments = ["validate", "maps", "-o", str(judged), "--page-only"]
    assert cli.main([*arguments, "--held-out", str(held_out.folder)]) == 0
    assert Page((judged / "maps.html").read_text()).alts == Page(before).alts
    assert (judged / "scores.json").read_bytes() == scores
    assert "not observations" in capsys.readouterr().out
    # without the galaxies there are no maps, and the rest of the page
    (judged / "maps.html").unlink()
    assert cli.main([*arguments, "--quiet"]) == 0
    assert "predicted, and pull" not in (judged / "maps.html").read_text()
    (judged / "maps.html").write_text(before)


def test_job_resumes_under_the_same_settings_only(judged, held_out, tmp_path, monkeypatch, quick, capsys):
    judged = shutil.copytree(judged, tmp_path / "copy")
    settings = {"galaxies": 2, "baselines": "floor", "held_out": held_out.folder, "draws": 20}
    with pytest.raises(FileExistsError, match="--resume"):
        validate_maps_to_folder(judged, **settings)
    with pytest.raises(ValueError, match="baselines"):
        validate_maps_to_folder(judged, **settings | {"baselines": "none"}, resume=True)
    arguments = ["validate", "maps", "-o", str(judged), "--held-out", str(held_out.folder), "--baselines", "none"]
    assert cli.main([*arguments, "--resume"]) == 2
    words = capsys.readouterr().err
    assert "use the former ones, --overwrite or another folder" in words and "=True" not in words
    # what a killed run left: predictions, no scores; nothing is predicted again
    before = json.loads((judged / "scores.json").read_text())
    (judged / "scores.json").unlink()
    monkeypatch.setattr("fiberifu.validate.predictors.NetworkPredictor.predict", None)
    validate_maps_to_folder(judged, **settings, resume=True, command="a <b>")
    assert json.loads((judged / "scores.json").read_text()) == before
    with pytest.raises(RuntimeError, match="network fails"):  # with overwrite it is
        validate_maps_to_folder(judged, **settings, overwrite=True)
    assert not (judged / "maps.html").exists()


def test_job_says_what_is_wrong(tmp_path, held_out, capsys):
    """In the words of the command line."""
    folder = held_out.folder
    arguments = ["validate", "maps", "-o", str(tmp_path / "out"), "--held-out", str(folder), "--baselines"]
    learned = shutil.copytree(folder, tmp_path / "learned")  # galaxies that the IFU spaxels are of
    manifest = (learned / "manifest.json").read_text()
    (learned / "manifest.json").write_text(manifest.replace(str(held_out.seed), "66000001"))
    for wrong, words in (
        (["none", "--galaxies", "3"], f"--galaxies is 3, and {folder} has 2; give 2 at most, or no number"),
        (["none", "--seed", "78000001"], "--seed is 78000001, and the galaxies in"),
        (["none", "--seed", "-1"], "--seed is -1; give a whole number from 0"),
        (["none", "--seed", "5"], "--seed is 5, whose galaxies a network may have been trained on"),
        (["none", "--seed", "66000001"], "--seed is 66000001, whose galaxies the IFU spaxels are of"),
        (["none", "--held-out", str(learned)], "seed is 66000001, whose galaxies the IFU spaxels are of"),
        (["none", "--held-out", str(folder.parent)], f"holds no held-out galaxies; give {folder}"),
        (["forest"], "--baselines: unknown 'forest'"),
        (["none", "--page-only"], "scores.json: no such file"),
    ):
        assert cli.main([*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_baselines_by_name():
    assert parse_baselines("none") == [] and parse_baselines("ridge, trees") == ["trees", "ridge"]
    assert not set(COSTLY) & set(parse_baselines("all")) and set(parse_baselines("all,blank")) > {"blank", "floor"}


def test_methods_are_made_from_their_samples(held_out):
    n, rng = 40, np.random.default_rng(1)
    shapes = {
        "flux": (4,),
        "error": (4,),
        "patch": (4, 7, 7),
        "redshift": (),
        "psf_fwhm": (),
        "distance": (),
        "radius": (),
    }
    shapes |= dict.fromkeys(("line_flux", "line_flux_sigma", "ew", "ew_sigma", "true_flux", "true_ew"), (15,))
    rows = {name: rng.uniform(0.5, 2, (n, *shape)) for name, shape in shapes.items()}
    fibers = LineSample(**rows, galaxy=np.arange(n), continuum=np.ones((2, 9)))
    spaxels = dataclasses.replace(fibers, kind="spaxels")
    network = NetworkPredictor(VirtualIFU.from_pretrained())
    names = parse_baselines(",".join(BASELINES))
    made = make_baselines(names, network=network, galaxies=held_out, fibers=lambda: fibers, spaxels=lambda: spaxels)
    assert [type(one).__name__ for one in made] == [
        *("LightTimesEW", "FiberTrees", "PatchTrees", "PatchRidge", "IFUTrees", "CentralTimesLight", "PositionOnly"),
        *("NoiseFloor", "NetworkPredictor", "Blank", "Shuffled"),
    ]
    assert len({one.name for one in made}) == len({one.key for one in made}) == len(made)
    assert [one.name for one in made if one.kind == "rival"] == [made[i].name for i in range(4)]
    assert made[4].sample.kind == "spaxels" and all(one.about for one in made)


def test_recipes_of_the_training():
    """Baselines learn from the fibres of the very recipes that made the weights."""
    passport = VirtualIFU.from_pretrained().passport
    stages = training_recipes(passport)
    assert [stage.sha256() for stage in stages] == [passport["recipe_sha256"]]
    with pytest.raises(ValueError, match="--recipe"):
        training_recipes({"recipe_sha256": "0" * 64})
