"""The pickle in a checkpoint, looked through before torch reads it: what it would call, and how it would grow.

``bytes -> opcodes, on a stack of names and sizes -> names that it calls -> allowed or refused by name``
"""

import pickletools

__all__ = ["ALLOWED", "LayerNormName", "check_pickle"]

#: Of tuples within tuples, counted as often as they are met: hashing one, as a key, takes as many steps.
LARGEST_TUPLE = 10_000


class _Inert:
    """Stands for what a checkpoint may name and nobody needs: takes anything, does nothing."""

    def __init__(self, *args, **keywords):
        pass

    def __setstate__(self, state):
        pass


class LayerNormName(_Inert):
    """Stands for the class `torch.nn.LayerNorm`, the default of a constructor argument; never made."""


#: What Lightning puts into a checkpoint beside tensors and plain values; each becomes something harmless.
ALLOWED = [
    (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (dict, "lightning.pytorch.utilities.parsing.AttributeDict"),
    (dict, "lightning_fabric.utilities.data.AttributeDict"),
    (dict, "lightning.fabric.utilities.data.AttributeDict"),
    (LayerNormName, "torch.nn.modules.normalization.LayerNorm"),
    # NumPy numbers, of the schedule of learning rates
    (_Inert, "numpy.core.multiarray.scalar"),
    (_Inert, "numpy._core.multiarray.scalar"),
    (_Inert, "numpy.dtype"),
    (_Inert, "numpy.dtypes.Float64DType"),
    (_Inert, "numpy.dtypes.Float32DType"),
    (_Inert, "numpy.dtypes.Int64DType"),
    (_Inert, "_codecs.encode"),
]
# What plain tensors on any device need. torch's own list is longer, and has bytearray in it, which makes gigabytes out
# of a number; sparse and quantised tensors, and those of sizes without data, have no place in this network.
TENSORS = {
    "collections.OrderedDict", "collections.Counter", "__builtin__.set", "builtins.set", "torch.Size", "torch.device",
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter",
    *(f"torch.{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Byte",
                                          "Char", "Bool")),
    *(f"torch.{kind}" for kind in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")),
}  # fmt: skip
# Of protocol 2, those that torch's own reader knows.
OPCODES = set(
    "PROTO STOP MARK GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 NONE "
    "NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BINPERSID BININT BININT1 BININT2 BINFLOAT BINGET "
    "LONG_BINGET BINPUT LONG_BINPUT BINUNICODE SHORT_BINSTRING LONG1".split()
)
_MARK = object()


def check_pickle(program):
    """Refuse a pickle that would call what is not allowed; nothing of it is run.

    What cannot be bounded here: a pickle within the names that are left can make a list or a dictionary of its own size
    as often as it has room to say so, so memory and time may grow as the square of its size.

    Parameters
    ----------
    program : bytes

    Raises
    ------
    ValueError
        Naming what it would call; for another protocol, a broken pickle, or tuples that unfold to more than 10,000.
    """
    try:
        names, unknown, protocol, largest = _walk(program)
    except Exception as error:  # of whatever a broken pickle does to its reader
        raise ValueError(f"its pickle cannot be read: {str(error)[:200] or type(error).__name__}") from error
    refused = sorted(names - TENSORS - {name for _, name in ALLOWED})
    if refused:
        raise ValueError(
            f"its pickle would call {', '.join(name[:200] for name in refused[:20])}, which is not allowed; nothing "
            "was run. If you trust the file, save its state_dict and hyper_parameters alone, with what made it"
        )
    if unknown:
        raise ValueError(
            f"it is of pickle protocol {protocol} (with {', '.join(unknown[:5])}); only protocol 2, which torch.save "
            "writes by default, is read: save it again"
        )
    if largest > LARGEST_TUPLE:
        raise ValueError(f"its pickle has tuples that unfold to {largest:.3g} parts; no checkpoint needs them")


def _walk(program):
    """Names that a pickle calls, opcodes that are not known, the protocol, the largest tuple."""
    names, unknown, protocol, largest = set(), [], 0, 0
    stack, memo = [], {}  # of (size, text)
    for op, argument, _ in pickletools.genops(program):
        if op.name not in OPCODES and op.name not in unknown:
            unknown.append(op.name)
        if op.name == "PROTO":
            protocol = argument
        elif op.name == "MARK":
            stack.append(_MARK)
        elif op.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif op.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        else:
            before, taken = list(op.stack_before), []
            if pickletools.markobject in before:
                while (top := stack.pop()) is not _MARK:
                    taken.append(top)
                before = before[: before.index(pickletools.markobject)]
            taken += [stack.pop() for _ in before]
            if op.name in ("GLOBAL", "INST"):
                names.add(argument.replace(" ", "."))
            elif op.name == "STACK_GLOBAL":
                names.add(f"{taken[1][1]}.{taken[0][1]}")
            size = 1 + sum(part[0] for part in taken) if "TUPLE" in op.name else 1
            largest = max(largest, size)
            stack += [(size, argument if isinstance(argument, str) else "?")] * len(op.stack_after)
    return names, unknown, protocol, largest
