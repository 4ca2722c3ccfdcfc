"""MXNet networks as ONNX models, checked against MXNet before they are kept.

`convert` freezes the network (see `denseface.rewrites.freeze`), walks its graph and replaces each operator by the
ONNX operators that mean the same. Nodes keep their names, and Dropout and the like leave no trace. `export` may add two
nodes for the insightface package (see `denseface.export.insightface`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError, reason_of
from denseface.core.files import replacing
from denseface.core.onnx_session import open_session, probe_pictures
from denseface.core.packages import require
from denseface.export.insightface import mark_as_scaling, why_not_for_insightface
from denseface.export.metadata import write_metadata
from denseface.export.operators import OnnxGraph
from denseface.models.embedding_network import checked_embedding
from denseface.models.graph import Edge, Graph, Node, Shape
from denseface.rewrites.freeze import Arrays, freeze

if TYPE_CHECKING:
    from onnx import ModelProto

    from denseface.models.checkpoint import Model

OLDEST_OPSET = 17
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export` wrote.

    Attributes
    ----------
    path : Path
        The ONNX file.
    opset : int
        Version of the ONNX operator set.
    nodes : int
        Nodes in the graph.
    emb_size : int
        Values in an embedding.
    difference : float
        Largest difference between an output of ONNX Runtime and MXNet's, relative to the largest output.
    not_for_insightface : str
        Why the insightface package would not compute these embeddings from the file; empty if it does.
    """

    path: Path
    opset: int
    nodes: int
    emb_size: int
    difference: float
    not_for_insightface: str


def convert(
    model: Model,
    input_shape: tuple[int, int, int, int],
    *,
    dynamic_batch: bool = True,
    opset: int = OLDEST_OPSET,
    metadata: dict[str, str] | None = None,
) -> ModelProto:
    """Convert a network to ONNX for inference.

    Parameters
    ----------
    model : Model
        A network with one output that reads the variable ``data``, and its parameters. Parameters that the network does
        not use are left out.
    input_shape : tuple (N, C, H, W)
        Shape of ``data``.
    dynamic_batch : bool
        Take any number of pictures at a time, whatever N; otherwise exactly N.
    opset : int
        Version of the ONNX operator set, 17 or newer.
    metadata : dict of str to str, optional
        Stored in the model's ``metadata_props``.

    Returns
    -------
    onnx.ModelProto
        Float32 throughout, input ``data``, one output under MXNet's name for it (``fc1_output``). It has passed ONNX's
        own checker.

    Raises
    ------
    InputError
        If the onnx package is missing, a parameter is missing or does not fit, or the network contains an operator or
        option without a counterpart here; the message names the node.
    """
    _check_opset(opset)
    if len(input_shape) != 4 or min(input_shape) < 1:
        raise InputError(f"input_shape must be (N, C, H, W), each at least 1, not {tuple(input_shape)}")
    outputs = model.symbol.list_outputs()
    if len(outputs) != 1:
        raise InputError(f"a network must have one output to be exported, not {len(outputs)}: {', '.join(outputs)}")

    values = {name: np.asarray(array, np.float32) for name, array in {**model.arguments, **model.auxiliary}.items()}
    network = Graph(model.symbol)
    params = freeze(network, values)
    data = _check_inputs(network.nodes, params)
    shapes = _infer_shapes(network, input_shape, params, dynamic_batch)

    graph = OnnxGraph(params, shapes, opset)
    for node in network.nodes:
        graph.convert(node)
    (head,) = network.heads
    output = graph.tensor(head)
    if output != outputs[0]:
        (output,) = graph.add("Identity", [output], outputs[0], outputs)
    return _finish(graph, shapes[data, 0], output, shapes[head], metadata)


def export(
    model: Model,
    input_shape: tuple[int, int, int, int],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    opset: int = OLDEST_OPSET,
    metrics: Mapping[str, dict] | None = None,
) -> ExportReport:
    """Write the embedding network of a model as an ONNX file, if ONNX Runtime computes from it what MXNet computes.

    Both run on noise and on smooth pictures, three at a time and one at a time (N at a time for a fixed batch). The
    file appears whole or not at all, and only if no output differs by more than 1e-4 of the largest. It says which
    model it was made of; see :mod:`denseface.export.metadata`.

    Parameters
    ----------
    model : Model
        The network, or a whole training symbol, and its parameters.
    input_shape, dynamic_batch, opset
        As for `convert`.
    path : str or Path
        The file to write; an existing one is replaced.
    metrics : mapping of str to dict, optional
        What was measured of the model, by set, for the file to carry.

    Returns
    -------
    ExportReport

    Raises
    ------
    InputError
        If `convert` refuses the network, onnxruntime is missing, outputs differ, or the file cannot be written.
    """
    require("onnxruntime")
    path = Path(path)
    graph, emb_size = checked_embedding(model, input_shape)
    network = dataclasses.replace(model, symbol=graph.symbol())
    _, channels, height, width = input_shape
    metadata = write_metadata(model.fingerprint, (height, width, channels), emb_size, metrics)
    proto = convert(network, input_shape, dynamic_batch=dynamic_batch, opset=opset, metadata=metadata)
    mark_as_scaling(proto)
    content = proto.SerializeToString()
    batch_sizes = (3, 1) if dynamic_batch else (input_shape[0],)
    pictures = [batch for size in batch_sizes for batch in probe_pictures((size, *input_shape[1:]))]
    # ONNX Runtime first: it refuses a reshape that does not add up, where MXNet reads what lies behind in memory.
    found = _run_onnxruntime(content, pictures)
    difference = _largest_difference(found, _run_mxnet(network, pictures))
    if difference > TOLERANCE:
        raise InputError(f"not written, ONNX Runtime differs from MXNet by {difference:.1e} of the output", path=path)
    with replacing(path) as file:
        file.write(content)
    names = [node.name for node in proto.graph.node]
    reason = why_not_for_insightface(names, (None if dynamic_batch else input_shape[0], *input_shape[1:]))
    return ExportReport(path, opset, len(names), emb_size, difference, reason)


def _check_opset(opset: int) -> None:
    newest = require("onnx").defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise InputError(
            f"must be {OLDEST_OPSET} to {newest}, the newest that the package onnx knows, not {opset}", option="opset"
        )


def _check_inputs(nodes: list[Node], params: Arrays) -> Node:
    """Return the variable ``data``, if no parameter is missing."""
    data = next((node for node in nodes if node.op == "null" and node.name == "data"), None)
    if data is None:
        raise InputError("a network must have an input called data to be exported")
    # The label of a SoftmaxOutput is for training only.
    used = {source for node in nodes for source, _ in node.inputs[: 1 if node.op == "SoftmaxOutput" else None]}
    missing = sorted({node.name for node in used if node.op == "null"} - {"data"} - params.keys())
    if missing:
        raise InputError(f"the network needs parameters that are missing: {', '.join(missing)}")
    return data


def _infer_shapes(
    graph: Graph, input_shape: tuple[int, int, int, int], params: Arrays, dynamic_batch: bool
) -> dict[Edge, tuple[int | None, ...]]:
    """Infer the shape of every output that is read; None stands for a size that follows the batch."""
    if not dynamic_batch:
        return {**_shapes_for(graph, input_shape, params)}
    small, large = (_shapes_for(graph, (batch, *input_shape[1:]), params) for batch in (2, 3))
    return {
        edge: tuple(size if size == other else None for size, other in zip(shape, large[edge]))
        for edge, shape in small.items()
    }


def _shapes_for(graph: Graph, input_shape: tuple[int, int, int, int], params: Arrays) -> dict[Edge, Shape]:
    import mxnet as mx

    try:
        graph.infer_shapes(**{**{name: array.shape for name, array in params.items()}, "data": input_shape})
    except mx.base.MXNetError as error:
        reason = reason_of(error)
        raise InputError(f"input of shape {input_shape} does not fit the network: {reason}") from None
    shapes, variables = graph.shapes, graph.variables
    for name, variable in variables.items():
        inferred = shapes.get((variable, 0))
        if inferred and name in params and params[name].shape != inferred:
            raise InputError(f"parameter {name} has the shape {params[name].shape}, the network needs {inferred}")
    if len(shapes) < len(graph.uses()):
        raise InputError(f"the network's shapes do not follow from an input of shape {input_shape}")
    return shapes


def _finish(graph, input_shape, output, output_shape, metadata):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from denseface import __version__

    used = {tensor for node in graph.nodes for tensor in node.input}
    values = {name: value for name, value in {**graph.params, **graph.constants}.items() if name in used}
    opset = helper.make_opsetid("", graph.opset)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "denseface",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, _with_named_batch(input_shape))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, _with_named_batch(output_shape))],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        producer_name="denseface",
        producer_version=__version__,
        opset_imports=[opset],
        # The oldest file format that knows these operators, so that older runtimes can read it.
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    helper.set_model_props(model, metadata or {})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"ONNX's checker refuses the converted network: {reason_of(error)}") from None
    return model


def _with_named_batch(shape: Sequence[int | None]) -> list[int | str | None]:
    """The batch is called N; another size that follows it has no name."""
    return ["N" if size is None and axis == 0 else size for axis, size in enumerate(shape)]


def _run_onnxruntime(content: bytes, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    try:
        session = open_session(content)
        return [session.run(None, {"data": batch})[0] for batch in pictures]
    except Exception as error:  # its exceptions share no other base
        raise InputError(f"ONNX Runtime cannot run the converted network: {reason_of(error)}") from None


def _run_mxnet(model: Model, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    import mxnet as mx

    outputs = []
    given = {**model.arguments, **model.auxiliary}
    shapes = {name: given[name].shape for name in model.symbol.list_arguments() if name in given}
    for batch in pictures:
        executor = model.symbol.simple_bind(mx.cpu(), grad_req="null", **{**shapes, "data": batch.shape})
        for name, array in (*executor.arg_dict.items(), *executor.aux_dict.items()):
            if name in given:
                array[:] = given[name]
        outputs.append(executor.forward(is_train=False, data=mx.nd.array(batch))[0].asnumpy())
    return outputs


def _largest_difference(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    largest = 0.0
    for ours, theirs in zip(found, expected):
        if ours.shape != theirs.shape:
            raise InputError(f"ONNX Runtime's output has the shape {ours.shape}, MXNet's {theirs.shape}")
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise InputError("the network's output contains NaN or infinity; check its parameters")
        largest = max(largest, float(np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1)))
    return largest
