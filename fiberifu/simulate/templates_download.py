# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fetch the public files that templates are built from: by commit and checksum, once.

Each file is fetched from the public repository that has it, at the commit named in ``data/templates.ecsv``, and kept
only if its sha256 is the one there.
"""

import hashlib
import shutil
from importlib import resources
from pathlib import Path

__all__ = ["address", "download_folder", "download_templates", "template_files", "wrong_files"]

#: Files of public GitHub repositories, by owner/name, commit and path.
ADDRESS = "https://raw.githubusercontent.com/{repository}/{commit}/{source}"


def template_files():
    """What is fetched: an `~astropy.table.Table` of path, repository, commit, source and sha256."""
    from astropy.table import Table

    with resources.as_file(resources.files("fiberifu") / "data" / "templates.ecsv") as path:
        return Table.read(path, format="ascii.ecsv")


def address(row):
    """Public address of a row of `template_files`."""
    return ADDRESS.format(**{key: row[key] for key in ("repository", "commit", "source")})


def download_folder():
    """Where `download_templates` puts the files by default: ``fiberifu/templates`` in the user's cache folder."""
    from astropy.config.paths import get_cache_dir_path

    return get_cache_dir_path("fiberifu") / "templates"


def wrong_files(folder):
    """Paths (list of str) of `template_files` that a folder lacks, or has with another sha256."""
    folder = Path(folder)
    return [str(row["path"]) for row in template_files() if not _is_right(folder / str(row["path"]), row["sha256"])]


def download_templates(folder=None, *, progress=False, timeout=30):
    """Fetch the files that `~fiberifu.simulate.build_template_pack` reads; those that are there are checked.

    Parameters
    ----------
    folder : path-like, optional
        Made if it does not exist; by default `download_folder`.
    progress : bool
    timeout : float
        Of one connection, seconds.

    Returns
    -------
    `~pathlib.Path`
        The folder, for `~fiberifu.simulate.build_template_pack` or the environment variable FIBERIFU_DATA.

    Raises
    ------
    OSError
        If a file cannot be fetched; what is there already stays, and the same call goes on.
    ValueError
        If what came has another checksum; it is not kept.
    """
    from astropy.utils.data import download_file
    from tqdm import tqdm

    from ..output import atomic_path

    folder = download_folder() if folder is None else Path(folder)
    for row in tqdm(template_files(), unit="file", disable=not progress, leave=False):
        path = folder / str(row["path"])
        if _is_right(path, row["sha256"]):
            continue
        url = address(row)
        try:
            fetched = download_file(url, cache=False, show_progress=False, timeout=timeout)
        except OSError as error:
            raise OSError(f"cannot fetch {url}: {error}; copy it to {path} by other means, or try again") from error
        fetched = Path(fetched)
        try:
            if (found := _sha256(fetched)) != row["sha256"]:
                raise ValueError(f"{url} came with sha256 {found}, not {row['sha256']}; it was not kept")
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                shutil.copyfile(fetched, temporary)
        finally:
            fetched.unlink(missing_ok=True)
    return folder


def _is_right(path, sha256):
    return path.is_file() and _sha256(path) == sha256


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
