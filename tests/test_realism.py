# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Whether the measures of realism measure: known offsets are caught, equal samples agree, mixtures come back."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fiberifu.simulate import (  # noqa: E402
    Simulator,
    analytic_template_pack,
    load_template_pack,
)
from fiberifu.simulate.identifiers import pack_sha256  # noqa: E402
from fiberifu.simulate.observe import spectrum_sigma  # noqa: E402
from fiberifu.validate.realism import (  # noqa: E402
    Comparison,
    Mixture,
    bootstrap,
    central_scatter,
    check_report,
    dn4000,
    energy_distance,
    fit_line,
    matched_indices,
    measure_realism,
    residual_scatter,
    ridge_distance,
    starlight,  # noqa: E402
    write_realism,
)
from fiberifu.validate.realism.comparison import rank  # noqa: E402
from fiberifu.validate.realism.measures import running_median  # noqa: E402
from fiberifu.validate.realism.mixture import LINE_GROUPS, stellar_templates, velocity_shift  # noqa: E402
from fiberifu.validate.realism.noise import _training_sigma, photon_law  # noqa: E402
from fiberifu.validate.realism.origin import COMMAND, in_half, simulator_hash  # noqa: E402
from fiberifu.validate.realism.physics import line_ratios  # noqa: E402
from fiberifu.validate.realism.population import compare_population  # noqa: E402
from fiberifu.validate.realism.real import read_atlas, read_colours, read_desi, read_ifu_lines, read_manga_list  # noqa: E402
from fiberifu.validate.realism.relations import abundance_ridge, kewley_ellison_n2, n2_metallicity, tremonti_2004  # noqa: E402
from fiberifu.validate.realism.sample import REST_WAVE, ab_magnitudes, read_sdss_curves, simulated_sample  # noqa: E402
from fiberifu.validate.realism.tuned import mark  # noqa: E402

HA = 11  # in the simulator's lines


@pytest.fixture(scope="module")
def pack():
    return analytic_template_pack()


@pytest.fixture(scope="module")
def mixture(pack):
    return Mixture(*stellar_templates(pack, (0.0, 0.3)))


def compare(simulated, real, *, threshold=0.1, kind="same", errors=(0.01, 0.01), **more):
    return Comparison("a", "b", simulated, errors[0], real, errors[1], "mag", 9, 9, threshold, kind, "somebody", **more)


# ---------------------------------------------------------------- statistics
def test_bootstrap_error():
    x = np.random.default_rng(0).normal(2, 3, 900)
    value, error = bootstrap(np.mean, x, draws=400)
    assert value == pytest.approx(x.mean())
    assert error == pytest.approx(3 / 30, rel=0.15)
    assert np.isnan(bootstrap(np.mean, x[:2])[1])
    with pytest.raises(ValueError, match="lengths"):
        bootstrap(np.mean, x, x[:3])


def test_scatters():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-1, 1, (2, 3000))
    z = 1 + x - 0.5 * y + 0.7 * x * y + x**2 + rng.normal(0, 0.2, 3000)
    assert central_scatter(z) > 0.5
    assert residual_scatter(z, x, y) == pytest.approx(0.2, rel=0.05)
    z[:60] += 40  # wings do not count
    assert residual_scatter(z, x, y) == pytest.approx(0.2, rel=0.15)


def test_fit_line():
    rng = np.random.default_rng(2)
    x = rng.uniform(9, 11, 2000)
    slope, value, scatter = fit_line(x, 2.1 + 0.28 * (x - 10) + rng.normal(0, 0.05, 2000), 10)
    assert (slope, value) == pytest.approx((0.28, 2.1), abs=0.01)
    assert scatter == pytest.approx(0.05, rel=0.1)


def test_energy_distance():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (2, 1000, 2))
    assert energy_distance(a, b) < 0.1 < energy_distance(a, b + [0.5, 0])
    assert energy_distance(a, b + 0.5) == pytest.approx(energy_distance(b + 0.5, a))
    # two points: the distance itself is known
    assert energy_distance(np.zeros(5), np.full(5, 2.0)) == pytest.approx(2.0)


def test_offset_is_caught():
    """Equal samples agree, a shifted one differs by the shift, whatever the distribution."""
    rng = np.random.default_rng(4)
    real, same = rng.gamma(3, 0.1, (2, 4000))
    for shift, verdict in ((0.0, "agrees"), (0.12, "differs")):
        row = Comparison(
            *("a", "b", *bootstrap(np.median, same + shift), *bootstrap(np.median, real), "mag", 4000, 4000),
            *(0.05, "same", "real"),
        )
        assert row.verdict == verdict
        assert row.difference == pytest.approx(shift, abs=4 * row.error)


def test_matching():
    pool = np.array([[0.1, 15.0], [0.2, 16.0]])
    index, near = matched_indices([[0.201, 16.01], [0.101, 15.5]], pool, (0.01, 0.1))
    assert index.tolist() == [1, 0]
    assert near.tolist() == [True, False]
    centre, median, _ = running_median(np.linspace(0, 1, 100), np.linspace(0, 2, 100), [0, 0.5, 1.0, 2.0])
    assert centre == pytest.approx([0.25, 0.75])
    assert median == pytest.approx([0.5, 1.5], abs=0.03)


# ---------------------------------------------------------------- spectra
def test_dn4000():
    wave = np.arange(3800.0, 4200.0, 0.5)
    flat = 1 / wave**2  # per frequency
    assert dn4000(wave, flat) == pytest.approx(1, abs=1e-4)
    step = flat * np.where(wave > 3975, 1.6, 1.0)
    assert dn4000(wave, np.stack([flat, step])) == pytest.approx([1, 1.6], abs=1e-3)
    assert np.isnan(dn4000(wave + 100, flat))


def test_magnitudes():
    wave = np.arange(3500.0, 11500.0, 2.0)
    curves = read_sdss_curves()
    assert np.ptp(ab_magnitudes(wave, wave**-2.0, curves)) < 0.003  # AB: no colour
    colours = -np.diff(ab_magnitudes(wave, np.ones_like(wave), curves))
    assert colours[0] == pytest.approx(5 * np.log10(6166 / 4703), abs=0.03)  # pivots of g and r


def spectrum(mixture, wave, sigma):
    """Two populations and lines of known fluxes."""
    stars = mixture._stars(sigma)
    flux = 3 * np.interp(wave, mixture.wave, stars[20]) + np.interp(wave, mixture.wave, stars[61])
    lines = {"Ha": 60.0, "N2": 24.0, "Hb": 18.0, "O3": 11.0}
    gas = 0
    for name, value in lines.items():
        for centre, share in LINE_GROUPS[name]:
            s = centre * 180 / 299792.458
            gas = gas + value * share * np.exp(-0.5 * ((wave - centre) / s) ** 2) / (np.sqrt(2 * np.pi) * s)
    return flux, gas, lines


def test_mixture_comes_back(mixture):
    flux, gas, lines = spectrum(mixture, REST_WAVE, 200)
    fit = mixture.fit(REST_WAVE, flux + gas)
    assert fit["rms"] < 1e-3
    assert fit["continuum"] == pytest.approx(flux, rel=0.01)
    for name, value in lines.items():
        assert fit["lines"][name] == pytest.approx(value, rel=0.01)
    sides = [flux[(REST_WAVE > a) & (REST_WAVE < b)].mean() for a, b in ((6483, 6513), (6623, 6653))]
    assert fit["ew"]["Ha"] == pytest.approx(60 / np.mean(sides), rel=0.02)
    assert fit["line_width"] == 180


def test_mixture_sees_what_it_cannot_make(mixture):
    flux, gas, _ = spectrum(mixture, REST_WAVE, 200)
    wiggle = 1 + 0.05 * np.sin(REST_WAVE / 9.0)
    fit = mixture.fit(REST_WAVE, flux * wiggle + gas)
    assert fit["rms"] == pytest.approx(0.05 / np.sqrt(2), rel=0.15)
    assert fit["fine"] == pytest.approx(0.05 / np.sqrt(2), rel=0.15)


def test_mixture_with_errors(mixture):
    flux, gas, lines = spectrum(mixture, REST_WAVE, 200)
    rng = np.random.default_rng(5)
    sigma = np.full(REST_WAVE.size, 0.05 * np.median(flux))
    noisy = flux + gas + rng.normal(0, sigma)
    noisy[200:210], sigma[200:210] = 1e4, np.inf
    fit = mixture.fit(REST_WAVE, noisy, sigma)
    assert fit["chi2"] == pytest.approx(1, abs=0.15)
    assert fit["lines"]["Ha"] == pytest.approx(lines["Ha"], abs=4 * fit["errors"]["Ha"])
    assert 0 < fit["errors"]["Ha"] < 0.1 * lines["Ha"]


def test_mixture_refuses(mixture):
    with pytest.raises(ValueError, match="pixels count"):
        mixture.fit(REST_WAVE, np.ones(REST_WAVE.size), np.full(REST_WAVE.size, np.inf))
    with pytest.raises(ValueError, match="constant"):
        mixture.fit(REST_WAVE, np.ones(REST_WAVE.size), constant="colour")


def test_velocity_shift(mixture):
    flux, gas, _ = spectrum(mixture, REST_WAVE, 200)
    fit = mixture.fit(REST_WAVE, flux + gas)
    moved = np.interp(REST_WAVE / (1 + 250 / 299792.458), REST_WAVE, flux + gas)
    assert velocity_shift(REST_WAVE, moved, fit) == pytest.approx(250, abs=25)
    assert velocity_shift(REST_WAVE, flux + gas, fit) == pytest.approx(0, abs=25)


# ---------------------------------------------------------------- relations
def test_published_values():
    assert tremonti_2004(10.0) == pytest.approx(8.95, abs=0.01)
    assert kewley_ellison_n2(10.0) == pytest.approx(8.63, abs=0.01)
    assert n2_metallicity(-0.5) == pytest.approx(8.615)
    assert abundance_ridge(-0.5) == pytest.approx(1.1 - 0.61 / 0.42)
    assert np.isneginf(abundance_ridge(0.0))


def test_ridge_distance():
    x = np.linspace(-1.3, -0.4, 20)
    assert np.abs(ridge_distance(x, abundance_ridge(x), abundance_ridge)).max() < 4e-3
    above = ridge_distance(x, abundance_ridge(x) + 0.1, abundance_ridge)
    assert (above > 0).all() and (above <= 0.1).all()  # the nearest point is nearer than the one below
    assert (ridge_distance(x, abundance_ridge(x) - 0.1, abundance_ridge) < 0).all()
    assert ridge_distance(-1.9, abundance_ridge(-1.9) + 0.05, abundance_ridge) == pytest.approx(0.05, rel=0.05)


# ---------------------------------------------------------------- comparisons
@pytest.mark.parametrize(
    ("simulated", "kind", "verdict"),
    [
        (1.05, "same", "agrees"),
        (1.108, "same", "undecided"),
        (0.8, "same", "differs"),
        (0.8, "at least", "differs"),
        (3.0, "at least", "agrees"),
        (3.0, "at most", "differs"),
        (0.1, "at most", "agrees"),
        (3.0, "context", "context"),
        (np.nan, "same", "context"),
    ],
)
def test_verdict(simulated, kind, verdict):
    assert compare(simulated, 1.0, kind=kind).verdict == verdict


def test_comparison_refuses():
    with pytest.raises(ValueError, match="kind"):
        compare(1, 1, kind="better")
    with pytest.raises(ValueError, match="threshold"):
        compare(1, 1, threshold=0.0)


def test_rank():
    rows = [compare(1.0, 1.0), compare(2.0, 1.0, kind="context"), compare(0.5, 1.0), compare(1.2, 1.0)]
    assert [row.simulated for row in rank(rows)] == [0.5, 1.2, 1.0, 2.0]


def test_report_is_checked():
    row = compare(1.3, 1.0, errors=(np.nan, 0.1), basis="tuned").to_dict()
    assert row["simulated_error"] is None
    assert row["difference"] == pytest.approx(0.3)
    summary = {"agrees": 0, "differs": 1, "undecided": 0, "context": 0}
    report = {
        **{"version": "1", "simulator": "0", "pack": "1", "command": "make", "half": "judging"},
        **{"galaxies": 24, "survey_galaxies": 8, "seed": 1, "population": {}, "summary": summary},
        "summary_by_basis": {"tuned": summary.copy(), "held out": dict.fromkeys(summary, 0)},
        "comparisons": [row],
    }
    check_report(json.loads(json.dumps(report)))
    for change, match in (
        (lambda r: r.pop("seed"), "no 'seed'"),
        (lambda r: r["comparisons"][0].pop("threshold"), "no 'threshold'"),
        (lambda r: r["comparisons"][0].update(real="1"), "'real' is '1'"),
        (lambda r: r["comparisons"][0].update(verdict="fine"), "'fine'"),
        (lambda r: r["comparisons"].append(row), "twice"),
        (lambda r: r["summary"].update(agrees=3), "summary"),
        (lambda r: r["summary_by_basis"]["held out"].update(agrees=3), "summary_by_basis"),
        (lambda r: r["comparisons"][0].update(basis=""), "basis"),
        (lambda r: r.update(half="first"), "'first'"),
        (lambda r: r.update(simulator=None), "'simulator' is None"),
    ):
        broken = copy.deepcopy(report)
        change(broken)
        with pytest.raises(ValueError, match=match):
            check_report(broken)


# ---------------------------------------------------------------- what a report is made of
def test_the_page_is_of_this_simulator():
    path = Path(__file__).parents[1] / "docs" / "_static" / "realism" / "realism.json"
    if not path.parent.is_dir():
        pytest.skip("no documentation beside the tests")
    report = json.loads(path.read_text())
    assert report["simulator"] == simulator_hash(), f"docs/_static/realism is of another simulator: {COMMAND}"
    assert f"--galaxies {report['galaxies']} " in COMMAND and COMMAND in (path.parents[2] / "realism.rst").read_text()


def test_hashes(pack):
    assert len(simulator_hash()) == 64
    other = {key: np.array(value) for key, value in pack.items()}
    assert pack_sha256(other) == pack_sha256(dict(reversed(pack.items())))
    other["ssp"][0, 0, 5] *= 1.001
    assert pack_sha256(other) != pack_sha256(pack)


def test_halves():
    names = [f"galaxy {i}" for i in range(2000)]
    tuning, judging = in_half(names, "tuning"), in_half(names, "judging")
    assert (tuning ^ judging).all() and in_half(names, "all").all()
    assert tuning.mean() == pytest.approx(0.5, abs=0.05)
    assert in_half(names[::-1], "tuning")[::-1].tolist() == tuning.tolist()
    with pytest.raises(ValueError, match="half"):
        in_half(names, "left")


def test_rows_are_tuned_or_held_out():
    def row(group, name):
        return Comparison(group, name, 1.0, 0.1, 1.0, 0.1, "", 9, 9, 0.1, "same", "somebody")

    assert mark(row("Colours", "median g-r")).basis == "tuned"
    assert mark(row("Spectra", "residual of the best mixture")).basis == "held out"
    assert mark(row("Scaling relations", "main-sequence slope")).basis == "tuned"
    assert mark(row("Scaling relations", "resolved main-sequence slope")).basis == "held out"
    assert mark(row("Survey", "MaNGA: mean redshift, Primary")).basis == "held out"
    assert mark(row("Survey", "MaNGA: median log mass")).basis == mark(row("Survey", "DESI: median r")).basis == "tuned"
    with pytest.raises(ValueError, match="tuned or held out"):
        mark(row("Weather", "rain"))


def test_means_are_held_against_means():
    """The published redshifts of MaNGA's samples are averages; those of a skewed sample are not its median."""
    one = {"redshift": np.array([0.02] * 6 + [0.06] * 4), "r": np.full(10, 17.0)}
    one |= {"log_mass": np.linspace(9, 11, 10), "log_ssfr": np.full(10, -10.0)}
    rows, _ = compare_population({}, {"DESI": one, "MaNGA": one | {"primary": np.arange(10) % 2 == 0}})
    rows = {row.name: row for row in rows}
    for sample, part in (("Primary", slice(0, None, 2)), ("Secondary", slice(1, None, 2))):
        assert rows[f"MaNGA: mean redshift, {sample}"].simulated == pytest.approx(one["redshift"][part].mean())
    assert rows["MaNGA: 95 % quantile of log mass"].simulated == pytest.approx(10.9)


def test_training_noise_takes_the_whole_time(pack):
    """`spectrum_sigma` divides the effective time into exposures itself; short ones of the coadd add no read noise."""
    simulator, spectrum = Simulator(pack), {"effective": 3000.0, "exposures": 30}
    inside = np.full(len(simulator.wave), 1.0)
    made = _training_sigma(simulator, inside, spectrum, 1.1)["b"]
    wave = simulator.wave
    args = torch.as_tensor(inside).float()[None], wave, simulator.throughput, simulator.sky
    expected = spectrum_sigma(*args, 1.1 * (wave[None] / 6500) ** -0.2, torch.tensor([3000.0]))[0]
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_photon_law():
    rng = np.random.default_rng(6)
    flux = 10 ** rng.uniform(-1, 1, 400)
    law = photon_law(flux, np.sqrt(0.04 + 0.01 * flux) * np.exp(0.02 * rng.normal(size=400)))
    assert law(0) == pytest.approx(0.04, rel=0.03)
    assert law(20.0) == pytest.approx(0.24, rel=0.03)


# ---------------------------------------------------------------- simulated and real samples
@pytest.fixture(scope="module")
def sample(pack):
    return simulated_sample(Simulator(pack), 6, 3, size=4)


def test_sample(sample):
    g = sample["galaxy"]
    assert g["sdss"].shape == (6, 4)
    assert g["spectrum"].shape == (6, REST_WAVE.size)
    assert np.isfinite(g["spectrum"]).all() and (g["spectrum"] > 0).all()
    assert ((g["dn4000"] > 0.7) & (g["dn4000"] < 3)).all()
    small = g["re_arcsec"] < 6
    assert ((g["r50"] / g["re_kpc"])[small] > 0.2).all() and ((g["r50"] / g["re_kpc"])[small] < 3).all()
    f = sample["fiber"]
    assert len(f["galaxy"]) >= 6 and set(f["galaxy"]) == set(range(6))
    ratio = line_ratios(f["line_flux"])
    assert ((ratio["HaHb"] > 0.44) & (ratio["HaHb"] < 1.2)).all()


def test_sample_does_not_depend_on_company(pack, sample):
    one = simulated_sample(Simulator(pack), 1, 3, start=4)
    for key in ("sdss", "rest_gr", "dn4000", "r50", "r50_ha"):
        assert one["galaxy"][key][0] == pytest.approx(sample["galaxy"][key][4], rel=2e-3, abs=1e-3)


def test_mixture_of_a_simulated_galaxy(pack, sample):
    """The fit finds the equivalent width that the simulator says is there."""
    fitted = Mixture(*stellar_templates(pack))
    bright = np.flatnonzero(sample["galaxy"]["line_ew"][:, HA] > 10)
    assert len(bright)
    for i in bright[:3]:
        fit = fitted.fit(REST_WAVE, sample["galaxy"]["spectrum"][i], constant="wavelength")
        assert fit["ew"]["Ha"] == pytest.approx(sample["galaxy"]["line_ew"][i, HA], rel=0.1)


def test_real_files(data_dir):
    colours = read_colours(data_dir)
    assert len(colours["r"]) > 9000 and (colours["r"] < 17.77).all()
    assert 0.5 < np.median(-np.diff(colours["sdss"], axis=1)[:, 0]) < 1.1
    halves = [read_colours(data_dir, half)["r"] for half in ("tuning", "judging")]
    assert sorted(np.concatenate(halves)) == sorted(colours["r"]) and min(map(len, halves)) > 4500
    halves = [{a["name"] for a in read_atlas(data_dir, half)} for half in ("tuning", "judging")]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 129
    atlas = {a["name"]: a for a in read_atlas(data_dir)}
    assert len(atlas) == 129
    wave, flux = atlas["Mrk 33"]["wave"], atlas["Mrk 33"]["flux"]
    near = (wave > 6500) & (wave < 6620)
    assert wave[near][np.argmax(flux[near])] == pytest.approx(6564.6, abs=4)  # vacuum
    desi = read_desi(data_dir)
    assert len(desi) == 5 and sum(np.isfinite(s["redshift"]) for s in desi) == 2
    assert len(read_manga_list(data_dir)) == 6
    lines = read_ifu_lines(data_dir)
    assert set(lines["source"]) == {"MaNGA 7815-3702", "SAMI 41144", "SAMI 209807"}
    assert 2.5 < np.median(lines["Ha"] / lines["Hb"]) < 8


def test_end_to_end(data_dir, real_pack_file, tmp_path, monkeypatch):
    real_pack = load_template_pack(real_pack_file)
    monkeypatch.setattr(starlight, "read_atlas", lambda *args: read_atlas(*args)[::9])  # fits take longest
    with pytest.raises(ValueError, match="at least 24"):
        measure_realism(None, real_pack, data_dir, galaxies=5)
    small = {"galaxies": 24, "survey_galaxies": 8, "cubes": 1}
    report, figures = measure_realism(Simulator(real_pack), real_pack, data_dir, seed=1, **small)
    paths = write_realism(report, figures, tmp_path / "out")
    read = json.loads((tmp_path / "out" / "realism.json").read_text())
    check_report(read)
    assert read["galaxies"] == 24
    assert {row["group"] for row in read["comparisons"]} == {
        *("Colours", "Spectra", "Noise", "Emission lines", "Scaling relations", "Survey"),
    }
    excess = [row["excess"] for row in read["comparisons"] if row["excess"] is not None]
    assert excess == sorted(excess, reverse=True) and len(excess) > 30
    assert read["simulator"] == simulator_hash() and read["pack"] == pack_sha256(real_pack)
    assert sum(read["summary"].values()) == len(read["comparisons"])
    assert sum(row["name"].startswith("log inverse variance of DESI") for row in read["comparisons"]) == 36
    quantiles = read["population"]["quantiles"]["DESI"]["redshift"]
    assert quantiles == sorted(quantiles) and 0 < quantiles[2] < 0.5
    control = next(row for row in read["comparisons"] if "MaNGA spaxels" in row["name"])
    assert control["n_simulated"] == 6 and abs(control["simulated"]) < 0.05 and control["simulated"] != 0
    assert "quenched" in (tmp_path / "out" / "population.inc").read_text()
    table = (tmp_path / "out" / "realism_table.inc").read_text()
    assert read["simulator"][:16] in table and read["command"] in table
    assert table.count("   * - ") == len(read["comparisons"]) + 1
    page = (tmp_path / "out" / "realism.html").read_text()
    pictures = [path for path in paths if path.suffix == ".png"]
    assert "<script" not in page and "http" not in page
    assert page.count("data:image/png;base64,") == len(pictures) == 9
    for path in pictures:
        assert path.stat().st_size <= 120_000
        assert f'id="{path.stem}"' in page
    for row in read["comparisons"]:
        assert f'href="#{row["figure"]}"' in page
