# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a checkpoint of the published network to a model folder: what ``fiberifu convert-checkpoint`` calls."""

from pathlib import Path

from .pretrained import FILES, PUBLISHED, hub_file

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
