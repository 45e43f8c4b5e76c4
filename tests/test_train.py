"""Recipes, augmentation, the basis, and a loop that resumes as if it had never stopped."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from fiberifu.model import ModelConfig
from fiberifu.simulate import analytic_template_pack
from fiberifu.train import Recipe, augment, drop_bands, principal_components, train

SMALL = dict(width=32, depth=1, heads=2, query_blocks=1, local_width=32, n_continuum=4, rank=1)


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "pack.npz"
    np.savez(path, **analytic_template_pack())
    return path


def recipe(**changes):
    return Recipe(model=ModelConfig(**SMALL), steps=4, batch=2, warmup=1, mixtures=60, workers=0, **changes)


def test_recipes_refuse_what_they_do_not_know(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('seed = 3\nsteps = 10\n[model]\nwidth = 64\n[simulator]\nplacement = "uniform"\n')
    r = Recipe.read(path)
    assert (r.seed, r.steps, r.model.width, r.simulator) == (3, 10, 64, {"placement": "uniform"})
    assert r.sha256() != Recipe().sha256()
    for text, message in (
        ("stpes = 3", "unknown names ..stpes"),
        ("steps = 'many'", "steps='many' should be a int"),
        ("steps = = 3", "not TOML"),
        ("[model]\nwings = 2", "unknown names ..wings"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Recipe.read(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Recipe.read(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [("nano", 1.0e6, 1.6e6), ("tiny", 4e6, 6e6), ("base", 1e8, 2e8)],
)
def test_packaged_recipes_make_models_of_their_size(name, fewest, most):
    from importlib import resources

    from fiberifu.model import FiberMAE

    with resources.as_file(resources.files("fiberifu.train") / "recipes" / f"{name}.toml") as path:
        r = Recipe.read(path)
    assert r.model.name == name and (name != "nano" or r.model == ModelConfig())
    assert r.model.width % r.model.heads == 0 and (r.model.width // r.model.heads) % 4 == 0
    with torch.device("meta"):
        trained = sum(p.numel() for p in FiberMAE(r.model).parameters())
    assert fewest <= trained <= most


def test_augmentation_turns_image_and_fibres_together():
    """A star under the fibre stays under the fibre, in all eight orientations."""
    size, scale = 128, 0.262
    row, column = 90, 40
    image = torch.zeros(1, 4, size, size)
    image[..., row, column] = 1
    offset = torch.tensor([[(column - (size - 1) / 2) * scale, (row - (size - 1) / 2) * scale]])
    batch = {"image": image, "sigma": torch.ones_like(image), "fiber_offset": offset}
    seen = set()
    for seed in range(60):
        out = augment(batch, torch.Generator().manual_seed(seed))
        r, c = np.argwhere(out["image"][0, 0].numpy() == 1)[0]
        expected = [(c - (size - 1) / 2) * scale, (r - (size - 1) / 2) * scale]
        np.testing.assert_allclose(out["fiber_offset"][0], expected, atol=1e-4)
        seen.add((r, c))
    assert len(seen) == 8


def test_dropped_bands_are_missing_never_all():
    g = torch.Generator().manual_seed(0)
    present = torch.rand(500, 4, generator=g) > 0.4
    present[:, 1] |= ~present.any(1)
    batch = {"image": torch.ones(500, 4, 2, 2), "sigma": torch.ones(500, 4, 2, 2), "present": present}
    out = drop_bands(batch, 0.5, torch.Generator().manual_seed(1))
    assert out["present"].any(1).all() and not (out["present"] & ~present).any()
    assert torch.isinf(out["sigma"][~out["present"]]).all() and (out["image"][~out["present"]] == 0).all()


def test_components_explain_the_templates():
    basis, scale, explained = principal_components(analytic_template_pack(), 6, n_mixtures=200)
    assert explained > 0.995
    assert basis.shape[0] == len(scale) == 6 and scale[0] == 1
    assert np.all(np.diff(scale[1:]) < 0.5 * scale[1])


def test_resumed_run_equals_an_uninterrupted_one(pack_path, tmp_path):
    whole, steps = train(recipe(), pack_path, tmp_path / "whole")
    assert steps == 4
    for expected in (1, 2, 3, 4):
        part, done = train(recipe(), pack_path, tmp_path / "parts", stop_after=0.0)
        assert done == expected
    for (name, a), b in zip(whole.state_dict().items(), part.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    log = (tmp_path / "whole" / "log.csv").read_text().splitlines()
    assert log[0].startswith("step,misfit") and log[1].startswith("0,")
    with pytest.raises(ValueError, match="another recipe"):
        train(recipe(seed=2), pack_path, tmp_path / "whole")


def test_a_run_starts_from_weights(pack_path, tmp_path):
    """The first step of a new run is taken from the given weights; another architecture is refused."""
    first, _ = train(recipe(), pack_path, tmp_path / "first")
    still = recipe(seed=2, learning_rate=1e-12, weight_decay=0.0)
    second, _ = train(still, pack_path, tmp_path / "second", start=first)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)
    other = dataclasses.replace(recipe(), model=ModelConfig(**SMALL | {"width": 64}))
    with pytest.raises(ValueError, match="start: weights of another architecture"):
        train(other, pack_path, tmp_path / "other", start=first)


def test_a_run_that_cannot_recover_stops(pack_path, tmp_path, monkeypatch):
    """Single bad steps are skipped and leave no trace; ten in a row end the run."""
    import fiberifu.train.loop as loop

    batches = loop.recipe_batches

    def spoilt(bad):
        def make(*args, **kwargs):
            for step, batch in batches(*args, **kwargs):
                if step in bad:
                    batch["flux"] = torch.full_like(batch["flux"], torch.nan)
                yield step, batch

        return make

    monkeypatch.setattr(loop, "recipe_batches", spoilt({1}))
    model, steps = train(recipe(), pack_path, tmp_path / "one")
    assert steps == 4 and all(torch.isfinite(p).all() for p in model.parameters())
    monkeypatch.setattr(loop, "recipe_batches", spoilt(range(100)))
    with pytest.raises(FloatingPointError, match="step 9: ten steps in a row .* seed 1; .*batch.2, 10000009"):
        train(dataclasses.replace(recipe(), steps=20), pack_path, tmp_path / "all")


def test_worker_process_gives_the_same_batches(pack_path):
    from fiberifu.train import simulated_batches

    def first(workers):
        batches = simulated_batches(pack_path, {}, 2, 5, 3, workers)
        step, batch = next(batches)
        batches.close()
        return step, batch

    (step, inline), (other, process) = first(0), first(1)
    assert step == other == 3
    for name, value in inline.items():
        torch.testing.assert_close(value, process[name], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "kill"), reason="signals are POSIX")
def test_sigterm_checkpoints_and_stops(pack_path, tmp_path):
    import signal
    import threading

    timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        long = dataclasses.replace(recipe(), steps=100_000)
        _, steps = train(long, pack_path, tmp_path / "run")
    finally:
        timer.cancel()
    assert 0 < steps < 100_000
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == steps
