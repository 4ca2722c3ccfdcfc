"""What each MXNet operator is in ONNX, in inference.

``CONVERTERS`` maps the name of an operator, as `Symbol.tojson` writes it, to a function that adds the ONNX nodes to a
`OnnxGraph` and returns the name of the output tensor (or the list of them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Callable, NoReturn, Union

import numpy as np

from denseface.core.errors import InputError
from denseface.models.graph import Edge, Node

_INT64 = np.iinfo(np.int64)


class OnnxGraph:
    """An ONNX graph under construction.

    Parameters
    ----------
    params : dict of str to ndarray
        The network's parameters, float32.
    shapes : dict of (Node, int) to tuple
        Shape of every output of the network's nodes, with None for a size that follows the batch.
    opset : int
        Version of the ONNX operator set.

    Attributes
    ----------
    params, opset
        As given.
    nodes : list of onnx.NodeProto
    constants : dict of str to ndarray
        What the operators need besides the parameters.
    """

    def __init__(self, params: dict[str, np.ndarray], shapes: dict[Edge, tuple], opset: int):
        self.params = params
        self.opset = opset
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}
        self._shapes = shapes
        self._tensors: dict[Edge, str] = {}
        self._tensor_names = {"data", *params}
        self._node_names: set[str] = set()

    def convert(self, node: Node) -> None:
        """Add one node of the network."""
        if node.op == "null":
            self._tensors[node, 0] = node.name
            return
        if node.op not in CONVERTERS:
            raise InputError(f"{node.op} {node.name}: this operator cannot be exported to ONNX")
        results = CONVERTERS[node.op](self, node)
        for index, tensor in enumerate([results] if isinstance(results, str) else results):
            self._tensors[node, index] = tensor

    def tensor(self, edge: Edge) -> str:
        """Return the ONNX tensor of an output of the network."""
        if edge not in self._tensors:
            node, index = edge
            raise InputError(f"{node.op} {node.name}: its output number {index} cannot be exported to ONNX")
        return self._tensors[edge]

    def inputs(self, node: Node) -> list[str]:
        """Return the ONNX tensors that a node reads."""
        return [self.tensor(edge) for edge in node.inputs]

    def input_shape(self, node: Node) -> tuple:
        """Return the shape of a node's first input."""
        return self._shapes[node.inputs[0]]

    def output_shape(self, node: Node) -> tuple:
        """Return the shape of a node's first output."""
        return self._shapes[node, 0]

    def rank(self, node: Node) -> int:
        """Return the number of dimensions of a node's first input."""
        return len(self.input_shape(node))

    def add(
        self, op_type: str, inputs: Sequence[str], name: str, outputs: Sequence[str] | None = None, **attributes: Any
    ) -> Any:
        """Append a node; return the name of its output, or the list of names if such a list was asked for."""
        from onnx import helper

        names = [_unique(output, self._tensor_names) for output in outputs or [f"{name}_output"]]
        self.nodes.append(helper.make_node(op_type, inputs, names, _unique(name, self._node_names), **attributes))
        return names if outputs else names[0]

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """Keep a value for the nodes to read; return its name as a tensor."""
        name = _unique(name, self._tensor_names)
        self.constants[name] = np.array(value, dtype)
        return name


def _unique(name: str, taken: set[str]) -> str:
    """MXNet lets two nodes, and so their outputs, share a name; ONNX Runtime does not."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _refuse(node: Node, reason: str) -> NoReturn:
    raise InputError(f"{node.op} {node.name}: {reason} cannot be exported to ONNX")


Converter = Callable[[OnnxGraph, Node], Union[str, list[str]]]
CONVERTERS: dict[str, Converter] = {}


def _converts(*ops: str) -> Callable[[Converter], Converter]:
    def register(converter: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(ops, converter))
        return converter

    return register


def _renames(table: Mapping[str, str], converter: Callable[..., str]) -> None:
    for op, onnx_op in table.items():
        CONVERTERS[op] = partial(converter, onnx_op=onnx_op)


def _same_inputs(graph: OnnxGraph, node: Node, onnx_op: str) -> str:
    return graph.add(onnx_op, graph.inputs(node), node.name)


def _with_scalar(graph: OnnxGraph, node: Node, onnx_op: str) -> str:
    scalar = graph.constant(f"{node.name}_scalar", node.number("scalar"))
    inputs = [scalar, *graph.inputs(node)] if node.op.startswith("_r") else [*graph.inputs(node), scalar]
    return graph.add(onnx_op, inputs, node.name)


_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}

_renames({op: onnx_op for op, onnx_op in _ACTIVATIONS.items() if op != "softrelu"}, _same_inputs)
_renames({"sqrt": "Sqrt", "exp": "Exp", "log": "Log", "negative": "Neg", "abs": "Abs"}, _same_inputs)
_renames({"elemwise_add": "Add", "elemwise_sub": "Sub", "elemwise_mul": "Mul", "elemwise_div": "Div"}, _same_inputs)
_renames({"_maximum": "Max", "_minimum": "Min", "_power": "Pow", "add_n": "Sum"}, _same_inputs)
_renames(
    {
        "broadcast_add": "Add",
        "broadcast_sub": "Sub",
        "broadcast_mul": "Mul",
        "broadcast_div": "Div",
        "broadcast_maximum": "Max",
        "broadcast_minimum": "Min",
        "broadcast_power": "Pow",
    },
    _same_inputs,
)
_renames(
    {
        "_plus_scalar": "Add",
        "_minus_scalar": "Sub",
        "_rminus_scalar": "Sub",
        "_mul_scalar": "Mul",
        "_div_scalar": "Div",
        "_rdiv_scalar": "Div",
        "_power_scalar": "Pow",
        "_rpower_scalar": "Pow",
        "_maximum_scalar": "Max",
        "_minimum_scalar": "Min",
    },
    _with_scalar,
)


@_converts("_copy", "BlockGrad", "Dropout", "Cast", "amp_cast")
def _identity(graph: OnnxGraph, node: Node) -> str:
    if node.text("mode", "training") != "training":
        _refuse(node, f"mode={node.text('mode', '')}")
    return graph.inputs(node)[0]


@_converts("Convolution")
def _convolution(graph: OnnxGraph, node: Node) -> str:
    _require_channels_first(node)
    kernel = node.ints("kernel")
    return graph.add(
        "Conv",
        graph.inputs(node),
        node.name,
        kernel_shape=kernel,
        strides=node.ints("stride", [1] * len(kernel)),
        dilations=node.ints("dilate", [1] * len(kernel)),
        pads=node.ints("pad", [0] * len(kernel)) * 2,
        group=node.integer("num_group", 1),
    )


def _require_channels_first(node: Node) -> None:
    layout = node.text("layout", "None")
    if layout not in ("None", "NCW", "NCHW", "NCDHW"):
        _refuse(node, f"layout={layout}")


@_converts("BatchNorm")
def _batch_norm(graph: OnnxGraph, node: Node) -> str:
    if node.integer("axis", 1) % graph.rank(node) != 1:
        _refuse(node, f"axis={node.integer('axis')}")
    data, gamma, beta, mean, var = graph.inputs(node)
    if node.flag("fix_gamma", True):
        gamma = graph.constant(f"{node.name}_fixed_gamma", np.ones(graph.input_shape(node)[1]))
    return graph.add("BatchNormalization", [data, gamma, beta, mean, var], node.name, epsilon=node.number("eps", 1e-3))


@_converts("Activation")
def _activation(graph: OnnxGraph, node: Node) -> str:
    act_type = node.text("act_type", "")
    if act_type not in _ACTIVATIONS:
        _refuse(node, f"act_type={act_type}")
    return graph.add(_ACTIVATIONS[act_type], graph.inputs(node), node.name)


@_converts("LeakyReLU")
def _leaky_relu(graph: OnnxGraph, node: Node) -> str:
    act_type = node.text("act_type", "leaky")
    slope = node.number("slope", 0.25)
    if act_type == "leaky":
        return graph.add("LeakyRelu", graph.inputs(node), node.name, alpha=slope)
    if act_type == "elu":
        return graph.add("Elu", graph.inputs(node), node.name, alpha=slope)
    if act_type == "selu":
        return graph.add("Selu", graph.inputs(node), node.name)
    if act_type == "gelu":
        return _gelu(graph, node)
    if act_type == "prelu":
        return _prelu(graph, node)
    _refuse(node, f"act_type={act_type}")


def _gelu(graph: OnnxGraph, node: Node) -> str:
    """x * (1 + erf(x / sqrt(2))) * 0.5"""
    (data,) = graph.inputs(node)
    root = graph.constant(f"{node.name}_root", math.sqrt(2))
    one = graph.constant(f"{node.name}_one", 1)
    half = graph.constant(f"{node.name}_half", 0.5)
    scaled = graph.add("Div", [data, root], f"{node.name}_scaled")
    erf = graph.add("Erf", [scaled], f"{node.name}_erf")
    shifted = graph.add("Add", [erf, one], f"{node.name}_shifted")
    product = graph.add("Mul", [data, shifted], f"{node.name}_product")
    return graph.add("Mul", [product, half], node.name)


def _prelu(graph: OnnxGraph, node: Node) -> str:
    data, slopes = graph.inputs(node)
    if slopes not in graph.params:
        _refuse(node, "a slope that is computed")
    values = graph.params[slopes]
    if values.size not in (1, graph.input_shape(node)[1]):
        _refuse(node, f"{values.size} slopes for {graph.input_shape(node)[1]} channels")
    if values.size == 1:
        return graph.add("LeakyRelu", [data], node.name, alpha=float(values.item()))
    # ONNX lines up shapes from the right, MXNet's slopes belong to axis 1.
    per_channel = graph.constant(f"{node.name}_slopes", values.reshape(-1, *[1] * (graph.rank(node) - 2)))
    return graph.add("PRelu", [data, per_channel], node.name)


@_converts("Concat")
def _concat(graph: OnnxGraph, node: Node) -> str:
    return graph.add("Concat", graph.inputs(node), node.name, axis=node.integer("dim", 1))


@_converts("Pooling")
def _pooling(graph: OnnxGraph, node: Node) -> str:
    _require_channels_first(node)
    pool_type, convention = node.text("pool_type", "max"), node.text("pooling_convention", "valid")
    if pool_type not in ("max", "avg"):
        _refuse(node, f"pool_type={pool_type}")
    if node.flag("global_pool", False):
        return graph.add("GlobalMaxPool" if pool_type == "max" else "GlobalAveragePool", graph.inputs(node), node.name)
    if convention not in ("valid", "full"):
        _refuse(node, f"pooling_convention={convention}")

    kernel = node.ints("kernel")
    stride = node.ints("stride", [1] * len(kernel))
    pad = node.ints("pad", [0] * len(kernel))
    windows = list(zip(graph.input_shape(node)[2:], graph.output_shape(node)[2:], kernel, stride, pad))
    # The convention "full" lets the last window reach past the padding. Padding that much more, instead of ONNX's
    # ceil_mode, means the same in every version of the operator and of the runtimes.
    reach = [max(0, (count - 1) * step + k - size - 2 * p) for size, count, k, step, p in windows]
    end_pad = [p + more for p, more in zip(pad, reach)]
    if any(p >= k for p, k in zip(end_pad, kernel)):
        _refuse(node, "a window with nothing but padding in it")
    geometry = {"kernel_shape": kernel, "strides": stride, "pads": [*pad, *end_pad]}
    if pool_type == "max":
        return graph.add("MaxPool", graph.inputs(node), node.name, **geometry)

    include_pad = node.flag("count_include_pad", True)
    if not include_pad or not any(reach):
        return graph.add("AveragePool", graph.inputs(node), node.name, count_include_pad=int(include_pad), **geometry)
    # MXNet counts the padding, but not what lies past it.
    mean = graph.add("AveragePool", graph.inputs(node), f"{node.name}_mean", count_include_pad=1, **geometry)
    share = graph.constant(f"{node.name}_share", _share_counted(windows))
    return graph.add("Mul", [mean, share], node.name)


def _share_counted(windows: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    """By how much a mean over whole windows falls short, where the last ones reach past the padding."""
    share = np.ones((1, 1))
    for size, count, kernel, step, pad in windows:
        start = np.arange(count) * step - pad
        share = np.multiply.outer(share, kernel / (np.minimum(start + kernel, size + pad) - start))
    return share


@_converts("FullyConnected")
def _fully_connected(graph: OnnxGraph, node: Node) -> str:
    rank = graph.rank(node)
    data, weight, *bias = graph.inputs(node)
    if rank > 2 and not node.flag("flatten", True):
        columns = graph.add("Transpose", [weight], f"{node.name}_columns", perm=[1, 0])
        if not bias:
            return graph.add("MatMul", [data, columns], node.name)
        product = graph.add("MatMul", [data, columns], f"{node.name}_product")
        return graph.add("Add", [product, *bias], node.name)
    if rank > 2:
        data = graph.add("Flatten", [data], f"{node.name}_flat", axis=1)
    return graph.add("Gemm", [data, weight, *bias], node.name, transB=1)


@_converts("clip")
def _clip(graph: OnnxGraph, node: Node) -> str:
    low, high = (graph.constant(f"{node.name}_{end}", node.number(end)) for end in ("a_min", "a_max"))
    return graph.add("Clip", [*graph.inputs(node), low, high], node.name)


@_converts("softmax", "log_softmax")
def _softmax(graph: OnnxGraph, node: Node) -> str:
    if len(graph.inputs(node)) > 1:
        _refuse(node, "use_length")
    (data,) = graph.inputs(node)
    temperature = node.number("temperature", 1)
    if temperature != 1:
        divisor = graph.constant(f"{node.name}_temperature", temperature)
        data = graph.add("Div", [data, divisor], f"{node.name}_scaled")
    onnx_op = "Softmax" if node.op == "softmax" else "LogSoftmax"
    return graph.add(onnx_op, [data], node.name, axis=node.integer("axis", -1))


@_converts("SoftmaxActivation")
def _softmax_activation(graph: OnnxGraph, node: Node) -> str:
    # The mode "instance" runs over the last axis, not over the whole instance as MXNet's documentation has it.
    axis = 1 if node.text("mode", "instance") == "channel" else -1
    return graph.add("Softmax", graph.inputs(node), node.name, axis=axis)


@_converts("SoftmaxOutput")
def _softmax_output(graph: OnnxGraph, node: Node) -> str:
    rank = graph.rank(node)
    if node.flag("multi_output", False):
        axis = 1
    elif node.flag("preserve_shape", False) or rank == 2:
        axis = -1
    else:
        # MXNet takes the last axis with oneDNN and all axes but the batch without.
        _refuse(node, f"{rank} axes without multi_output or preserve_shape")
    return graph.add("Softmax", graph.inputs(node)[:1], node.name, axis=axis)


@_converts("square")
def _square(graph: OnnxGraph, node: Node) -> str:
    return graph.add("Mul", graph.inputs(node) * 2, node.name)


@_converts("L2Normalization")
def _l2_normalization(graph: OnnxGraph, node: Node) -> str:
    rank = graph.rank(node)
    (data,) = graph.inputs(node)
    axes = {"instance": range(1, rank), "channel": [1], "spatial": range(2, rank)}
    square = graph.add("Mul", [data, data], f"{node.name}_square")
    total = _reduce(graph, "ReduceSum", square, f"{node.name}_sum", axes[node.text("mode", "instance")], keepdims=True)
    eps = graph.constant(f"{node.name}_eps", node.number("eps", 1e-10))
    shifted = graph.add("Add", [total, eps], f"{node.name}_shifted")
    norm = graph.add("Sqrt", [shifted], f"{node.name}_norm")
    return graph.add("Div", [data, norm], node.name)


def _reduction(graph: OnnxGraph, node: Node, onnx_op: str) -> str:
    rank = graph.rank(node)
    axes = {axis % rank for axis in node.ints("axis")}
    if not axes:
        axes = set(range(rank))
    elif node.flag("exclude", False):
        axes = set(range(rank)) - axes
    keepdims = node.flag("keepdims", False)
    if len(axes) < rank or keepdims:
        return _reduce(graph, onnx_op, graph.inputs(node)[0], node.name, sorted(axes), keepdims)
    # What is left of everything has the shape (1,) in MXNet, () in ONNX.
    result = _reduce(graph, onnx_op, graph.inputs(node)[0], f"{node.name}_all", sorted(axes), keepdims=True)
    return _reshape_to_output(graph, node, result)


_renames({"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}, _reduction)


def _reduce(graph: OnnxGraph, onnx_op: str, data: str, name: str, axes: Iterable[int], keepdims: bool) -> str:
    # Opset 18 made the axes an input; ReduceSum had it so before.
    if graph.opset < 18 and onnx_op != "ReduceSum":
        return graph.add(onnx_op, [data], name, axes=list(axes), keepdims=int(keepdims))
    return graph.add(onnx_op, [data, graph.constant(f"{name}_axes", axes, np.int64)], name, keepdims=int(keepdims))


@_converts("slice_axis")
def _slice_axis(graph: OnnxGraph, node: Node) -> str:
    begin, end = node.integer("begin", 0), node.integer("end")
    return _slice(graph, node, [node.integer("axis", 0)], [begin], [_INT64.max if end is None else end], [1])


@_converts("slice")
def _slice_all(graph: OnnxGraph, node: Node) -> str:
    begin, end = node.bounds("begin"), node.bounds("end")
    steps = [step or 1 for step in node.bounds("step") or [1] * len(begin)]
    starts = [(0 if step > 0 else _INT64.max) if i is None else i for i, step in zip(begin, steps)]
    ends = [(_INT64.max if step > 0 else _INT64.min) if i is None else i for i, step in zip(end, steps)]
    return _slice(graph, node, range(len(begin)), starts, ends, steps)


def _slice(
    graph: OnnxGraph, node: Node, axes: Sequence[int], starts: list[int], ends: list[int], steps: list[int]
) -> str:
    bounds = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    constants = [graph.constant(f"{node.name}_{name}", value, np.int64) for name, value in bounds.items()]
    return graph.add("Slice", [*graph.inputs(node), *constants], node.name)


@_converts("SliceChannel")
def _split(graph: OnnxGraph, node: Node) -> list[str]:
    axis, n_outputs = node.integer("axis", 1), node.integer("num_outputs", 1)
    outputs = [f"{node.name}_output{i}" for i in range(n_outputs)] if n_outputs > 1 else [f"{node.name}_output"]
    attributes = {"num_outputs": n_outputs} if graph.opset >= 18 else {}
    if not node.flag("squeeze_axis", False):
        return graph.add("Split", graph.inputs(node), node.name, outputs, axis=axis, **attributes)
    parts = [f"{node.name}_part{i}" for i in range(n_outputs)]
    parts = graph.add("Split", graph.inputs(node), node.name, parts, axis=axis, **attributes)
    axes = graph.constant(f"{node.name}_axes", [axis], np.int64)
    return [graph.add("Squeeze", [part, axes], part, [output])[0] for part, output in zip(parts, outputs)]


@_converts("Reshape", "Flatten", "expand_dims", "squeeze")
def _reshape(graph: OnnxGraph, node: Node) -> str:
    if graph.input_shape(node).count(None) != graph.output_shape(node).count(None):
        _refuse(node, "with dynamic_batch, a shape that fixes the batch size")
    return _reshape_to_output(graph, node, graph.inputs(node)[0])


def _reshape_to_output(graph: OnnxGraph, node: Node, data: str) -> str:
    """Reshape to the shape that MXNet inferred for the node, whatever its codes or axes."""
    shape = [-1 if size is None else size for size in graph.output_shape(node)]
    return graph.add("Reshape", [data, graph.constant(f"{node.name}_shape", shape, np.int64)], node.name)


@_converts("transpose")
def _transpose(graph: OnnxGraph, node: Node) -> str:
    return graph.add("Transpose", graph.inputs(node), node.name, perm=node.ints("axes", range(graph.rank(node))[::-1]))


@_converts("SwapAxis")
def _swap_axes(graph: OnnxGraph, node: Node) -> str:
    perm = list(range(graph.rank(node)))
    first, second = node.integer("dim1", 0), node.integer("dim2", 0)
    perm[first], perm[second] = perm[second], perm[first]
    return graph.add("Transpose", graph.inputs(node), node.name, perm=perm)


@_converts("tile")
def _tile(graph: OnnxGraph, node: Node) -> str:
    rank = graph.rank(node)
    reps = list(node.ints("reps"))
    (data,) = graph.inputs(node)
    if len(reps) > rank:
        axes = graph.constant(f"{node.name}_axes", range(len(reps) - rank), np.int64)
        data = graph.add("Unsqueeze", [data, axes], f"{node.name}_unsqueezed")
    reps = [1] * (rank - len(reps)) + reps
    return graph.add("Tile", [data, graph.constant(f"{node.name}_reps", reps, np.int64)], node.name)
