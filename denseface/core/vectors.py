"""Embeddings as vectors: their length, and the similarity of two."""

from __future__ import annotations

import numpy as np

from denseface.core.errors import InputError


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Scale each embedding to length 1; an embedding of zeros stays zeros.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
        Any real type.

    Returns
    -------
    ndarray of shape (n, d), float64
    """
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths == 0, 1, lengths)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of embeddings, -1 to 1; 0 where one is all zeros.

    Parameters
    ----------
    a, b : ndarray of shape (n, d) and (m, d), or (d,)
        Embeddings, normalized or not.

    Returns
    -------
    ndarray of shape (n, m), float64
        Without the axis of an argument that is a single embedding.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    >>> float(similarity([3, 4], [6, 8])), float(similarity([1, 0], [0, 2]))
    (1.0, 0.0)
    """
    a, b = np.asarray(a), np.asarray(b)
    if not (a.ndim in (1, 2) and b.ndim in (1, 2) and a.shape[-1] == b.shape[-1]):
        raise InputError(f"embeddings must have the shapes (n, d) and (m, d), not {a.shape} and {b.shape}")
    scores = (normalize(np.atleast_2d(a)) @ normalize(np.atleast_2d(b)).T).clip(-1, 1)
    return scores.reshape(a.shape[:-1] + b.shape[:-1])
