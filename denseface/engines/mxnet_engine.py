"""Embeddings computed by MXNet itself."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from typing import TYPE_CHECKING

import numpy as np

from denseface.errors import InputError

import mxnet as mx

if TYPE_CHECKING:
    from denseface.checkpoint import Model

# Tried, with three channels and with one, to say what a network takes when it does not take what it was given.
_COMMON_SIZES = ((112, 112), (112, 96), (64, 64), (96, 96), (128, 128), (160, 160), (224, 224))


class MXNetEngine:
    """An :class:`~denseface.engines.Engine` on the CPU or a GPU.

    Parameters
    ----------
    model : Model
        The network and its parameters; of a whole training symbol only the embedding is computed.
    input_shape : tuple (C, H, W)
        Of one picture.
    batch_size : int
        Pictures a call.
    context : Context, optional
        Where to compute; the CPU by default.

    Raises
    ------
    InputError
        If a parameter is missing, or the parameters do not fit pictures of this shape; the message has common sizes
        that they do fit.
    """

    def __init__(
        self,
        model: Model,
        input_shape: tuple[int, int, int],
        batch_size: int,
        context: mx.Context | None = None,
    ):
        self.input_shape = input_shape
        self.batch_size = batch_size
        symbol = _with_flat_inputs(embedding_output(model.symbol))
        output_shape = _output_shape(symbol, model, (batch_size, *input_shape))
        if len(output_shape) != 2 or output_shape[0] != batch_size:
            raise InputError(f"{model.name}: its output has the shape {output_shape}, which is no list of embeddings")
        self.emb_size = output_shape[1]
        self._executor = _bind(symbol, model, (batch_size, *input_shape), context or mx.cpu())

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch: float32 (B, C, H, W), 0 to 255, gives float32 (B, emb_size)."""
        return self._executor.forward(is_train=False, data=mx.nd.array(batch))[0].asnumpy()


def embedding_output(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Cut a network at its embedding: at ``fc1_output``, or else at its first output."""
    internals = symbol.get_internals()
    return internals["fc1_output"] if "fc1_output" in internals.list_outputs() else symbol[0]


def _with_flat_inputs(symbol):
    """Flatten what fully connected layers read.

    They would do it themselves, but MXNet's fused layer fails at its second call on the four-dimensional output of a
    convolution (the head GDC): "We can't generate TBlob for MKLDNN data".
    """
    graph = json.loads(symbol.tojson())
    nodes, places = [], []
    for node in graph["nodes"]:
        inputs = [[places[source], *rest] for source, *rest in node["inputs"]]
        if node["op"] == "FullyConnected" and node["attrs"].get("flatten") not in ("False", "false", "0"):
            nodes.append({"op": "Flatten", "name": node["name"] + "_input", "inputs": inputs[:1]})
            inputs[0] = [len(nodes) - 1, 0, 0]
        places.append(len(nodes))
        nodes.append({**node, "inputs": inputs})
    graph["nodes"] = nodes
    graph["arg_nodes"] = [places[i] for i in graph["arg_nodes"]]
    graph["heads"] = [[places[source], *rest] for source, *rest in graph["heads"]]
    graph["node_row_ptr"] = list(range(len(nodes) + 1))
    return mx.sym.load_json(json.dumps(graph))


def _output_shape(symbol, model, data_shape):
    missing = (set(symbol.list_arguments()) - {"data"} - set(model.arguments)) | (
        set(symbol.list_auxiliary_states()) - set(model.auxiliary)
    )
    if missing:
        raise InputError(f"{model.name}: the network has no values for {', '.join(sorted(missing)[:3])}")
    shape = _infer_output_shape(symbol, model, data_shape)
    if shape is None:
        batch, channels, height, width = data_shape
        fitting = [
            f"{h},{w}" + (",1" if c == 1 else "")
            for c in (3, 1)
            for h, w in _COMMON_SIZES
            if _infer_output_shape(symbol, model, (batch, c, h, w)) is not None
        ]
        hint = f"try {' or '.join(fitting)}" if fitting else "check that symbol and parameters belong together"
        raise InputError(
            f"{model.name}: the parameters do not fit pictures of height, width, channels "
            f"{height},{width},{channels}; {hint}"
        )
    return shape


def _infer_output_shape(symbol, model, data_shape):
    """The shape of the output, or None where the parameters do not fit."""
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    given = {name: array.shape for name, array in {**model.arguments, **model.auxiliary}.items()}
    try:
        # MXNet prints the shapes and warns before it raises.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes, outputs, auxiliary = symbol.infer_shape(data=data_shape)
    except mx.MXNetError:
        return None
    if shapes is None:
        return None
    fits = all(shape == given[name] for name, shape in zip(names, [*shapes, *auxiliary]) if name != "data")
    return outputs[0] if fits else None


def _bind(symbol, model, data_shape, context):
    try:
        executor = symbol.simple_bind(context, grad_req="null", data=data_shape)
    except RuntimeError as error:  # simple_bind makes one of every MXNetError
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{model.name}: MXNet cannot run it on {context}: {reason}") from error
    for own, given in ((executor.arg_dict, model.arguments), (executor.aux_dict, model.auxiliary)):
        for name, array in own.items():
            if name != "data":
                array[:] = given[name]
    return executor
