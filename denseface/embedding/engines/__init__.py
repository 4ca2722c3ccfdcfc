"""What computes embeddings: one module per library, all called in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from denseface.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from denseface.embedding.engines.onnx_model import OnnxModel
    from denseface.models.checkpoint import Model

    import mxnet as mx

ENGINES = ("mxnet", "onnxruntime", "openvino", "openvino-bf16")

INPUT_SHAPE = (3, 112, 112)  # (C, H, W) of InsightFace's networks


class Engine(Protocol):
    """A network bound at one batch size, so that an embedding does not depend on how many are computed at a time.

    Several threads may call an engine at once. Each call returns the embeddings of its own batch, the same bits that
    the call would return alone.

    Attributes
    ----------
    input_shape : tuple (C, H, W)
        Shape of one picture.
    batch_size : int
        B.
    emb_size : int
        Values in an embedding.
    precision : str
        ``float32``, ``bfloat16``, or ``float32 on cuda`` where a provider computes float32 differently from the CPU.
    """

    input_shape: tuple[int, int, int]
    batch_size: int
    emb_size: int
    precision: str

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed the pictures of a batch.

        Parameters
        ----------
        batch : ndarray of shape (B, C, H, W), float32
            RGB or gray, 0 to 255.

        Returns
        -------
        ndarray of shape (B, emb_size), float32
            As the network computes them, not normalized.
        """
        ...


def make_engine(
    name: str,
    model: Model | OnnxModel,
    batch_size: int,
    input_shape: tuple[int, int, int] | None = None,
    context: mx.Context | None = None,
    provider: str | None = None,
) -> Engine:
    """Bind a model.

    Parameters
    ----------
    name : str
        One of ``ENGINES``. ``openvino-bf16`` computes in bfloat16, with 8 significant bits, where the processor can.
    model : Model or OnnxModel
        MXNet takes a Model; the others convert it, or take a model from an ONNX file as it is.
    batch_size : int
        Pictures per call. An ONNX file made for one batch size keeps to it.
    input_shape : tuple (C, H, W), optional
        Shape of one picture; by default (3, 112, 112), or that of the ONNX file.
    context : mxnet.Context, optional
        Where MXNet computes; the CPU by default.
    provider : str, optional
        Where ONNX Runtime computes, one of :data:`denseface.core.providers.PROVIDERS`; the CPU by default.

    Raises
    ------
    InputError
        If there is no such engine, a package is missing, or the model does not fit.
    """
    from denseface.embedding.engines.onnx_model import OnnxModel, converted

    if name not in ENGINES:
        raise InputError(f"{name} is not one of {', '.join(ENGINES)}", option="engine")
    if provider is not None and name != "onnxruntime":
        raise InputError(f"{provider} is for the engine onnxruntime, not for {name}", option="provider")
    if name == "mxnet":
        from denseface.embedding.engines.mxnet_engine import MXNetEngine

        if isinstance(model, OnnxModel):
            raise InputError(f"MXNet cannot run {model.name}, an ONNX file; choose onnxruntime", option="engine")
        return MXNetEngine(model, input_shape or INPUT_SHAPE, batch_size, context)
    if context is not None:
        raise InputError(f"{name} takes no GPU of MXNet; for onnxruntime choose a provider, cuda say", option="engine")
    if not isinstance(model, OnnxModel):
        model = converted(model, (batch_size, *(input_shape or INPUT_SHAPE)))
    elif input_shape not in (None, model.input_shape):
        raise InputError(f"{model.name}: it takes pictures of (C, H, W) = {model.input_shape}, not {input_shape}")
    if name == "onnxruntime":
        from denseface.embedding.engines.onnxruntime_engine import ONNXRuntimeEngine

        return ONNXRuntimeEngine(model, batch_size, "cpu" if provider is None else provider)
    from denseface.embedding.engines.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(model, batch_size, bf16=name == "openvino-bf16")
