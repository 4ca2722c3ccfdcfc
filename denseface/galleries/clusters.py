"""Group faces of unknown people, by the similarity of their embeddings.

References
----------
Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical Density Estimates", 2013 (HDBSCAN), as in
scikit-learn.
"""

from __future__ import annotations

import numpy as np

from denseface.core.errors import InputError
from denseface.core.packages import require
from denseface.core.vectors import normalize
from denseface.galleries.gallery import Gallery

MOST = 200_000  # embeddings; more take hours and tens of gigabytes
_BLOCK = 1 << 14


def cluster(gallery: Gallery, smallest: int = 3) -> np.ndarray:
    """Group the embeddings of a gallery.

    Embeddings of length 1 are compared by their distance, which orders pairs as their cosine similarity does.

    Parameters
    ----------
    gallery : Gallery
        Up to ``MOST`` embeddings, which are read into memory.
    smallest : int, at least 2
        Fewer pictures are not a person.

    Returns
    -------
    ndarray of shape (n,), int64
        The cluster of each embedding, from 0, the largest first; -1 for those in none.

    Raises
    ------
    InputError
        If scikit-learn is not installed, the gallery is too large, or `smallest` is out of range.
    """
    if smallest < 2:
        raise InputError(f"must be at least 2, not {smallest}", option="smallest")
    if len(gallery) > MOST:
        raise InputError(f"{gallery.path}: {len(gallery):,} embeddings are more than {MOST:,}; cluster parts of it")
    if len(gallery) < smallest:
        return np.full(len(gallery), -1, np.int64)
    hdbscan = require("sklearn.cluster", "scikit-learn").HDBSCAN
    rows = np.concatenate([normalize(block).astype(np.float32) for _, block in gallery.blocks(_BLOCK)])
    labels = hdbscan(min_cluster_size=smallest, copy=True).fit_predict(rows)
    sizes = np.bincount(labels[labels >= 0])
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.where(labels >= 0, rank[np.maximum(labels, 0)] if len(sizes) else 0, -1)
