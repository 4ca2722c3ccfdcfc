"""Embeddings computed by ONNX Runtime."""

from __future__ import annotations

import numpy as np

from denseface.core.onnx_session import open_session
from denseface.core.packages import require
from denseface.embedding.engines.onnx_model import OnnxModel, loading


class ONNXRuntimeEngine:
    """An :class:`~denseface.embedding.engines.Engine` on the CPU.

    Parameters
    ----------
    model : OnnxModel
        The network.
    batch_size : int
        Pictures per call, unless the model is made for another number.

    Raises
    ------
    InputError
        If the package onnxruntime is missing, or it cannot load the model.
    """

    def __init__(self, model: OnnxModel, batch_size: int):
        require("onnxruntime")
        self.input_shape = model.input_shape
        self.batch_size = model.batch_size or batch_size
        self.emb_size = model.emb_size
        with loading(model, "ONNX Runtime"):
            self._session = open_session(model.content)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch, float32 (B, C, H, W), 0 to 255; return float32 (B, emb_size)."""
        return self._session.run(None, {"data": batch})[0]
