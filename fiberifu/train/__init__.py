"""Training: simulated batches or records in, weights out. Plain torch, one loop.

``recipe.toml -> Recipe -> train -> save_checkpoint``
"""

import contextlib
import dataclasses
import itertools

import torch

from .basis import fill_basis, principal_components
from .batches import augment, drop_bands, recipe_batches, simulated_batches, simulated_step
from .config import Recipe
from .finite_survey import FiniteSurvey, Survey
from .foreseeable import ForeseeableSimulator
from .locality import Locality
from .loop import train
from .passport import make_passport, training_range
from .picture import Picture
from .ranks import Ranks, join
from .shards import describe_store

__all__ = [
    "FiniteSurvey",
    "ForeseeableSimulator",
    "Locality",
    "Picture",
    "Ranks",
    "Recipe",
    "Survey",
    "augment",
    "drop_bands",
    "fill_basis",
    "join",
    "main",
    "make_passport",
    "principal_components",
    "recipe_batches",
    "simulated_batches",
    "simulated_step",
    "train",
    "training_range",
]


def main(
    recipe, output, *, data=None, weights=None, stop_after=None, device=None, tensorboard=False, progress=False
):  # fmt: skip
    """Train by a recipe and write a model folder; what ``fiberifu train`` calls.

    Parameters
    ----------
    recipe : path-like
        TOML file.
    output : path-like
        Run folder, which all ranks see; the weights go to ``output/model``, and ``output/finished`` is there when all
        steps are done.
    data : path-like, optional
        Folder of the survey templates; by default `fiberifu.simulate.find_data_dir`.
    weights : path-like, optional
        Model folder to start a new run from.
    stop_after : float, optional
        Seconds; the run can be resumed by the same call.
    device : str, optional
        By default a GPU where there is one. See `join`.
    tensorboard, progress : bool
        See `~fiberifu.train.train`.

    Returns
    -------
    str
        What was done.
    """
    from pathlib import Path

    from ..model import load_checkpoint
    from ..simulate import build_template_pack, find_data_dir

    settings = Recipe.read(recipe)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with join(device) as device:
        ranks = Ranks.current()
        pack = output / "pack.npz"
        if ranks.first and not pack.is_file():
            build_template_pack(data or find_data_dir(), pack)
        ranks.wait()
        start = None if weights is None else load_checkpoint(weights)[0]
        model, step = train(settings, pack, output, start=start, stop_after=stop_after, device=device,
                            tensorboard=tensorboard, progress=progress)  # fmt: skip
    if ranks.first:
        _write(model.cpu(), step, settings, output, weights)
    return f"{step} of {settings.steps} steps; weights in {output / 'model'}"


def _write(model, step, recipe, output, weights):
    """The model folder of a run, and the mark of its end."""
    from ..model import save_checkpoint, weights_sha256

    few = dataclasses.replace(recipe, batch=min(recipe.batch, 32), pieces=1, workers=0, passes=1)
    with contextlib.closing(recipe_batches(few, output / "pack.npz", 0, (0,))) as batches:
        ranges = training_range(model, (batch for _, batch in itertools.islice(batches, min(30, max(recipe.steps, 1)))))
    passport, kind = make_passport(recipe, step, ranges), "simulated galaxies"
    if recipe.shards is not None:
        from_store, kind = describe_store(recipe.shards), "galaxies of surveys, by their records"
        passport |= from_store | {"training_galaxies": min(step * recipe.batch, from_store["training_galaxies"])}
    if weights is not None:
        passport["started_from_sha256"] = weights_sha256(weights)
    card = f"# {recipe.model.name}\n\nTrained for {step} of {recipe.steps} steps on {kind}. Not scored.\n"
    save_checkpoint(output / "model", model, card=card, passport=passport, dtype=torch.float16)
    if step == recipe.steps:
        (output / "finished").write_text(f"{step}\n", encoding="utf-8")
