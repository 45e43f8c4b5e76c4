# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Skewed errors are judged as they are: right quantiles are called right, Gaussians of the same moments are not."""

import dataclasses

import numpy as np
import pytest
from scipy import integrate, stats
from test_metrics import as_prediction, find, find_curve, make_truths, value

from fiberifu.mixture import mixture_cdf, mixture_quantiles, ratio_cdf, ratio_quantiles
from fiberifu.model import LINES
from fiberifu.validate import measure_calibration, measure_scores
from fiberifu.validate.maps import APERTURE_AREA, LEVELS
from fiberifu.validate.pooling import pool_predictions, pool_truths
from fiberifu.validate.profiles import coherent_quantiles, coherent_sigma
from fiberifu.validate.quantiles import (
    gaussian_quantiles,
    quantile_crps,
    quantile_pit,
    quantile_sigma,
    widen_quantiles,
)
from fiberifu.validate.reliability import gaussian_crps, gaussian_pit, tally

HA, N2 = LINES.index("Ha"), LINES.index("N2_6583")
Z = stats.norm.ppf(LEVELS)
SKEW = {"Ha": 0.6, "N2": 0.4}  # of ln flux
BOTH = np.hypot(*SKEW.values())


# ---------------------------------------------------------------- one distribution
def test_gaussians_are_exact():
    rng = np.random.default_rng(1)
    mean, sigma = rng.normal(5, 3, 300), rng.uniform(0.1, 2, 300)
    truth = mean + 2 * sigma * rng.normal(size=300)
    quantiles = gaussian_quantiles(mean, sigma)
    np.testing.assert_allclose(quantile_pit(truth, quantiles), gaussian_pit(truth, mean, sigma), atol=1e-12)
    np.testing.assert_allclose(quantile_crps(truth, quantiles), gaussian_crps(truth, mean, sigma), rtol=1e-9)
    np.testing.assert_allclose(quantile_sigma(quantiles), sigma)
    wide = widen_quantiles(quantiles, 0.3**2)  # a truth that was measured with noise
    np.testing.assert_allclose(wide, gaussian_quantiles(mean, np.hypot(sigma, 0.3)))


def test_lognormal_is_close():
    """PIT exact at the levels; CRPS of all truths within 1 % of that of the distribution itself."""
    law = stats.lognorm(0.6)
    quantiles = np.exp(0.6 * Z)
    np.testing.assert_allclose(quantile_pit(quantiles, np.tile(quantiles, (15, 1))), LEVELS)
    truth = law.ppf((np.arange(40) + 0.5) / 40)
    edges = [truth[0] / 9, *truth, 60.0]

    def crps(y):
        return (
            integrate.quad(lambda x: law.cdf(x) ** 2, 0, y)[0]
            + integrate.quad(lambda x: law.sf(x) ** 2, y, edges[-1])[0]
        )

    found = quantile_crps(truth, np.tile(quantiles, (40, 1)))
    np.testing.assert_allclose(found.mean(), np.mean([crps(y) for y in truth]), rtol=0.003)
    # the integral of twice the pinball loss over the levels, between the first and the last
    fine = np.linspace(1e-5, 1 - 1e-5, 20001)
    place = np.interp(stats.norm.ppf(fine), Z, quantiles)
    for end, rows in ((0, fine < LEVELS[0]), (-1, fine > LEVELS[-1])):
        slope = np.diff(quantiles)[end] / np.diff(Z)[end]
        place[rows] = quantiles[end] + slope * (stats.norm.ppf(fine[rows]) - Z[end])
    pinball = [np.trapezoid(2 * ((y < place) - fine) * (place - y), fine) for y in truth]
    np.testing.assert_allclose(found, pinball, rtol=1e-3, atol=1e-4)


def test_certainty():
    """Equal quantiles are a point: a truth there is in the middle of their levels, others are off by their distance."""
    quantiles = np.ones((4, 15))
    quantiles[3, 8:] = 2
    truth = np.array([0.0, 1.0, 3.0, 1.0])
    np.testing.assert_allclose(quantile_pit(truth, quantiles), [0, 0.5, 1, (LEVELS[0] + 0.5) / 2])
    np.testing.assert_allclose(quantile_crps(truth, quantiles)[:3], [1, 0, 2], atol=1e-12)


@pytest.mark.parametrize("spread", [0.3, 3, 30])  # one peak, and three far apart with nothing between
def test_quantiles_of_mixtures(spread):
    rng = np.random.default_rng(0)
    levels, shape = np.array([1e-6, *LEVELS, 1 - 1e-6]), (2, 40, 3)
    wanted = levels[:, None, None] * np.ones(shape[:2])
    weight, mean, sigma = rng.dirichlet(np.ones(3), shape[:2]), rng.normal(0, spread, shape), rng.uniform(0.1, 1, shape)
    found = mixture_quantiles(levels, weight, mean, sigma)
    np.testing.assert_allclose(mixture_cdf(found, weight, mean, sigma), wanted, rtol=1e-6)
    mean, below = 6 + np.abs(mean), rng.uniform(5, 10, shape)  # ratios are of what is positive but for its tails
    covariance = sigma**2, (below * rng.uniform(0.05, 0.13, shape)) ** 2
    covariance += (rng.uniform(-0.9, 0.9, shape) * np.sqrt(covariance[0] * covariance[1]),)
    found = ratio_quantiles(levels[1:-1], weight, (mean, below), covariance)
    np.testing.assert_allclose(ratio_cdf(found, weight, (mean, below), covariance), wanted[1:-1], rtol=1e-6)
    below[0, 0] = 0  # a denominator that may be nothing
    found = ratio_quantiles(levels, weight, (mean, below), covariance)
    assert np.isnan(found[:, 0, 0]).all() and np.isfinite(found).sum() == len(levels) * (2 * 40 - 1)


# ---------------------------------------------------------------- predictions
def skewed(truth, rng, scale=1.0):
    """Posteriors of ln flux that are right: their centre is off as they say."""
    factor = {line: np.exp(s * rng.normal(size=len(truth))) for line, s in SKEW.items()}
    flux, ew, sigma = truth.flux.copy(), truth.ew.copy(), np.full(truth.flux.shape, np.nan)
    medians, quantiles = {}, {}
    for line, column in (("Ha", HA), ("N2", N2)):
        s = SKEW[line]
        medians[line] = truth.flux[:, column] * factor[line]
        flux[:, column] = medians[line] * np.exp(s**2 / 2)
        ew[:, column] = truth.ew[:, column] * factor[line] * np.exp(s**2 / 2)
        sigma[:, column] = np.sqrt(np.expm1(s**2))  # relative
        quantiles[line] = medians[line][:, None] * np.exp(scale * s * Z)
        quantiles[f"EW {line}"] = (truth.ew[:, column] * factor[line])[:, None] * np.exp(scale * s * Z)
    quantiles["N2/Ha"] = (medians["N2"] / medians["Ha"])[:, None] * np.exp(scale * BOTH * Z)
    errors = {"flux_sigma": sigma * flux, "ew_sigma": sigma * ew}
    return as_prediction(truth, flux, ew, **errors, quantiles=quantiles)


@pytest.fixture(scope="module")
def skewed_maps():
    rng = np.random.default_rng(11)
    truths = make_truths(150, seed=4)
    right = [skewed(truth, rng) for truth in truths]
    rng = np.random.default_rng(11)
    narrow = [skewed(truth, rng, 0.7) for truth in truths]
    gaussian = [dataclasses.replace(maps, quantiles=None) for maps in right]
    return truths, {"right": right, "overconfident": narrow, "gaussian": gaussian}


@pytest.fixture(scope="module")
def judged(skewed_maps):
    truths, methods = skewed_maps
    return measure_calibration(methods, truths, draws=60)


@pytest.mark.parametrize("quantity", ["Ha", "EW Ha", "N2"])
def test_right_shape_is_called_right(judged, quantity):
    rows, curves = judged
    right, narrow, gaussian = (find_curve(curves, name, quantity) for name in ("right", "overconfident", "gaussian"))
    assert right["verdict"] == "calibrated" and "overconfident" in narrow["verdict"]
    assert gaussian["verdict"] != "calibrated" and "biased" in gaussian["verdict"]
    n = right["values"]
    for nominal, found in zip(right["nominal"], right["covered"], strict=True):
        assert found == pytest.approx(nominal, abs=4 * np.sqrt(nominal * (1 - nominal) / n) + 0.002)
    for level, label in ((0.68, "coverage 68 %"), (0.95, "coverage 95 %")):
        assert find(rows, label, quantity, predictor="right")["value"] == pytest.approx(level, abs=0.02)
        expected = 2 * stats.norm.cdf(0.7 * stats.norm.ppf(0.5 + level / 2)) - 1
        assert find(rows, label, quantity, predictor="overconfident")["value"] == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose(right["pit"], 0.05, atol=4 * np.sqrt(0.05 / n))  # flat
    assert np.abs(np.array(gaussian["pit"]) - 0.05).max() > 0.03
    crps = {name: [r["value"] for r in rows if r["score"].startswith("CRPS") and r["predictor"] == name
                   and (r["quantity"], r["region"], r["stratum"]) == (quantity, "whole", "all")][0]
            for name in ("right", "overconfident", "gaussian")}  # fmt: skip
    assert crps["right"] < min(crps["overconfident"], crps["gaussian"])


def test_ratios_and_sharpness(judged):
    rows, curves = judged
    # where the method claims 3 sigma for both lines, by its own moments; sigma / mean of H-alpha is 0.66 here
    assert not [c for c in curves if c["quantity"] == "N2/Ha"]
    half = (np.exp(SKEW["Ha"] * Z[10]) - np.exp(-SKEW["Ha"] * Z[10])) / 2 / Z[10] / np.log(10)
    assert find(rows, "sharpness [dex]", "EW Ha", predictor="right")["value"] == pytest.approx(half, rel=0.02)


def test_ratio_of_lines_that_are_sure(skewed_maps):
    """Errors of the lines that they share leave the ratio; its quantiles are judged in dex."""
    truths, methods = skewed_maps
    sure = [dataclasses.replace(maps, flux_sigma=0.1 * maps.flux, covariance=None) for maps in methods["right"]]
    rows, curves = measure_calibration({"right": sure}, truths, draws=40)
    assert find_curve(curves, "right", "N2/Ha")["verdict"] == "calibrated"
    assert find(rows, "sharpness [dex]", "N2/Ha")["value"] == pytest.approx(BOTH / np.log(10), rel=1e-4)
    crps = find(rows, "CRPS [dex]", "N2/Ha")
    expected = BOTH / np.log(10) / np.sqrt(np.pi)  # of a Gaussian that is right
    assert crps["value"] == pytest.approx(expected, rel=0.05)


def test_scores_are_of_the_values(skewed_maps):
    """Quantiles are judged as such; what maps hold is what is scored elsewhere."""
    truths, methods = skewed_maps
    rows = measure_scores({name: methods[name] for name in ("right", "gaussian")}, truths, draws=0)
    for line in SKEW:
        for score in ("bias log flux [dex]", "R2 log EW"):
            assert value(rows, "right", score, line) == value(rows, "gaussian", score, line)


def test_missing_quantiles_are_gaussian(skewed_maps):
    """A method does not choose where it is judged: without quantiles at a position, its value and error are taken."""
    truths, methods = skewed_maps
    few = []
    for maps in methods["right"][:20]:
        quantiles = {"Ha": maps.quantiles["Ha"].copy()}
        quantiles["Ha"][::2] = np.nan
        few.append(dataclasses.replace(maps, quantiles=quantiles))
    spaxels = pool_truths(truths[:20])
    _, curves = measure_calibration({"few": few}, truths[:20], draws=5)
    assert find_curve(curves, "few", "Ha")["values"] == spaxels.region("whole").sum()


def test_noise_of_the_truth_is_added():
    rng = np.random.default_rng(3)
    truths = make_truths(60, seed=5)
    maps, noise = [], []
    for truth in truths:
        sigma, error = 0.1 * truth.flux, 0.15 * truth.flux
        flux = truth.flux + np.hypot(sigma, error) * rng.normal(size=truth.flux.shape)
        quantiles = {"Ha": gaussian_quantiles(flux[:, HA], sigma[:, HA])}
        maps.append(as_prediction(truth, flux, flux_sigma=sigma, quantiles=quantiles))
        noise.append((error, error))
    plain = [dataclasses.replace(one, quantiles=None) for one in maps]
    rows, curves = measure_calibration({"q": maps, "plain": plain}, truths, draws=10, noise=noise)
    assert find_curve(curves, "q", "Ha")["covered"] == find_curve(curves, "plain", "Ha")["covered"]
    for score in ("CRPS [1e-17 erg/s/cm2]", "sharpness [dex]"):
        assert value(rows, "q", score) == pytest.approx(value(rows, "plain", score), rel=1e-5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"quantiles": {"Ha": np.ones((60, 3))}}, r"quantiles\['Ha'\].*shape \(60, 3\); \(60, 15\)"),
        ({"quantiles": {"Ha": np.ones((60, 1)) * np.array(LEVELS)[::-1]}}, r"quantiles\['Ha'\].*decrease"),
        ({"quantiles": {"O9": np.ones((60, 15))}}, "quantiles.*key 'O9'"),
        ({"coherence": (0.5, -1.0)}, "coherence"),
        ({"coherence": 0.5}, "coherence"),
    ],
)
def test_wrong_predictions_are_refused(wrong, message):
    (truth,) = make_truths(1)
    with pytest.raises(ValueError, match=message):
        pool_predictions([as_prediction(truth, **wrong)], [truth])


# ---------------------------------------------------------------- sums
def test_coherent_errors_of_sums():
    """Sums whose positions err together as the method says cover 68 %; called independent, they are overconfident."""
    rng = np.random.default_rng(8)
    truths = make_truths(400, seed=6, n=40)
    amplitude, length = 0.5, 3.0
    methods = {"said": [], "not said": []}
    for truth in truths:
        distance = np.hypot(*(np.subtract.outer(x, x) for x in (truth.east, truth.north)))
        rho = np.where(distance == 0, 1.0, amplitude * np.exp(-distance / length))
        sigma = 0.1 * truth.flux[:, HA]
        flux, errors = truth.flux.copy(), np.full(truth.flux.shape, np.nan)
        flux[:, HA] += sigma * (np.linalg.cholesky(rho) @ rng.normal(size=40))
        errors[:, HA] = sigma
        maps = as_prediction(truth, flux, flux_sigma=errors, coherence=(amplitude, length))
        methods["said"].append(maps)
        methods["not said"].append(dataclasses.replace(maps, coherence=None))
    rows, curves = measure_calibration(methods, truths, draws=40)
    assert find_curve(curves, "said", "Ha", "sum")["verdict"] == "calibrated"
    noise = 4 * np.sqrt(0.68 * 0.32 / 350)
    assert value(rows, "said", "coverage 68 %", "Ha", "sum") == pytest.approx(0.68, abs=noise)
    assert "overconfident" in find_curve(curves, "not said", "Ha", "sum")["verdict"]
    extreme = {c["predictor"] for c in curves if c["region"] == "sum, coherent errors"}
    assert extreme == {"not said"}
    # the sum of one galaxy, written out
    spaxels = pool_truths(truths[-1:])
    inside = truth.radius < 1
    expected = np.sqrt(sigma[inside] @ rho[np.ix_(inside, inside)] @ sigma[inside]) * 0.75**2 / APERTURE_AREA
    found = coherent_sigma(spaxels, sigma, np.ones(40, bool), np.array([[amplitude, length]]))
    np.testing.assert_allclose(found, expected)


def test_sums_of_skewed_errors():
    """Sums of lognormal errors, coherent as a copula: quantiles cover what they say, symmetric intervals too much."""
    rng = np.random.default_rng(4)
    truths, width, amplitude, length = [], 0.8, 0.8, 6.0  # width in ln
    methods = {"quantiles": [], "symmetric": []}
    for truth in make_truths(500, seed=6, n=40):
        distance = np.hypot(*(np.subtract.outer(x, x) for x in (truth.east, truth.north)))
        rho = np.where(distance == 0, 1.0, amplitude * np.exp(-distance / length))
        median, flux = truth.flux[:, HA], truth.flux.copy()
        flux[:, HA] = median * np.exp(width * (np.linalg.cholesky(rho) @ rng.normal(size=40)))
        truths.append(dataclasses.replace(truth, flux=flux))
        answer, errors = np.full_like(flux, np.nan), np.full_like(flux, np.nan)
        answer[:, HA] = median * np.exp(width**2 / 2)
        errors[:, HA] = answer[:, HA] * np.sqrt(np.expm1(width**2))
        plain = as_prediction(truth, answer, flux_sigma=errors, coherence=(amplitude, length))
        known = np.exp(width * Z) * median[:, None]
        methods["quantiles"].append(dataclasses.replace(plain, quantiles={"Ha": known}))
        methods["symmetric"].append(plain)
    rows, curves = measure_calibration(methods, truths, draws=40)
    noise = 3 * np.sqrt(0.68 * 0.32 / 450)
    assert value(rows, "quantiles", "coverage 68 %", "Ha", "sum") == pytest.approx(0.68, abs=noise)
    assert value(rows, "symmetric", "coverage 68 %", "Ha", "sum") > 0.75
    assert value(rows, "quantiles", "PIT KS", "Ha", "sum") < 0.07 < value(rows, "symmetric", "PIT KS", "Ha", "sum")
    # errors that are the same everywhere: the quantiles of the sum are the sums of the quantiles
    spaxels, same = pool_truths(truths[:1]), np.array([[1.0, 1e9]])
    first = methods["quantiles"][0].quantiles["Ha"]
    found = coherent_quantiles(spaxels, first, np.ones(40, bool), same, draws=20_000)
    expected = first[truths[0].radius < 1].sum(0) * 0.75**2 / APERTURE_AREA
    np.testing.assert_allclose(found[0, 2:-2], expected[2:-2], rtol=0.05)


def test_tally_of_quantiles_is_that_of_gaussians():
    rng = np.random.default_rng(2)
    mean, sigma = rng.uniform(1, 5, 500), rng.uniform(0.1, 1, 500)
    truth, galaxy = mean + sigma * rng.normal(size=500), np.repeat(np.arange(10), 50)
    one = tally(truth, mean, sigma, galaxy, 10, floor=0.1)
    two = tally(truth, mean, sigma, galaxy, 10, floor=0.1, quantiles=gaussian_quantiles(mean, sigma))
    for a, b in zip(one.arrays, two.arrays, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
