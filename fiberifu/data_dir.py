# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Where the public data files are that are not part of the package."""

import os
from pathlib import Path

__all__ = ["find_data_dir"]


def find_data_dir():
    """Folder with the public data files: ``$FIBERIFU_DATA``, else ``../shared/data`` beside the checkout.

    Raises
    ------
    FileNotFoundError
        When neither exists.
    """
    if os.environ.get("FIBERIFU_DATA"):
        folder = Path(os.environ["FIBERIFU_DATA"])
        if folder.is_dir():
            return folder
        raise FileNotFoundError(f"$FIBERIFU_DATA is {str(folder)!r}, which is not a folder; correct it or unset it")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    if beside.is_dir():
        return beside
    raise FileNotFoundError(
        "no data folder: set the environment variable FIBERIFU_DATA to the folder that holds templates/, "
        "instrument/ and lines/, or use analytic_template_pack() for tests and examples"
    )
