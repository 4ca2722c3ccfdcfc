"""Exported files as the insightface package reads them: it decides by the names of nodes who scales the pictures.

A network that has a subtraction and a multiplication among its first eight nodes gets pixels as they are, any other
(pixel - 127.5) / 127.5. An exported network takes pixels as they are, so it needs two such nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

_LOOKED_AT = 8
_BEGINNINGS = (("Sub", "_minus"), ("Mul", "_mul"))
_LEAST_SIDE, _MULTIPLE = 112, 16
_OTHER_MODELS = (192,)  # pictures of this size are for the package's landmarks


def is_known_to_scale(names: Sequence[str]) -> bool:
    """Whether the package finds, by the names of all nodes in order, that a network scales its pictures itself."""
    return all(any(name.startswith(start) for name in names[:_LOOKED_AT]) for start in _BEGINNINGS)


def mark_as_scaling(model: ModelProto) -> None:
    """Let the package find a subtraction and a multiplication; where it would find none, they are of 0 and by 1."""
    from onnx import helper, numpy_helper

    graph = model.graph
    if is_known_to_scale([node.name for node in graph.node]):
        return
    taken = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    source, added = "data", []
    for op, value, name in (("Sub", 0, "_minusscalar"), ("Mul", 1, "_mulscalar")):
        name = next(name for name in map(f"{name}{{}}".format, itertools.count()) if not _is_used(taken, name))
        graph.initializer.append(numpy_helper.from_array(np.float32(value), f"{name}_scalar"))
        added.append(helper.make_node(op, [source, f"{name}_scalar"], [f"{name}_output"], name))
        source = f"{name}_output"
    for node in graph.node:
        node.input[:] = [source if name == "data" else name for name in node.input]
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_used(taken: set[str], name: str) -> bool:
    return not taken.isdisjoint((name, f"{name}_scalar", f"{name}_output"))


def why_not_for_insightface(names: Sequence[str], shape: tuple[int | None, int, int, int]) -> str:
    """Say why the package would not compute the numbers of an Embedder from a file; empty if it does.

    Parameters
    ----------
    names : sequence of str
        Of all nodes, in order.
    shape : tuple (N, C, H, W)
        Of the input; N is None if it takes any number of pictures.
    """
    batch, channels, height, width = shape
    if channels != 3:
        return "it takes gray pictures"
    if height != width or height < _LEAST_SIDE or height % _MULTIPLE or height in _OTHER_MODELS:
        return f"it takes pictures of {height} x {width}"
    if batch not in (None, 1):
        return f"it takes exactly {batch} pictures"
    return "" if is_known_to_scale(names) else "it would be taken for one that does not scale its pictures"
