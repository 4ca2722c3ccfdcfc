"""Face recognition with DenseNet on MXNet: records, training, verification, embeddings and export."""

from denseface import _compat

__version__ = "1.0.0"

_compat.install()
