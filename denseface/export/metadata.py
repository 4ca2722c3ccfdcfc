"""What an exported file says about the model that it was made of, in the metadata of ONNX.

``denseface.model``
    The fingerprint of the model.
``denseface.input``
    ``image_shape`` (height, width, channels), ``order`` (RGB or gray) and ``range`` of the pixels that it takes.
``denseface.embedding``
    ``emb_size``, and what is left to the caller: ``normalize``, whether to scale an embedding to length 1, and
    ``flip``, whether to add that of the mirrored picture first.
``denseface.verification``
    What ``denseface verify`` has measured, by set, thresholds among it; only in files in float32.

Each is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

_MODEL, _INPUT, _EMBEDDING, _VERIFICATION = (
    f"denseface.{part}" for part in ("model", "input", "embedding", "verification")
)
_KINDS = {"prefix": str, "epoch": int, "sha256": str}


class Origin(NamedTuple):
    """The model that a file was made of.

    Attributes
    ----------
    fingerprint : dict
        See :class:`denseface.models.checkpoint.Model`.
    metrics : dict
        What was measured of it, by set; empty if nothing is said. Its content is not checked.
    """

    fingerprint: dict
    metrics: dict


def write_metadata(
    fingerprint: dict,
    image_shape: tuple[int, int, int] | None = None,
    emb_size: int | None = None,
    metrics: Mapping[str, dict] | None = None,
) -> dict[str, str]:
    """Return the metadata of a file.

    Parameters
    ----------
    fingerprint : dict
        Of the model that it is made of.
    image_shape : tuple (height, width, channels), optional
        Of the network's input.
    emb_size : int, optional
        Values in an embedding.
    metrics : mapping of str to dict, optional
        What was measured of the model, by set.
    """
    metadata = {_MODEL: fingerprint}
    if image_shape is not None:
        order = "RGB" if image_shape[2] == 3 else "gray"
        metadata[_INPUT] = {"image_shape": list(image_shape), "order": order, "range": [0, 255]}
    if emb_size is not None:
        metadata[_EMBEDDING] = {"emb_size": emb_size, "normalize": True, "flip": True}
    if metrics:
        metadata[_VERIFICATION] = dict(metrics)
    return {key: json.dumps(value) for key, value in metadata.items()}


def read_metadata(metadata: Mapping[str, str]) -> Origin | None:
    """Return what a file says about its model; None if denseface did not write it.

    Raises
    ------
    ValueError
        If what it says is damaged.
    """
    if _MODEL not in metadata:
        return None
    try:
        fingerprint, metrics = (json.loads(metadata.get(key, "{}")) for key in (_MODEL, _VERIFICATION))
        if any(type(fingerprint[key]) is not kind for key, kind in _KINDS.items()) or not isinstance(metrics, dict):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("what it says about its model is damaged") from error
    return Origin({key: fingerprint[key] for key in _KINDS}, metrics)
