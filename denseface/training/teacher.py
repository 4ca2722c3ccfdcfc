"""A trained model whose embeddings a student learns."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from denseface.core.errors import InputError
from denseface.data.pictures import PictureShape
from denseface.embedding.embedder import Embedder

import mxnet as mx

_CPU_BATCH = 8  # larger ones take more memory and are not faster


class Teacher:
    """Computes what a student is to learn: unit embeddings of the pictures of its own batches.

    The teacher gets each picture as it was augmented for the student, RGB or gray from 0 to 255, and scales it by its
    own layers. Both take pictures of the same size.

    Parameters
    ----------
    text : str
        A model, as for :meth:`denseface.embedding.embedder.Embedder.load`.
    image_shape : tuple (height, width, channels)
        Shape of the student's pictures.
    batch_size : int
        Pictures in a batch.
    context : Context
        Where the student trains. A teacher in an ONNX file computes on the CPU.
    dtype : str
        ``float32``, or ``bfloat16`` to compute in bfloat16, as the student, where OpenVINO is installed.

    Attributes
    ----------
    name : str
        The model's name.
    emb_size : int
        Values in one of its embeddings.
    identity : str
        What decides the bits of its embeddings: the hash of its parameters, engine and precision, wherever it was read.

    Raises
    ------
    InputError
        If the model does not exist, does not take pictures of this shape, or embeds a picture as zero or as
        not finite.
    """

    def __init__(
        self, text: str, image_shape: tuple[int, int, int], batch_size: int, context: mx.Context, dtype: str = "float32"
    ):
        on_cpu = context.device_type == "cpu" or text.endswith(".onnx")
        try:
            self._embedder = _load(
                text,
                _fast_engine(text, dtype) if on_cpu else None,
                image_shape=image_shape,
                batch_size=min(batch_size, _CPU_BATCH) if on_cpu else batch_size,
                flip=False,
                context=None if on_cpu else context,
            )
            noise = np.random.default_rng(0).integers(0, 256, PictureShape(*image_shape).nchw(2)).astype(np.float32)
            if not self(noise).any(axis=1).all():
                raise InputError(f"{text}: its embedding of a picture is zero; check the parameters of the model")
        except InputError as error:
            raise InputError(str(error), option="teacher") from error
        self.name = self._embedder.model.name
        self.emb_size = self._embedder.emb_size
        described = self._embedder.describe()
        self.identity = "sha256 {sha256} in {engine}, {precision}".format(**described)

    def __call__(self, data: np.ndarray) -> np.ndarray:
        """Embed a batch.

        Parameters
        ----------
        data : ndarray of shape (N, C, H, W), float32
            0 to 255.

        Returns
        -------
        ndarray of shape (N, emb_size), float32
            Of length 1.
        """
        return self._embedder.compute(data).rows


def _fast_engine(text: str, dtype: str) -> str | None:
    """Choose what computes a teacher on the CPU; None for the engine that embeds with this model.

    A teacher takes most of a step, and OpenVINO is two to five times as fast as ONNX Runtime.
    """
    if not find_spec("openvino"):
        return None
    if dtype == "bfloat16":
        return "openvino-bf16"
    return "openvino" if text.endswith(".onnx") else None


def _load(text: str, engine: str | None, **options: Any) -> Embedder:
    """Load a model in an engine, or in its own one if that engine cannot compute it."""
    try:
        return Embedder.load(text, engine=engine, **options)
    except InputError:
        if engine is None:
            raise
    return Embedder.load(text, **options)
