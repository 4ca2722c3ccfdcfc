"""Exported networks whose layers compute with whole numbers of 8 bits, their ranges taken from pictures."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.packages import require

# Below this the whole numbers do not hold what the network computes.
LEAST_COSINE = 0.99
# Of the layers, the first of which stay in floating point: what these round, all others take in.
_FIRST = 1 / 20


def quantize(content: bytes, batches: Sequence[np.ndarray]) -> tuple[bytes, float]:
    """Let the convolutions and fully connected layers of an exported network compute in int8.

    Weights have a scale for every output channel; inputs of layers have one range each, the widest that the pictures
    show.  What is between the layers stays in floating point, and so does the first twentieth of the layers, which made
    two thirds of what rounding changed in the similarities of a DenseNet-121.

    Parameters
    ----------
    content : bytes
        An ONNX file with the input ``data``.
    batches : sequence of ndarray of shape (N, C, H, W), float32
        Pictures like those that the network is for, 0 to 255; a few hundred do.

    Returns
    -------
    content : bytes
        An ONNX file for the same input and output, with ``QuantizeLinear`` and ``DequantizeLinear`` around the layers.
    cosine : float
        The least between the two networks' embeddings of a picture.

    Raises
    ------
    InputError
        If there are no pictures, or the embeddings come out too far from those of the network.
    """
    if not len(batches):
        raise InputError("int8 needs pictures to take the ranges of values from")
    quantized = _quantized(content, batches)
    cosine = _least_cosine(content, quantized, batches)
    if not cosine >= LEAST_COSINE:
        raise InputError(f"int8 changes this network too much: to a cosine of {cosine:.3f}; export it without")
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
    """Keep advice on how to prepare a model, which this one needs no more, from the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _least_cosine(content, quantized, batches):
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(c, providers=["CPUExecutionProvider"]) for c in (content, quantized)]
    expected, found = (np.concatenate([s.run(None, {"data": batch})[0] for batch in batches]) for s in sessions)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(((expected * found).sum(axis=1) / lengths).min())
