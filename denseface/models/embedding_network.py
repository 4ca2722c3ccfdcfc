"""The part of a model that gives embeddings, checked against its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from denseface.core.errors import InputError
from denseface.models.symbol_file import infer_shapes

import mxnet as mx

if TYPE_CHECKING:
    from denseface.models.checkpoint import Model

# Tried, with three channels and with one, to say what a network takes when it does not take what it was given.
_COMMON_SIZES = ((112, 112), (112, 96), (64, 64), (96, 96), (128, 128), (160, 160), (224, 224))


def embedding_output(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Cut a network at its embedding: at ``fc1_output``, or else at its first output."""
    internals = symbol.get_internals()
    return internals["fc1_output"] if "fc1_output" in internals.list_outputs() else symbol[0]


def checked_embedding(model: Model, data_shape: tuple[int, int, int, int]) -> tuple[mx.sym.Symbol, int]:
    """Cut a model at its embedding, and see that the parameters fit.

    Parameters
    ----------
    model : Model
        The network, or a whole training symbol, and its parameters.
    data_shape : tuple (B, C, H, W)
        Of a batch of pictures.

    Returns
    -------
    symbol : Symbol
        Takes ``data`` and gives the embeddings (B, emb_size).
    emb_size : int
        Values in an embedding.

    Raises
    ------
    InputError
        If a parameter is missing, the output is no list of embeddings, or the parameters do not fit pictures of this
        shape; the message has common shapes that they do fit.
    """
    symbol = embedding_output(model.symbol)
    missing = (set(symbol.list_arguments()) - {"data"} - set(model.arguments)) | (
        set(symbol.list_auxiliary_states()) - set(model.auxiliary)
    )
    if missing:
        raise InputError(f"{model.name}: the network has no values for {', '.join(sorted(missing)[:3])}")
    output_shape = _output_shape(symbol, model, data_shape)
    if output_shape is None:
        raise InputError(_misfit(symbol, model, data_shape))
    if len(output_shape) != 2 or output_shape[0] != data_shape[0]:
        raise InputError(
            f"{model.name}: its output has the shape {output_shape}, which is no list of embeddings; "
            "a network for embeddings ends in fc1"
        )
    return symbol, output_shape[1]


def _output_shape(symbol, model, data_shape):
    """The shape of the output, or None where the parameters do not fit."""
    try:
        shapes, outputs = infer_shapes(symbol, model.name, data=data_shape)
    except InputError:
        return None
    given = {**model.arguments, **model.auxiliary}
    fits = all(given[name].shape == shape for name, shape in shapes.items() if name != "data")
    return outputs[0] if fits else None


def _misfit(symbol, model, data_shape):
    batch, channels, height, width = data_shape
    fitting = [
        f"{h},{w}" + (",1" if c == 1 else "")
        for c in (3, 1)
        for h, w in _COMMON_SIZES
        if _output_shape(symbol, model, (batch, c, h, w)) is not None
    ]
    hint = f"try {' or '.join(fitting)}" if fitting else "check that symbol and parameters belong together"
    given = f"{height},{width},{channels}"
    return f"{model.name}: the parameters do not fit pictures of height, width, channels {given}; {hint}"
