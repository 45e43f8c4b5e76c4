# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu convert-checkpoint``: the published network's weights, read safely."""

__all__ = ["add"]

DESCRIPTION = """\
Reads a checkpoint of the network of Peng et al. (2026, arXiv:2606.10197) without running it, checks it, and writes a
model folder: config.json, model.safetensors, README.md (the card). What its pickle would call is checked first; a file
that would call anything but tensors and plain values is refused, by name."""

EXAMPLES = """\
examples:
  fiberifu convert-checkpoint pretrained.ckpt published
  fiberifu convert-checkpoint hf://pengzehao/MultimodalHF published --revision COMMIT
  fiberifu observe cutout.fits --redshift 0.03 --model published -o results"""


def add(command):
    """Add the command to the command line's parser; ``command`` makes it."""
    parser = command("convert-checkpoint", _run, "use the published network's weights", DESCRIPTION, EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, or hf://owner/name (its pretrained.ckpt)")
    parser.add_argument("output", metavar="OUT", help="folder of the model")
    parser.add_argument("--revision", metavar="COMMIT", help="of the hub repository")
    parser.add_argument("--sha256", metavar="HEX", help="what the checkpoint's must be")
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT")


def _run(options):
    from .. import jobs
    from ..convert_job import convert_checkpoint_to_folder

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
