"""The engine that computes a model if nobody names one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from denseface.embedding.engines.onnx_model import OnnxModel
    from denseface.models.checkpoint import Model

    import mxnet as mx

# From so many layers in dense blocks on, MXNet with compiled operators is the fastest: DenseNet-63 has 29. Measured on
# two cores with AVX-512, batches of 8, in milliseconds, against the better one of the others: DenseNet-121 204 to 259,
# DenseNet-63 22 to 27, DenseNet-15 15 to 7, MobileFaceNets 30 to 6 and 130 to 27, ResNet-50 585 to 434.
_LEAST_LAYERS = 20

# Other networks, and all as long as no operators are compiled: the first that is installed, with the packages that it
# needs for a checkpoint.
_OTHERS = {"openvino": ("openvino", "onnx"), "onnxruntime": ("onnxruntime", "onnx")}


def default_engines(
    model: Model | OnnxModel, input_shape: tuple[int, int, int], context: mx.Context | None = None
) -> tuple[str, ...]:
    """Choose engines for a model.

    Parameters
    ----------
    model : Model or OnnxModel
        The network and its parameters.
    input_shape : tuple (C, H, W)
        Shape of one picture.
    context : mxnet.Context, optional
        Where MXNet is to compute; None for the CPU.

    Returns
    -------
    tuple of str
        Names of engines that compute in float32, the fastest first. The last one needs no further package; the others
        are installed, but there are networks that they cannot compute.
    """
    if model.default_engine != "mxnet" or context is not None:
        return (model.default_engine,)
    others = [name for name, modules in _OTHERS.items() if all(find_spec(module) for module in modules)]
    if others and _is_best_in_mxnet(cast("Model", model), input_shape):
        return ("mxnet",)
    return (*others, "mxnet")


def _is_best_in_mxnet(model: Model, input_shape: tuple[int, int, int]) -> bool:
    from denseface.models.embedding_network import checked_embedding
    from denseface.rewrites.dense_blocks import count_fused_layers, fuse_dense_blocks_for_inference
    from denseface.rewrites.native import are_compiled

    if not are_compiled():
        return False
    graph = checked_embedding(model, (1, *input_shape)).graph
    fuse_dense_blocks_for_inference(graph)
    return count_fused_layers(graph) >= _LEAST_LAYERS
