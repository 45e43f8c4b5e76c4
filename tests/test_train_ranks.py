"""Two ranks, one rank, pieces and passes: the same weights from the same galaxies, wherever a run was stopped."""

import collections
import dataclasses
import itertools
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from fiberifu.model import load_checkpoint
from fiberifu.model.encoder import Block
from fiberifu.simulate import analytic_template_pack
from fiberifu.train import (
    Picture,
    Ranks,
    Recipe,
    join,
    main,
    make_passport,
    simulated_batches,
    simulated_step,
    train,
)
from fiberifu.train.metrics import metrics

RECIPE = """
steps = 5
batch = 4
pieces = 2
warmup = 1
mixtures = 60
workers = 0
ema = 0.5
checkpoint_seconds = 0.0
[model]
width = 32
depth = 1
heads = 2
query_blocks = 1
local_width = 32
n_continuum = 4
rank = 1
"""


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "pack.npz"
    np.savez(path, **analytic_template_pack())
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(RECIPE)
    return path, Recipe.read(path)


# one rank is told to stop, so both do; they go on, and one is killed
TWO_RANKS = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import fiberifu.train.loop as loop
from fiberifu.train import Ranks, Recipe, join, train

recipe, pack, run = Recipe.read(sys.argv[1]), *sys.argv[2:]
batches, signals = loop.recipe_batches, {2: signal.SIGTERM, 4: signal.SIGKILL}

def with_signals(*args, **settings):
    for number, batch in batches(*args, **settings):
        if Ranks.current().rank == 1 and number // recipe.pieces in signals:
            os.kill(os.getpid(), signals.pop(number // recipe.pieces))
        yield number, batch

loop.recipe_batches = with_signals
with join("cpu") as device:
    print(train(recipe, pack, run, device=device)[1], flush=True)
    train(recipe, pack, run, device=device)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- ranks


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_runs_do_not_depend_on_the_number_of_ranks(pack_path, recipe, tmp_path):
    """One rank, then two, stopped and killed, then one again: the weights of an uninterrupted run."""
    path, settings = recipe
    whole, _ = train(settings, pack_path, tmp_path / "whole")
    run = tmp_path / "run"
    assert train(settings, pack_path, run, stop_after=0.0)[1] == 1
    # what torchrun does
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_RANKS, path, pack_path, run]
    started = [
        subprocess.Popen(command, env=os.environ | meeting | {"RANK": str(rank)}, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [out for out, _ in said] == ["3\n", "3\n"], said
    assert started[1].returncode == -signal.SIGKILL and started[0].returncode != 0
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 4
    last, steps = train(settings, pack_path, run)
    assert steps == settings.steps
    for (name, a), b in zip(whole.state_dict().items(), last.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    rows = [line.split(",")[0] for line in (run / "log.csv").read_text().splitlines()]
    assert rows == ["step", "0"]


def test_a_run_folder_has_a_model_when_stopped_and_a_mark_when_finished(pack_path, tmp_path):
    path, run = tmp_path / "r.toml", tmp_path / "run"
    path.write_text(RECIPE.replace("steps = 5", "steps = 2"))
    run.mkdir()
    (run / "pack.npz").write_bytes(pack_path.read_bytes())
    for done in (1, 2):
        assert main(path, run, device="cpu", stop_after=0.0).startswith(f"{done} of 2 steps")
        assert load_checkpoint(run / "model")[1]["steps"] == done
        assert (run / "finished").is_file() == (done == 2)


def test_passports_count_galaxies_once():
    """Of 3 x 4 steps that see 4 batches, and 5 of the next ones, which see 4 more."""
    counts = {p: make_passport(Recipe(batch=2, passes=p, shelf=4), 17, {})["training_galaxies"] for p in (1, 3)}
    assert counts == {1: 34, 3: 16}


def test_ranks_share_pieces():
    for size in (1, 2, 3, 5):
        shares = [list(Ranks(rank, size).pieces(5)) for rank in range(size)]
        assert sorted(itertools.chain(*shares)) == list(range(5)) and min(map(len, shares)) >= 1
    assert Ranks.current() == Ranks(0, 1) and torch.equal(Ranks().total(torch.ones(2)), torch.ones(2))


def test_more_ranks_than_pieces_are_refused(pack_path, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: cls(0, 3)))
    with pytest.raises(ValueError, match="pieces=2 are too few for 3 ranks"):
        train(recipe[1], pack_path, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpus_are_refused():
    with pytest.raises(ValueError, match="device: got 'cuda'"), join("cuda"):
        pass
    with join() as device:
        assert device == "cpu"


# --- pieces and passes


def test_pieces_hold_the_galaxies_of_the_batch(pack_path):
    (_, whole), *parts = itertools.chain(
        *(itertools.islice(simulated_batches(pack_path, {}, 4, 5, 3, 0, pieces=p, mine=range(p)), p) for p in (1, 2))
    )
    assert [number for number, _ in parts] == [6, 7]
    for name in ("image", "flux", "fiber_offset"):
        torch.testing.assert_close(torch.cat([b[name] for _, b in parts]), whole[name], rtol=1e-3, atol=1e-4)


def test_kept_batches_are_read_several_times():
    """Every batch is read once in each pass, in another order, and not before it is made."""
    steps = [simulated_step(s, 1, 3, 8) for s in range(48)]
    assert steps[:8] == list(range(8)) and steps[24:32] == list(range(8, 16))
    assert set(collections.Counter(steps).values()) == {3}
    orders = {tuple(steps[i : i + 8]) for i in (0, 8, 16)}
    assert len(orders) == 3 and all(sorted(order) == list(range(8)) for order in orders)
    assert [simulated_step(s, 1, 1, 8) for s in range(20)] == list(range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_made_once_and_forgotten(workers, monkeypatch):
    import fiberifu.train.batches as batches

    made, kept = collections.Counter(), []

    def maker(source, n):
        def make(step, piece, pieces, size):
            made[step, piece] += 1
            future = batches.concurrent.futures.Future()
            future.set_result({"x": np.array([step, piece])})
            return future

        return batches.contextlib.nullcontext(make)

    monkeypatch.setattr(batches, "_maker", maker)
    for first in (0, 13):  # a run that goes on in the middle of a pass
        made.clear()
        stream = simulated_batches("", {}, 4, 1, first, workers, pieces=4, mine=(1, 3), passes=3, shelf=4)
        read = [(number, tuple(batch["x"].tolist())) for number, batch in itertools.islice(stream, 60)]
        stream.close()
        assert [number for number, _ in read[:4]] == [4 * first + 1, 4 * first + 3, 4 * first + 5, 4 * first + 7]
        for number, (step, piece) in read:
            assert (step, piece) == (simulated_step(number // 4, 1, 3, 4), number % 4)
        assert set(made.values()) == {1}
        kept.append(len(made) - len({what for _, what in read}))
    assert max(kept) <= (0 if workers == 0 else 16)


def test_settings_of_pieces_are_checked(tmp_path):
    path = tmp_path / "r.toml"
    for text, message in (
        ("batch = 10\npieces = 3", "pieces: got 3; a batch of 10"),
        ("passes = 0", "passes: got 0; one or more"),
        ("steps = 6000000", "beyond 5000000 galaxies are held out"),
        ("compile = 1", "compile=1 should be a bool"),
        ("pieces = true", "pieces=True should be a int"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Recipe.read(path)
    same = {Recipe(compile=c, picture_steps=p).sha256() for c in (True, False) for p in (0, 5)}
    assert same == {Recipe().sha256()}
    assert len({Recipe(pieces=p, passes=q).sha256() for p in (1, 2) for q in (1, 2)}) == 4


# --- precision


def test_half_precision_blocks_agree_with_full_ones():
    """What `bfloat16` asks for on a GPU, computed here: outputs and gradients to its 8 bits."""
    torch.manual_seed(0)
    block = Block(32, 2)
    x, offset = torch.randn(2, 5, 32), torch.randn(2, 5, 2)
    keep = torch.tensor([[True] * 5, [True, True, False, False, False]])
    out = {}
    for half in (False, True):
        block.bfloat16 = half
        block.zero_grad()
        y = block(x, offset, keep)
        assert y.dtype == torch.float32
        y.square().mean().backward()
        out[half] = torch.cat([y.flatten(), *(p.grad.flatten() / p.grad.abs().max() for p in block.parameters())])
    difference = (out[True] - out[False]).detach()
    assert 0 < difference.abs().max() < 0.1 and difference.square().mean().sqrt() < 0.01


# --- what a run shows


def test_pictures_of_a_held_out_galaxy(pack_path, recipe, tmp_path):
    settings = dataclasses.replace(recipe[1], picture_steps=1, steps=1)
    model, _ = train(settings, pack_path, tmp_path)
    assert (tmp_path / "pictures" / "step_0000001.png").read_bytes()[:4] == b"\x89PNG"
    picture = Picture(settings, pack_path, tmp_path)
    predicted = picture.predict(model)
    assert predicted.shape == picture.truth["east"].shape and (predicted >= 0).all() and predicted.max() > 0


def test_metrics_go_on_and_drop_what_is_done_again(tmp_path, monkeypatch):
    path, names = tmp_path / "log.csv", ("loss", "norm")
    for first, last in ((0, 30), (20, 50)):
        with metrics(path, first, names) as write:
            for step in range(first, last, 10):
                write(step, {"norm": 2, "loss": first, "other": 7})
    assert path.read_text().split() == ["step,loss,norm", "0,0,2", "10,0,2", "20,20,2", "30,20,2", "40,20,2"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="tensorboard: not installed"), metrics(path, 0, names, tmp_path / "events"):
        pass


def test_metrics_reach_tensorboard(tmp_path, monkeypatch):
    events = []

    class Writer:
        def __init__(self, folder, purge_step):
            events.append((folder, purge_step))

        def add_scalar(self, *event):
            events.append(event)

        def close(self):
            events.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("tensorboard"))
    monkeypatch.setattr(sys.modules["torch.utils.tensorboard"], "SummaryWriter", Writer, raising=False)
    with metrics(tmp_path / "log.csv", 10, ("loss",), tmp_path / "events") as write:
        write(10, {"loss": "0.50000"})
    assert events == [(str(tmp_path / "events"), 10), ("loss", 0.5, 10), "closed"]
