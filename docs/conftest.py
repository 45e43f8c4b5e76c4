# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Settings under which the examples in the pages are run as tests."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["MPLBACKEND"] = "Agg"

collect_ignore = ["conf.py", "conftest.py", "_build", "api"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    """Pages may write files: not into the checkout."""
    monkeypatch.chdir(tmp_path)
