"""ONNX files from elsewhere, checked before an engine sees them.

ONNX Runtime and OpenVINO trust what they load: a loop may run for ever, a shape may ask for any memory, and other
surprises end in errors of many lines. Here only operators that image networks need pass, with attributes that make
sense, tensors that are as large as they say, and shapes that follow from a picture and stay within bounds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError
from denseface.core.onnx_format import read_model, to_array
from denseface.embedding.engines.onnx_shapes import OPERATORS, Array, Shape, Unusable, infer

if TYPE_CHECKING:
    from google.protobuf.message import Message

# The operators in :data:`OPERATORS` take what they took in all of these.
_OLDEST_OPSET, _NEWEST_OPSET = 7, 28
_OLDEST_IR, _NEWEST_IR = 3, 14
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
_TENSOR = 4


def check_onnx(content: bytes, name: str) -> Message:
    """Read an ONNX file and check it.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        Where it comes from, for error messages.

    Returns
    -------
    Message
        A ModelProto with one input, float32 (N, C, H, W), and one output, float32 (N, emb_size), whose shapes are
        written in it; N is a name, not a number, if it takes any number of pictures.

    Raises
    ------
    InputError
        If it is not an ONNX file, or not one that can be trusted; the message says why.
    """
    try:
        model = read_model(content)
    except InputError:
        raise
    except Exception as error:  # protobuf has several
        raise InputError(f"{name}: not an ONNX file; denseface export writes one") from error
    try:
        _check_model(model)
        _check_computation(model)
    except Unusable as problem:
        raise InputError(f"{name}: refused: {problem}") from problem
    return model


def _check_model(model: Message) -> None:
    """Check everything that is written in the file."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if len(model.opset_import) != 1 or versions.keys() - {"", "ai.onnx"}:
        raise Unusable("it needs operators beside those of ONNX")
    if not _OLDEST_OPSET <= next(iter(versions.values())) <= _NEWEST_OPSET:
        raise Unusable(f"its opset is not between {_OLDEST_OPSET} and {_NEWEST_OPSET}")
    if not _OLDEST_IR <= model.ir_version <= _NEWEST_IR:
        raise Unusable(f"its format is not one of {_OLDEST_IR} to {_NEWEST_IR}")
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise Unusable("it defines functions, training steps or sparse tensors")
    if len(graph.node) > _MAX_NODES:
        raise Unusable(f"it has {len(graph.node)} nodes; up to {_MAX_NODES} are read")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for node in graph.node:
        _check_node(node)
    _check_ends(graph)


def _check_ends(graph) -> None:
    """Check the input and the output."""
    values = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in values]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise Unusable("it does not have one input and one output")
    del graph.input[:]  # which may list parameters as well
    graph.input.extend(inputs)
    kinds = [entry.type.tensor_type for entry in (inputs[0], graph.output[0])]
    if any(kind.elem_type != 1 for kind in kinds):  # TensorProto.FLOAT
        raise Unusable("its input and its output are not float32")
    sizes = [size.dim_value for size in kinds[0].shape.dim]
    if len(sizes) != 4 or not 0 <= sizes[0] <= 1 << 16:
        raise Unusable(f"its input has the shape {tuple(sizes)}, which pictures do not have")
    _, channels, height, width = sizes
    if channels not in (1, 3) or not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise Unusable(f"its input has the shape (N, {channels}, {height}, {width}), which pictures do not have")


def _check_tensor(tensor: Message) -> None:
    name = tensor.name[:80]
    # An engine would read any file that such a tensor names.
    if tensor.external_data or tensor.data_location:
        raise Unusable("it takes values from other files; export the network again")
    if min(tensor.dims, default=1) < 1 or len(tensor.dims) > 8 or math.prod(tensor.dims) > _MAX_ELEMENTS:
        raise Unusable(f"the tensor {name} has the shape {tuple(tensor.dims)[:9]}")
    try:
        values = to_array(tensor)
    except (ValueError, OverflowError) as error:
        raise Unusable(f"the tensor {name} does not have as many values as its shape {tuple(tensor.dims)}") from error
    finite = values.dtype.kind not in "fc" or (np.isfinite(values).all() if values.size > 1 else not np.isnan(values))
    if not finite:
        raise Unusable(f"the tensor {name} contains NaN or infinity")


def _check_node(node: Message) -> None:
    what = f"{node.op_type[:80]} {node.name[:80]}"
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise Unusable(f"the operator {node.op_type[:80]} is not one that image networks need")
    if any(len(name) > _MAX_NAME for name in (node.name, *node.input, *node.output)):
        raise Unusable(f"{what}: a name has more than {_MAX_NAME} characters")
    for attribute in node.attribute:
        _check_attribute(attribute, f"{what}: {attribute.name[:80]}")


def _check_attribute(attribute: Message, what: str) -> None:
    kinds = {1: [attribute.f], 2: [attribute.i], 3: [], 4: [], 6: attribute.floats, 7: attribute.ints}
    if attribute.type not in kinds or attribute.ref_attr_name:
        raise Unusable(f"{what} is of a kind that image networks do not need")
    if attribute.type == _TENSOR:
        _check_tensor(attribute.t)
    numbers = kinds[attribute.type]
    least, most = _RANGES.get(attribute.name, _ANY)
    if len(numbers) > _MAX_NUMBERS or not all(least <= number <= most for number in numbers):
        raise Unusable(f"{what} is not between {least} and {most}")


def _check_computation(model: Message) -> None:
    """Check what is computed, and write the shapes of input and output into the model."""
    graph = model.graph
    (given,), (entry,) = graph.input, graph.output
    fixed, *picture = (size.dim_value for size in given.type.tensor_type.shape.dim)
    pictures = fixed or 2  # of two, not one, so that none is mixed up with the others
    found = _infer_shapes(graph, (pictures, *picture))
    declared = [size.dim_value for size in entry.type.tensor_type.shape.dim]
    fits = len(found) == 2 and found[0] == pictures and found[1] <= _MAX_EMB_SIZE
    if not fits or (declared and declared[1:] not in ([found[1]], [0])):
        raise Unusable(f"its output has the shape {found}, which is not one embedding per picture of the size declared")
    for end, sizes in ((given, picture), (entry, found[1:])):
        described = end.type.tensor_type.shape
        del described.dim[:]
        described.dim.add(**{"dim_value": fixed} if fixed else {"dim_param": "N"})
        for size in sizes:
            described.dim.add(dim_value=size)


def _infer_shapes(graph: Message, shape: Shape) -> Shape:
    """Infer the shape of the output, check every shape on the way, and sum up what is computed."""
    known = {tensor.name: Array.of(tensor) for tensor in graph.initializer}
    known[graph.input[0].name] = Array(shape)
    computed = products = 0
    for node in graph.node:
        what = f"{node.op_type} {node.name[:80]}"
        missing = [name for name in node.input if name and name not in known]
        if missing:
            raise Unusable(f"{what} reads {missing[0][:80]}, which does not come before it")
        inputs = [known.get(name) for name in node.input]
        try:
            outputs = infer(node, inputs)
        except Exception as error:  # NumPy and Python have several, for attributes of another kind
            raise Unusable(f"it is not consistent: {what}: {' '.join(str(error).split())[:200]}") from error
        if len(outputs) != len(node.output):
            raise Unusable(f"it is not consistent: {what} does not have {len(node.output)} outputs")
        for name, array in zip(node.output, outputs):
            if name in known:
                raise Unusable(f"it is not consistent: {name[:80]} is computed twice")
            if min(array.shape, default=1) < 1:
                raise Unusable(f"{name[:80]} has the shape {array.shape}, so it has no values")
            known[name] = array
            computed += math.prod(array.shape)
            products += math.prod(array.shape) * _products_per_element(node, inputs)
        if computed > _MAX_COMPUTED * shape[0] or products > _MAX_PRODUCTS * shape[0]:
            raise Unusable("it computes more than any network for faces does")
    if graph.output[0].name not in known:
        raise Unusable("it is not consistent: no node computes its output")
    return known[graph.output[0].name].shape


def _products_per_element(node: Message, inputs: list[Array | None]) -> int:
    if node.op_type == "Conv":
        return math.prod(inputs[1].shape[1:])
    if node.op_type in ("Gemm", "MatMul"):
        return max(inputs[0].shape, default=1)
    if node.op_type in ("AveragePool", "MaxPool"):
        return math.prod(next((attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape"), ()))
    return 1
