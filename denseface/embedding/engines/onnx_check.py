"""ONNX files from elsewhere, checked before an engine sees them.

ONNX Runtime and OpenVINO trust what they load: a loop may run for ever, a shape may ask for any memory, and other
surprises end in errors of many lines. Here only operators that image networks need pass, with attributes that make
sense, tensors that are as large as they say, and shapes that follow from a picture and stay within bounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError
from denseface.core.onnx_format import message, read_model, to_array
from denseface.embedding.engines.onnx_shapes import OPERATORS, Array, Shape, UnusableError, infer

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
_OWN_DOMAINS = ("", "ai.onnx")
_ANY = (-(1 << 31), (1 << 31) - 1)
_TENSOR, _FLOAT = 4, 1  # of AttributeProto and of TensorProto
_MAX_OUTPUTS = 16


def check_onnx(content: bytes, name: str, input_shape: tuple[int, int, int] | None = None) -> Message:
    """Read an ONNX file and check it.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        Where it comes from, for error messages.
    input_shape : tuple (C, H, W), optional
        Shape of one picture, for a file that leaves it open.

    Returns
    -------
    Message
        A ModelProto with one input, float32 (N, C, H, W), and one output, float32 (N, emb_size), whose shapes are
        written in it; N is a name, not a number, if it takes any number of pictures. Of several outputs it has the one
        that can be an embedding.

    Raises
    ------
    InputError
        If it is not an ONNX file, or not one that can be trusted; the message says why.
    """
    try:
        model = read_model(content)
    except InputError:
        raise
    except ValueError as error:
        raise InputError("not an ONNX file; denseface export writes one", path=name) from error
    try:
        _check_model(model, input_shape)
        _check_computation(model)
    except UnusableError as problem:
        raise InputError(f"refused: {problem}", path=name) from problem
    return model


def _check_model(model: Message, input_shape: tuple[int, int, int] | None) -> None:
    """Check everything that is written in the file."""
    versions = {entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS}
    if len(versions) != 1:
        raise UnusableError("it does not name one version of ONNX's operators")
    (version,) = versions
    if not _OLDEST_OPSET <= version <= _NEWEST_OPSET:
        raise UnusableError(f"its opset is not between {_OLDEST_OPSET} and {_NEWEST_OPSET}")
    del model.opset_import[:]  # others may be listed that no node uses
    model.opset_import.add(version=version)
    if not _OLDEST_IR <= model.ir_version <= _NEWEST_IR:
        raise UnusableError(f"its format is not one of {_OLDEST_IR} to {_NEWEST_IR}")
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise UnusableError("it defines functions, training steps or sparse tensors")
    if len(graph.node) > _MAX_NODES:
        raise UnusableError(f"it has {len(graph.node)} nodes; up to {_MAX_NODES} are read")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    repeated = [name for name, count in Counter(tensor.name for tensor in graph.initializer).items() if count > 1]
    if repeated:
        raise UnusableError(f"{repeated[0][:80]} is the name of two tensors")
    for node in graph.node:
        _check_node(node)
    _check_ends(graph, input_shape)


def _check_ends(graph: Message, input_shape: tuple[int, int, int] | None) -> None:
    """Check the input and the outputs, and write the shape of the input."""
    values = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in values]
    if len(inputs) != 1 or not 1 <= len(graph.output) <= _MAX_OUTPUTS:
        raise UnusableError(f"it does not have one input and 1 to {_MAX_OUTPUTS} outputs")
    del graph.input[:]  # which may list parameters as well
    graph.input.extend(inputs)
    if graph.input[0].type.tensor_type.elem_type != _FLOAT:
        raise UnusableError("its input is not float32")
    shape = graph.input[0].type.tensor_type.shape
    sizes = [size.dim_value for size in shape.dim]
    if len(sizes) != 4 or not 0 <= sizes[0] <= 1 << 16:
        raise UnusableError(f"its input has the shape {tuple(sizes)}, which pictures do not have")
    batch, *picture = sizes
    if 0 in picture:
        if input_shape is None:
            raise UnusableError("it leaves the size of its pictures open; give their height and width (image_shape)")
        picture = [size or given for size, given in zip(picture, input_shape)]
        sizes = [batch, *picture]
        _write_shape(graph.input[0], sizes)
    channels, height, width = picture
    if channels not in (1, 3) or not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise UnusableError(f"its input has the shape (N, {channels}, {height}, {width}), which pictures do not have")


def _write_shape(end: Message, sizes: Sequence[int]) -> None:
    """Write the shape of an input or an output; a batch of 0 stands for any number."""
    shape = end.type.tensor_type.shape
    del shape.dim[:]
    batch, *others = sizes
    if batch:
        shape.dim.add(dim_value=batch)
    else:
        shape.dim.add(dim_param="N")
    for size in others:
        shape.dim.add(dim_value=size)


def _check_tensor(tensor: Message) -> None:
    name = tensor.name[:80]
    # An engine would read any file that such a tensor names.
    if tensor.external_data or tensor.data_location:
        raise UnusableError(
            "its weights are in other files; put them into one with onnx.save(onnx.load(FILE), FILE), or export with "
            "torch.onnx.export(..., external_data=False)"
        )
    if min(tensor.dims, default=1) < 1 or len(tensor.dims) > 8 or math.prod(tensor.dims) > _MAX_ELEMENTS:
        raise UnusableError(f"the tensor {name} has the shape {tuple(tensor.dims)[:9]}")
    try:
        values = to_array(tensor)
    except (ValueError, OverflowError) as error:
        raise UnusableError(
            f"the tensor {name} does not have as many values as its shape {tuple(tensor.dims)}"
        ) from error
    finite = values.dtype.kind not in "fc" or (np.isfinite(values).all() if values.size > 1 else not np.isnan(values))
    if not finite:
        raise UnusableError(f"the tensor {name} contains NaN or infinity")


def _check_node(node: Message) -> None:
    what = f"{node.op_type[:80]} {node.name[:80]}"
    if node.op_type not in OPERATORS or node.domain not in _OWN_DOMAINS:
        domain = "" if node.domain in _OWN_DOMAINS else f"{node.domain[:80]}."
        raise UnusableError(f"the operator {domain}{node.op_type[:80]} is not one that image networks need")
    for name in (node.name, *node.input, *node.output):
        # Some versions of protobuf return bytes that are not UTF-8 as they are.
        if isinstance(name, bytes) or len(name) > _MAX_NAME or min(name, default=" ") < " ":
            raise UnusableError(f"{what}: a name has control characters, or more than {_MAX_NAME} of any kind")
    for attribute in node.attribute:
        _check_attribute(attribute, f"{what}: {attribute.name[:80]}")


def _check_attribute(attribute: Message, what: str) -> None:
    kinds = {1: [attribute.f], 2: [attribute.i], 3: [], 4: [], 6: attribute.floats, 7: attribute.ints}
    if attribute.type not in kinds or attribute.ref_attr_name:
        raise UnusableError(f"{what} is of a kind that image networks do not need")
    if attribute.type == _TENSOR:
        _check_tensor(attribute.t)
    numbers = kinds[attribute.type]
    least, most = _RANGES.get(attribute.name, _ANY)
    if len(numbers) > _MAX_NUMBERS or not all(least <= number <= most for number in numbers):
        raise UnusableError(f"{what} is not between {least} and {most}")


def _check_computation(model: Message) -> None:
    """Check what is computed, keep the output that is an embedding, and write the shapes of input and output."""
    graph = model.graph
    fixed, *picture = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim)
    pictures = fixed or 2  # of two, not one, so that none is mixed up with the others
    tensors = infer_tensors(graph, (pictures, *picture))
    output, found = _embedding(graph.output, tensors)
    if output.type.tensor_type.elem_type != _FLOAT:
        raise UnusableError("its output is not float32")
    declared = [size.dim_value for size in output.type.tensor_type.shape.dim]
    fits = len(found) == 2 and found[0] == pictures and found[1] <= _MAX_EMB_SIZE
    if not fits or (declared and declared[1:] not in ([found[1]], [0])):
        raise UnusableError(
            f"its output has the shape {found}, which is not one embedding per picture of the size declared"
        )
    kept = message("ValueInfoProto")
    kept.CopyFrom(output)
    del graph.output[:]
    graph.output.append(kept)
    _write_shape(graph.input[0], (fixed, *picture))
    _write_shape(graph.output[0], (fixed, *found[1:]))


def _embedding(outputs: Sequence[Message], tensors: Mapping[str, Array]) -> tuple[Message, Shape]:
    """Return the output that is an embedding, and its shape: the only one, or the only one of several numbers each."""
    shapes = [(output, tensors[output.name].shape) for output in outputs]
    lists = [(output, shape) for output, shape in shapes if len(shape) == 2 and shape[1] > 1]
    if len(shapes) > 1 and len(lists) == 1:
        return lists[0]
    if len(shapes) > 1:
        described = ", ".join(f"{output.name[:80]} {shape}" for output, shape in shapes)
        raise UnusableError(
            f"which of its outputs is the embedding is not clear: {described}; keep one with "
            "onnx.utils.extract_model(FILE, OUT, [INPUT], [OUTPUT])"
        )
    return shapes[0]


def infer_tensors(graph: Message, shape: Shape) -> dict[str, Array]:
    """Infer what is known of every tensor, check every shape on the way, and sum up what is computed.

    Parameters
    ----------
    graph : Message
        A GraphProto of one input and one output.
    shape : tuple of int
        The shape of the input.

    Raises
    ------
    UnusableError
        If the graph is not consistent, or computes too much.
    """
    known = {tensor.name: Array.of(tensor) for tensor in graph.initializer}
    known[graph.input[0].name] = Array(shape)
    computed = products = 0
    for node in graph.node:
        what = f"{node.op_type} {node.name[:80]}"
        missing = [name for name in node.input if name and name not in known]
        if missing:
            raise UnusableError(f"{what} reads {missing[0][:80]}, which does not come before it")
        inputs = [known.get(name) for name in node.input]
        try:
            outputs = infer(node, inputs)
        except Exception as error:  # NumPy and Python have several, for attributes of another kind
            raise UnusableError(f"it is not consistent: {what}: {' '.join(str(error).split())[:200]}") from error
        if len(outputs) != len(node.output):
            raise UnusableError(f"it is not consistent: {what} does not have {len(node.output)} outputs")
        for name, array in zip(node.output, outputs):
            if name in known:
                raise UnusableError(f"it is not consistent: {name[:80]} is computed twice")
            if min(array.shape, default=1) < 1:
                raise UnusableError(f"{name[:80]} has the shape {array.shape}, so it has no values")
            known[name] = array
            computed += math.prod(array.shape)
            products += math.prod(array.shape) * _products_per_element(node, inputs)
        if computed > _MAX_COMPUTED * shape[0] or products > _MAX_PRODUCTS * shape[0]:
            raise UnusableError("it computes more than any network for faces does")
    if any(output.name not in known for output in graph.output):
        raise UnusableError("it is not consistent: no node computes its output")
    return known


def _products_per_element(node: Message, inputs: list[Array | None]) -> int:
    shapes = [array.shape if array else () for array in inputs]
    if node.op_type == "Conv":
        return math.prod(shapes[1][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return max(shapes[0], default=1)
    if node.op_type in ("AveragePool", "MaxPool"):
        return math.prod(next((attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape"), ()))
    return 1
