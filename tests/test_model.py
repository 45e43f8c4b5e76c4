"""The network: shapes, leaks, likelihood, rendering, files."""

import functools
import json

import numpy as np
import pytest
import torch

from fiberifu.mixture import mixture_cdf
from fiberifu.model import (
    AMPLITUDES,
    LINES,
    CoefficientMixture,
    FiberMAE,
    ModelConfig,
    Node,
    Renderer,
    anchor,
    desi_lsf,
    load_checkpoint,
    pixel_edges,
    pixel_nll,
    save_checkpoint,
)
from fiberifu.model.distribution import coefficient_nll, compress, fit_coefficients, functional_nll, marginal_variance
from fiberifu.model.masking import hide_image, show_spectrum

SMALL = dict(width=32, depth=2, heads=2, local_width=32, n_continuum=5, rank=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = ModelConfig(**SMALL)
    model = FiberMAE(config)
    x = torch.linspace(-1, 1, config.rest_size)
    with torch.no_grad():
        shapes = [1 + 0.3 * x] + [torch.sin(3 * k * x) for k in range(1, config.n_continuum)]
        model.basis.continuum.copy_(torch.stack(shapes))
        model.basis.component_scale.copy_(torch.tensor([1, 0.3, 0.1, 0.05, 0.02]))
        wave = 3000 + 5 * torch.arange(1601.0)
        bands = [torch.exp(-0.5 * ((wave - c) / 300) ** 2) for c in (4800, 6400, 7800, 9200)]
        model.basis.passband.copy_(torch.stack(bands))
        for p in model.parameters():  # wake up what starts at zero
            p.add_(0.02 * torch.randn_like(p))
    return model.eval()


def make_batch(config, n=3, extra=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    fibers = n + extra
    return {
        "image": 5 * torch.rand(n, 4, config.stamp, config.stamp, generator=g),
        "sigma": torch.full((n, 4, config.stamp, config.stamp), 0.1),
        "present": torch.ones(n, 4, dtype=torch.bool),
        "psf_fwhm": torch.full((n,), 1.2),
        "fiber_galaxy": torch.cat([torch.arange(n), torch.arange(extra)]),
        "fiber_offset": 2 * torch.randn(fibers, 2, generator=g),
        "fiber_redshift": 0.02 + 0.3 * torch.rand(fibers, generator=g),
        "sigma_z": torch.full((fibers,), 1e-4),
        "flux": 1 + torch.rand(fibers, config.wave_size, generator=g),
        "ivar": torch.full((fibers, config.wave_size), 25.0),
    }


def query(model, batch, rows, encoded=None):
    args = batch["image"], batch["sigma"], batch["psf_fwhm"]
    encoded = encoded or model.encode(*args)
    return model.query(encoded, *args, batch["fiber_galaxy"][rows], batch["fiber_offset"][rows],
                       batch["fiber_redshift"][rows], batch["sigma_z"][rows])  # fmt: skip


def test_gradients_reach_every_parameter(model):
    batch = make_batch(model.config)
    batch["sigma"][0, 2] = torch.inf  # a missing band, so that its learned vector is used
    model.zero_grad()
    for seed in range(4):  # spectra are shown in some of the draws only
        model(batch, torch.Generator().manual_seed(seed)).total.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # a missing vector is used by the band that is missing only; keys' biases do not change a softmax
    assert [n for n in dead if "missing" not in n] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@torch.no_grad()
def test_positions_do_not_see_each_other(model):
    batch = make_batch(model.config)
    both = query(model, batch, slice(0, 4)).mixture
    for i in range(4):
        alone = query(model, batch, slice(i, i + 1)).mixture
        for name in ("weight", "mean", "diag", "factors"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(both, name)[i], rtol=2e-5, atol=1e-5)


@torch.no_grad()
def test_one_galaxy_alone_or_in_a_batch(model):
    batch = make_batch(model.config)
    both = query(model, batch, slice(1, 2)).mixture.mean
    args = (batch[k][1:2] for k in ("image", "sigma", "psf_fwhm"))
    image, sigma, psf = args
    encoded = model.encode(image, sigma, psf)
    alone = model.query(encoded, image, sigma, psf, torch.zeros(1, dtype=torch.int64), batch["fiber_offset"][1:2],
                        batch["fiber_redshift"][1:2], batch["sigma_z"][1:2]).mixture.mean  # fmt: skip
    torch.testing.assert_close(alone, both, rtol=2e-5, atol=1e-5)


@torch.no_grad()
def test_hidden_patches_cannot_leak(model):
    batch = make_batch(model.config)
    c = model.config
    visible = torch.ones(3, (c.stamp // c.patch) ** 2, dtype=torch.bool)
    visible[:, :8] = False  # the southernmost row of patches
    changed = batch["image"].clone()
    changed[:, :, : c.patch] += 100
    a, b = (model.encode(x, batch["sigma"], batch["psf_fwhm"], visible) for x in (batch["image"], changed))
    torch.testing.assert_close(a.tokens[:, 8:], b.tokens[:, 8:])
    assert not torch.allclose(
        model.encode(changed, batch["sigma"], batch["psf_fwhm"]).tokens[:, 8:],
        model.encode(batch["image"], batch["sigma"], batch["psf_fwhm"]).tokens[:, 8:],
    )


@torch.no_grad()
def test_hidden_spectrum_pixels_cannot_leak(model):
    """With the spectrum shown in part, what is hidden changes nothing in the prediction."""
    batch = make_batch(model.config)
    galaxy = torch.arange(3)
    show = torch.arange(20).expand(3, -1)  # the first 20 patches
    args = batch["image"], batch["sigma"], galaxy, batch["fiber_offset"][:3]
    rest = batch["ivar"][:3], batch["fiber_redshift"][:3]
    changed = batch["flux"][:3].clone()
    changed[:, 20 * model.config.spectrum_patch :] += 50
    a = model.context_tokens(*args, batch["flux"][:3], *rest, show)
    b = model.context_tokens(*args, changed, *rest, show)
    torch.testing.assert_close(a[0], b[0])
    c = model.context_tokens(*args, changed, *rest)
    assert c[0].shape[1] == model.config.wave_size // model.config.spectrum_patch


@torch.no_grad()
def test_attention_sees_offsets_only(model):
    """Moving every token and the query by the same amount changes nothing."""
    batch = make_batch(model.config)
    tokens, keep, _ = model.image_tokens(batch["image"], batch["sigma"], batch["psf_fwhm"])
    place = model.centres.expand(3, -1, -1)
    shift = torch.tensor([3.3, -7.1])
    a, b = model.encoder(tokens, place, keep), model.encoder(tokens, place + shift, keep)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


@torch.no_grad()
def test_missing_band_is_not_zero_flux(model):
    batch = make_batch(model.config)
    missing = batch["sigma"].clone()
    missing[:, 2] = torch.inf
    dark = batch["image"].clone()
    dark[:, 2] = 0
    args = batch["psf_fwhm"]
    a, b = model.encode(batch["image"], missing, args), model.encode(dark, batch["sigma"], args)
    assert not torch.allclose(a.tokens, b.tokens)
    other = batch["image"].clone()
    other[:, 2] = torch.nan  # whatever stands in missing pixels is not read
    torch.testing.assert_close(model.encode(other, missing, args).tokens, a.tokens)


@torch.no_grad()
def test_all_missing_is_flagged_not_nan(model):
    batch = make_batch(model.config)
    batch["sigma"][:] = torch.inf
    decoded = query(model, batch, slice(0, 3))
    assert torch.isinf(decoded.scale_error).all()
    assert torch.isfinite(decoded.mixture.mean).all()


def make_mixture(f, j, k, r, seed):
    g = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, generator=g)
    return CoefficientMixture(draw(f, j).softmax(-1), draw(f, j, k), 0.2 + draw(f, j, k).abs(), draw(f, j, k, r))


def test_likelihood_is_the_dense_mixture():
    """Woodbury against the full covariance of each component, with masked pixels."""
    g = torch.Generator().manual_seed(1)
    k, p = 6, 80
    basis = torch.randn(2, p, k, generator=g)
    mixture = make_mixture(2, 3, k, 2, seed=1)
    flux, ivar = 3 * torch.randn(2, p, generator=g), 0.5 + torch.rand(2, p, generator=g)
    ivar[:, 10:20] = 0
    flux[:, 10:20] = 1e6  # never read
    floor = torch.full((2, p), 0.3)
    got = pixel_nll(mixture, basis, flux, ivar, floor)
    good = ivar[0] > 0
    for i in range(2):
        parts = []
        for weight, mean, root in zip(mixture.weight[i], mixture.mean[i], mixture.root[i], strict=True):
            dense = (basis[i] @ root).double()
            full = dense @ dense.T + torch.diag(1 / ivar[i].clamp(min=1e-9) + floor[i] ** 2)
            normal = torch.distributions.MultivariateNormal((basis[i] @ mean)[good].double(), full[good][:, good])
            parts.append(weight.double().log() + normal.log_prob(flux[i, good].double()))
        assert got[i].item() == pytest.approx(-torch.stack(parts).logsumexp(0).item(), rel=1e-4)


def test_functionals_are_scored_one_by_one():
    """Each is a one-dimensional mixture, with the error that the pixels leave; what no pixel sees does not count."""
    k = 4
    mixture = make_mixture(3, 2, k, 2, seed=4)
    weights = torch.randn(3, 5, k, generator=torch.Generator().manual_seed(6))
    weights[:, 4] = torch.tensor([0.0, 0.0, 0.0, 1.0])  # not measured
    weights[:, :4, 3] = 0
    root = torch.randn(3, k, k, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    precision = root @ root.transpose(1, 2)
    precision[:, 3], precision[:, :, 3] = 0, 0
    best = torch.randn(3, k, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    got = functional_nll(mixture, weights, best, precision, limit=1e3)
    for i in range(3):
        noise = torch.linalg.inv(precision[i, :3, :3])
        total = 0.0
        for w in weights[i, :4].double():
            value, own = w @ best[i], w[:3] @ noise @ w[:3]
            each = [
                weight * torch.distributions.Normal(w @ m, (own + (w @ r).square().sum()).sqrt()).log_prob(value).exp()
                for weight, m, r in zip(
                    mixture.weight[i], mixture.mean[i].double(), mixture.root[i].double(), strict=True
                )
            ]
            total = total - sum(each).log()
        assert got[i].item() == pytest.approx(total.item() / 4, rel=1e-4)


def test_functionals_and_samples_agree():
    mixture = make_mixture(1, 3, 4, 2, seed=2)
    mixture.factors[..., -1] = 0  # the scale, which all positions of a draw share
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    mean, variance = mixture.project(weights)
    collapsed = mixture.collapse()
    collapsed_mean, collapsed_variance = collapsed.mean @ weights.T, (weights @ collapsed.root).square().sum(-1)
    many = CoefficientMixture(*(x.expand(200_000, *x.shape[1:]) for x in vars(mixture).values()))
    draws = many.sample(torch.zeros(200_000, 2), torch.Generator().manual_seed(5)) @ weights.T
    np.testing.assert_allclose(draws.mean(0), collapsed_mean[0], atol=0.03)
    np.testing.assert_allclose(draws.var(0), collapsed_variance[0], rtol=0.02)
    expected = mixture_cdf(np.zeros(3), mixture.weight[0].numpy(), mean[0].T.numpy(), variance[0].T.sqrt().numpy())
    np.testing.assert_allclose((draws < 0).float().mean(0), expected, atol=0.005)


@torch.no_grad()
def test_renderer_equals_the_dense_basis(model):
    batch = make_batch(model.config)
    batch["fiber_redshift"][:] = 0.05
    d = query(model, batch, slice(0, 3))
    renderer = Renderer(model.basis, model.edges, floor=0.01)
    g = d.mixture.collapse()
    mean, variance = renderer.moments(Node(0.05, 1.0, d.mixture, d.sigma_gas))
    z = torch.full((3,), 0.05)
    lsf = desi_lsf(model.basis.line_wave * 1.05).expand(3, -1)
    basis = model.basis.render(model.edges, z, d.sigma_gas, lsf)
    expected = torch.einsum("fpk,fk->fp", basis, g.mean)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4)
    total = (basis @ g.root).square().sum(-1) + (0.01 * expected) ** 2
    torch.testing.assert_close(variance, total, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("step", [0.4, 0.8, 13.0])
def test_flux_is_conserved_on_any_grid(model, step):
    """The integral over wavelength does not depend on the pixels."""
    z = torch.tensor([0.04])
    coarse = torch.linspace(4000, 9200, 2, dtype=torch.float64)
    fine = torch.arange(4000, 9200 + step / 2, step, dtype=torch.float64)
    whole = model.basis.render_continuum(coarse, z)[0, 0] * 5200
    parts = (model.basis.render_continuum(fine, z)[0] * fine.diff().float()[:, None]).sum(0)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-2)
    _, profile = model.basis.render_lines(fine, z, torch.tensor([90.0]), torch.ones(len(LINES)))
    area = profile.sum(-1)[0] * step
    inside = (model.basis.line_wave * 1.04 > 4050) & (model.basis.line_wave * 1.04 < 9150)
    torch.testing.assert_close(area[inside], torch.ones(int(inside.sum())), rtol=1e-5, atol=1e-5)


def test_photometry_is_that_of_the_rendered_spectrum(model):
    z = torch.tensor([0.07])
    wave = torch.arange(3002.0, 10900, 1.0, dtype=torch.float64)
    lsf = desi_lsf(model.basis.line_wave * 1.07)
    spectrum = model.basis.render(pixel_edges(wave), z, torch.tensor([100.0]), lsf)[0].double()
    grid = np.arange(3000, 11001, 5.0)
    got = model.basis.photometry(z)[0]
    for i in range(3):  # the basis ends inside the last band
        response = np.interp(wave, grid, model.basis.passband[i])
        top = (spectrum * torch.from_numpy(response)[:, None] * wave[:, None]).sum(0)
        bottom = 1.0885448e7 * (response / wave.numpy()).sum()
        np.testing.assert_allclose(got[i], top / bottom, rtol=2e-3, atol=2e-6)


def test_anchor_recovers_scale_and_error():
    shape = torch.tensor([[1.0, 2.0, 3.0, 2.5]])
    error = torch.full((1, 4), 0.5)
    error[0, 3] = torch.inf
    scale, _ = anchor(shape, 7 * shape, error)
    assert scale.item() == pytest.approx(7, rel=1e-6)
    draws = 7 * shape + error.clamp(max=10) * torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    scales, errors = anchor(shape.expand(4000, -1), draws, error.expand(4000, -1))
    spread = scales.std().item()
    assert spread < errors.mean().item() < 2 * spread  # it holds the calibration error too
    assert torch.isinf(anchor(shape, shape, torch.full((1, 4), torch.inf))[1]).all()


def test_masks_reproduce_and_hide():
    centres = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)) * 4.2 - 14.7
    draw = [hide_image(50, 64, centres, torch.zeros(50, 2), torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draw)
    assert draw[0].any(1).all() and not draw[0].all()
    counts = {show_spectrum(4, 251, torch.Generator().manual_seed(s), "cpu").shape[1] for s in range(40)}
    assert 0 in counts and max(counts) <= 0.6 * 251


def test_checkpoint_round_trip_is_strict(model, tmp_path):
    from safetensors.torch import load_file, save_file

    save_checkpoint(tmp_path, model, card="# card\n", passport={"seed": 1}, dtype=torch.float32)
    loaded, passport = load_checkpoint(tmp_path)
    assert passport == {"seed": 1}
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    state = load_file(tmp_path / "model.safetensors")
    for change, message in (
        ({k: v for k, v in state.items() if k != "log_floor"}, "missing tensors ..log_floor"),
        (state | {"intruder": torch.zeros(1)}, "extra ..intruder"),
        (state | {"log_floor": torch.zeros(2)}, "wrong shape ..log_floor"),
    ):
        save_file(change, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["wings"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown names ..wings"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_checkpoint(tmp_path)


def test_nano_size():
    model = FiberMAE(ModelConfig())
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert 2 * sum(v.numel() for v in model.state_dict().values()) < 16_000_000
    assert model.basis.n_coefficients == 14 + len(AMPLITUDES) <= 32


def test_fit_is_least_squares_and_leaves_unseen_coefficients_alone():
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(700, 5))
    basis[:, 4] = 0  # a line outside the coverage
    flux, ivar = basis @ np.array([2.0, 1.0, 0.5, 3.0, 1.0]) + 0.1 * rng.normal(size=700), rng.uniform(50, 150, 700)
    normal = basis.T @ (basis * ivar[:, None])
    best, precision = fit_coefficients(*(torch.as_tensor(x, dtype=torch.float32)[None] for x in (basis, flux, ivar)))
    np.testing.assert_allclose(best[0, :4], np.linalg.solve(normal[:4, :4], (basis.T @ (ivar * flux))[:4]), rtol=1e-5)
    np.testing.assert_allclose(precision[0], normal, rtol=1e-5, atol=1e-2)
    assert best[0, 4] == 0


def test_compressed_amplitudes():
    """A well-measured line is scored in log flux, and its error is relative; a noisy one is scored linearly."""
    mean = torch.tensor([[2.0, 200.0], [2.0, 4.0]])
    best = torch.tensor([[2.0, 100.0], [2.0, 6.0]], dtype=torch.float64)
    error = torch.tensor([[0.01, 3.0], [0.01, 40.0]], dtype=torch.float64)
    mean, best, precision = compress(mean, best, torch.diag_embed(error**-2), 1)
    assert (best - mean)[0, 1].item() == pytest.approx(-np.log(2), rel=0.02)
    assert precision[0, 1, 1].item() ** -0.5 == pytest.approx(0.03, rel=0.01)
    soft = np.hypot(1, 3 * 20)  # 1 A and three times the error of 40 / 2
    np.testing.assert_allclose(mean[:, 0], 1)  # the continuum stays linear
    assert mean[1, 1].item() == pytest.approx(2 / soft, rel=0.01)
    assert best[1, 1].item() == pytest.approx(3 / soft, rel=0.01)
    # the likelihood is that of one Gaussian per coefficient, up to the measured errors, which no model changes
    guide = torch.tensor([0.05, 0.5])
    got = coefficient_nll(mean, guide.diag().expand(2, -1, -1), best, precision)
    variance = guide**2 + 1 / precision.diagonal(dim1=1, dim2=2)
    step = (best - mean) ** 2 / variance + (variance * precision.diagonal(dim1=1, dim2=2)).log()
    torch.testing.assert_close(got, 0.5 * step.sum(1).float(), rtol=1e-4, atol=1e-4)


def test_noisy_amplitudes_are_not_biased():
    """Where a line is within its noise, the mean of the compressed measurements is that of the compressed truth."""
    n = 40_000
    truth, error = 10.0, 20.0
    noisy = truth + error * torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    precision = torch.diag_embed(torch.tensor([1e4, error**-2], dtype=torch.float64)).expand(n, -1, -1)
    best = torch.stack([torch.ones(n, dtype=torch.float64), noisy], 1)
    mean, best, _ = compress(torch.tensor([[1.0, truth]]).repeat(n, 1), best, precision, 1)
    assert best[:, 1].mean().item() == pytest.approx(mean[0, 1].item(), rel=0.1)


def test_components_are_anchored_and_ordered(model):
    """Every component makes the light of the image, lines and all; they differ in their lines alone."""
    batch = make_batch(model.config)
    with torch.no_grad():
        d = query(model, batch, slice(0, 4))
        photometry = model.basis.photometry(batch["fiber_redshift"][:4])
    k = model.config.n_continuum
    shape = d.mixture.mean / d.mixture.mean[..., :1]
    torch.testing.assert_close(shape[:, 0, :k], shape[:, 2, :k], rtol=1e-4, atol=1e-5)
    assert (shape[:, 1:, k:] > shape[:, :-1, k:]).all()  # so they start
    bands = torch.einsum("fck,fjk->fjc", photometry, d.mixture.mean)
    scale, _ = anchor(bands, d.flux[:, None], d.error[:, None])
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((d.mixture.weight[..., None] * bands).sum(1), d.predicted, rtol=1e-4, atol=1e-5)


def test_marginal_errors_know_of_the_other_coefficients():
    """Two blended lines: the error of each is that of the joint fit; an unmeasured one has no finite error."""
    precision = torch.tensor([[[4.0, 3.6, 0.0], [3.6, 4.0, 0.0], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    got = marginal_variance(precision)[0]
    np.testing.assert_allclose(got[:2], np.linalg.inv(precision[0, :2, :2]).diagonal(), rtol=1e-6)
    assert got[2] > 1e12


def test_guide_spread_sets_the_weight_of_a_coefficient(model, monkeypatch):
    """The mean is fitted under the stated spreads: a step of one of them costs 1/2 where errors are small."""
    batch = make_batch(model.config)
    decoded = query(model, batch, slice(0, 4))
    n, k = model.basis.n_coefficients, model.config.n_continuum
    seen = []
    monkeypatch.setattr("fiberifu.model.mae.coefficient_nll",
                        lambda mean, root, *rest: seen.append(root) or mean.sum(-1))  # fmt: skip
    model.spectrum_nll(decoded, *(batch[key] for key in ("flux", "ivar", "fiber_redshift")))
    guide = seen[0][0].diagonal()
    expected = torch.cat([torch.tensor([0.05]), 0.35 * model.basis.component_scale[1:], torch.full((n - k,), 0.5)])
    torch.testing.assert_close(guide, expected)
    assert (seen[0][0] - guide.diag()).abs().max() == 0


def test_errors_do_not_shape_features(model):
    """The spread's loss reaches its own read-out only, the mean's all that makes the mean."""
    batch = make_batch(model.config)
    decoded = query(model, batch, slice(0, 4))
    misfit, fit, spread = model.spectrum_nll(decoded, *(batch[k] for k in ("flux", "ivar", "fiber_redshift")))

    def touched(loss):
        model.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}

    assert all(name.startswith("query_decoder.head.spread") for name in touched(spread))
    assert all(name.startswith("query_decoder.head.spread") or name == "log_floor" for name in touched(misfit))
    assert {"local.near.0.weight", "query_decoder.head.mean.3.weight", "image_tokens.embed"} <= touched(fit)
    assert not any("spread" in name for name in touched(fit))
    model.zero_grad(set_to_none=True)


def test_lines_do_not_move_the_anchor(model):
    """The colours of the continuum must not move to make a line flux right."""
    batch = make_batch(model.config)
    decoded = query(model, batch, slice(0, 4))
    k = model.config.n_continuum
    last = model.query_decoder.head.mean[-1].weight
    (by_lines,) = torch.autograd.grad(decoded.mean[:, k:].sum(), last, retain_graph=True)
    assert (by_lines[:k] == 0).all() and (by_lines[k:] != 0).any()
    (by_continuum,) = torch.autograd.grad(decoded.mean[:, :k].sum(), last)
    assert (by_continuum[1:k] != 0).any() and (by_continuum[k:] == 0).all()


def test_shown_pixels_are_not_scored(model, monkeypatch):
    """The noise of a pixel that the network was shown must not be learned as signal."""
    batch = make_batch(model.config)
    shown = torch.arange(10).expand(3, -1)
    monkeypatch.setattr("fiberifu.model.mae.show_spectrum", lambda *args: shown)
    tokens = FiberMAE.context_tokens
    original = batch["flux"].clone()
    monkeypatch.setattr(FiberMAE, "context_tokens",
                        lambda self, *args: tokens(self, *args[:4], original[:3], *args[5:]))  # fmt: skip

    def losses():
        with torch.no_grad():
            return model(batch, torch.Generator().manual_seed(3))

    before = losses()
    batch["flux"][:3, : 10 * model.config.spectrum_patch] += 50
    after = losses()
    assert (after.misfit, after.fit, after.spread) == (before.misfit, before.fit, before.spread)
    batch["flux"][:3, -5:] += 50  # hidden pixels are
    assert losses().misfit != before.misfit


def test_likelihood_that_cannot_be_is_nan_and_skipped(model):
    batch = make_batch(model.config)
    batch["flux"][0, 100] = torch.nan
    assert not torch.isfinite(model(batch, torch.Generator().manual_seed(0)).total)


def test_photometric_shape_follows_the_colours(model):
    """Noiseless colours give back their own continuum shape; no photometry gives the mean shape."""
    from fiberifu.model import photometric_shape

    scale = model.basis.component_scale
    photometry = model.basis.photometry(torch.full((20,), 0.05))[..., : model.config.n_continuum]
    shape = torch.randn(20, len(scale), generator=torch.Generator().manual_seed(4)) * scale
    shape[:, 0] = 1
    flux = 30 * torch.einsum("fck,fk->fc", photometry, shape)
    found = photometric_shape(photometry, flux, torch.full((20, 4), 1e-3), scale)
    synthetic = torch.einsum("fck,fk->fc", photometry, found)
    colour = (synthetic[:, 0] / synthetic[:, 2]) / (flux[:, 0] / flux[:, 2])
    torch.testing.assert_close(colour, torch.ones(20), atol=0.03, rtol=0)
    blind = photometric_shape(photometry, flux, torch.full((20, 4), torch.inf), scale)
    torch.testing.assert_close(blind[:, 1:], torch.zeros(20, len(scale) - 1))
    assert (blind[:, 0] == 1).all()
