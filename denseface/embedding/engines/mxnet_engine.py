"""Embeddings computed by MXNet itself."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError, reason_of
from denseface.models.embedding_network import checked_embedding
from denseface.models.graph import Graph, Node, Shape
from denseface.rewrites.dense_blocks import fuse_dense_blocks_for_inference
from denseface.rewrites.freeze import freeze
from denseface.rewrites.native import load_operators

import mxnet as mx

if TYPE_CHECKING:
    from denseface.models.checkpoint import Model


# An executor keeps its input and its output until the next call, and MXNet's own functions are not made for several
# threads. More executors would gain nothing: MXNet's engine computes them one after the other.
_ONE_AT_A_TIME = threading.Lock()


class MXNetEngine:
    """An :class:`~denseface.embedding.engines.Engine` on the CPU or a GPU.

    Parameters
    ----------
    model : Model
        The network and its parameters; only the embedding of a whole training symbol is computed.
    input_shape : tuple (C, H, W)
        Shape of one picture.
    batch_size : int
        Pictures per call.
    context : Context, optional
        Where to compute; the CPU by default.

    Raises
    ------
    InputError
        If the parameters do not fit, or there is no such GPU.
    """

    precision = "float32"

    def __init__(
        self,
        model: Model,
        input_shape: tuple[int, int, int],
        batch_size: int,
        context: mx.Context | None = None,
    ):
        self.input_shape = input_shape
        self.batch_size = batch_size
        data_shape = (batch_size, *input_shape)
        graph, self.emb_size = checked_embedding(model, data_shape)
        if (context is None or context.device_type == "cpu") and load_operators():
            fuse_dense_blocks_for_inference(graph)
        values = freeze(graph, {**model.arguments, **model.auxiliary})
        flatten_inputs(graph)
        with _ONE_AT_A_TIME:
            self._executor = _bind(graph.symbol(), values, data_shape, context or mx.cpu(), model.name)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch, float32 (B, C, H, W), 0 to 255; return float32 (B, emb_size)."""
        with _ONE_AT_A_TIME:
            return self._executor.forward(is_train=False, data=mx.nd.array(batch))[0].asnumpy()


def flatten_inputs(graph: Graph) -> None:
    """Flatten what fully connected layers read.

    They would do so themselves, but MXNet's fused layer fails at its second call on the four-dimensional output of a
    convolution (the head GDC): "We can't generate TBlob for MKLDNN data".
    """

    def change(node: Node) -> Node:
        if node.op == "FullyConnected" and node.flag("flatten", True):
            node.inputs[0] = (Node("Flatten", f"{node.name}_flat_input", inputs=node.inputs[:1]), 0)
        return node

    graph.rewrite(change)


def _bind(
    symbol: mx.sym.Symbol, values: Mapping[str, np.ndarray], data_shape: Shape, context: mx.Context, name: str
) -> mx.executor.Executor:
    try:
        executor = symbol.simple_bind(context, grad_req="null", type_dict={"data": "float32"}, data=data_shape)
    except RuntimeError as error:  # simple_bind turns every MXNetError into one
        raise InputError(f"{name}: MXNet cannot run it on {context}: {reason_of(error)}") from error
    for parameter, array in (*executor.arg_dict.items(), *executor.aux_dict.items()):
        if parameter != "data":
            mx.nd.array(values[parameter]).copyto(array)
    return executor
