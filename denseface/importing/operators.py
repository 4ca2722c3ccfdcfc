"""What each ONNX operator is in MXNet.

``CONVERTERS`` maps the name of an operator to a function of its `Layer`, which returns the node that takes its place or
a list of edges, one for each output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from denseface.embedding.engines.onnx_shapes import OnnxNode, UnusableError, parts_of
from denseface.models.graph import Edge, Node, Shape

if TYPE_CHECKING:
    from google.protobuf.message import Message

_FLOAT32 = np.finfo(np.float32)
_DRAWN = {"__init__": "zeros"}  # before the values are set; MXNet draws by endings of names, which may be any here
_FIXED = {"__lr_mult__": "0.0"}  # a constant, which training leaves as it is


class Importer:
    """An MXNet graph under construction.

    Parameters
    ----------
    values : dict of str to ndarray
        The tensors of the file; computed constants are added.
    input_name : str
        The tensor of the picture, which becomes the variable ``data``.
    uses : Counter of str
        How often each tensor is read.

    Attributes
    ----------
    values, uses
        As given.
    parameters : dict of str to ndarray
        The variables other than ``data``.
    """

    def __init__(self, values: dict[str, np.ndarray], input_name: str, uses: Counter[str]):
        self.values = values
        self.uses = uses
        self.parameters: dict[str, np.ndarray] = {}
        self._edges: dict[str, Edge] = {input_name: (Node("null", "data"), 0)}
        self._variables: dict[tuple[str, bytes], Node] = {}

    def convert(self, proto: Message, described: OnnxNode, shapes: Sequence[Shape]) -> None:
        """Add a node of the file, whose operator is in `CONVERTERS`.

        Parameters
        ----------
        proto, described : NodeProto and OnnxNode
            The node.
        shapes : sequence of tuple of int
            Those of its outputs.

        Raises
        ------
        UnusableError
            If one of its settings has no counterpart.
        """
        layer = Layer(self, proto, described, shapes)
        if proto.op_type in _FOLDED and all(name in self.values for name in proto.input if name):
            with np.errstate(all="ignore"):
                folded = _FOLDED[proto.op_type](layer)
            if folded.size > 1 and not np.isfinite(folded).all():
                raise ValueError("it computes NaN or infinity from constants")
            self.values[proto.output[0]] = folded
            return
        made = CONVERTERS[proto.op_type](layer)
        edges = made if isinstance(made, list) else [(made, 0)]
        self._edges.update(zip(proto.output, edges))

    def edge(self, name: str) -> Edge:
        """Return the output that a computed tensor has become."""
        if name not in self._edges:
            raise UnusableError(f"it reads the constant {name[:80]}")
        return self._edges[name]

    def variable(self, name: str, array: np.ndarray, attrs: Mapping[str, str], alone: bool = False) -> Edge:
        """Return the variable of a constant: the same one for the same values, or one for each call with `alone`."""
        array = np.ascontiguousarray(array, np.float32)
        key = (name, array.tobytes() + str(array.shape).encode())
        if alone or key not in self._variables:
            unique, number = name, 1
            while unique in self.parameters or unique == "data":
                number += 1
                unique = f"{name}_{number}"
            self.parameters[unique] = array
            node = Node("null", unique, {**_DRAWN, "__shape__": str(array.shape), **attrs})
            if alone:
                return node, 0
            self._variables[key] = node
        return self._variables[key], 0


class Layer:
    """A node of the file, on its way into the graph."""

    def __init__(self, importer: Importer, proto: Message, described: OnnxNode, shapes: Sequence[Shape]):
        self.importer = importer
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.op = proto.op_type
        self.name = proto.name or proto.output[0]
        self.get = described.get
        self.described = described
        self.shapes = shapes

    @property
    def shape(self) -> Shape:
        """The shape of the first output."""
        return self.shapes[0]

    def given(self, index: int) -> bool:
        """Test whether there is such an input."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def input_shape(self, index: int = 0) -> Shape:
        """Return the shape of an input."""
        return self.described.at(index).shape

    def data(self, index: int = 0) -> Edge:
        """Return a computed input."""
        return self.importer.edge(self.inputs[index])

    def is_constant(self, index: int) -> bool:
        """Test whether an input is a constant."""
        return self.inputs[index] in self.importer.values

    def constant(self, index: int) -> np.ndarray:
        """Return the values of an input that must be a constant."""
        if not self.is_constant(index):
            raise UnusableError(f"its input {self.inputs[index][:80]} is computed")
        return self.importer.values[self.inputs[index]]

    def scalar(self, index: int, default: float) -> float:
        """Return an optional input that is one number."""
        return float(self.constant(index).item()) if self.given(index) else default

    def parameter(self, index: int, array: np.ndarray | None = None, **attrs: str) -> Edge:
        """Return the variable of a constant input, with other values if an array is given."""
        values = self.constant(index) if array is None else array
        return self.importer.variable(self.inputs[index], values, attrs)

    def make(self, op: str, inputs: Sequence[Edge], suffix: str = "", **attrs: Any) -> Node:
        """Make a node of the layer's name."""
        texts = {key: repr(value) if isinstance(value, float) else str(value) for key, value in attrs.items()}
        return Node(op, self.name + suffix, texts, list(inputs))

    def edge(self, op: str, inputs: Sequence[Edge], suffix: str, **attrs: Any) -> Edge:
        """Make a node, and return its output."""
        return self.make(op, inputs, suffix, **attrs), 0


Converter = Callable[[Layer], Union[Node, list[Edge]]]


def _plain(op: str, **attrs: str) -> Converter:
    """An operator of one input."""
    return lambda layer: layer.make(op, [layer.data()], **attrs)


def _as_it_is(layer: Layer) -> list[Edge]:
    return [layer.data()]


def _convolution(layer: Layer) -> Node:
    weight = layer.constant(1)
    _require_pictures(layer)
    dilate = tuple(layer.get("dilations", (1, 1)))
    data, stride, pad = _windows(layer, weight.shape[2:], dilate, fill=0.0)
    bias = [layer.parameter(2)] if layer.given(2) else []
    return layer.make(
        "Convolution",
        [data, layer.parameter(1), *bias],
        kernel=weight.shape[2:],
        stride=stride,
        dilate=dilate,
        pad=pad,
        num_filter=len(weight),
        num_group=layer.get("group", 1),
        no_bias=not bias,
    )


def _pooling(layer: Layer) -> Node:
    _require_pictures(layer)
    is_mean = layer.op == "AveragePool"
    if set(layer.get("dilations", (1,))) != {1}:
        raise UnusableError("windows with gaps (dilations)")
    kernel = tuple(layer.get("kernel_shape"))
    counts_padding = bool(layer.get("count_include_pad", 0))
    data, stride, pad = _windows(layer, kernel, (1, 1), fill=0.0 if is_mean else float(_FLOAT32.min))
    if is_mean and data != layer.data() and (not counts_padding or layer.get("ceil_mode", 0)):
        raise UnusableError("a mean over windows of different sizes (pads, ceil_mode)")
    return layer.make(
        "Pooling",
        [data],
        kernel=kernel,
        stride=stride,
        pad=pad,
        pool_type="avg" if is_mean else "max",
        count_include_pad=counts_padding,
    )


def _require_pictures(layer: Layer) -> None:
    if len(layer.input_shape()) != 4:
        raise UnusableError(f"an input of {len(layer.input_shape())} dimensions")


def _windows(
    layer: Layer, kernel: Sequence[int], dilate: Sequence[int], fill: float
) -> tuple[Edge, tuple[int, ...], tuple[int, ...]]:
    """Return the input, stride and padding; what MXNet cannot pad itself is padded before."""
    stride = tuple(layer.get("strides", (1, 1)))
    sizes, counts = layer.input_shape()[2:], layer.shape[2:]
    extents = [apart * (width - 1) + 1 for apart, width in zip(dilate, kernel)]
    missing = [
        max(0, (count - 1) * step + extent - size) for count, step, extent, size in zip(counts, stride, extents, sizes)
    ]
    automatic = layer.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        smaller, larger = [total // 2 for total in missing], [-(-total // 2) for total in missing]
        begin, end = (smaller, larger) if automatic == b"SAME_UPPER" else (larger, smaller)
    else:
        pads = list(layer.get("pads", (0, 0, 0, 0))) if automatic != b"VALID" else [0] * 4
        begin = pads[:2]
        end = [max(pad, total - first) for pad, total, first in zip(pads[2:], missing, begin)]  # with ceil_mode
    if begin == end:
        return layer.data(), stride, tuple(begin)
    widths = (0, 0, 0, 0, begin[0], end[0], begin[1], end[1])
    padded = layer.edge("Pad", [layer.data()], "_padded", mode="constant", pad_width=widths, constant_value=fill)
    return padded, stride, (0, 0)


def _pooled_whole(layer: Layer) -> Node:
    _require_pictures(layer)
    kind = "avg" if layer.op == "GlobalAveragePool" else "max"
    return layer.make("Pooling", [layer.data()], kernel=(1, 1), pool_type=kind, global_pool=True)


def _batch_normalization(layer: Layer) -> Node:
    states = [layer.importer.variable(layer.inputs[index], layer.constant(index), {}, alone=True) for index in (3, 4)]
    return layer.make(
        "BatchNorm",
        [layer.data(), layer.parameter(1), layer.parameter(2), *states],
        eps=float(layer.get("epsilon", 1e-5)),
        momentum=float(layer.get("momentum", 0.9)),
        fix_gamma=False,
    )


def _prelu(layer: Layer) -> Node:
    slopes, shape = layer.constant(1), layer.input_shape()
    channels = slopes.shape[-(len(shape) - 1) :][0] if slopes.ndim >= len(shape) - 1 else 1
    if slopes.size not in (1, channels):
        raise UnusableError(f"slopes of the shape {slopes.shape}")
    return layer.make("LeakyReLU", [layer.data(), layer.parameter(1, slopes.reshape(-1))], act_type="prelu")


def _selu(layer: Layer) -> Node:
    if any(name in layer.described.attributes for name in ("alpha", "gamma")):
        raise UnusableError("other numbers than those of the paper")
    return layer.make("LeakyReLU", [layer.data()], act_type="selu")


def _clip(layer: Layer) -> Node:
    low, high = (
        layer.scalar(index, float(layer.get(name, limit)))
        for index, name, limit in ((1, "min", _FLOAT32.min), (2, "max", _FLOAT32.max))
    )
    return layer.make("clip", [layer.data()], a_min=min(low, high), a_max=high)  # as ONNX has it


def _hard_sigmoid(layer: Layer) -> Node:
    return layer.make(
        "hard_sigmoid", [layer.data()], alpha=float(layer.get("alpha", 0.2)), beta=float(layer.get("beta", 0.5))
    )


def _hard_swish(layer: Layer) -> Node:
    gate = layer.edge("hard_sigmoid", [layer.data()], "_gate", alpha=1 / 6, beta=0.5)
    return layer.make("elemwise_mul", [layer.data(), gate])


# The operator for a number on the right, for one on the left, for equal shapes, and for others.
_ARITHMETIC = {
    "Add": ("_plus_scalar", "_plus_scalar", "elemwise_add", "broadcast_add"),
    "Sub": ("_minus_scalar", "_rminus_scalar", "elemwise_sub", "broadcast_sub"),
    "Mul": ("_mul_scalar", "_mul_scalar", "elemwise_mul", "broadcast_mul"),
    "Div": ("_div_scalar", "_rdiv_scalar", "elemwise_div", "broadcast_div"),
    "Pow": ("_power_scalar", "_rpower_scalar", "_power", "broadcast_power"),
    "Max": ("_maximum_scalar", "_maximum_scalar", "_maximum", "broadcast_maximum"),
    "Min": ("_minimum_scalar", "_minimum_scalar", "_minimum", "broadcast_minimum"),
}


def _arithmetic(layer: Layer) -> Node:
    if len(layer.inputs) != 2:
        raise UnusableError(f"{len(layer.inputs)} inputs")
    with_number, number_first, equal, broadcast = _ARITHMETIC[layer.op]
    constants = [index for index in (0, 1) if layer.is_constant(index)]
    if constants:
        (index,) = constants
        array = layer.constant(index)
        if array.size == 1 and layer.input_shape(1 - index) == layer.shape:
            op = number_first if index == 0 else with_number
            return layer.make(op, [layer.data(1 - index)], scalar=float(array.item()))
        linear = _bias_of(layer, 1 - index, array)
        if linear is not None:
            return linear
    # MXNet lines shapes up from the right only where ranks are equal.
    rank = len(layer.shape)
    edges = []
    for index in (0, 1):
        shape = layer.input_shape(index)
        if layer.is_constant(index):
            full = layer.constant(index).reshape((1,) * (rank - len(shape)) + shape)
            edges.append(layer.parameter(index, full, **_FIXED))
        elif len(shape) < rank:
            raise UnusableError(f"inputs of {len(shape)} and {rank} dimensions")
        else:
            edges.append(layer.data(index))
    shapes = {layer.input_shape(index) for index in (0, 1)}
    return layer.make(equal if len(shapes) == 1 and not constants else broadcast, edges)


def _bias_of(layer: Layer, index: int, bias: np.ndarray) -> Node | None:
    """Make a sum the bias of the fully connected layer that it follows, if it is one."""
    node, _ = layer.data(index)
    fits = node.op == "FullyConnected" and node.flag("no_bias") and bias.size == layer.shape[-1]
    if layer.op != "Add" or not fits or layer.importer.uses[layer.inputs[index]] != 1:
        return None
    parameter = layer.parameter(1 - index, bias.reshape(-1))
    return Node("FullyConnected", layer.name, {**node.attrs, "no_bias": "False"}, [*node.inputs, parameter])


def _sum(layer: Layer) -> Node:
    if {layer.input_shape(index) for index in range(len(layer.inputs))} != {layer.shape}:
        raise UnusableError("inputs of different shapes")
    return layer.make("add_n", [layer.data(index) for index in range(len(layer.inputs))], num_args=len(layer.inputs))


def _gemm(layer: Layer) -> Node:
    if layer.get("transA", 0):
        raise UnusableError("transA")
    weight = layer.constant(1)
    if not layer.get("transB", 0):
        weight = weight.T
    alpha, beta = (float(layer.get(name, 1.0)) for name in ("alpha", "beta"))
    weight = weight if alpha == 1 else weight * np.float32(alpha)
    inputs = [layer.data(), layer.parameter(1, weight)]
    if layer.given(2):
        bias = np.broadcast_to(layer.constant(2).reshape(-1), (len(weight),))
        inputs.append(layer.parameter(2, bias if beta == 1 else bias * np.float32(beta)))
    return layer.make("FullyConnected", inputs, num_hidden=len(weight), no_bias=len(inputs) == 2)


def _matrix_product(layer: Layer) -> Node:
    weight = layer.constant(1)
    if weight.ndim != 2:
        raise UnusableError(f"a matrix of the shape {weight.shape}")
    inputs = [layer.data(), layer.parameter(1, weight.T)]
    return layer.make("FullyConnected", inputs, num_hidden=weight.shape[1], no_bias=True, flatten=False)


def _reshaped(layer: Layer) -> Node:
    before, after = layer.input_shape(), layer.shape
    if after[:1] != before[:1]:
        raise UnusableError("a shape that mixes pictures")
    return layer.make("Reshape", [layer.data()], shape=(0, *after[1:]))


def _flattened(layer: Layer) -> Node:
    rank = len(layer.input_shape())
    return layer.make("Flatten", [layer.data()]) if layer.get("axis", 1) in (1, 1 - rank) else _reshaped(layer)


def _transposed(layer: Layer) -> Node:
    rank = len(layer.input_shape())
    return layer.make("transpose", [layer.data()], axes=tuple(layer.get("perm", range(rank)[::-1])))


def _padded(layer: Layer) -> Node | list[Edge]:
    rank = len(layer.input_shape())
    pads, axes = layer.described.numbers("pads", 1) or [], layer.described.numbers("axes", 3)
    axes = layer.described.axes(axes, rank)
    ends = dict(zip(axes, zip(pads, pads[len(axes) :])))
    widths = [width for axis in range(rank) for width in ends.get(axis, (0, 0))]
    if not any(widths):
        return [layer.data()]
    mode = layer.get("mode", b"constant").decode(errors="replace")
    if rank != 4 or any(widths[:4]) or mode not in ("constant", "edge", "reflect"):
        raise UnusableError(f"padding of {tuple(widths)} by {mode}")
    value = layer.scalar(2, float(layer.get("value", 0.0)))
    return layer.make("Pad", [layer.data()], mode=mode, pad_width=tuple(widths), constant_value=value)


def _concatenated(layer: Layer) -> Node:
    edges = [layer.data(index) for index in range(len(layer.inputs))]
    return layer.make("Concat", edges, dim=layer.described.axis(1, len(layer.shape)), num_args=len(edges))


def _dropout(layer: Layer) -> list[Edge]:
    rate = layer.scalar(1, float(layer.get("ratio", 0.5)))
    if not 0 < rate < 1:
        return [layer.data()]
    return [layer.edge("Dropout", [layer.data()], "", p=rate)]


_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceL2": "norm"}


def _reduced(layer: Layer) -> Node | list[Edge]:
    given, rank = layer.described.numbers("axes", 1), len(layer.input_shape())
    if not given and layer.get("noop_with_empty_axes", 0):
        return [layer.data()]
    axes = tuple(sorted(layer.described.axes(given or None, rank)))
    if 0 in axes:
        raise UnusableError("a reduction over pictures")
    return layer.make(_REDUCTIONS[layer.op], [layer.data()], axis=axes, keepdims=bool(layer.get("keepdims", 1)))


def _l2_normalized(layer: Layer) -> Node:
    axis = layer.described.axis(-1, len(layer.shape))
    if layer.get("p", 2) != 2 or axis != 1:
        raise UnusableError("a normalization other than by the length of features")
    length = layer.edge("norm", [layer.data()], "_length", axis=(axis,), keepdims=True)
    return layer.make("broadcast_div", [layer.data(), length])


def _softmax(layer: Layer) -> Node:
    op = "softmax" if layer.op == "Softmax" else "log_softmax"
    return layer.make(op, [layer.data()], axis=layer.described.axis(-1, len(layer.shape)))


def _sliced(layer: Layer) -> Node:
    parts = [range(size)[part] for size, part in zip(layer.input_shape(), parts_of(layer.described))]
    begins = tuple(part.start for part in parts)
    # Of a range that ends before the start of the axis, MXNet writes the end as None.
    ends = tuple(None if part.stop < 0 else part.stop for part in parts)
    return layer.make("slice", [layer.data()], begin=begins, end=ends, step=tuple(part.step for part in parts))


def _split(layer: Layer) -> list[Edge]:
    axis = layer.described.axis(0, len(layer.shape))
    edges, begin = [], 0
    for number, shape in enumerate(layer.shapes):
        end = begin + shape[axis]
        edges.append(layer.edge("slice_axis", [layer.data()], f"_{number}", axis=axis, begin=begin, end=end))
        begin = end
    return edges


def _tiled(layer: Layer) -> Node:
    repeats = layer.described.numbers("repeats", 1) or []
    if repeats[0] != 1:
        raise UnusableError("a repetition of pictures")
    return layer.make("tile", [layer.data()], reps=tuple(repeats))


def _gathered(layer: Layer) -> Node:
    """The one choice that networks make: the channels in reverse order."""
    shape, indices = layer.input_shape(), layer.constant(1)
    axis = layer.described.axis(0, len(shape))
    if indices.tolist() != [*range(shape[axis])][::-1]:
        raise UnusableError("a choice by indices other than the reverse order")
    return layer.make("reverse", [layer.data()], axis=(axis,))


def _cast(layer: Layer) -> list[Edge]:
    if layer.get("to") not in (1, 10, 11):
        raise UnusableError("a cast to whole numbers")
    return [layer.data()]


CONVERTERS: dict[str, Converter] = {
    **{
        op: _plain("Activation", act_type=kind)
        for op, kind in (
            ("Relu", "relu"),
            ("Sigmoid", "sigmoid"),
            ("Tanh", "tanh"),
            ("Softplus", "softrelu"),
            ("Softsign", "softsign"),
        )
    },
    **{
        op: _plain(name)
        for op, name in (("Sqrt", "sqrt"), ("Exp", "exp"), ("Log", "log"), ("Abs", "abs"), ("Neg", "negative"))
    },
    "Erf": _plain("erf"),
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pooling),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pooled_whole),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _reshaped),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concatenated,
    "Conv": _convolution,
    "Dropout": _dropout,
    "Elu": lambda layer: layer.make("LeakyReLU", [layer.data()], act_type="elu", slope=float(layer.get("alpha", 1.0))),
    "Flatten": _flattened,
    "Gather": _gathered,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _as_it_is,
    "LeakyRelu": lambda layer: layer.make(
        "LeakyReLU", [layer.data()], act_type="leaky", slope=float(layer.get("alpha", 0.01))
    ),
    "LpNormalization": _l2_normalized,
    "MatMul": _matrix_product,
    "Selu": _selu,
    "PRelu": _prelu,
    "Pad": _padded,
    "Slice": _sliced,
    "Split": _split,
    "Sum": _sum,
    "Tile": _tiled,
    "Transpose": _transposed,
}

# Of constants, these are computed at once.
_FOLDED: dict[str, Callable[[Layer], np.ndarray]] = {
    **{
        op: lambda layer, function=function: function(layer.constant(0), layer.constant(1))  # type: ignore[misc]
        for op, function in (
            ("Add", np.add),
            ("Sub", np.subtract),
            ("Mul", np.multiply),
            ("Div", np.divide),
            ("Pow", np.power),
            ("Max", np.maximum),
            ("Min", np.minimum),
        )
    },
    **dict.fromkeys(("Identity", "Cast"), lambda layer: layer.constant(0)),
    **dict.fromkeys(
        ("Reshape", "Squeeze", "Unsqueeze", "Flatten"), lambda layer: layer.constant(0).reshape(layer.shape)
    ),
    "Sqrt": lambda layer: np.sqrt(layer.constant(0)),
    "Transpose": lambda layer: layer.constant(0).transpose(layer.get("perm")),
}
