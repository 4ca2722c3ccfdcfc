"""The part of a model that computes embeddings, checked against its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from denseface.core.errors import InputError
from denseface.models.graph import Graph, Shape
from denseface.models.symbol_file import embedding_output, infer_shapes

if TYPE_CHECKING:
    from denseface.models.checkpoint import Model

# Sizes to suggest, with three channels and with one, if a network does not work on a given size.
_COMMON_SIZES = ((112, 112), (112, 96), (64, 64), (96, 96), (128, 128), (160, 160), (224, 224))

# Parameters of heads that are depthwise here and not in InsightFace.
_DEPTHWISE = {"conv_6dw7_7_conv2d_weight": "GDC", "convf_weight": "SFC"}


class Embedding(NamedTuple):
    """The part of a model that computes embeddings.

    Attributes
    ----------
    graph : Graph
        From ``data`` to the embeddings (B, emb_size), with all shapes.
    emb_size : int
        Number of values in an embedding.
    """

    graph: Graph
    emb_size: int


def checked_embedding(model: Model, data_shape: tuple[int, int, int, int]) -> Embedding:
    """Cut a model at its embedding, and check that the parameters fit.

    Parameters
    ----------
    model : Model
        The network, or a whole training symbol, and its parameters.
    data_shape : tuple (B, C, H, W)
        Of a batch of pictures.

    Returns
    -------
    Embedding

    Raises
    ------
    InputError
        If a parameter is missing, the output is not a list of embeddings, or the parameters do not fit pictures of this
        shape; the message has the reason, or common shapes that they do fit.
    """
    symbol = embedding_output(model.symbol)
    missing = (set(symbol.list_arguments()) - {"data"} - set(model.arguments)) | (
        set(symbol.list_auxiliary_states()) - set(model.auxiliary)
    )
    if missing:
        raise InputError(f"{model.name}: the network has no values for {', '.join(sorted(missing)[:3])}")
    graph = Graph(symbol)
    problem = _why_unfit(graph, model, data_shape)
    if problem:
        raise InputError(_misfit(graph, model, data_shape, problem))
    output_shape = graph.shapes[graph.heads[0]]
    if len(output_shape) != 2 or output_shape[0] != data_shape[0]:
        raise InputError(
            f"{model.name}: its output has the shape {output_shape}, which is not a list of embeddings; "
            "a network for embeddings ends in fc1"
        )
    return Embedding(graph, output_shape[1])


def explain_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say in what a parameter's shape differs from the one that a network needs, and why if that is known."""
    text = f"{name} is {given}, but the network needs {wanted}"
    if name in _DEPTHWISE:
        head = _DEPTHWISE[name]
        text += (
            f"; InsightFace's {head} assumes a body of 512 channels, while this project's is depthwise, with one "
            "kernel per channel; use the symbol file that was saved with the parameters"
        )
    return text


def _why_unfit(graph: Graph, model: Model, data_shape: Shape) -> str | None:
    """Infer the graph's shapes; return why the parameters do not fit them, or None."""
    try:
        infer_shapes(graph, model.name, data=data_shape)
    except InputError as error:
        return error.without(model.name)
    given = {**model.arguments, **model.auxiliary}
    for name, variable in graph.variables.items():
        shape = graph.shapes[variable, 0]
        if name != "data" and given[name].shape != shape:
            return explain_shape(name, given[name].shape, shape)
    return None


def _misfit(graph: Graph, model: Model, data_shape: Shape, problem: str) -> str:
    batch, channels, height, width = data_shape
    fitting = [
        f"{h},{w}" + (",1" if c == 1 else "")
        for c in (3, 1)
        for h, w in _COMMON_SIZES
        if not _why_unfit(graph, model, (batch, c, h, w))
    ]
    hint = f"try {' or '.join(fitting)}" if fitting else f"{problem}; check that symbol and parameters belong together"
    given = f"{height},{width},{channels}"
    return f"{model.name}: the parameters do not fit pictures of height, width, channels {given}; {hint}"
