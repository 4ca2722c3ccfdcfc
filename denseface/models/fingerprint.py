"""Which model an embedding comes from: embeddings of two models cannot be compared."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from denseface.models.embedding_network import embedding_output

if TYPE_CHECKING:
    from denseface.models.checkpoint import Model


def identity(model: Model) -> dict:
    """Say which model this is.

    Returns
    -------
    dict
        ``prefix`` and ``epoch``, where it was read from, and ``sha256`` of the names and values of the parameters that
        its embedding depends on, in hexadecimal: the same wherever a copy of the model lies, and whether or not it was
        saved with its training symbol.
    """
    symbol = embedding_output(model.symbol)
    given = {**model.arguments, **model.auxiliary}
    digest = hashlib.sha256()
    for name in sorted({*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {"data"}):
        values = np.ascontiguousarray(given[name], np.float32)
        digest.update(f"{name} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return {"prefix": model.prefix, "epoch": model.step, "sha256": digest.hexdigest()}
