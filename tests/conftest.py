# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What the tests share: where the real files are, and settings that keep runs small and alike."""

import os
import sys
from pathlib import Path

import pytest

# In the environment, so that it reaches subprocesses and does not import torch for tests that need none.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ["MPLBACKEND"] = "Agg"

# No examples in here; and two files of this name (docs has one) cannot both be imported as modules.
collect_ignore = ["conftest.py"]


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real files: ``$FIBERIFU_DATA``, else ``shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FIBERIFU_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"real files not found: {folder} is not a folder; FIBERIFU_DATA names another")
    return folder


@pytest.fixture(scope="session")
def real_pack_file(data_dir, tmp_path_factory):
    """A template pack of the public files; made once, because that takes seconds."""
    from fiberifu.simulate import build_template_pack

    path = tmp_path_factory.mktemp("real") / "pack.npz"
    build_template_pack(data_dir, path)
    return path


@pytest.fixture(autouse=True)
def close_figures():
    """Close what a test has drawn: matplotlib warns about open figures, and warnings are errors."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
