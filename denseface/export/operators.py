"""What each MXNet operator is in ONNX, in inference.

``CONVERTERS`` maps the name of an operator, as `Symbol.tojson` writes it, to a function that adds the ONNX nodes to a
`Graph` and gives the name of the output tensor (or the list of them).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Callable, NoReturn

import numpy as np

from denseface.core.errors import InputError

_INT64 = np.iinfo(np.int64)


class Graph:
    """An ONNX graph as it grows.

    Attributes
    ----------
    params : dict of str to ndarray
        The network's parameters, float32.
    opset : int
        Version of the ONNX operator set.
    nodes : list of onnx.NodeProto
    constants : dict of str to ndarray
        What the operators need besides the parameters.
    """

    def __init__(self, params, opset):
        self.params = params
        self.opset = opset
        self.nodes = []
        self.constants = {}
        self._tensor_names = {"data", *params}
        self._node_names = set()

    def add(self, op_type, inputs, name, outputs=None, **attributes):
        """Append a node; gives the name of its output, or the list of names if such a list was asked for."""
        from onnx import helper

        names = [_unique(output, self._tensor_names) for output in outputs or [f"{name}_output"]]
        self.nodes.append(helper.make_node(op_type, inputs, names, _unique(name, self._node_names), **attributes))
        return names if outputs else names[0]

    def constant(self, name, value, dtype=np.float32):
        """Keep a value for the nodes to read; gives its name as a tensor."""
        name = _unique(name, self._tensor_names)
        self.constants[name] = np.array(value, dtype)
        return name


def _unique(name, taken):
    """MXNet lets two nodes, and so their outputs, share a name; ONNX Runtime does not."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


@dataclass(frozen=True)
class Node:
    """One operator of the symbol.

    Attributes
    ----------
    op, name : str
    options : dict of str to str
        As in the symbol's JSON; what is left out has MXNet's default.
    inputs : list of str
        ONNX tensors.
    input_shapes : list of tuple
        Their shapes, with None for a size that follows the batch.
    output_shape : tuple
        Likewise, of the first output.
    """

    op: str
    name: str
    options: dict
    inputs: list
    input_shapes: list
    output_shape: tuple

    @property
    def rank(self):
        return len(self.input_shapes[0])

    def text(self, option, default):
        return self.options.get(option, default)

    def flag(self, option, default):
        return self.options.get(option, str(default)) in ("True", "true", "1")

    def number(self, option, default=None):
        text = self.options.get(option, "None")
        return default if text == "None" else float(text)

    def ints(self, option, default=()):
        """A number or tuple as tuple, its Nones kept; the default if it is left out or empty."""
        text = self.options.get(option, "None")
        numbers = () if text == "None" else re.findall(r"-?\d+|None", text)
        return tuple(None if number == "None" else int(number) for number in numbers) or tuple(default)

    def integer(self, option, default=None):
        return self.ints(option, [default])[0]

    def refuse(self, reason) -> NoReturn:
        raise InputError(f"{self.op} {self.name}: {reason} cannot be exported to ONNX")


CONVERTERS: dict[str, Callable] = {}


def _converts(*ops):
    def register(converter):
        CONVERTERS.update(dict.fromkeys(ops, converter))
        return converter

    return register


def _renames(table, converter):
    for op, onnx_op in table.items():
        CONVERTERS[op] = lambda graph, node, onnx_op=onnx_op: converter(graph, node, onnx_op)


def _same_inputs(graph, node, onnx_op):
    return graph.add(onnx_op, node.inputs, node.name)


def _with_scalar(graph, node, onnx_op):
    scalar = graph.constant(f"{node.name}_scalar", node.number("scalar"))
    inputs = [scalar, *node.inputs] if node.op.startswith("_r") else [*node.inputs, scalar]
    return graph.add(onnx_op, inputs, node.name)


_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}

_renames({op: onnx_op for op, onnx_op in _ACTIVATIONS.items() if op != "softrelu"}, _same_inputs)
_renames({"sqrt": "Sqrt", "exp": "Exp", "log": "Log", "negative": "Neg", "abs": "Abs"}, _same_inputs)
_renames({"elemwise_add": "Add", "elemwise_sub": "Sub", "elemwise_mul": "Mul", "elemwise_div": "Div"}, _same_inputs)
_renames({"_maximum": "Max", "_minimum": "Min", "_power": "Pow"}, _same_inputs)
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


@_converts("_copy", "BlockGrad", "Dropout")
def _identity(graph, node):
    if node.text("mode", "training") != "training":
        node.refuse(f"mode={node.text('mode', '')}")
    return node.inputs[0]


@_converts("Convolution")
def _convolution(graph, node):
    _require_channels_first(node)
    kernel = node.ints("kernel")
    return graph.add(
        "Conv",
        node.inputs,
        node.name,
        kernel_shape=kernel,
        strides=node.ints("stride", [1] * len(kernel)),
        dilations=node.ints("dilate", [1] * len(kernel)),
        pads=node.ints("pad", [0] * len(kernel)) * 2,
        group=node.integer("num_group", 1),
    )


def _require_channels_first(node):
    layout = node.text("layout", "None")
    if layout not in ("None", "NCW", "NCHW", "NCDHW"):
        node.refuse(f"layout={layout}")


@_converts("BatchNorm")
def _batch_norm(graph, node):
    if node.integer("axis", 1) % node.rank != 1:
        node.refuse(f"axis={node.integer('axis')}")
    data, gamma, beta, mean, var = node.inputs
    if node.flag("fix_gamma", True):
        gamma = graph.constant(f"{node.name}_fixed_gamma", np.ones(node.input_shapes[0][1]))
    return graph.add("BatchNormalization", [data, gamma, beta, mean, var], node.name, epsilon=node.number("eps", 1e-3))


@_converts("Activation")
def _activation(graph, node):
    act_type = node.text("act_type", "")
    if act_type not in _ACTIVATIONS:
        node.refuse(f"act_type={act_type}")
    return graph.add(_ACTIVATIONS[act_type], node.inputs, node.name)


@_converts("LeakyReLU")
def _leaky_relu(graph, node):
    act_type = node.text("act_type", "leaky")
    slope = node.number("slope", 0.25)
    if act_type == "leaky":
        return graph.add("LeakyRelu", node.inputs, node.name, alpha=slope)
    if act_type == "elu":
        return graph.add("Elu", node.inputs, node.name, alpha=slope)
    if act_type == "selu":
        return graph.add("Selu", node.inputs, node.name)
    if act_type == "gelu":
        return _gelu(graph, node)
    if act_type == "prelu":
        return _prelu(graph, node)
    node.refuse(f"act_type={act_type}")


def _gelu(graph, node):
    """x * (1 + erf(x / sqrt(2))) * 0.5"""
    (data,) = node.inputs
    root = graph.constant(f"{node.name}_root", math.sqrt(2))
    one = graph.constant(f"{node.name}_one", 1)
    half = graph.constant(f"{node.name}_half", 0.5)
    scaled = graph.add("Div", [data, root], f"{node.name}_scaled")
    erf = graph.add("Erf", [scaled], f"{node.name}_erf")
    shifted = graph.add("Add", [erf, one], f"{node.name}_shifted")
    product = graph.add("Mul", [data, shifted], f"{node.name}_product")
    return graph.add("Mul", [product, half], node.name)


def _prelu(graph, node):
    data, slopes = node.inputs
    if slopes not in graph.params:
        node.refuse("a slope that is computed")
    values = graph.params[slopes]
    if values.size not in (1, node.input_shapes[0][1]):
        node.refuse(f"{values.size} slopes for {node.input_shapes[0][1]} channels")
    if values.size == 1:
        return graph.add("LeakyRelu", [data], node.name, alpha=float(values.item()))
    # ONNX lines up shapes from the right, MXNet's slopes belong to axis 1.
    per_channel = graph.constant(f"{node.name}_slopes", values.reshape(-1, *[1] * (node.rank - 2)))
    return graph.add("PRelu", [data, per_channel], node.name)


@_converts("Concat")
def _concat(graph, node):
    return graph.add("Concat", node.inputs, node.name, axis=node.integer("dim", 1))


@_converts("Pooling")
def _pooling(graph, node):
    _require_channels_first(node)
    pool_type, convention = node.text("pool_type", "max"), node.text("pooling_convention", "valid")
    if pool_type not in ("max", "avg"):
        node.refuse(f"pool_type={pool_type}")
    if node.flag("global_pool", False):
        return graph.add("GlobalMaxPool" if pool_type == "max" else "GlobalAveragePool", node.inputs, node.name)
    if convention not in ("valid", "full"):
        node.refuse(f"pooling_convention={convention}")

    kernel = node.ints("kernel")
    stride = node.ints("stride", [1] * len(kernel))
    pad = node.ints("pad", [0] * len(kernel))
    windows = list(zip(node.input_shapes[0][2:], node.output_shape[2:], kernel, stride, pad))
    # The convention "full" lets the last window reach past the padding. Padding that much more, instead of ONNX's
    # ceil_mode, means the same in every version of the operator and of the runtimes.
    reach = [max(0, (count - 1) * step + k - size - 2 * p) for size, count, k, step, p in windows]
    end_pad = [p + more for p, more in zip(pad, reach)]
    if any(p >= k for p, k in zip(end_pad, kernel)):
        node.refuse("a window with nothing but padding in it")
    geometry = {"kernel_shape": kernel, "strides": stride, "pads": [*pad, *end_pad]}
    if pool_type == "max":
        return graph.add("MaxPool", node.inputs, node.name, **geometry)

    include_pad = node.flag("count_include_pad", True)
    if not include_pad or not any(reach):
        return graph.add("AveragePool", node.inputs, node.name, count_include_pad=int(include_pad), **geometry)
    # MXNet counts the padding, but not what lies past it.
    mean = graph.add("AveragePool", node.inputs, f"{node.name}_mean", count_include_pad=1, **geometry)
    share = graph.constant(f"{node.name}_share", _share_counted(windows))
    return graph.add("Mul", [mean, share], node.name)


def _share_counted(windows):
    """By how much a mean over whole windows falls short, where the last ones reach past the padding."""
    share = np.ones((1, 1))
    for size, count, kernel, step, pad in windows:
        start = np.arange(count) * step - pad
        share = np.multiply.outer(share, kernel / (np.minimum(start + kernel, size + pad) - start))
    return share


@_converts("FullyConnected")
def _fully_connected(graph, node):
    data, weight, *bias = node.inputs
    if node.rank > 2 and not node.flag("flatten", True):
        columns = graph.add("Transpose", [weight], f"{node.name}_columns", perm=[1, 0])
        if not bias:
            return graph.add("MatMul", [data, columns], node.name)
        product = graph.add("MatMul", [data, columns], f"{node.name}_product")
        return graph.add("Add", [product, *bias], node.name)
    if node.rank > 2:
        data = graph.add("Flatten", [data], f"{node.name}_flat", axis=1)
    return graph.add("Gemm", [data, weight, *bias], node.name, transB=1)


@_converts("clip")
def _clip(graph, node):
    low, high = (graph.constant(f"{node.name}_{end}", node.number(end)) for end in ("a_min", "a_max"))
    return graph.add("Clip", [*node.inputs, low, high], node.name)


@_converts("softmax", "log_softmax")
def _softmax(graph, node):
    if len(node.inputs) > 1:
        node.refuse("use_length")
    (data,) = node.inputs
    temperature = node.number("temperature", 1)
    if temperature != 1:
        divisor = graph.constant(f"{node.name}_temperature", temperature)
        data = graph.add("Div", [data, divisor], f"{node.name}_scaled")
    onnx_op = "Softmax" if node.op == "softmax" else "LogSoftmax"
    return graph.add(onnx_op, [data], node.name, axis=node.integer("axis", -1))


@_converts("SoftmaxActivation")
def _softmax_activation(graph, node):
    # The mode "instance" runs over the last axis, not over the whole instance as MXNet's documentation has it.
    axis = 1 if node.text("mode", "instance") == "channel" else -1
    return graph.add("Softmax", node.inputs, node.name, axis=axis)


@_converts("SoftmaxOutput")
def _softmax_output(graph, node):
    if node.flag("multi_output", False):
        axis = 1
    elif node.flag("preserve_shape", False) or node.rank == 2:
        axis = -1
    else:
        # MXNet takes the last axis with oneDNN and all axes but the batch without.
        node.refuse(f"{node.rank} axes without multi_output or preserve_shape")
    return graph.add("Softmax", node.inputs[:1], node.name, axis=axis)


@_converts("square")
def _square(graph, node):
    return graph.add("Mul", node.inputs * 2, node.name)


@_converts("L2Normalization")
def _l2_normalization(graph, node):
    (data,) = node.inputs
    axes = {"instance": range(1, node.rank), "channel": [1], "spatial": range(2, node.rank)}
    square = graph.add("Mul", [data, data], f"{node.name}_square")
    total = _reduce(graph, "ReduceSum", square, f"{node.name}_sum", axes[node.text("mode", "instance")], keepdims=True)
    eps = graph.constant(f"{node.name}_eps", node.number("eps", 1e-10))
    shifted = graph.add("Add", [total, eps], f"{node.name}_shifted")
    norm = graph.add("Sqrt", [shifted], f"{node.name}_norm")
    return graph.add("Div", [data, norm], node.name)


def _reduction(graph, node, onnx_op):
    axes = {axis % node.rank for axis in node.ints("axis")}
    if not axes:
        axes = set(range(node.rank))
    elif node.flag("exclude", False):
        axes = set(range(node.rank)) - axes
    keepdims = node.flag("keepdims", False)
    if len(axes) < node.rank or keepdims:
        return _reduce(graph, onnx_op, node.inputs[0], node.name, sorted(axes), keepdims)
    # What is left of everything has the shape (1,) in MXNet, () in ONNX.
    result = _reduce(graph, onnx_op, node.inputs[0], f"{node.name}_all", sorted(axes), keepdims=True)
    return _reshape_to_output(graph, node, result)


_renames({"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}, _reduction)


def _reduce(graph, onnx_op, data, name, axes, keepdims):
    # Opset 18 made the axes an input; ReduceSum had it so before.
    if graph.opset < 18 and onnx_op != "ReduceSum":
        return graph.add(onnx_op, [data], name, axes=list(axes), keepdims=int(keepdims))
    return graph.add(onnx_op, [data, graph.constant(f"{name}_axes", axes, np.int64)], name, keepdims=int(keepdims))


@_converts("slice_axis")
def _slice_axis(graph, node):
    begin, end = node.integer("begin", 0), node.integer("end")
    return _slice(graph, node, [node.integer("axis")], [begin], [_INT64.max if end is None else end], [1])


@_converts("slice")
def _slice_all(graph, node):
    begin, end = node.ints("begin"), node.ints("end")
    steps = [step or 1 for step in node.ints("step", [1] * len(begin))]
    starts = [(0 if step > 0 else _INT64.max) if i is None else i for i, step in zip(begin, steps)]
    ends = [(_INT64.max if step > 0 else _INT64.min) if i is None else i for i, step in zip(end, steps)]
    return _slice(graph, node, range(len(begin)), starts, ends, steps)


def _slice(graph, node, axes, starts, ends, steps):
    bounds = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    constants = [graph.constant(f"{node.name}_{name}", value, np.int64) for name, value in bounds.items()]
    return graph.add("Slice", [*node.inputs, *constants], node.name)


@_converts("SliceChannel")
def _split(graph, node):
    axis, n_outputs = node.integer("axis", 1), node.integer("num_outputs")
    outputs = [f"{node.name}_output{i}" for i in range(n_outputs)] if n_outputs > 1 else [f"{node.name}_output"]
    attributes = {"num_outputs": n_outputs} if graph.opset >= 18 else {}
    if not node.flag("squeeze_axis", False):
        return graph.add("Split", node.inputs, node.name, outputs, axis=axis, **attributes)
    parts = [f"{node.name}_part{i}" for i in range(n_outputs)]
    parts = graph.add("Split", node.inputs, node.name, parts, axis=axis, **attributes)
    axes = graph.constant(f"{node.name}_axes", [axis], np.int64)
    return [graph.add("Squeeze", [part, axes], part, [output])[0] for part, output in zip(parts, outputs)]


@_converts("Reshape", "Flatten", "expand_dims", "squeeze")
def _reshape(graph, node):
    if node.input_shapes[0].count(None) != node.output_shape.count(None):
        node.refuse("with dynamic_batch, a shape that fixes the batch size")
    return _reshape_to_output(graph, node, node.inputs[0])


def _reshape_to_output(graph, node, data):
    """Give the tensor the shape that MXNet inferred for the node, whatever codes or axes led to it."""
    shape = [-1 if size is None else size for size in node.output_shape]
    return graph.add("Reshape", [data, graph.constant(f"{node.name}_shape", shape, np.int64)], node.name)


@_converts("transpose")
def _transpose(graph, node):
    return graph.add("Transpose", node.inputs, node.name, perm=node.ints("axes", range(node.rank)[::-1]))


@_converts("SwapAxis")
def _swap_axes(graph, node):
    perm = list(range(node.rank))
    first, second = node.integer("dim1", 0), node.integer("dim2", 0)
    perm[first], perm[second] = perm[second], perm[first]
    return graph.add("Transpose", node.inputs, node.name, perm=perm)


@_converts("tile")
def _tile(graph, node):
    reps = node.ints("reps")
    (data,) = node.inputs
    if len(reps) > node.rank:
        axes = graph.constant(f"{node.name}_axes", range(len(reps) - node.rank), np.int64)
        data = graph.add("Unsqueeze", [data, axes], f"{node.name}_unsqueezed")
    reps = [1] * (node.rank - len(reps)) + list(reps)
    return graph.add("Tile", [data, graph.constant(f"{node.name}_reps", reps, np.int64)], node.name)
