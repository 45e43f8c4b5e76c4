# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Damaged files are read soundly, or refused by name; ``python benchmarks/fuzz_readers.py`` does many more."""

import numpy as np
import pytest
from damage import damaged
from reader_files import READERS, outcome

ERROR, READ = "error", "read"


@pytest.fixture
def files(request, tmp_path):
    """Whole files of a reader."""
    reader = READERS[request.param]
    return reader, reader.make(tmp_path)


@pytest.mark.filterwarnings("ignore", "error::RuntimeWarning")
@pytest.mark.parametrize("files", READERS, indirect=True)
def test_damaged_files(files):
    reader, paths = files
    assert outcome(reader, paths) == READ
    whole, results = [path.read_bytes() for path in paths], []
    for i in range(6):
        rng = np.random.default_rng([7, i])
        which = rng.integers(len(paths))
        paths[which].write_bytes(damaged(whole[which], rng)[0])
        results.append(outcome(reader, paths))
        paths[which].write_bytes(whole[which])
    assert ERROR in results


@pytest.mark.parametrize("files", READERS, indirect=True)
def test_absent_files(files):
    reader, paths = files
    for path in paths:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=paths[0].name if len(paths) == 1 else ""):
        reader.read(paths)
