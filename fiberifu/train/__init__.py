"""Training: simulated batches or records in, weights out. Plain torch, one loop.

``recipe.toml -> Recipe -> train -> save_checkpoint``
"""

import itertools

import torch

from .basis import fill_basis, principal_components
from .batches import augment, drop_bands, simulated_batches
from .config import Recipe
from .finite_survey import FiniteSurvey, Survey
from .loop import train
from .passport import make_passport, training_range

__all__ = [
    "FiniteSurvey",
    "Recipe",
    "Survey",
    "augment",
    "drop_bands",
    "fill_basis",
    "main",
    "make_passport",
    "principal_components",
    "simulated_batches",
    "train",
    "training_range",
]


def main(recipe, output, *, data=None, weights=None, stop_after=None, device="cpu"):
    """Train by a recipe and write a model folder; what ``fiberifu train`` calls.

    Parameters
    ----------
    recipe : path-like
        TOML file.
    output : path-like
        Run folder; the weights go to ``output/model``.
    data : path-like, optional
        Folder of the survey templates; by default `fiberifu.simulate.find_data_dir`.
    weights : path-like, optional
        Model folder to start a new run from.
    stop_after : float, optional
        Seconds; the run can be resumed by the same call.
    device : str

    Returns
    -------
    str
        What was done.
    """
    from pathlib import Path

    from ..model import load_checkpoint, save_checkpoint, weights_sha256
    from ..simulate import build_template_pack, find_data_dir

    settings = Recipe.read(recipe)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    pack = output / "pack.npz"
    if not pack.is_file():
        build_template_pack(data or find_data_dir(), pack)
    start = None if weights is None else load_checkpoint(weights)[0]
    model, step = train(settings, pack, output, start=start, stop_after=stop_after, device=device)
    batches = simulated_batches(
        pack, settings.simulator, settings.batch, settings.seed, 0, workers=0, survey=settings.survey
    )
    ranges = training_range(model.cpu(), (batch for _, batch in itertools.islice(batches, 30)))
    passport = make_passport(settings, step, ranges)
    if weights is not None:
        passport["started_from_sha256"] = weights_sha256(weights)
    card = (
        f"# {settings.model.name}\n\nTrained for {step} of {settings.steps} steps on simulated galaxies. Not scored.\n"
    )
    save_checkpoint(output / "model", model, card=card, passport=passport, dtype=torch.float16)
    return f"{step} of {settings.steps} steps; weights in {output / 'model'}"
