"""The published network's file, read without running it: Lightning checkpoint -> checked tensors -> model folder.

``.ckpt -> size, names of what its pickle would call -> tensors -> hyper-parameters -> config.json + model.safetensors``
"""

import dataclasses
import hashlib
import json
import reprlib
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from .checkpoint import save_checkpoint, whole_folder
from .published import PublishedConfig, PublishedMAE
from .safe_pickle import ALLOWED, LayerNormName, check_pickle

__all__ = ["convert_published", "file_sha256", "is_published", "load_published", "read_lightning_checkpoint"]

LARGEST = 2 * 2**30  # bytes; the released file, optimiser included, cannot be much above 3 x 4 x 54 million
LARGEST_PICKLE = 4 * 2**20  # of the part that is a program; with an optimiser, the released shape needs 0.14 MiB
CITATION = "Peng, Dey, Maddison & Speagle 2026, arXiv:2606.10197"

CARD = """\
# {name}

The masked autoencoder of {citation}, "Integral Field Unit Spectroscopy with One Fiber", converted by fiberifu from
`{file}` (sha256 {sha256}{revision}).

* Trained by its authors on 4.64 million spectra of DESI DR1 (r < 19.5) and images in g, r, i, z, W1, W2.
* Code: github.com/harrypenguin/MultiModal, MIT licence. Weights: huggingface.co/pengzehao/MultimodalHF, under the terms
  stated there. Cite the paper.
* **fiberifu's code for this network was never run on the real file.** It was compared with the
  public code on random weights: outputs agree to rounding. The authors' scores were not reproduced.
* Errors are those of single pixels. Of their own test the authors say that pixel pulls, with the observation's noise,
  have a standard deviation of 0.93 (robust: 0.83): errors are on the large side. Errors of line fluxes were never
  tested, and the model's error is common to neighbouring pixels.
* Spectra are in DESI's calibration, to the total flux of a point source; fiberifu converts them to flux in the fibre.
"""

# Tables that older versions of the public code kept in the state dict, and newer ones compute.
TABLES = {
    "img_spatial_pos_embed": "image_place",
    "img_channel_embed": "image_band",
    "decoder_img_spatial_pos_embed": "decoder_image_place",
    "decoder_img_channel_embed": "decoder_image_band",
}


def file_sha256(path):
    """sha256 (hexadecimal) of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- out of the pickle ----------------------------------------------------------------------------------------------
def read_lightning_checkpoint(path):
    """Read a Lightning checkpoint without running what its pickle asks for.

    The names that the pickle would call are listed first, without calling them; all but those of tensors, plain values
    and a few that are replaced by something inert are refused.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    state : dict of str to Tensor
        The state dict, on the CPU.
    hyper_parameters : dict
        Empty if there are none.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        For a file that is too large, is no checkpoint, or names what is not allowed: the message says what.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint such as pretrained.ckpt")
    try:
        check_pickle(_pickle_of(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with torch.serialization.safe_globals(ALLOWED):  # torch refuses by its own list as well
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise ValueError(f"{path}: cannot be read safely: {_first_line(error)}") from error
    state = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise ValueError(f"{path}: no state_dict of tensors in it; give a Lightning checkpoint")
    parameters = stored.get("hyper_parameters") or {}
    if not isinstance(parameters, dict) or not all(isinstance(key, str) for key in parameters):
        raise ValueError(f"{path}: its hyper_parameters are a {type(parameters).__name__}, not a dictionary of names")
    return dict(state), dict(parameters)


def _pickle_of(path):
    """The pickle in a file of torch.save, after a look at the archive around it."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.stat().st_size / 2**30:.1f} GiB; more than 2 GiB is no file of this network")
    if not zipfile.is_zipfile(path):
        raise ValueError("not a file of torch.save (which is a zip archive); older formats are refused")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names, size = [entry.filename for entry in entries], sum(entry.file_size for entry in entries)
        if size > LARGEST:
            raise ValueError(f"holds {size / 2**30:.1f} GiB; more than 2 GiB is refused")
        if len(set(names)) < len(names):
            raise ValueError("an archive with several parts of the same name, which different readers take differently")
        program = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(program) != 1 or program[0].file_size > LARGEST_PICKLE:
            raise ValueError("no single data.pkl of at most 4 MiB in it; give a Lightning checkpoint")
        return archive.read(program[0])


def _first_line(error):
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


# --- into a model ---------------------------------------------------------------------------------------------------
def _configuration(path, parameters):
    """The configuration out of hyper-parameters, and the others that are plain values."""
    names = {field.name for field in dataclasses.fields(PublishedConfig)} - {"name"}
    if not parameters:
        warnings.warn(f"{path}: no hyper-parameters in it; those of the released network are tried", stacklevel=3)
    for name, wanted in (("norm_layer", LayerNormName), ("norm_pix_loss", False)):
        if name in parameters and parameters[name] is not wanted:
            raise ValueError(
                f"{path}: hyper-parameter {name} is {reprlib.repr(parameters[name])}; this network is another one"
            )
    try:
        config = PublishedConfig(**{key: value for key, value in parameters.items() if key in names})
    except ValueError as error:
        raise ValueError(f"{path}: hyper-parameters: {error}") from error
    if config.spec_dim != PublishedConfig.spec_dim and parameters:
        warnings.warn(f"{path}: spectra of {config.spec_dim} pixels, not the 7781 of DESI", stacklevel=3)
    missing = sorted(names - set(parameters)) if parameters else []
    if missing:
        raise ValueError(f"{path}: hyper-parameters without {', '.join(missing)}; this network is another one")
    rest = {}
    for key, value in parameters.items():
        if key in names | {"norm_layer", "norm_pix_loss"}:
            continue
        plain = value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 1000)
        rest[str(key)] = value if plain and value == value else f"<{type(value).__name__}>"  # nan is not JSON
    return config, rest


def _fill(config, state, path):
    """A model with a state dict loaded strictly, after taking off what compiled models and older versions add."""
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    odd = [key for key, x in state.items() if x.layout != torch.strided or x.is_meta or not x.is_contiguous()]
    if odd:  # a view may be larger than the file
        raise ValueError(f"{path}: tensors {odd[:5]} are sparse, empty or views; this network has plain ones")
    with torch.device("meta"):  # shapes alone: a small file cannot ask for a large network
        expected = {key: tuple(value.shape) for key, value in PublishedMAE(config).state_dict().items()}
    old = {key: state.pop(key) for key in TABLES if key in state}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [f"{key} {tuple(state[key].shape)} instead of {expected[key]}" for key in sorted(set(expected) & set(state))
             if expected[key] != tuple(state[key].shape)]  # fmt: skip
    if missing or extra or wrong:
        raise ValueError(f"{path}: missing tensors {missing}, extra {extra}, wrong shape {wrong}")
    if 4 * sum(value.numel() for value in state.values()) > LARGEST:  # of tensors that share their numbers
        raise ValueError(f"{path}: a network of more than 2 GiB is refused")
    bad = sorted(key for key, value in state.items() if not value.is_floating_point() or not value.isfinite().all())
    if bad:
        raise ValueError(f"{path}: tensors that are no finite numbers: {', '.join(bad)}")
    model = PublishedMAE(config)
    for key, stored in old.items():
        table = getattr(model, TABLES[key])[:: 64 if key.endswith("channel_embed") else 1]
        _check_table(path, key, stored.squeeze(0), table[: len(stored.squeeze(0))] if stored.ndim > 1 else table, 1e-5)
    for key in ("pos_embed", "decoder_pos_embed"):  # angles up to 10,000: in single precision 1e-3 off
        _check_table(path, key, state[key], getattr(model, key), 2e-3)
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval()


def _check_table(path, key, stored, table, within):
    if stored.shape != table.shape or not torch.allclose(stored.double(), table.double(), rtol=0, atol=within):
        raise ValueError(f"{path}: tensor {key} is not the fixed table of this network")


def convert_published(path, folder, *, sha256=None, revision=None):
    """Turn the published checkpoint into a model folder: ``config.json``, ``model.safetensors``, ``README.md``.

    Parameters
    ----------
    path : path-like
        A Lightning checkpoint of the published network, such as ``pretrained.ckpt``.
    folder : path-like
        Made if it does not exist.
    sha256 : str, optional
        What the file's must be.
    revision : str, optional
        Of the hub repository it comes from, for the record.

    Returns
    -------
    passport : dict
        As stored in ``config.json``; ``source_sha256`` is that of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_lightning_checkpoint`; for another sha256; or where tensors or hyper-parameters do not fit.
    """
    path = Path(path)
    found = file_sha256(path) if path.is_file() else None
    if sha256 is not None and found is not None and found != sha256.lower():
        raise ValueError(f"{path}: its sha256 is {found}, not {sha256}; fetch the file again")
    state, parameters = read_lightning_checkpoint(path)
    config, rest = _configuration(path, parameters)
    model = _fill(config, state, path)
    passport = {
        "bands": list(config.bands),
        "image_unit": "nanomaggy per pixel of 0.262 arcsec, not corrected for extinction, PSFs as they are",
        "flux_unit": "1e-17 erg/(s cm2 Angstrom), DESI's point-source calibration",
        "wavelength": "vacuum, 3600-9824 Angstrom, steps of 0.8",
        "training_data": "DESI DR1, r < 19.5 (Peng et al. 2026)",
        "citation": CITATION,
        "licence": "code MIT (harrypenguin/MultiModal); weights as stated at huggingface.co/pengzehao/MultimodalHF",
        "source_file": path.name,
        "source_sha256": found,
        "source_revision": revision,
        "training": rest,
    }
    at = f", revision {revision}" if revision else ""
    card = CARD.format(name=config.name, citation=CITATION, file=path.name, sha256=found, revision=at)
    save_checkpoint(folder, model, card=card, passport=passport, dtype=torch.float32)
    return passport


def is_published(folder):
    """Whether a model folder holds the published network."""
    try:
        stored = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return stored["model"].get("architecture") == PublishedConfig.architecture
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_published(folder):
    """Read a model folder of the published network, strictly.

    Returns
    -------
    model : PublishedMAE
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
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except Exception as error:  # safetensors raises its own type, which is not public in all versions
        raise ValueError(f"{weights} cannot be read as safetensors: {error}") from error
    return _fill(PublishedConfig.from_dict(stored["model"]), state, weights), stored.get("passport", {})
