# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Trains arms one after the other: ``arms -> runs/ARM/state.pt -> runs/ARM/model, cost.json``; each goes on by itself.

A training saves its state as `fiberifu.train.train` does; what is finished, by the same recipe, is not done again.
"""

import itertools
import json
import logging
import os
import time
from contextlib import closing

from ...output import atomic_path

__all__ = ["arm_folder", "is_trained", "read_cost", "train_arms"]

log = logging.getLogger(__name__)

RANGES = 10  # batches from which the range of training is taken


def arm_folder(folder, arm):
    """Where an arm is trained."""
    return folder / "runs" / arm.folder


def is_trained(folder, arm):
    """Whether the weights of an arm are there, by its present recipe."""
    path = arm_folder(folder, arm) / "model" / "config.json"
    if not path.is_file():
        return False
    return json.loads(path.read_text())["passport"]["recipe_sha256"] == arm.recipe.sha256()


def read_cost(folder, arm):
    """What the training took so far: steps; seconds by the clock, of all processors, and portions that ended well."""
    path = arm_folder(folder, arm) / "cost.json"
    if not path.is_file():
        return {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0, "portions": 0}
    return json.loads(path.read_text())


def train_arms(arms, pack_path, folder, *, start=None, stop_after=None, device="cpu", progress=False, train=None):
    """Train what is not trained yet.

    Parameters
    ----------
    arms : sequence of Arm
        With ``name``, ``folder`` and ``recipe``.
    pack_path : path-like
        Template pack.
    folder : `~pathlib.Path`
    start : `~fiberifu.model.FiberMAE`, optional
        Weights that all arms start from; random ones by default, the same for all.
    stop_after : float, optional
        Seconds, after which the present training saves its state.
    device : str
    progress : bool
    train : callable, optional
        In place of `fiberifu.train.train`.

    Returns
    -------
    bool
        Whether all are trained now.
    """
    from ...train import train as train_one

    train = train_one if train is None else train
    began = time.monotonic()
    for number, arm in enumerate(arms, 1):
        if is_trained(folder, arm):
            continue
        left = None if stop_after is None else stop_after - (time.monotonic() - began)
        if left is not None and left <= 0:
            return False
        log.info("%d of %d: %s", number, len(arms), arm.name)
        place, cost = arm_folder(folder, arm), read_cost(folder, arm)
        place.mkdir(parents=True, exist_ok=True)
        clock = time.monotonic(), _processor_seconds()
        model, step = train(arm.recipe, pack_path, place, start=start, stop_after=left, device=device,
                            progress=progress)  # fmt: skip
        spent = time.monotonic() - clock[0], _processor_seconds() - clock[1]
        cost = {"steps": step, "seconds": cost["seconds"] + spent[0], "cpu_seconds": cost["cpu_seconds"] + spent[1],
                "portions": cost["portions"] + 1, "device": device, "cores": os.cpu_count()}  # fmt: skip
        with atomic_path(place / "cost.json") as temporary:
            temporary.write_text(json.dumps(cost, indent=1) + "\n")
        if step < arm.recipe.steps:  # time ran out, or the scheduler wants the machine back
            return False
        _write_model(place, model.cpu(), step, arm, pack_path)
    return True


def _processor_seconds():
    """Of this process and of its children that have ended, which those that simulate have after a training."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system  # children: 0 on Windows


def _write_model(place, model, step, arm, pack_path):
    from ...model import save_checkpoint
    from ...train import make_passport, simulated_batches, training_range

    recipe = arm.recipe
    batches = simulated_batches(pack_path, recipe.simulator, min(recipe.batch, 32), recipe.seed, 0, 0, recipe.survey)
    with closing(batches):
        ranges = training_range(model, (batch for _, batch in itertools.islice(batches, RANGES)))
    card = f"# {arm.name}\n\nAn arm of an experiment (fiberifu validate headline): to be compared, not to be used.\n"
    save_checkpoint(place / "model", model, card=card, passport=make_passport(recipe, step, ranges))
