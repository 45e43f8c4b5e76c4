# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The commands of `fiberifu.cli`, a module for each: texts, arguments, and the one call of the library they become."""

from . import convert, infer, info, lines, observe, shards, simulate, train, validate

__all__ = ["ADD", "validate"]

#: What adds each command, in the order of ``fiberifu --help``.
ADD = (
    observe.add_demo,
    observe.add_observe,
    infer.add,
    info.add,
    lines.add,
    simulate.add,
    train.add_train,
    convert.add,
    shards.add,
    train.add_calibrate,
)
