"""Exported networks whose layers compute with whole numbers of 8 bits, in ranges measured on pictures."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.onnx_session import open_session
from denseface.core.packages import require

# Below this, rounding changes the embeddings too much.
LEAST_COSINE = 0.99
# Fraction of layers, from the input, kept in float: their rounding error reaches every later layer.
_FIRST = 1 / 20


def quantize(content: bytes, batches: Sequence[np.ndarray]) -> tuple[bytes, float]:
    """Let the convolutions and fully connected layers of an exported network compute in int8.

    Weights have one scale per output channel; the input of each layer has one range, the widest that the pictures show.
    Everything between the layers stays in floating point, and so does the first twentieth of the layers, which caused
    two thirds of the changes in a DenseNet-121's similarities.

    Parameters
    ----------
    content : bytes
        An ONNX file with the input ``data``.
    batches : sequence of ndarray of shape (N, C, H, W), float32
        Pictures like those that the network is for, 0 to 255; a few hundred suffice.

    Returns
    -------
    content : bytes
        An ONNX file for the same input and output, with ``QuantizeLinear`` and ``DequantizeLinear`` around the layers.
    cosine : float
        The lowest cosine between the two networks' embeddings of a picture.

    Raises
    ------
    InputError
        If there are no pictures, or the embeddings differ too much from those of the network.
    """
    if not len(batches):
        raise InputError("the ranges of values are measured on pictures; give some", option="int8")
    quantized = _quantized(content, batches)
    cosine = _least_cosine(content, quantized, batches)
    if not cosine >= LEAST_COSINE:
        raise InputError(
            f"would lower similarity to {cosine:.3f} (minimum {LEAST_COSINE}); export the network without",
            option="int8",
        )
    return quantized, cosine


def _quantized(content, batches):
    require("onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._batches = iter(batches)

        def get_next(self):
            batch = next(self._batches, None)
            return None if batch is None else {"data": batch}

    kinds = ["Conv", "Gemm"]
    layers = [node.name for node in onnx.load_from_string(content).graph.node if node.op_type in kinds]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, quantized = (Path(folder) / name for name in ("plain.onnx", "int8.onnx"))
        plain.write_bytes(content)
        quantize_static(
            str(plain),
            str(quantized),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            nodes_to_exclude=layers[: int(len(layers) * _FIRST)],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": kinds},
        )
        return quantized.read_bytes()


@contextlib.contextmanager
def _quiet():
    """Suppress advice on how to prepare a model: this one is prepared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _least_cosine(content, quantized, batches):
    sessions = [open_session(c) for c in (content, quantized)]
    expected, found = (np.concatenate([s.run(None, {"data": batch})[0] for batch in batches]) for s in sessions)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(((expected * found).sum(axis=1) / lengths).min())
