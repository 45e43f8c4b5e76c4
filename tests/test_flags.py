# Licensed under a 3-clause BSD style license - see LICENSE.rst
import re

import pytest

from fiberifu import flags
from fiberifu.flags import Flag, describe


def test_values_are_stable_and_distinct():
    assert [bit.value for bit in Flag] == [1 << i for i in range(24)]
    assert Flag.OUTSIDE_IMAGE == 1 and Flag.CONTINUUM_RESOLUTION == 1 << 17 and Flag.BAD_SPAXEL == 1 << 19


def test_the_table_is_true():
    rows = re.findall(r"^([A-Z_]+) +(\d+) +(.+)$", flags.__doc__, re.M)
    assert [(name, int(bit)) for name, bit, _ in rows] == [(f.name, f.value.bit_length() - 1) for f in Flag]
    assert [f"{name}: {text}" for name, _, text in rows] == describe(sum(Flag))


def test_describe():
    assert describe(0) == []
    assert [line.split(":")[0] for line in describe(Flag.SATURATED | Flag.PSF_ASSUMED)] == [
        "SATURATED",
        "PSF_ASSUMED",
    ]
    assert describe([[1, 0], [2, 1]]) == describe(3) and describe([]) == []  # those that occur in an array
    for wrong in (1 << 24, -1):
        with pytest.raises(ValueError, match="bits that are not defined"):
            describe(wrong)
