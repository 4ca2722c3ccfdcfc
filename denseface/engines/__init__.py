"""What computes embeddings: one module a runtime, and every engine is called alike."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Engine(Protocol):
    """A network bound at one batch size, so that an embedding never depends on what else is in the batch.

    Attributes
    ----------
    input_shape : tuple (C, H, W)
        Of one picture.
    batch_size : int
        B.
    emb_size : int
        Values in an embedding.
    """

    input_shape: tuple[int, int, int]
    batch_size: int
    emb_size: int

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed the pictures of a batch.

        Parameters
        ----------
        batch : ndarray of shape (B, C, H, W), float32
            RGB or gray, 0 to 255.

        Returns
        -------
        ndarray of shape (B, emb_size), float32
            As the network gives them, not normalised.
        """
        ...
