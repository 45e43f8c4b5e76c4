# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Damaged files are read soundly, or refused by name; ``python benchmarks/fuzz_readers.py`` does many more."""

import numpy as np
import pytest
from damage import damaged
from reader_files import READERS, outcome


@pytest.mark.filterwarnings("ignore", "error::RuntimeWarning")
@pytest.mark.parametrize("name", READERS)
def test_bad_files(name, tmp_path):
    reader = READERS[name]
    paths = reader.make(tmp_path)
    assert outcome(reader, paths) == "read"
    path, whole = paths[0], paths[0].read_bytes()
    for bad in (whole[: len(whole) // 2 - 1500], b""):  # not between two HDUs
        path.write_bytes(bad)
        assert outcome(reader, paths) == "error"
    for seed in range(3):
        path.write_bytes(damaged(whole, np.random.default_rng([7, seed]))[0])
        assert outcome(reader, paths) in ("read", "error")
    for path in paths:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"\.fits"):
        reader.read(paths)
