"""ONNX networks as MXNet models, for everything that needs a symbol: training, summaries, diagrams and exports.

`import_onnx` walks a graph that :mod:`denseface.embedding.engines.onnx_check` has passed, and replaces each operator by
the operator of MXNet that means the same. Nodes and parameters keep their names.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.core.errors import InputError, check_resources, reason_of
from denseface.core.onnx_format import read_model, to_array
from denseface.embedding.engines.onnx_check import infer_tensors
from denseface.embedding.engines.onnx_model import OnnxModel, read_onnx
from denseface.embedding.engines.onnx_shapes import Array, OnnxNode, UnusableError, constant_value
from denseface.embedding.scaling import Scaling
from denseface.importing.operators import CONVERTERS, Importer
from denseface.models.checkpoint import Model
from denseface.models.graph import make_symbol

import mxnet as mx

if TYPE_CHECKING:
    from google.protobuf.message import Message


@dataclasses.dataclass(frozen=True)
class ImportedModel(Model):
    """A model that an ONNX file was converted to; it has the name, the fingerprint and the metrics of the file.

    Attributes
    ----------
    file : OnnxModel
        What was converted.
    """

    file: OnnxModel = None  # type: ignore[assignment]  # the fields before it have defaults

    @property
    def name(self) -> str:
        """Path of the file."""
        return self.file.name

    @property
    def fingerprint(self) -> dict:
        """Identify the model."""
        return self.file.fingerprint

    @property
    def metrics(self) -> dict:  # type: ignore[override]
        """The metrics in the file."""
        return self.file.metrics

    @property
    def metrics_path(self) -> Path:
        """The file beside the ONNX file that keeps the model's verification metrics."""
        return self.file.metrics_path


def import_onnx(
    path: str | Path, scaling: Scaling | None = None, input_shape: tuple[int, int, int] | None = None
) -> ImportedModel:
    """Read an ONNX network as one of MXNet.

    Parameters
    ----------
    path, scaling, input_shape
        As for :func:`denseface.embedding.engines.onnx_model.read_onnx`, which reads and checks the file.

    Returns
    -------
    ImportedModel
        Computes the same embeddings up to rounding, from batches of any size. Weights that a normalization was folded
        into stay as they are, with a bias. A tensor of the file that several layers keep as a moving average becomes
        one for each.

    Raises
    ------
    InputError
        If the file is refused, or an operator, or a setting of one, has no counterpart; the message names it.
    """
    model = read_onnx(path, scaling, input_shape)
    graph = read_model(model.content).graph
    batch = model.batch_size or 2  # of two, not one, so that none is mixed up with the others
    tensors = infer_tensors(graph, (batch, *model.input_shape))
    values = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    importer = Importer(values, graph.input[0].name, Counter(name for node in graph.node for name in node.input))
    for node in graph.node:
        _convert(node, tensors, importer, model.name)
    (output,) = graph.output
    try:
        symbol = make_symbol([importer.edge(output.name)])
    except UnusableError as problem:
        raise InputError(f"its output is a constant: {problem}", path=model.name) from problem
    except mx.base.MXNetError as error:
        raise InputError(f"MXNet refuses it: {reason_of(error)}", path=model.name) from error
    states = {*symbol.list_auxiliary_states()}
    return ImportedModel(
        symbol,
        {name: array for name, array in importer.parameters.items() if name not in states},
        {name: array for name, array in importer.parameters.items() if name in states},
        prefix=model.name,
        step=0,
        scaling=model.scaling,
        file=model,
    )


def _convert(node: Message, tensors: Mapping[str, Array], importer: Importer, name: str) -> None:
    """Convert a node, unless its outputs are constants; ``name`` is the model's, for errors."""
    found = [tensors[tensor] for tensor in node.output]
    if all(array.values is not None for array in found):
        importer.values.update({tensor: array.values for tensor, array in zip(node.output, found)})
        return
    place = f"{node.op_type} {node.name or node.output[0]}"
    described = OnnxNode(node, [tensors.get(tensor) for tensor in node.input])
    if node.op_type == "Constant":
        importer.values[node.output[0]] = constant_value(described)
        return
    if node.op_type not in CONVERTERS:
        raise InputError(
            f"{place}: this operator has no counterpart in MXNet, so the network cannot be imported", path=name
        )
    try:
        importer.convert(node, described, [array.shape for array in found])
    except UnusableError as problem:
        raise InputError(f"{place}: {problem}, which has no counterpart in MXNet", path=name) from problem
    except Exception as error:  # NumPy and Python have several, for attributes of another kind
        check_resources(error, name)
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{place}: it is not consistent: {reason}", path=name) from error
