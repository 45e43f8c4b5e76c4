# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files that are whole or absent, and folders that know their settings."""

import errno
import hashlib
import json
import os
import re
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

from fiberifu.provenance import software_version

__all__ = ["MANIFEST", "atomic_path", "prepare_output_folder", "settings_hash"]

MANIFEST = "manifest.json"
_HALF = re.compile(r"\.[0-9a-f]{8}-")  # temporary names, see atomic_path
REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "no permission to write there; choose another folder or change its permissions",
}


@contextmanager
def atomic_path(path, *, overwrite=True):
    """Write a file under a temporary name; it takes its own name only when complete and on the disk.

    Parameters
    ----------
    path : str or path-like
        The final name.  Its folder must exist.
    overwrite : bool
        Whether an existing file may be replaced.

    Yields
    ------
    `~pathlib.Path`
        The name to write to: in the same folder, with the same suffix (writers choose their format by it).

    Raises
    ------
    FileExistsError, FileNotFoundError, OSError
        With the path and the reason; nothing is left behind, and an existing file stays as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path is {str(path)!r}, a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give overwrite=True or another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist; make it first")
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        number = error.errno or getattr(error.__context__, "errno", None)
        # numpy and astropy.io.fits report a full disk in words, without the number of the error.
        if number is None and ("enough space on disk" in str(error) or "requested and" in str(error)):
            number = errno.ENOSPC
        # Errors about other files, read inside the block, are not ours to explain.
        if number in REASONS and error.filename in (None, str(temporary), temporary):
            raise OSError(number, f"cannot write {path}: {REASONS[number]}") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # some file systems cannot sync a folder
        _sync(path.parent)


def _sync(path):
    """Push a file or a folder from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settings_hash(settings):
    """sha256 of a dictionary of settings: the same for any order of its keys."""
    return hashlib.sha256(_canonical(settings).encode()).hexdigest()


def _canonical(settings):
    def plain(value):
        return value.tolist() if hasattr(value, "tolist") and not hasattr(value, "unit") else str(value)

    return json.dumps(settings, sort_keys=True, default=plain)


def prepare_output_folder(path, *, overwrite=False, resume=False, settings=None):
    """Make a folder for results, or check that an existing one may be used.

    Parameters
    ----------
    path : str or path-like
        The folder; made with its parents if missing.
    overwrite : bool
        Use a folder that is not empty.  Files are replaced one by one as they are written; others stay.
    resume : bool
        Continue in a folder whose manifest holds the same settings.
    settings : dict, optional
        What the results depend on; written, with its hash, to ``manifest.json``.

    Returns
    -------
    `~pathlib.Path`

    Raises
    ------
    FileExistsError
        The folder is not empty, or there is a file of that name.
    ValueError
        ``resume`` under other settings, or without a manifest; or with ``overwrite``.
    OSError
        The folder cannot be written to (read-only, full): the message names it.
    """
    path, settings = Path(path), dict(settings or {})
    if overwrite and resume:
        raise ValueError("overwrite and resume are both true; choose one")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"path is {str(path)!r}, which is a file; give the name of a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        files = {file.name for file in path.iterdir() if not _HALF.match(file.name)}
        # what a killed run leaves before its first file, a manifest, is in the way of other settings only
        occupied = bool(files) and not (files == {MANIFEST} and _same_settings(path, settings))
    except OSError as error:
        reason = REASONS.get(error.errno, error.strerror)
        raise OSError(error.errno, f"cannot use the folder {path}: {reason}") from error
    if occupied and resume:
        _check_manifest(path, settings)
    elif occupied and not overwrite:
        raise FileExistsError(
            f"the folder {path} is not empty; give overwrite=True (--overwrite) to replace files "
            "in it, resume=True (--resume) to continue, or another folder"
        )
    # Written first: a folder that cannot be written to is found before the work, not after it.
    with atomic_path(path / MANIFEST) as temporary:
        content = {
            "software": "fiberifu",
            "version": software_version(),
            "settings_sha256": settings_hash(settings),
            "settings": json.loads(_canonical(settings)),
        }
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _same_settings(path, settings):
    try:
        _check_manifest(path, settings)
    except ValueError:
        return False
    return True


def _check_manifest(path, settings):
    """Raise ValueError unless the manifest in ``path`` was written under the same settings."""
    try:
        before = json.loads((path / MANIFEST).read_text())
        old, old_hash = before["settings"], before["settings_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot resume in {path}: it has no readable {MANIFEST}; give overwrite=True or another folder"
        ) from error
    if old_hash != settings_hash(settings):
        new = json.loads(_canonical(settings))
        changed = [
            f"{key} (was {old.get(key)!r}, is {new.get(key)!r})"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        raise ValueError(
            f"cannot resume in {path}: other settings: {', '.join(changed) or 'the manifest was edited'}; "
            "use the former ones, overwrite=True or another folder"
        )
