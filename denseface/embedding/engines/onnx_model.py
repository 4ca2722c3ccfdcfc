"""Models as ONNX: converted in memory, or read from a file that ``denseface export`` wrote."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.core.errors import InputError, mxnet_reason
from denseface.core.files import open_input
from denseface.core.packages import require
from denseface.embedding.engines.onnx_check import check_onnx
from denseface.export.metadata import read_metadata

if TYPE_CHECKING:
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
        :func:`denseface.evaluation.thresholds.read_metrics`.
    """

    content: bytes
    batch_size: int | None
    input_shape: tuple[int, int, int]
    emb_size: int
    name: str
    fingerprint: dict
    precision: str = "float32"
    metrics: dict = dataclasses.field(default_factory=dict)

    default_engine = "onnxruntime"

    @property
    def metrics_path(self) -> Path:
        """The file beside the ONNX file that keeps the model's verification metrics."""
        return Path(self.name).with_suffix(".verification.json")


def read_onnx(path: str | Path) -> OnnxModel:
    """Read a file that ``denseface export`` wrote.

    Others are refused: nothing in them says how they want pictures scaled.

    Raises
    ------
    InputError
        If it is missing, broken or not such a file; see :mod:`denseface.embedding.engines.onnx_check`.
    """
    with open_input(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES >> 20} MB; export the network again")
    proto = check_onnx(content, str(path))
    origin = read_metadata({entry.key: entry.value for entry in proto.metadata_props})
    if origin is None:
        raise InputError(
            f"{path}: denseface export did not write it, and it does not say how it wants pictures scaled; export the "
            "network again"
        )
    return _described(proto, str(path), *origin)


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

    symbol, _ = checked_embedding(model, shape)
    proto = convert(dataclasses.replace(model, symbol=symbol), shape, dynamic_batch=False)
    return _described(proto, model.name, model.fingerprint, {})


@contextlib.contextmanager
def loading(model: OnnxModel, library: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads a model into an InputError of one line."""
    try:
        yield
    except Exception as error:  # they have classes of their own
        raise InputError(f"{model.name}: {library} cannot load it: {mxnet_reason(error)}") from error


def _described(proto, name, fingerprint, metrics):
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
    )
