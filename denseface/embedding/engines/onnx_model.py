"""Models as ONNX: converted in memory, or read from a file of ``denseface export`` or from elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError, check_resources, reason_of
from denseface.core.files import open_input
from denseface.core.onnx_format import from_array, message
from denseface.core.packages import require
from denseface.embedding.engines.onnx_check import check_onnx
from denseface.embedding.scaling import Scaling, scales_itself, scaling_by_insightface
from denseface.export.metadata import read_metadata

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from denseface.models.checkpoint import Model

_MAX_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """A network as an ONNX file: it takes raw pixels, 0 to 255, and computes embeddings.

    Attributes
    ----------
    content : bytes
        The ONNX file.
    batch_size : int or None
        The only one that it takes; None if it takes any.
    input_shape : tuple (C, H, W)
        Shape of one picture.
    emb_size : int
        Values in an embedding.
    name : str
        Path of the file, or name of the model that was converted.
    fingerprint : dict
        Identifies the model that it was made of; see :class:`denseface.models.checkpoint.Model`.
    precision : str
        ``float32``, or ``int8`` if layers were quantized.
    metrics : dict
        What verification had measured when the file was written, by set; see
        :func:`denseface.deciding.thresholds.read_metrics`.
    scaling : Scaling or None
        What was put before the first layer of a network from elsewhere.
    """

    content: bytes
    batch_size: int | None
    input_shape: tuple[int, int, int]
    emb_size: int
    name: str
    fingerprint: dict
    precision: str = "float32"
    metrics: dict = dataclasses.field(default_factory=dict)
    scaling: Scaling | None = None

    default_engine = "onnxruntime"

    @property
    def metrics_path(self) -> Path:
        """The file beside the ONNX file that keeps the model's verification metrics."""
        return Path(self.name).with_suffix(".verification.json")


def read_onnx(
    path: str | Path, scaling: Scaling | None = None, input_shape: tuple[int, int, int] | None = None
) -> OnnxModel:
    """Read an ONNX file.

    A file of ``denseface export`` takes pixels as they are. Others are read by the rule of the insightface package,
    unless a scaling is given, and scale their pixels by themselves from then on.

    Parameters
    ----------
    path : path-like
        The file.
    scaling : Scaling, optional
        How a network from elsewhere wants its pixels.
    input_shape : tuple (C, H, W), optional
        Shape of one picture, for a file that leaves it open.

    Raises
    ------
    InputError
        If it is missing, broken or not such a file; see :mod:`denseface.embedding.engines.onnx_check`.
    """
    with open_input(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InputError(f"larger than {_MAX_BYTES >> 20} MB; export the network again", path=path)
    proto = check_onnx(content, str(path), input_shape)
    try:
        origin = read_metadata({entry.key: entry.value for entry in proto.metadata_props})
    except ValueError as error:
        raise InputError(f"refused: {error}; export the network again", path=path) from error
    if origin is not None:
        if scaling is not None:
            raise InputError(
                "denseface export wrote it, and it scales its pictures itself; leave --input-mean, "
                "--input-scale and --bgr out",
                path=path,
            )
        return _described(proto, str(path), *origin)
    if scaling is None:
        nodes = [(node.op_type, node.input, node.output) for node in proto.graph.node]
        is_inside = scales_itself(proto.graph.input[0].name, nodes)
        scaling = scaling_by_insightface([node.name for node in proto.graph.node], is_inside, str(path))
    _scale(proto.graph, scaling, str(path))
    digest = hashlib.sha256(content + scaling.mark()).hexdigest()
    fingerprint = {"prefix": str(path), "epoch": 0, "sha256": digest}
    return _described(proto, str(path), fingerprint, {}, scaling)


def _scale(graph: Message, scaling: Scaling, name: str) -> None:
    """Call the input ``data``, and scale it before the first layer."""
    (given,) = graph.input
    if given.type.tensor_type.shape.dim[1].dim_value == 1 and scaling.bgr:
        raise InputError("takes gray pictures, which have no order of colors", path=name, option="bgr")
    taken = {tensor.name for tensor in graph.initializer}.union(*([*node.input, *node.output] for node in graph.node))
    prefix = next(prefix for prefix in map("scaling{}_".format, itertools.count()) if not _starts(taken, prefix))
    if "data" in taken - {given.name}:
        raise InputError("refused: it calls another tensor than its input data", path=name)
    for node in graph.node:
        node.input[:] = [f"{prefix}input" if tensor == given.name else tensor for tensor in node.input]
    given.name = "data"
    steps = [("Gather", np.array([2, 1, 0]), {"axis": 1})] if scaling.bgr else []
    steps += [("Sub", np.array(scaling.mean, np.float32), {}), ("Mul", np.array(scaling.scale, np.float32), {})]
    made, source = [], "data"
    for op, value, attributes in steps:
        graph.initializer.append(from_array(value, f"{prefix}{op}"))
        node = message("NodeProto", op_type=op, name=f"{prefix}{op}", input=[source, f"{prefix}{op}"])
        node.attribute.extend(message("AttributeProto", name=k, i=v, type=2) for k, v in attributes.items())
        source = f"{prefix}{op}_output"
        node.output.append(source)
        made.append(node)
    made[-1].output[0] = f"{prefix}input"
    made.extend(graph.node)
    del graph.node[:]
    graph.node.extend(made)


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def converted(model: Model, shape: tuple[int, int, int, int]) -> OnnxModel:
    """Convert a model for batches of exactly this shape (B, C, H, W).

    Raises
    ------
    InputError
        If the package onnx is missing, the parameters do not fit, or the network cannot be converted.
    """
    require("onnx")

    from denseface.export.onnx import convert
    from denseface.models.embedding_network import checked_embedding

    symbol = checked_embedding(model, shape).graph.symbol()
    proto = convert(dataclasses.replace(model, symbol=symbol), shape, dynamic_batch=False)
    return _described(proto, model.name, model.fingerprint, {})


@contextlib.contextmanager
def loading(model: OnnxModel, library: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads a model into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # they have classes of their own
        check_resources(error, model.name)
        raise InputError(f"{library} cannot load it: {reason_of(error)}", path=model.name) from error


def _described(proto, name, fingerprint, metrics, scaling=None):
    (batch, *input_shape), (_, emb_size) = (
        [size.dim_value for size in value[0].type.tensor_type.shape.dim]
        for value in (proto.graph.input, proto.graph.output)
    )
    channels, height, width = input_shape
    precision = "int8" if any(node.op_type == "DequantizeLinear" for node in proto.graph.node) else "float32"
    return OnnxModel(
        content=proto.SerializeToString(),
        batch_size=batch or None,
        input_shape=(channels, height, width),
        emb_size=emb_size,
        name=name,
        fingerprint=fingerprint,
        precision=precision,
        metrics=metrics if precision == "float32" else {},
        scaling=scaling,
    )
