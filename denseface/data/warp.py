"""Prepare pictures for a warp by Pillow: repeated edges, and Pillow's form of gray."""

from __future__ import annotations

import numpy as np
from PIL import Image


def pad_for(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat the outermost pixels of a picture until points lie in it.

    Parameters
    ----------
    image : ndarray of shape (H, W, C), uint8
    points : ndarray of shape (n, 2)
        x and y in pixels, from the corner of the first one.

    Returns
    -------
    padded : ndarray of shape (H', W', C), uint8
    offset : ndarray of shape (2,), int64
        What to add to x and y, so that they mean the same place in it.
    """
    height, width = image.shape[:2]
    left, top = np.ceil(np.maximum(-points.min(axis=0), 0)).astype(int)
    right, bottom = np.ceil(np.maximum(points.max(axis=0) - (width, height), 0)).astype(int)
    return np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge"), np.array([left, top])


def to_pillow(image: np.ndarray) -> Image.Image:
    """Make Pillow's picture of (H, W, 3) or (H, W, 1), uint8."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def from_pillow(picture: Image.Image) -> np.ndarray:
    """Make (H, W, 3) or (H, W, 1), uint8, of Pillow's picture."""
    image = np.asarray(picture)
    return image[:, :, np.newaxis] if image.ndim == 2 else image
