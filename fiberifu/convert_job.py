# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a checkpoint of the published network to a model folder: what ``fiberifu convert-checkpoint`` calls."""

from pathlib import Path

from .pretrained import FILES, PUBLISHED, hub_file, recorded_sha256

__all__ = ["convert_checkpoint_to_folder"]


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
        What the file's must be; by default, of the published network on the hub, what it was when first fetched.
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
        name = text.removeprefix("hf://")
        path, revision = hub_file(name, PUBLISHED[1], revision)
        sha256 = sha256 or (recorded_sha256(revision) if name == PUBLISHED[0] else None)
    else:
        path = Path(checkpoint)
    folder = Path(folder)
    existed = folder.is_dir()
    settings = {"checkpoint": text, "revision": revision, "software": software_version()}
    replace = existed and overwrite
    if not replace:  # what is in the way is found before the work
        prepare_output_folder(folder, settings=settings)
    try:
        passport = convert_published(path, folder, sha256=sha256, revision=revision)
    except BaseException:
        if not existed:  # nothing came of it
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        raise
    if replace:  # not before: while old weights are there, their manifest is too
        prepare_output_folder(folder, overwrite=True, settings=settings)
    return passport, [folder / name for name in FILES]
