"""What an exported file says about the model that it was made of, in the metadata of ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping

# The fingerprint of the model, as JSON.
_KEY = "denseface.model"
_KINDS = {"prefix": str, "epoch": int, "sha256": str}


def write_metadata(fingerprint: dict) -> dict[str, str]:
    """Return the metadata of a file that is made of a model with this fingerprint."""
    return {_KEY: json.dumps(fingerprint)}


def read_metadata(metadata: Mapping[str, str]) -> dict | None:
    """Return the fingerprint of the model that a file was made of; None if the file does not say it so."""
    try:
        fingerprint = json.loads(metadata[_KEY])
        if all(type(fingerprint[key]) is kind for key, kind in _KINDS.items()):
            return {key: fingerprint[key] for key in _KINDS}
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    return None
