"""What a network wants its pixels to be, where that is not part of the network itself.

Every model here takes pixels, 0 to 255, in the order RGB. A network from elsewhere may leave it to its caller to scale
them; the scaling then becomes the first layers of the network, so that nothing else needs to know.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from denseface.core.errors import InputError

if TYPE_CHECKING:
    from denseface.models.checkpoint import Model

logger = logging.getLogger("denseface")

_ADVICE = (
    "if it was trained on scaled pixels, say so with --input-mean 127.5 --input-scale 0.0078125, or whatever it was; "
    "--input-mean 0 leaves them as they are"
)
# Operators on the way from the picture to the first layer, by MXNet's names and by ONNX's: those that scale, and those
# that may stand before them.
_ARITHMETIC = [f"{kind}_{op}" for kind in ("elemwise", "broadcast") for op in ("add", "sub", "mul", "div")]
_SCALES = {
    *("_plus_scalar", "_minus_scalar", "_rminus_scalar", "_mul_scalar", "_div_scalar", *_ARITHMETIC),
    *("BatchNorm", "InstanceNorm", "LayerNorm"),
    *("Add", "Sub", "Mul", "Div", "BatchNormalization", "InstanceNormalization"),
}
_PASSES = {
    *("_copy", "Cast", "amp_cast", "BlockGrad", "Dropout", "slice", "slice_axis", "reverse", "transpose", "SwapAxis"),
    *("Reshape", "Flatten", "Pad", "clip"),
    *("Identity", "Slice", "Gather", "Transpose", "Clip"),
}


class Scaling(NamedTuple):
    """The network computes with (pixel - mean) * scale.

    Attributes
    ----------
    mean, scale : float
    bgr : bool
        The network takes blue first.
    """

    mean: float = 0.0
    scale: float = 1.0
    bgr: bool = False

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self != Scaling()

    def mark(self) -> bytes:
        """Bytes for the hash of a model that is scaled so: its embeddings differ from those of the network alone."""
        return f"scaling {self.mean!r} {self.scale!r} {self.bgr}\n".encode() if self.changes else b""


def make_scaling(
    input_mean: float | None, input_scale: float | None, bgr: bool | None, image_shape: tuple | None = None
) -> Scaling | None:
    """Make the scaling that was given; None if nothing was given.

    Raises
    ------
    InputError
        If a number is not finite, or the scale is 0.
    """
    if input_mean is None and input_scale is None and not bgr:
        return None
    mean = 0.0 if input_mean is None else float(input_mean)
    scaling = Scaling(mean, 1.0 if input_scale is None else float(input_scale), bool(bgr))
    if not math.isfinite(scaling.mean):
        raise InputError(f"must be a finite number, not {scaling.mean}", option="input_mean")
    if not math.isfinite(scaling.scale) or not scaling.scale:
        raise InputError(f"must be a finite number other than 0, not {scaling.scale}", option="input_scale")
    if scaling.bgr and image_shape is not None and image_shape[2] == 1:
        raise InputError("the network takes gray pictures, which have no order of colors", option="bgr")
    return scaling


def scales_itself(first: str, nodes: Iterable[tuple[str, list[str], list[str]]]) -> bool:
    """Whether a network scales its pictures before its first layer.

    Parameters
    ----------
    first : str
        The name of the picture.
    nodes : iterable of (str, list of str, list of str)
        Operator, inputs and outputs of each node, inputs before the nodes that read them.
    """
    reached = {first}
    for op, inputs, outputs in nodes:
        if reached.isdisjoint(inputs):
            continue
        if op in _SCALES:
            return True
        if op in _PASSES:
            reached.update(outputs)
    return False


def scaled(model: Model, scaling: Scaling | None) -> Model:
    """Let an MXNet network scale its pictures first; warn if nobody does.

    Parameters
    ----------
    model : Model
        A network of the input ``data``.
    scaling : Scaling or None
        None if nothing was given.
    """
    from denseface.models.graph import Graph, Node

    graph = Graph(model.symbol)
    if scaling is None:
        # Several nodes may share a name, but not that of a variable.
        nodes = [(node.op, [source.name for source, _ in node.inputs], [node.name]) for node in graph.nodes]
        if not scales_itself("data", nodes):
            logger.warning("%s: it does not scale its pictures before its first layer; %s", model.name, _ADVICE)
        return model
    if not scaling.changes:
        return model

    def scale(node: Node) -> Node:
        if node.op != "null" or node.name != "data":
            return node
        if scaling.bgr:
            every, order = "(None, None, None, None)", {"step": "(1, -1, 1, 1)"}
            node = Node("slice", "bgr", {"begin": every, "end": every, **order}, [(node, 0)])
        node = Node("_minus_scalar", "_minusscalar0", {"scalar": repr(scaling.mean)}, [(node, 0)])
        return Node("_mul_scalar", "_mulscalar0", {"scalar": repr(scaling.scale)}, [(node, 0)])

    graph.rewrite(scale)
    return dataclasses.replace(model, symbol=graph.symbol(), scaling=scaling)


def scaling_by_insightface(names: list[str], is_inside: bool, name: str) -> Scaling:
    """Decide by the rule of the insightface package how an ONNX file wants its pixels.

    The package takes a network that has a subtraction and a multiplication among its first eight nodes, by their names,
    for one that scales its pictures itself, and gives any other (pixel - 127.5) / 127.5.

    Parameters
    ----------
    names : list of str
        Of the nodes, in their order.
    is_inside : bool
        Whether the network scales its pictures, whatever the names of its nodes.
    name : str
        The file, for warnings.
    """
    found = all(any(node.startswith(start) for node in names[:8]) for start in (("Sub", "_minus"), ("Mul", "_mul")))
    if found != is_inside:
        logger.warning(
            "%s: %s by the insightface package's rule, although it seems %s its pictures itself; --input-mean and "
            "--input-scale say otherwise",
            name,
            *(("not scaled", "not to scale") if found else ("scaled to (pixel - 127.5) / 127.5", "to scale")),
        )
    elif not found:
        logger.warning(
            "%s: scaled to (pixel - 127.5) / 127.5 by the insightface package's rule, because it does not scale its "
            "pictures itself; --input-mean and --input-scale say otherwise",
            name,
        )
    return Scaling() if found else Scaling(127.5, 1 / 127.5)
