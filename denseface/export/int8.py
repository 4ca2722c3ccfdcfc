"""Exported networks whose layers compute with whole numbers of 8 bits, in ranges measured on pictures.

Where numbers are rounded decides the speed: OpenVINO keeps a tensor in 8 bits if it was rounded where it was made, and
a concatenation in 8 bits if all that it joins was. A DenseNet takes as long to move its features as to multiply them,
so features are rounded, too, once each: where they are made, not again where they are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError
from denseface.core.onnx_session import open_session
from denseface.core.packages import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Below this, rounding changes the embeddings too much.
LEAST_COSINE = 0.99
_LAYERS = ("Conv", "Gemm")
# They give what they read, so that is rounded instead.
_PASSING = ("Flatten", "MaxPool", "Reshape")
_PIXEL_MIDDLE = 127.5
_LEAST_SCALE = 1e-12


def quantize(content: bytes, batches: Sequence[np.ndarray]) -> tuple[bytes, float]:
    """Let the convolutions and fully connected layers of an exported network compute in int8.

    Weights have one scale per output channel. The input of each layer has one range, the widest that the pictures show,
    and so has whatever is concatenated. Everything else stays in floating point.

    Parameters
    ----------
    content : bytes
        An ONNX file with the input ``data``.
    batches : sequence of ndarray of shape (N, C, H, W), float32
        Pictures like those that the network is for, 0 to 255; a few hundred suffice.

    Returns
    -------
    content : bytes
        An ONNX file for the same input and output, with ``QuantizeLinear`` and ``DequantizeLinear`` where it rounds.
    cosine : float
        The lowest cosine between the two networks' embeddings of a picture.

    Raises
    ------
    InputError
        If there are no pictures, or the embeddings differ too much from those of the network.
    """
    if not len(batches):
        raise InputError("the ranges of values are measured on pictures; give some", option="int8")
    quantized = _quantized(content, batches)
    cosine = _least_cosine(content, quantized, batches)
    if not cosine >= LEAST_COSINE:
        raise InputError(
            f"would lower similarity to {cosine:.3f} (minimum {LEAST_COSINE}); export the network without",
            option="int8",
        )
    return quantized, cosine


def _quantized(content: bytes, batches: Sequence[np.ndarray]) -> bytes:
    onnx = require("onnx")
    model = onnx.load_from_string(content)
    parameters = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in _LAYERS and node.input[1] in parameters]
    pixels = _whole_pixels(model.graph, parameters)
    ranges = {**_ranges(model, _places(model.graph, layers), batches), **pixels}
    rounded = {name: _round(model.graph, name, low, high) for name, (low, high) in ranges.items()}
    for layer in layers:
        name = layer.input[1]
        if name not in rounded:
            rounded[name] = _round_weights(model.graph, name, parameters[name], _output_axis(layer))
    _insert(model.graph, rounded)
    return model.SerializeToString()


def _whole_pixels(graph: GraphProto, parameters: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Let the first layer read pixels less 128, which int8 holds exactly, and return their range by their name.

    Pixels less 127.5 would be rounded by up to half a level, which changes similarities more than all other rounding
    together. The bias makes up for the difference, except in the padding, which becomes half a level brighter.
    """
    chain, name = [], "data"
    for op in ("Sub", "Mul", "Conv"):
        readers = [node for node in graph.node if name in node.input]
        if [node.op_type for node in readers] != [op] or readers[0].input[1] not in parameters:
            return {}
        chain += readers
        name = readers[0].output[0]
    middle, scale, weights = (parameters[node.input[1]] for node in chain)
    if middle.size != 1 or scale.size != 1 or middle.item() != _PIXEL_MIDDLE or scale.item() <= 0:
        return {}
    first, second, layer = chain
    bias = parameters[layer.input[2]] if len(layer.input) > 2 else np.zeros(len(weights))
    bias = bias + (128 - _PIXEL_MIDDLE) * scale.item() * weights.sum(axis=(1, 2, 3))
    first.input[1] = _constant(graph, f"{first.name}_middle", np.full(middle.shape, 128, np.float32))
    layer.input[2:] = [_constant(graph, f"{layer.name}_shifted_bias", bias.astype(np.float32))]
    return {second.output[0]: (-128 * scale.item(), 127 * scale.item())}


def _places(graph: GraphProto, layers: Iterable[NodeProto]) -> list[str]:
    """Find the tensors to round: what layers read, and what is concatenated."""
    makers = {output: node for node in graph.node for output in node.output}

    def origin(name):
        while name in makers and makers[name].op_type in _PASSING:
            name = makers[name].input[0]
        return name, makers[name].op_type if name in makers else ""

    found = {}
    for layer in layers:
        name, op = origin(layer.input[0])
        found[name] = None
        if op == "AveragePool":  # it reads more than it gives
            found[origin(makers[name].input[0])[0]] = None
    for node in graph.node:
        if node.op_type == "Concat":
            found.update((name, None) for name, op in map(origin, node.input) if op not in ("", "Concat"))
    return list(found)


def _ranges(model: ModelProto, names: list[str], batches: Iterable[np.ndarray]) -> dict[str, tuple[float, float]]:
    """Measure the least and the greatest value of tensors."""
    from onnx import ModelProto, TensorProto, helper

    measuring = ModelProto.FromString(model.SerializeToString())
    del measuring.graph.output[:]
    # Reduced by the network itself: all tensors of a batch at once would take gigabytes.
    for op in ("ReduceMin", "ReduceMax"):
        for name in names:
            measuring.graph.node.append(helper.make_node(op, [name], [f"{name}_{op}"], keepdims=0))
            measuring.graph.output.append(helper.make_tensor_value_info(f"{name}_{op}", TensorProto.FLOAT, []))
    session = open_session(measuring.SerializeToString())
    found = np.array([session.run(None, {"data": batch}) for batch in batches])
    lows, highs = found[:, : len(names)].min(axis=0), found[:, len(names) :].max(axis=0)
    return {name: (min(low, 0.0), max(high, 0.0)) for name, low, high in zip(names, lows.tolist(), highs.tolist())}


def _round(graph: GraphProto, name: str, low: float, high: float) -> list[NodeProto]:
    """Make the nodes that round a tensor with values in a range."""
    if -low > high / 2:  # zero as 0 is worth a little precision: products are cheaper then
        scale, zero = max(-low / 128, high / 127, _LEAST_SCALE), np.int8(0)
    else:
        scale = max((high - low) / 255, _LEAST_SCALE)
        zero = np.uint8(round(-low / scale))
    given = [_constant(graph, f"{name}_scale", np.float32(scale)), _constant(graph, f"{name}_zero", zero)]
    first = _node("QuantizeLinear", name, [name, *given])
    return [first, _node("DequantizeLinear", name, [*first.output, *given])]


def _round_weights(graph: GraphProto, name: str, values: np.ndarray, axis: int) -> list[NodeProto]:
    """Make the node that reads weights from int8, with one scale per output, which are along an axis."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, _LEAST_SCALE).astype(np.float32)
    whole = np.rint(values / scale).astype(np.int8)
    arrays = {"int8": whole, "scale": scale.ravel(), "zero": np.zeros(scale.size, np.int8)}
    given = [_constant(graph, f"{name}_{end}", array) for end, array in arrays.items()]
    return [_node("DequantizeLinear", name, given, axis=axis)]


def _output_axis(layer: NodeProto) -> int:
    """The axis of a layer's weights that has one row per output."""
    is_transposed = any(entry.name == "transB" and entry.i for entry in layer.attribute)
    return 0 if layer.op_type == "Conv" or is_transposed else 1


def _insert(graph: GraphProto, rounded: dict[str, list[NodeProto]]) -> None:
    """Insert the nodes that round tensors, by name, and let all others read what these make."""
    nodes, inserted = [], set()
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in rounded:
                nodes += rounded[name] if name not in inserted else []
                inserted.add(name)
                node.input[index] = rounded[name][-1].output[0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in graph.node for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _constant(graph, name, value):
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _node(op, name, inputs, **attributes):
    from onnx import helper

    return helper.make_node(op, inputs, [f"{name}_{op}_output"], f"{name}_{op}", **attributes)


def _least_cosine(content: bytes, quantized: bytes, batches: Sequence[np.ndarray]) -> float:
    sessions = [open_session(c) for c in (content, quantized)]
    expected, found = (np.concatenate([s.run(None, {"data": batch})[0] for batch in batches]) for s in sessions)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(((expected * found).sum(axis=1) / lengths).min())
