# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a checkpoint of the published network to a model folder: what ``fiberifu convert-checkpoint`` calls."""

from pathlib import Path

from .pretrained import FILES, PUBLISHED, hub_file

__all__ = ["add_parser", "convert_checkpoint_to_folder"]

CONVERT = """\
Reads a checkpoint of the network of Peng et al. (2026, arXiv:2606.10197) without running it, checks it, and writes a
model folder: config.json, model.safetensors, README.md (the card). What its pickle would call is listed first; a file
that would call anything but tensors and plain values is refused, by name."""

CONVERT_EXAMPLES = """\
examples:
  fiberifu convert-checkpoint pretrained.ckpt published
  fiberifu convert-checkpoint hf://pengzehao/MultimodalHF published --revision COMMIT
  fiberifu observe cutout.fits --redshift 0.03 --model published -o results"""


def add_parser(command):
    """Add the command to the command line's parser; ``command`` makes it."""
    parser = command("convert-checkpoint", _run, "use the published network's weights", CONVERT, CONVERT_EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, or hf://owner/name (its pretrained.ckpt)")
    parser.add_argument("output", metavar="OUT", help="folder of the model")
    parser.add_argument("--revision", metavar="COMMIT", help="of the hub repository")
    parser.add_argument("--sha256", metavar="HEX", help="what the checkpoint's must be")
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")


def convert_checkpoint_to_folder(checkpoint, folder, *, revision=None, sha256=None, overwrite=False):
    """Convert a checkpoint of the published network.

    Parameters
    ----------
    checkpoint : path-like or str
        A file, or ``"hf://owner/name"``.
    folder : path-like
    revision : str, optional
        Of the hub repository; for a file only recorded.
    sha256 : str, optional
        What the file's must be.
    overwrite : bool

    Returns
    -------
    passport : dict
        As in ``config.json``, ``source_sha256`` among it.
    paths : list of `~pathlib.Path`

    Raises
    ------
    ValueError, OSError
        As `fiberifu.model.convert_published`, `fiberifu.pretrained.hub_file`; for a folder that is not empty.
    """
    from .model import convert_published
    from .output import prepare_output_folder
    from .provenance import software_version

    text = str(checkpoint)
    if text.startswith("hf://"):
        path, revision = hub_file(text.removeprefix("hf://"), PUBLISHED[1], revision)
    else:
        path = Path(checkpoint)
    folder = Path(folder)
    existed = folder.is_dir()
    folder = prepare_output_folder(
        folder, overwrite=overwrite, settings={"checkpoint": text, "revision": revision, "software": software_version()}
    )
    try:
        passport = convert_published(path, folder, sha256=sha256, revision=revision)
    except BaseException:
        if not existed:  # nothing came of it
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        raise
    return passport, [folder / name for name in FILES]


def _run(options):
    from . import jobs

    passport, paths = convert_checkpoint_to_folder(
        options.checkpoint,
        options.output,
        **{name: getattr(options, name) for name in ("revision", "sha256", "overwrite")},
    )
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(f"from {passport['source_file']}, sha256 {passport['source_sha256']}")
    print(
        "fiberifu was tested with checkpoints of this shape and random weights, not with this file: see its README.md."
    )
