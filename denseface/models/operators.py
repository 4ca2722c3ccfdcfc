"""Operators as MXNet 1.9.1 knows them today, whatever an older MXNet or another recipe of training called them."""

from __future__ import annotations

import ctypes
import functools

# What only training needs: it keeps statistics alike on several GPUs.
_TRAINS_ON_SEVERAL = "_contrib_SyncBatchNorm"
_FOR_SEVERAL = ("ndev", "key")
_OTHER_FLOATS = ("float16", "float64", "bfloat16")
_OTHER_FLOAT_CODES = ("1", "2", "12")


@functools.lru_cache(maxsize=4096)
def present_name(op: str) -> str:
    """Return MXNet's own name of an operator that it takes under several: ``elemwise_add`` of ``_Plus``.

    MXNet is asked by a look-up in its table of names; a name that is not in it is returned as it is.
    """
    from mxnet.base import _LIB

    handle, strings = ctypes.c_void_p(), [ctypes.c_char_p() for _ in range(3)]
    if op == "null" or _LIB.NNGetOpHandle(op.encode(), ctypes.byref(handle)):
        return op
    count, lists = ctypes.c_uint(), [ctypes.POINTER(ctypes.c_char_p)() for _ in range(3)]
    name, description, kind = (ctypes.byref(text) for text in strings)
    _LIB.NNGetOpInfo(handle, name, description, ctypes.byref(count), *map(ctypes.byref, lists), kind)
    return (strings[0].value or op.encode()).decode()


def for_inference(op: str, attributes: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return an operator as inference on one device in float32 has it.

    Parameters
    ----------
    op : str
        The operator, or ``null`` for a variable.
    attributes : dict of str to str

    Returns
    -------
    op : str
    attributes : dict of str to str
    """
    op = present_name(op)
    if op == _TRAINS_ON_SEVERAL:
        op, attributes = "BatchNorm", {key: value for key, value in attributes.items() if key not in _FOR_SEVERAL}
    changed = {key: "float32" for key in ("dtype", "out_dtype") if attributes.get(key) in _OTHER_FLOATS}
    if attributes.get("__dtype__") in _OTHER_FLOAT_CODES:
        changed["__dtype__"] = "0"
    return op, {**attributes, **changed}
