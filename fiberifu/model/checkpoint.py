"""Weights on disk: ``config.json`` + ``model.safetensors`` + ``README.md`` (the card), loaded strictly."""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .config import ModelConfig
from .mae import FiberMAE

__all__ = ["load_checkpoint", "save_checkpoint", "weights_sha256"]


def weights_sha256(folder):
    """sha256 (hexadecimal) of a folder's weights."""
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()


def save_checkpoint(folder, model, *, card, passport, dtype=None):
    """Write a model folder; every file appears whole or not at all.

    Parameters
    ----------
    folder : path-like
    model : FiberMAE
    card : str
        Text of the model card.
    passport : dict
        What a user of the weights must know: bands, units, training data, seed, scores, licence (JSON).
    dtype : torch.dtype, optional
        Of floating-point tensors in the file; by default half precision where that loses nothing, as for weights
        that were loaded from such a file, else float32.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = model.state_dict()
    if dtype is None:
        exact = all(torch.equal(v.half().to(v.dtype), v) for v in tensors.values() if v.is_floating_point())
        dtype = torch.float16 if exact else torch.float32
    state = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}
    config = json.dumps({"model": json.loads(model.config.to_json()), "passport": passport}, indent=2)
    for name, write in (
        ("model.safetensors", lambda path: save_file(state, path)),
        ("config.json", lambda path: Path(path).write_text(config + "\n", encoding="utf-8")),
        ("README.md", lambda path: Path(path).write_text(card, encoding="utf-8")),
    ):
        part = folder / (name + ".part")
        write(part)
        os.replace(part, folder / name)


def whole_folder(folder):
    """The path of a model folder; FileNotFoundError if it lacks a file."""
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}; a model folder holds config.json and model.safetensors")
    return folder


def load_checkpoint(folder):
    """Read a model folder, strictly.

    Returns
    -------
    model : FiberMAE
        In float32, in evaluation mode.
    passport : dict

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When a tensor is missing, extra or of another shape, or the configuration has unknown names.
    """
    folder = whole_folder(folder)
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "architecture" in stored["model"]:
            raise ValueError(
                f"{folder} holds the published network, which predicts and no more (fiberifu observe --model "
                f"{folder}); give weights of fiberifu's own network"
            )
        config = ModelConfig.from_dict(stored["model"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}/config.json is not a model configuration: {error}") from error
    try:
        state = load_file(folder / "model.safetensors")
    except Exception as error:  # safetensors raises its own type, which is not public in all versions
        raise ValueError(f"{folder}/model.safetensors cannot be read as safetensors: {error}") from error
    model = FiberMAE(config)
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = sorted(k for k in set(expected) & set(state) if expected[k] != tuple(state[k].shape))
    if missing or extra or wrong:
        raise ValueError(f"{folder}/model.safetensors: missing tensors {missing}, extra {extra}, wrong shape {wrong}")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval(), stored.get("passport", {})
