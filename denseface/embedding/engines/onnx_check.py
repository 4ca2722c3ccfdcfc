"""ONNX files from elsewhere, checked before an engine sees them.

ONNX Runtime and OpenVINO trust what they load: a loop may run for ever, a shape may ask for any memory, and other
surprises end in errors of many lines. Here only operators that image networks need pass, with attributes that make
sense, tensors that are as large as they say, and shapes that follow from a picture and stay within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError
from denseface.core.packages import require

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto

_LAYERS = (
    "Abs Add AveragePool BatchNormalization Clip Concat Constant Conv DequantizeLinear Div Elu Erf Exp Flatten Gemm "
    "GlobalAveragePool GlobalMaxPool Identity LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg PRelu Pow "
    "QuantizeLinear ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Selu Sigmoid Slice Softmax Softplus Softsign "
    "Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze"
)
OPERATORS = frozenset(_LAYERS.split())

_OLDEST_OPSET = 7
_OLDEST_IR = 3
_MAX_NODES = 100_000
_MAX_NAME = 1000
_MAX_SIDE = 4096
_MAX_EMB_SIZE = 1 << 20
_MAX_NUMBERS = 16  # in one attribute
_MAX_ELEMENTS = 1 << 28  # in a tensor of the file
# For one picture; about three times what the largest networks for faces need.
_MAX_COMPUTED = 1 << 27
_MAX_PRODUCTS = 100_000_000_000

# The least and the greatest value of attributes; of others, as large as 32 bits allow.
_RANGES = {
    "kernel_shape": (1, _MAX_SIDE),
    "strides": (1, _MAX_SIDE),
    "dilations": (1, _MAX_SIDE),
    "pads": (0, _MAX_SIDE),
    "group": (1, 1 << 16),
    "num_outputs": (1, 1 << 16),
    "axis": (-8, 7),
    "axes": (-8, 7),
    "perm": (0, 7),
    "training_mode": (0, 0),
}
_ANY = (-(1 << 31), (1 << 31) - 1)


class _Unusable(Exception):  # noqa: N818
    """Why a file is refused."""


def check_onnx(content: bytes, name: str) -> ModelProto:
    """Read an ONNX file and check it.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        Where it comes from, for error messages.

    Returns
    -------
    ModelProto
        With one input ``data``, float32 (N, C, H, W), and one output, float32 (N, emb_size), whose shapes are written
        in it; N is a name, not a number, if it takes any number of pictures.

    Raises
    ------
    InputError
        If it is not an ONNX file, or not one that can be trusted; the message says why.
    """
    onnx = require("onnx")
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf has several
        raise InputError(f"{name}: not an ONNX file; denseface export writes one") from error
    try:
        _check_model(model)
        _check_computation(model)
    except _Unusable as problem:
        raise InputError(f"{name}: refused: {problem}") from problem
    return model


def _check_model(model: ModelProto) -> None:
    """Check everything that is written in the file."""
    import onnx

    # An engine would read any file that such a tensor names.
    if any(isinstance(part, onnx.TensorProto) and part.external_data for part in _parts(model)):
        raise _Unusable("it takes values from other files; export the network again")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if len(model.opset_import) != 1 or versions.keys() - {"", "ai.onnx"}:
        raise _Unusable("it needs operators beside those of ONNX")
    if not _OLDEST_OPSET <= next(iter(versions.values())) <= newest:
        raise _Unusable(
            f"its opset is not between {_OLDEST_OPSET} and {newest}, the newest that the package onnx knows"
        )
    if not _OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise _Unusable(f"its format is not one of {_OLDEST_IR} to {onnx.IR_VERSION}")
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise _Unusable("it defines functions, training steps or sparse tensors")
    if len(graph.node) > _MAX_NODES:
        raise _Unusable(f"it has {len(graph.node)} nodes; up to {_MAX_NODES} are read")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for node in graph.node:
        _check_node(node)
    _check_ends(graph)


def _check_ends(graph) -> None:
    """Check the input and the output."""
    values = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in values]
    if len(inputs) != 1 or len(graph.output) != 1 or inputs[0].name != "data":
        raise _Unusable("it does not have one input called data and one output")
    del graph.input[:]  # which may list parameters as well
    graph.input.extend(inputs)
    del graph.value_info[:]  # shapes are inferred, not believed
    kinds = [entry.type.tensor_type for entry in (inputs[0], graph.output[0])]
    if any(kind.elem_type != 1 for kind in kinds):  # TensorProto.FLOAT
        raise _Unusable("its input and its output are not float32")
    _, channels, height, width = _sizes(kinds[0], 4, "input")
    if channels not in (1, 3) or not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise _Unusable(f"its input has the shape (N, {channels}, {height}, {width}), which pictures do not have")


def _sizes(kind, rank: int, what: str) -> list[int]:
    sizes = [size.dim_value for size in kind.shape.dim]
    if len(sizes) != rank or not 0 <= sizes[0] <= 1 << 16 or min(sizes[1:]) < 1:
        raise _Unusable(f"its {what} has the shape {tuple(sizes)}, where {rank} sizes above 0 should be")
    return sizes


def _check_tensor(tensor: TensorProto) -> None:
    from onnx import numpy_helper

    name = tensor.name[:80]
    if min(tensor.dims, default=1) < 1 or len(tensor.dims) > 8 or math.prod(tensor.dims) > _MAX_ELEMENTS:
        raise _Unusable(f"the tensor {name} has the shape {tuple(tensor.dims)[:9]}")
    try:
        values = numpy_helper.to_array(tensor)
    except Exception as error:  # NumPy and onnx have several
        raise _Unusable(f"the tensor {name} does not have as many values as its shape {tuple(tensor.dims)}") from error
    finite = values.dtype.kind not in "fc" or (np.isfinite(values).all() if values.size > 1 else not np.isnan(values))
    if not finite:
        raise _Unusable(f"the tensor {name} contains NaN or infinity")


def _check_node(node: NodeProto) -> None:
    what = f"{node.op_type[:80]} {node.name[:80]}"
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise _Unusable(f"the operator {node.op_type[:80]} is not one that image networks need")
    if any(len(name) > _MAX_NAME for name in (node.name, *node.input, *node.output)):
        raise _Unusable(f"{what}: a name has more than {_MAX_NAME} characters")
    for attribute in node.attribute:
        _check_attribute(attribute, f"{what}: {attribute.name[:80]}")


def _check_attribute(attribute: AttributeProto, what: str) -> None:
    from onnx import AttributeProto

    kinds = {
        AttributeProto.INT: [attribute.i],
        AttributeProto.INTS: attribute.ints,
        AttributeProto.FLOAT: [attribute.f],
        AttributeProto.FLOATS: attribute.floats,
        AttributeProto.STRING: [],
        AttributeProto.TENSOR: [],
    }
    if attribute.type not in kinds or attribute.ref_attr_name:
        raise _Unusable(f"{what} is of a kind that image networks do not need")
    if attribute.type == AttributeProto.TENSOR:
        _check_tensor(attribute.t)
    numbers = kinds[attribute.type]
    least, most = _RANGES.get(attribute.name, _ANY)
    if len(numbers) > _MAX_NUMBERS or not all(least <= number <= most for number in numbers):
        raise _Unusable(f"{what} is not between {least} and {most}")


def _check_computation(model: ModelProto) -> None:
    """Check what is computed for one picture, and write the shapes of input and output into the model."""
    import onnx

    taken = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    try:
        onnx.checker.check_model(model)
        shapes = _infer_shapes(model, taken or 1)
    except _Unusable:
        raise
    except Exception as error:  # onnx has several, and lets those of C++ through
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise _Unusable(f"it is not consistent: {lines[0][:200] if lines else type(error).__name__}") from error
    found, (entry,) = shapes[model.graph.output[0].name], model.graph.output
    declared = _sizes(entry.type.tensor_type, 2, "output")
    if len(found) != 2 or found[0] != (taken or 1) or found[1] != declared[1] or found[1] > _MAX_EMB_SIZE:
        raise _Unusable(
            f"its output has the shape {found}, which is not one embedding of {declared[1]} values per picture"
        )
    for end, sizes in ((model.graph.input[0], shapes["data"]), (entry, found)):
        described = end.type.tensor_type.shape
        del described.dim[:]
        for size in sizes:
            described.dim.add().dim_value = size
        if not taken:
            described.dim[0].dim_param = "N"


def _infer_shapes(model: ModelProto, pictures: int) -> dict[str, tuple[int, ...]]:
    """Infer every shape and sum up what is computed.

    One node at a time, so that no shape is used before it was checked: of negative sizes, onnx ends the process.
    """
    from onnx import defs, helper, shape_inference

    graph, opset = model.graph, model.opset_import[0].version
    shapes: dict[str, tuple[int, ...]] = {"data": (pictures, *_sizes(graph.input[0].type.tensor_type, 4, "input")[1:])}
    types = {"data": helper.make_tensor_type_proto(1, shapes["data"])}
    values = {}
    for tensor in graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        shapes[tensor.name] = tuple(tensor.dims)
        if math.prod(tensor.dims) <= _MAX_NUMBERS:  # it may be a shape, or axes
            values[tensor.name] = tensor
    computed = products = 0
    for node in graph.node:
        schema = defs.get_schema(node.op_type, opset, "")
        inferred = shape_inference.infer_node_outputs(
            schema, node, types, values, opset_imports=list(model.opset_import), ir_version=model.ir_version
        )
        for output in filter(None, node.output):
            shape = _known_shape(inferred.get(output), output)
            types[output], shapes[output] = inferred[output], shape
            computed += math.prod(shape)
            products += math.prod(shape) * _products_per_element(node, shapes)
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                values[node.output[0]] = attribute.t
        if computed > _MAX_COMPUTED * pictures or products > _MAX_PRODUCTS * pictures:
            raise _Unusable("it computes more than any network for faces does")
    return shapes


def _known_shape(kind: TypeProto | None, name: str) -> tuple[int, ...]:
    sizes = kind.tensor_type.shape.dim if kind is not None and kind.tensor_type.HasField("shape") else None
    if sizes is None or not all(size.HasField("dim_value") for size in sizes):
        raise _Unusable(f"the shape of {name[:80]} does not follow from that of a picture")
    shape = tuple(size.dim_value for size in sizes)
    if min(shape, default=1) < 1:
        raise _Unusable(f"{name[:80]} has the shape {shape}, so it has no values")
    return shape


def _products_per_element(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    operands = [shapes.get(name, ()) for name in node.input]
    if node.op_type == "Conv":
        return math.prod(operands[1][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return max(operands[0], default=1)
    if node.op_type in ("AveragePool", "MaxPool"):
        return math.prod(next((attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape"), ()))
    return 1


def _parts(message: Message) -> Iterator[Message]:
    """The message and all messages within."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _parts(part)
