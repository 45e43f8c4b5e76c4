"""Remedies against what central fibres teach: each setting does what it says, and the defaults change nothing."""

import dataclasses
import itertools
import json
from importlib import resources

import numpy as np
import pytest
import torch

from fiberifu.model import FiberMAE, ModelConfig
from fiberifu.model.masking import hide_image
from fiberifu.model.tokens import patch_centres
from fiberifu.simulate import analytic_template_pack, load_template_pack
from fiberifu.train import Locality, Recipe, cache, fill_basis, simulated_batches, train
from fiberifu.train.locality import enlarge, start_context, weigh

SMALL = dict(width=32, depth=1, heads=2, query_blocks=1, local_width=32, n_continuum=4, rank=1)
CONFIG = ModelConfig(**SMALL)


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "pack.npz"
    np.savez(path, **analytic_template_pack())
    return path


@pytest.fixture(scope="module")
def cached(tmp_path_factory, pack_path):
    """Folder of a cache, and the first batches in it."""
    folder = tmp_path_factory.mktemp("cache")
    stream = simulated_batches(pack_path, {}, 4, 5, 0, 0, cache=folder)
    return folder, [batch for _, batch in itertools.islice(stream, 2)]


def test_settings_are_read_and_change_the_hash_only_where_they_differ(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[locality]\nhide = 'random'\noff_centre_weight = 3\nzoom = 1.5\n")
    assert Recipe.read(path).locality == Locality(hide="random", off_centre_weight=3, zoom=1.5)
    assert Recipe.read(path).sha256() != Recipe().sha256()
    path.write_text("[locality]\ncontext = 0.05\n")
    assert Recipe.read(path).sha256() == Recipe().sha256()
    for text, message in (
        ("hides = 'random'", "unknown names ..hides"),
        ("hide = 'none'", "got 'none', use one of"),
        ("zoom = 0.5", "1 to 3 will do"),
        ("context = -1.0", "0 or more"),
        ("off_centre_weight = 0.0", "more than 0"),
        ("off_centre_weight = 'much'", "a float is needed"),
    ):
        path.write_text(f"[locality]\n{text}\n")
        with pytest.raises(ValueError, match=message):
            Recipe.read(path)
    path.write_text("[locality]\noff_centre_weight = 2.0\n[shards]\npath = 'x'\n")
    with pytest.raises(ValueError, match="do not say how large galaxies are"):
        Recipe.read(path)


def test_the_bundled_weights_are_still_known_by_their_recipe():
    package = resources.files("fiberifu")
    passport = json.loads((package / "weights" / "nano" / "config.json").read_text())["passport"]
    with resources.as_file(package / "train" / "recipes") as folder:
        known = {Recipe.read(path).sha256() for path in folder.glob("*.toml")}
    assert passport["recipe_sha256"] in known


def test_random_masks_do_not_know_where_the_fibre_is():
    centres = patch_centres(CONFIG)

    def draw(hide, where):
        fibers = torch.tensor(where).expand(60, 2)
        return hide_image(60, len(centres), centres, fibers, torch.Generator().manual_seed(1), hide)

    here, there = (0.0, 0.0), (9.0, -9.0)
    assert torch.equal(draw("random", here), draw("random", there))
    by_distance, elsewhere, random = draw("distance", here), draw("distance", there), draw("random", here)
    assert not torch.equal(by_distance, elsewhere)
    same = (by_distance == random).all(1)
    assert 0.5 < same.float().mean() < 0.9  # 70 % of the draws, and those that show all
    shown = random.float().mean(1)
    assert 0.2 < (shown == 1).float().mean() < 0.5 and (shown > 0.2).all()


def test_a_context_that_is_cut_stays_so_in_training_and_in_the_weights(pack_path, cached, tmp_path):
    folder, (batch, _) = cached
    far = batch["image"].clone()
    far[..., :24] += 1.0  # 10 arcsec from the fibre
    recipe = Recipe(model=CONFIG, locality=Locality(context=0.0), seed=5, steps=1, batch=4, warmup=1, workers=0,
                    mixtures=20)  # fmt: skip
    model, _ = train(recipe, pack_path, tmp_path, cache=folder)
    gates = [model.query_decoder.around_scale, *(block.scale for block in model.query_decoder.blocks)]
    assert all((gate == 0).all() and not gate.requires_grad for gate in gates)
    moved = {}
    for scale in (0.0, 0.05):
        loaded = FiberMAE(CONFIG)
        loaded.load_state_dict(model.state_dict())
        if scale:
            start_context(loaded, scale)
        where, z = torch.tensor([[0.0, 0.0]]), torch.tensor([0.05])
        first = [batch[key][:1] for key in ("sigma", "psf_fwhm")]
        with torch.inference_mode():
            mean = [
                loaded.query(loaded.encode(image, *first), image, *first, torch.zeros(1, dtype=torch.int64), where, z,
                             torch.tensor([1e-4])).mean for image in (batch["image"][:1], far[:1])
            ]  # fmt: skip
        moved[scale] = float((mean[1] - mean[0]).abs().max() / mean[0].abs().max())
    assert moved[0.0] == 0 and moved[0.05] > 1e-6


def test_weights_make_weighted_means_of_the_fibres():
    torch.manual_seed(0)
    model, f = FiberMAE(CONFIG), 3
    start_context(model, 1.0)
    image, sigma = torch.rand(f, 4, 128, 128), torch.full((f, 4, 128, 128), 0.1)
    flux, ivar = torch.rand(f, 7781), torch.full((f, 7781), 4.0)
    redshift = torch.full((f,), 0.05)
    galaxy, where = torch.arange(f), torch.zeros(f, 2)
    psf = torch.full((f,), 1.3)
    decoded = model.query(model.encode(image, sigma, psf), image, sigma, psf, galaxy, where, redshift, 1e-4 * redshift)

    def losses(weight, ivar=ivar):
        return np.array([x.item() for x in model.spectrum_nll(decoded, flux, ivar, redshift, weight)])

    alone = [losses(None, torch.where(torch.arange(f)[:, None] == i, ivar, 0.0)) for i in range(f)]
    np.testing.assert_allclose(losses(None), np.mean(alone, 0), rtol=1e-5)
    weight = weigh({"fiber_radius": torch.tensor([0.1, 0.9, 0.71])}, 3.0)["fiber_weight"]
    assert weight.tolist() == [1.0, 3.0, 3.0]
    np.testing.assert_allclose(losses(weight), np.average(alone, axis=0, weights=weight), rtol=1e-5)


def test_tokens_left_out_of_the_encoder_change_nothing(pack_path, cached):
    torch.manual_seed(0)
    model, batch = FiberMAE(CONFIG), cached[1][0]
    fill_basis(model, load_template_pack(pack_path), n_mixtures=20)
    start_context(model, 1.0)
    losses, slopes, counts = {}, {}, []
    read = model.encoder.blocks[0].register_forward_pre_hook(lambda block, given: counts.append(given[0].shape[:2]))
    for parts in (1, 2):
        model.zero_grad()
        loss = model(batch, torch.Generator().manual_seed(1), parts=parts)
        loss.total.backward()
        losses[parts] = [getattr(loss, f.name).item() for f in dataclasses.fields(loss)]
        slopes[parts] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    read.remove()
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5, atol=1e-5)
    assert (slopes[2] - slopes[1]).norm() < 1e-4 * slopes[1].norm()
    size, *rest = counts
    assert sum(b for b, _ in rest) == size[0] == 4 and sum(b * t for b, t in rest) < 0.95 * size[0] * size[1]


def blob(east, north, width, background=0.5):
    """A Gaussian of peak 1 on a level (1, 4, 128, 128)."""
    x = (torch.arange(128) - 63.5) * 0.262
    square = (x[None, :] - east) ** 2 + (x[:, None] - north) ** 2
    return (background + torch.exp(-square / (2 * width**2))).expand(1, 4, -1, -1)


def enlarged(image, sigma, offset, seed=0):
    batch = {"image": image, "sigma": sigma, "psf_fwhm": torch.tensor([1.2]), "fiber_offset": torch.tensor([offset])}
    batch |= {"flux": torch.rand(1, 50), "ivar": torch.full((1, 50), 2.0)}
    batch["fiber_galaxy"] = torch.zeros(1, dtype=torch.int64)
    out = enlarge(batch, 1.5, 1.5, 0.262, torch.Generator().manual_seed(seed))
    return batch, out, float(out["psf_fwhm"] / batch["psf_fwhm"])


@pytest.mark.parametrize("seed", [1, 2])
def test_an_enlarged_galaxy_is_larger_at_the_same_surface_brightness(seed):
    east, north, width = 3.0, -2.0, 2.0
    image = blob(east, north, width)
    batch, out, m = enlarged(image, torch.full_like(image, 0.01), (east, north), seed)
    assert 1 / 1.5 <= m <= 1.5 and abs(m - 1) > 0.05
    inside = torch.isfinite(out["sigma"])
    expected = blob(m * east, m * north, m * width)
    assert (out["image"] - expected)[inside].abs().max() < 0.02
    assert (out["image"][~inside] == 0).all() and bool(inside.all()) == (m > 1)
    assert out["fiber_offset"][0].tolist() == pytest.approx([m * east, m * north])
    # grey: equivalent widths stay; the light of the new aperture
    scale = out["flux"] / batch["flux"]
    assert scale.std() < 1e-6 and out["ivar"][0, 0] * scale[0, 0] ** 2 == pytest.approx(2.0)

    def within(width):  # mean of the blob over the aperture
        return 0.5 + (1 - np.exp(-(0.75**2) / (2 * width**2))) * 2 * width**2 / 0.75**2

    assert float(scale[0, 0]) == pytest.approx(within(m * width) / within(width), rel=0.01)


def test_enlarging_keeps_noise_right_and_gives_up_fibres_that_leave_the_stamp():
    noise = 0.1 * torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(3))
    for seed in (0, 1, 2):
        _, out, m = enlarged(5 + noise, torch.full_like(noise, 0.1), (0.0, 0.0), seed)
        inside = torch.isfinite(out["sigma"])
        pull = ((out["image"] - 5) / out["sigma"])[inside].std()
        assert pull == pytest.approx(1.0, abs=0.02)
    seed = next(s for s in range(20) if enlarged(5 + noise, torch.ones_like(noise), (0.0, 0.0), s)[2] > 1.3)
    _, out, _ = enlarged(5 + noise, torch.full_like(noise, 0.1), (14.0, 0.0), seed)
    assert (out["ivar"] == 0).all() and torch.isfinite(out["flux"]).all()


def test_cached_batches_are_those_that_would_be_simulated(pack_path, cached, monkeypatch):
    folder, batches = cached
    fresh = simulated_batches(pack_path, {}, 4, 5, 0, 0)
    for ours, (_, theirs) in zip(batches, fresh, strict=False):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
    monkeypatch.setattr("fiberifu.simulate.Simulator.batch", lambda *a: pytest.fail("simulated again"))
    stream = simulated_batches(pack_path, {}, 4, 5, 0, 0, passes=3, shelf=2, cache=folder)
    read = [batch["flux"] for _, batch in itertools.islice(stream, 6)]
    assert all(sum(torch.equal(x["flux"], y) for y in read) == 3 for x in batches)
    made = cache.cached(lambda *piece: {"x": np.array(piece)}, folder, {"settings": {"jitter": 0.0}}, pack_path)
    assert made(0, 0, 1, 4)["x"].tolist() == [0, 0, 1, 4]  # other settings, another place
    assert dataclasses.asdict(Locality())["zoom"] == 1.0 and not list(folder.rglob(".*"))
