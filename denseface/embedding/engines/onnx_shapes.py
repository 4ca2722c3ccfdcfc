"""The shapes that ONNX's operators compute, one operator at a time.

An engine works them out too, but trusts what it reads meanwhile. Here each shape is checked before it is used. The
values of small whole numbers are followed as well, since the shape of a Reshape may be computed from that of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from denseface.core.onnx_format import to_array

if TYPE_CHECKING:
    from google.protobuf.message import Message

Shape = tuple[int, ...]

_MAX_FOLLOWED = 64  # values of a tensor
_KINDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}  # of AttributeProto's type


class UnusableError(Exception):
    """Why a file is refused."""


class Array(NamedTuple):
    """What is known of a tensor: its shape, and its values if they are few and do not depend on the picture."""

    shape: Shape
    values: np.ndarray | None = None

    @classmethod
    def of(cls, tensor: Message) -> Array:
        """Describe a tensor of the file."""
        shape = tuple(tensor.dims)
        return cls(shape, to_array(tensor) if math.prod(shape) <= _MAX_FOLLOWED else None)


class OnnxNode:
    """A node, the arrays that it reads (None for one that is left out), and its attributes.

    Attributes
    ----------
    op : str
        Its operator.
    inputs : list of Array or None
    n_outputs : int
    attributes : dict
        By name.
    """

    def __init__(self, node: Message, inputs: list[Array | None]):
        self.op = node.op_type
        self.inputs = inputs
        self.n_outputs = len(node.output)
        self.attributes = {entry.name: getattr(entry, _KINDS[entry.type]) for entry in node.attribute}

    @property
    def first(self) -> Array:
        """The first input."""
        return self.at(0)

    def at(self, index: int) -> Array:
        """Return an input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise UnusableError(f"its input {index} is missing")
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, index: int | None = None) -> list[int] | None:
        """Whole numbers from an attribute or, in newer operators, from an input; None if neither is there."""
        if name in self.attributes:
            return [int(number) for number in np.atleast_1d(self.attributes[name])]
        if index is None or index >= len(self.inputs) or self.inputs[index] is None:
            return None
        values = self.at(index).values
        if values is None or values.dtype.kind != "i":
            raise UnusableError(f"its {name} do not follow from the shape of a picture")
        return [int(number) for number in np.atleast_1d(values)]

    def axes(self, given: list[int] | None, rank: int) -> list[int]:
        """Axes counted from the start; all of them if none are given."""
        if given is None:
            return [*range(rank)]
        if any(not -rank <= axis < rank for axis in given) or len({axis % rank for axis in given}) < len(given):
            raise UnusableError(f"the axes {given} are not those of {rank} dimensions")
        return [axis % rank for axis in given]

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute ``axis``, counted from the start."""
        return self.axes([self.get("axis", default)], rank)[0]


def infer(node: Message, inputs: list[Array | None]) -> list[Array]:
    """Work out what is known of the outputs of a node.

    Raises
    ------
    UnusableError
        If the inputs do not fit it, or the shapes do not follow from theirs.
    """
    described = OnnxNode(node, inputs)
    shapes = _SHAPES[node.op_type](described)
    values = _values(described)
    if values is not None and values.size <= _MAX_FOLLOWED:
        return [Array(values.shape, values)]
    return [Array(tuple(shape)) for shape in shapes]


def _same(node: OnnxNode) -> list[Shape]:
    return [node.first.shape] * node.n_outputs


def _per_channel(node: OnnxNode) -> list[Shape]:
    """A normalization, whose other inputs have one number per channel."""
    shape = node.first.shape
    if len(shape) < 2 or any(array is not None and array.shape != shape[1:2] for array in node.inputs[1:]):
        raise UnusableError(f"its parameters do not fit {shape}")
    return [shape]


def _broadcast(node: OnnxNode) -> list[Shape]:
    shape = _broadcasted([array.shape for array in map(node.at, range(len(node.inputs)))])
    if node.op == "PRelu" and shape != node.first.shape:
        raise UnusableError("its slopes do not fit its input")
    return [shape]


def _broadcasted(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    found = tuple(map(max, zip(*aligned)))
    if any(size not in (1, most) for shape in aligned for size, most in zip(shape, found)):
        raise UnusableError(f"shapes {' and '.join(map(str, shapes))} do not fit each other")
    return found


def _convolution(node: OnnxNode) -> list[Shape]:
    data, weight = node.first.shape, node.at(1).shape
    group = node.get("group", 1)
    if len(data) < 3 or len(weight) != len(data) or data[1] != weight[1] * group or weight[0] % group:
        raise UnusableError(f"weights of {weight} do not fit an input of {data} in {group} groups")
    if list(node.get("kernel_shape", weight[2:])) != list(weight[2:]):
        raise UnusableError("its kernel_shape is not that of its weights")
    if len(node.inputs) > 2 and node.at(2).shape != weight[:1]:
        raise UnusableError("its bias does not fit its weights")
    return [(data[0], weight[0], *_windows(node, data[2:], weight[2:]))]


def _pooling(node: OnnxNode) -> list[Shape]:
    shape, kernel = node.first.shape, node.get("kernel_shape", [])
    if len(shape) < 3 or len(kernel) != len(shape) - 2 or node.n_outputs != 1:
        raise UnusableError(f"a window of {list(kernel)} does not fit an input of {shape}")
    return [(*shape[:2], *_windows(node, shape[2:], kernel))]


def _windows(node: OnnxNode, sizes: Shape, kernel: Sequence[int]) -> list[int]:
    """How many windows there are along each axis."""
    rank = len(sizes)
    steps, spread, pads = (
        list(node.get(name, [default] * count))
        for name, default, count in (("strides", 1, rank), ("dilations", 1, rank), ("pads", 0, 2 * rank))
    )
    if not len(steps) == len(spread) == rank or len(pads) != 2 * rank:
        raise UnusableError("its strides, dilations and pads do not fit its input")
    automatic = node.get("auto_pad", b"NOTSET").decode(errors="replace")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return [-(-size // step) for size, step in zip(sizes, steps)]
    if automatic not in ("NOTSET", "VALID", ""):
        raise UnusableError("its auto_pad is not known")
    counts = []
    for axis, (size, step, apart, width) in enumerate(zip(sizes, steps, spread, kernel)):
        room = size + (0 if automatic == "VALID" else pads[axis] + pads[axis + rank]) - (apart * (width - 1) + 1)
        count = room // step + 1
        if node.get("ceil_mode", 0) and room % step and (count * step) < size + pads[axis]:
            count += 1
        counts.append(count)
    return counts


def _gemm(node: OnnxNode) -> list[Shape]:
    left, right = node.first.shape, node.at(1).shape
    if len(left) != 2 or len(right) != 2:
        raise UnusableError(f"it multiplies matrices, not {left} and {right}")
    left, right = (s[::-1] if node.get(n, 0) else s for s, n in ((left, "transA"), (right, "transB")))
    if left[1] != right[0]:
        raise UnusableError(f"matrices of {left} and {right} do not fit each other")
    found = (left[0], right[1])
    if len(node.inputs) > 2 and node.inputs[2] and _broadcasted([found, node.inputs[2].shape]) != found:
        raise UnusableError("its bias does not fit")
    return [found]


def _matrix_product(node: OnnxNode) -> list[Shape]:
    left, right = node.first.shape, node.at(1).shape
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise UnusableError(f"matrices of {left} and {right} do not fit each other")
    stack = _broadcasted([left[:-2], right[:-2]])
    return [(*stack, left[-2], right[-1])]


def _concatenated(node: OnnxNode) -> list[Shape]:
    shapes = [array.shape for array in map(node.at, range(len(node.inputs)))]
    axis = node.axis(1, len(shapes[0]))
    others = {(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}
    if len(others) != 1:
        raise UnusableError(f"{' and '.join(map(str, shapes[:4]))} cannot be joined")
    return [(*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])]


def _flattened(node: OnnxNode) -> list[Shape]:
    shape = node.first.shape
    axis = node.get("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise UnusableError(f"it has no axis {axis}")
    axis = axis + len(shape) if axis < 0 else axis
    return [(math.prod(shape[:axis]), math.prod(shape[axis:]))]


def _reshaped(node: OnnxNode) -> list[Shape]:
    shape, codes = node.first.shape, node.numbers("shape", 1)
    if codes is None or len(codes) > 8 or codes.count(-1) > 1 or any(code < -1 for code in codes):
        raise UnusableError(f"it cannot be reshaped to {codes}")
    if not node.get("allowzero", 0):
        if any(code == 0 and axis >= len(shape) for axis, code in enumerate(codes)):
            raise UnusableError(f"{shape} cannot be reshaped to {codes}")
        codes = [shape[axis] if code == 0 else code for axis, code in enumerate(codes)]
    known = math.prod(code for code in codes if code != -1)
    found = tuple(math.prod(shape) // known if code == -1 and known else code for code in codes)
    if math.prod(found) != math.prod(shape):
        raise UnusableError(f"{shape} cannot be reshaped to {codes}")
    return [found]


def _reduced(node: OnnxNode) -> list[Shape]:
    rank = len(node.first.shape)
    given = node.numbers("axes", 1)
    if not given and node.get("noop_with_empty_axes", 0):
        return [node.first.shape]
    axes = node.axes(given or None, rank)
    keep = node.get("keepdims", 1)
    return [
        tuple(1 if axis in axes else size for axis, size in enumerate(node.first.shape) if keep or axis not in axes)
    ]


def _sliced(node: OnnxNode) -> list[Shape]:
    return [tuple(len(range(size)[part]) for size, part in zip(node.first.shape, parts_of(node)))]


def parts_of(node: OnnxNode) -> tuple[slice, ...]:
    """Return what a node ``Slice`` takes of each axis."""
    starts, ends = node.numbers("starts", 1), node.numbers("ends", 2)
    axes, steps = node.numbers("axes", 3), node.numbers("steps", 4)
    count = len(starts or [])
    axes = node.axes([*range(count)] if axes is None else axes, len(node.first.shape))
    steps = [1] * count if steps is None else steps
    if not starts or not len(ends or []) == len(axes) == len(steps) == count or 0 in steps:
        raise UnusableError("its starts, ends, axes and steps do not fit each other")
    parts = [slice(None)] * len(node.first.shape)
    for axis, start, end, step in zip(axes, starts, ends or [], steps):
        # Of an end before the start of the axis, Python makes its last element.
        parts[axis] = slice(start, None if step < 0 and end < -node.first.shape[axis] else end, step)
    return tuple(parts)


def _split(node: OnnxNode) -> list[Shape]:
    shape = node.first.shape
    axis, given = node.axis(0, len(shape)), node.numbers("split", 1)
    if given is None:
        size = -(-shape[axis] // node.n_outputs)
        given = [size] * (node.n_outputs - 1) + [shape[axis] - size * (node.n_outputs - 1)]
    if len(given) != node.n_outputs or sum(given) != shape[axis] or node.get("num_outputs", len(given)) != len(given):
        raise UnusableError(f"{shape[axis]} cannot be split into {given}")
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in given]


def _squeezed(node: OnnxNode) -> list[Shape]:
    shape, given = node.first.shape, node.numbers("axes", 1)
    axes = [axis for axis, size in enumerate(shape) if size == 1] if given is None else node.axes(given, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise UnusableError(f"{shape} cannot be squeezed along {axes}")
    return [tuple(size for axis, size in enumerate(shape) if axis not in axes)]


def _unsqueezed(node: OnnxNode) -> list[Shape]:
    given = node.numbers("axes", 1) or []
    axes = node.axes(given, len(node.first.shape) + len(given))
    sizes = iter(node.first.shape)
    return [tuple(1 if axis in axes else next(sizes) for axis in range(len(node.first.shape) + len(given)))]


def _tiled(node: OnnxNode) -> list[Shape]:
    repeats = node.numbers("repeats", 1)
    if repeats is None or len(repeats) != len(node.first.shape):
        raise UnusableError("it does not say how often each axis is repeated")
    return [tuple(size * count for size, count in zip(node.first.shape, repeats))]


def _transposed(node: OnnxNode) -> list[Shape]:
    rank = len(node.first.shape)
    perm = node.axes(list(node.get("perm", range(rank)[::-1])), rank)
    if len(perm) != rank:
        raise UnusableError(f"{rank} dimensions cannot be transposed to {perm}")
    return [tuple(node.first.shape[axis] for axis in perm)]


def _padded(node: OnnxNode) -> list[Shape]:
    shape, pads = node.first.shape, node.numbers("pads", 1)
    axes = node.axes(node.numbers("axes", 3), len(shape))
    if pads is None or len(pads) != 2 * len(axes) or not all(0 <= pad <= 1 << 12 for pad in pads):
        raise UnusableError("its pads do not fit its input")
    more = dict(zip(axes, zip(pads, pads[len(axes) :])))
    return [tuple(size + sum(more.get(axis, (0,))) for axis, size in enumerate(shape))]


def _gathered(node: OnnxNode) -> list[Shape]:
    shape = node.first.shape
    axis, indices = node.axis(0, len(shape)), node.at(1)
    if indices.values is None or indices.values.dtype.kind != "i":
        raise UnusableError("its indices are not whole numbers of the file")
    if not ((-shape[axis] <= indices.values) & (indices.values < shape[axis])).all():
        raise UnusableError(f"there is no {indices.values.ravel().tolist()} along an axis of {shape[axis]}")
    return [(*shape[:axis], *indices.shape, *shape[axis + 1 :])]


def _constant(node: OnnxNode) -> list[Shape]:
    return [np.shape(constant_value(node))]


def constant_value(node: OnnxNode) -> np.ndarray:
    """Return the value of a node ``Constant``."""
    for name, kind in (
        ("value", None),
        ("value_float", "f4"),
        ("value_int", "i8"),
        ("value_floats", "f4"),
        ("value_ints", "i8"),
    ):
        found = node.get(name)
        if found is not None:
            return to_array(found) if kind is None else np.array(found, kind)
    raise UnusableError("it has no value")


def _pooled_whole(node: OnnxNode) -> list[Shape]:
    shape = node.first.shape
    return [(*shape[:2], *[1] * len(shape[2:]))]


_SAME = """
    Abs Cast Clip DequantizeLinear Dropout Elu Erf Exp HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax
    LpNormalization Neg QuantizeLinear Relu Selu Sigmoid Softmax Softplus Softsign Sqrt Tanh
"""
_SHAPES: dict[str, Callable[[OnnxNode], list[Shape]]] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"), _broadcast),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduced),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pooling),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pooled_whole),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _per_channel),
    "Concat": _concatenated,
    "Constant": _constant,
    "Conv": _convolution,
    "Flatten": _flattened,
    "Gather": _gathered,
    "Gemm": _gemm,
    "MatMul": _matrix_product,
    "Pad": _padded,
    "Reshape": _reshaped,
    "Shape": lambda node: [np.shape(node.first.shape[node.get("start", 0) : node.get("end")])],
    "Slice": _sliced,
    "Split": _split,
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
OPERATORS = frozenset(_SHAPES)


def _values(node: OnnxNode) -> np.ndarray | None:
    """The values of an output, where they follow from the file and the shape of the picture; None otherwise."""
    if node.op == "Shape":
        return np.array(node.first.shape[node.get("start", 0) : node.get("end")], np.int64)
    if node.op == "Constant":
        return constant_value(node)
    given = [array.values for array in node.inputs if array and array.values is not None]
    if not given or len(given) < len(node.inputs) or given[0].dtype.kind != "i":
        return None
    if node.op == "Cast":
        return given[0] if node.get("to") in (6, 7) else None
    simple = {
        "Identity": lambda: given[0],
        "Gather": lambda: np.take(given[0], given[1], node.axis(0, given[0].ndim)),
        "Concat": lambda: np.concatenate(given, node.axis(1, given[0].ndim)),
        "Slice": lambda: given[0][parts_of(node)],
        **dict.fromkeys(("Squeeze", "Unsqueeze", "Reshape"), lambda: given[0].reshape(_SHAPES[node.op](node)[0])),
        "Add": lambda: given[0] + given[1],
        "Sub": lambda: given[0] - given[1],
        "Mul": lambda: given[0] * given[1],
    }
    return simple[node.op]() if node.op in simple else None
