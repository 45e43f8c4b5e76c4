"""The calibration stage: errors that are wrong by a known amount are found and mended."""

import dataclasses

import numpy as np
import pytest
import torch

from fiberifu.mixture import mixture_cdf, mixture_quantiles, ratio_cdf, ratio_quantiles
from fiberifu.model import AMPLITUDES, CoefficientMixture, apply_calibration
from fiberifu.train.calibrate import Amplitudes, calibrate

A = len(AMPLITUDES)


def make_amplitudes(factor=1.0, temperature=1.0, field=(0.0, 1.0), galaxies=200, fibers=6, seed=0):
    """Truth drawn from a mixture and measured with noise; what is predicted is off by factor and temperature."""
    rng = np.random.default_rng(seed)
    n = galaxies * fibers
    weight = np.array([0.5, 0.3, 0.2]) * np.ones((n, 1))
    mean = rng.uniform(5, 40, (n, 1, A)) * np.array([0.5, 1.0, 2.0])[:, None]
    sigma = 0.2 * mean
    offset = rng.uniform(-6, 6, (n, 2))
    mixture = CoefficientMixture(
        *(torch.as_tensor(x, dtype=torch.float32) for x in (weight, mean, sigma, np.zeros((n, 3, A, 1))))
    )
    generator = torch.Generator().manual_seed(seed)
    rows = np.arange(n).reshape(galaxies, fibers)
    truth = np.empty((n, A))
    for own in rows:
        part = CoefficientMixture(*(getattr(mixture, f.name)[own] for f in dataclasses.fields(mixture)))
        truth[own] = part.sample(torch.as_tensor(offset[own]), generator, field).numpy()
    noise = rng.uniform(0.5, 2, (n, A)) ** 2
    centre = (weight[..., None] * mean).sum(1, keepdims=True)
    return Amplitudes(
        weight,
        (centre + (mean - centre) / temperature) / factor,
        (sigma / temperature / factor) ** 2,
        truth + np.sqrt(noise) * rng.normal(size=(n, A)),
        noise,
        np.exp(rng.uniform(0, 4, n)),
        np.repeat(np.arange(galaxies), fibers),
        offset,
    )


def test_calibration_mends_what_is_wrong():
    """Lines 25 % too faint with errors of half their size: found, and the intervals hold on other galaxies."""
    found = calibrate(make_amplitudes(factor=1.25, temperature=2.0))
    for group in found["groups"].values():
        np.testing.assert_allclose(group["factor"], 1.25, rtol=0.12)
        np.testing.assert_allclose(group["temperature"], 2.0, rtol=0.3)
    curve = found["reliability"]["groups"]["Balmer"]
    at = found["reliability"]["levels"].index(0.68)
    assert curve["before"][at] < 0.5
    assert 0.67 < curve["after"][at] < 0.73  # widened until 95 % hold, too
    assert found["galaxies"] == 200 and found["fibers"] == 1200


def test_calibration_leaves_what_is_right():
    found = calibrate(make_amplitudes())
    for group in found["groups"].values():
        np.testing.assert_allclose(group["factor"], 1, atol=0.1)
        np.testing.assert_allclose(group["temperature"], 1, atol=0.2)
    assert found["coherence"][0] < 0.1


def test_coherence_is_found():
    """What errors do, and the fields that they were drawn from, as well as 500 galaxies can tell."""
    found = calibrate(make_amplitudes(field=(0.8, 8.0), galaxies=500, fibers=4, seed=1))
    amplitude, length = found["field"]
    assert amplitude == pytest.approx(0.8, abs=0.2)
    assert length == pytest.approx(8, rel=0.5)
    assert 0.3 < found["coherence"][0] < amplitude


def test_calibration_needs_galaxies():
    with pytest.raises(ValueError, match="galaxies: 10"):
        calibrate(make_amplitudes(galaxies=10))


def test_unseen_lines_are_left_alone():
    amplitudes = make_amplitudes(factor=1.25)
    amplitudes.noise[:, AMPLITUDES.index("O3_5007")] = np.inf
    group = calibrate(amplitudes)["groups"]["O3"]
    assert group == {"factor": [1.0] * 3, "temperature": [1.0] * 3}


def test_applied_calibration_is_linear():
    """Every quantile of a line moves as stated; the continuum stays; S/N is interpolated in its logarithm."""
    g = torch.Generator().manual_seed(0)
    k = A + 3
    mixture = CoefficientMixture(
        torch.rand(2, 3, generator=g).softmax(-1),
        5 + torch.rand(2, 3, k, generator=g),
        torch.rand(2, 3, k, generator=g),
        torch.randn(2, 3, k, 2, generator=g),
    )
    groups = {"N2": {"factor": [1.0, 2.0], "temperature": [1.0, 3.0]}}
    got = apply_calibration(mixture, torch.tensor([10.0, 1e6]), {"snr": [1.0, 100.0], "groups": groups})
    i = 3 + AMPLITUDES.index("N2_6583")
    line = torch.eye(k)[[i, 0]]
    levels = np.array([0.05, 0.5, 0.9])

    def quantiles(x):
        mean, variance = x.project(line)
        return [
            mixture_quantiles(levels, *(y.double().numpy() for y in (x.weight, mean[..., m], variance[..., m].sqrt())))
            for m in (0, 1)
        ]

    before, after = quantiles(mixture), quantiles(got)
    centre = (mixture.weight * mixture.mean[..., i]).sum(1).numpy()
    for row, (factor, temperature) in enumerate([(1.5, 2.0), (2.0, 3.0)]):
        expected = factor * (centre[row] + temperature * (before[0][:, row] - centre[row]))
        np.testing.assert_allclose(after[0][:, row], expected, rtol=1e-4)
    np.testing.assert_allclose(after[1], before[1])


# ---------------------------------------------------------------- mixtures of one dimension
def test_quantiles_of_mixtures():
    rng = np.random.default_rng(1)
    weight = np.array([0.6, 0.4]) * np.ones((50, 1))
    mean, sigma = rng.normal(size=(50, 2)) * 10, rng.uniform(0.1, 3, (50, 2))
    levels = np.array([0.001, 0.16, 0.5, 0.975])
    x = mixture_quantiles(levels, weight, mean, sigma)
    np.testing.assert_allclose(mixture_cdf(x, weight, mean, sigma), np.tile(levels, (50, 1)).T, atol=1e-9)


def test_quantiles_of_ratios():
    """Against draws; NaN where the denominator may be zero."""
    rng = np.random.default_rng(2)
    weight, mean = np.array([[0.7, 0.3]]), (np.array([[2.0, 6.0]]), np.array([[10.0, 12.0]]))
    covariance = tuple(np.array([[x, x]]) for x in (1.0, 2.0, 0.9))
    picked = rng.random(400_000) < 0.3
    noise = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 2]], 400_000)
    a, b = np.where(picked, 6, 2) + noise[:, 0], np.where(picked, 12, 10) + noise[:, 1]
    levels = np.array([0.05, 0.3, 0.5, 0.84, 0.99])
    got = ratio_quantiles(levels, weight, mean, covariance)[:, 0]
    np.testing.assert_allclose(got, np.quantile(a / b, levels), rtol=0.02, atol=0.003)
    np.testing.assert_allclose(ratio_cdf(got[:, None], weight, mean, covariance)[:, 0], levels, atol=1e-9)
    faint = (mean[0], np.array([[2.0, 12.0]]))  # below zero in 6 %
    b = np.where(picked, 12, 2) + noise[:, 1]
    got = ratio_quantiles(levels, weight, faint, covariance)[:, 0]
    np.testing.assert_allclose(got, np.quantile((a / b)[b > 0], levels), rtol=0.15)
    strong = (mean[0] + 8, faint[1])
    got = ratio_quantiles(levels, weight, strong, covariance)[:, 0]
    np.testing.assert_allclose([np.mean(((a + 8) / b)[b > 0] < x) for x in got], levels, atol=0.003)
    zero = (mean[0], np.array([[0.0, 12.0]]))
    assert np.isnan(ratio_quantiles(levels, weight, zero, covariance)).all()
