"""Embeddings computed by ONNX Runtime."""

from __future__ import annotations

import logging

import numpy as np

from denseface.core.onnx_session import SAME_COSINE, open_on
from denseface.core.packages import require
from denseface.embedding.engines.onnx_model import OnnxModel, loading

logger = logging.getLogger(__name__)


class ONNXRuntimeEngine:
    """An :class:`~denseface.embedding.engines.Engine` on the CPU or an accelerator.

    Parameters
    ----------
    model : OnnxModel
        The network.
    batch_size : int
        Pictures per call, unless the model is made for another number.
    provider : str
        What computes: one of :data:`denseface.core.providers.PROVIDERS`. A warning says if its embeddings of a few
        pictures differ from those of the CPU by a cosine below 0.9999; they then have a precision of their own.

    Raises
    ------
    InputError
        If the package onnxruntime is missing, it cannot load the model, or the provider cannot be used here.
    """

    def __init__(self, model: OnnxModel, batch_size: int, provider: str = "cpu"):
        require("onnxruntime")
        self.input_shape = model.input_shape
        self.batch_size = model.batch_size or batch_size
        self.emb_size = model.emb_size
        with loading(model, "ONNX Runtime"):
            shape = (self.batch_size, *self.input_shape)
            opened = open_on(provider, model.content, shape, name=model.name, is_fixed=True)
        self._session = opened.session
        self.precision = "float32"
        if opened.agreement < SAME_COSINE:
            self.precision = f"float32 on {provider}"
            logger.warning(
                "%s: %s computes other embeddings than the CPU, with cosines down to %.5f; search them with %s only",
                *(model.name, provider, opened.agreement, provider),
            )

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch, float32 (B, C, H, W), 0 to 255; return float32 (B, emb_size)."""
        return self._session.run(None, {"data": batch})[0]
