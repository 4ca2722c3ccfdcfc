"""Face recognition with DenseNet on MXNet: data sets, training, verification, embeddings and export.

``import denseface`` costs next to nothing and makes ``import mxnet`` possible. The public names below are imported at
their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from denseface import _compat

if TYPE_CHECKING:
    from denseface.core.errors import InputError
    from denseface.core.vectors import similarity
    from denseface.data.cropping import Cropper
    from denseface.data.pairs import read_pairs
    from denseface.embedding.embedder import Embedder
    from denseface.galleries.gallery import Gallery
    from denseface.models.checkpoint import load_model
    from denseface.verification.verify import verify

__version__ = "1.0.0"
__all__ = ["Cropper", "Embedder", "Gallery", "InputError", "load_model", "read_pairs", "similarity", "verify"]

_MODULES = {
    "Cropper": "denseface.data.cropping",
    "Embedder": "denseface.embedding.embedder",
    "Gallery": "denseface.galleries.gallery",
    "InputError": "denseface.core.errors",
    "load_model": "denseface.models.checkpoint",
    "read_pairs": "denseface.data.pairs",
    "similarity": "denseface.core.vectors",
    "verify": "denseface.verification.verify",
}

_compat.install()


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'denseface' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
