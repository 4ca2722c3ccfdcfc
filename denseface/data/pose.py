"""Turn the head in an aligned picture, using an average head shape.

A head is modeled as an ellipsoid with a nose. Each pixel gets a depth, the points in space are turned and seen from far
away, and the picture is aligned again, as it would have been had the person turned.

References
----------
I. Masi et al., "Do we really need to collect millions of faces for effective face recognition?", ECCV 2016, which turns
faces by three-dimensional shapes of heads to train with more poses.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from denseface.data.align import REFERENCE_POINTS, REFERENCE_SIZE, estimate_similarity

# The ellipsoid, in pixels of an aligned crop of 112 x 112: a head is 2.4 times as wide as its pupils are apart, which
# the reference points put 35 pixels apart. Its depth is flattened where it would be steep, at the outline.
_CENTER = np.array([56.0, 64.0])
_HALF_WIDTH, _HALF_HEIGHT, _HALF_DEPTH = 48.0, 99.0, 48.0
_FLATTEST = 0.02
_NOSE_HEIGHT, _NOSE_SPREAD = 13.0, np.array([7.0, 9.0])

_CELLS = 28  # along each side; within a cell the warp is bilinear
# From the corner of the first pixel; landmarks are counted from its center.
_NODES = np.stack(np.meshgrid(*[np.linspace(0, REFERENCE_SIZE, _CELLS + 1)] * 2), axis=-1)
_ITERATIONS = 6  # inverts the motion within 0.1 pixels up to 35 degrees, but for the steep outline of the head


def turn_head(image: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """Turn the head in a picture of an aligned face.

    Parameters
    ----------
    image : ndarray of shape (H, W, C), uint8
        A face where :func:`~denseface.data.align.align` puts it, RGB, or gray with C = 1. It is not changed.
    yaw : float
        Degrees by which the face turns to the right of the picture; negative values turn it to the left.
    pitch : float
        Degrees by which it turns down; negative values turn it up.

    Returns
    -------
    ndarray of shape (H, W, C), uint8
        The face, again aligned; beyond the picture's edges, its outermost pixels are repeated.
    """
    height, width = image.shape[:2]
    origins = _origins(_NODES - 0.5, math.radians(yaw), math.radians(pitch)) + 0.5
    x, y = np.moveaxis(origins * (width, height) / REFERENCE_SIZE, -1, 0)
    down, across = _weights(height), _weights(width).T
    return _sample(image, down @ x @ across - 0.5, down @ y @ across - 0.5)


@functools.lru_cache(maxsize=8)
def _weights(side: int) -> np.ndarray:
    """Return (side, nodes): how much each node of a line counts in the middle of each of its pixels."""
    at = (np.arange(side) + 0.5) * _CELLS / side
    return np.maximum(1 - np.abs(at[:, np.newaxis] - np.arange(_CELLS + 1)), 0)


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate a picture (H, W, C) at points (H, W), counted from the center of its first pixel."""
    height, width = image.shape[:2]
    x, y = (np.clip(at, 0, side - 1).astype(np.float32) for at, side in ((x, width), (y, height)))
    left, top = x.astype(int), y.astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[..., np.newaxis], (y - top)[..., np.newaxis]
    pixels = image.reshape(height * width, -1).astype(np.float32)
    upper, lower = (
        pixels[row * width + left] * (1 - across) + pixels[row * width + right] * across for row in (top, bottom)
    )
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


def _origins(points: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """Find which points (..., 2) of the picture come to lie at the given ones once the head is turned and aligned."""
    alignment = estimate_similarity(REFERENCE_POINTS + _motion(REFERENCE_POINTS, yaw, pitch), REFERENCE_POINTS)
    turned = (points - alignment[:, 2]) @ np.linalg.inv(alignment[:, :2]).T
    origins = turned
    for _ in range(_ITERATIONS):
        origins = turned - _motion(origins, yaw, pitch)
    return origins


def _motion(points: np.ndarray, yaw: float, pitch: float) -> np.ndarray:
    """Return by how much each point (..., 2) moves when the head turns about its middle."""
    x, y = np.moveaxis(points - _CENTER, -1, 0)
    depth = _depth(points) - _depth(REFERENCE_POINTS).mean()
    return np.stack(
        [
            x * (math.cos(yaw) - 1) + depth * math.sin(yaw),
            y * (math.cos(pitch) - 1) + depth * math.sin(pitch),
        ],
        axis=-1,
    )


def _depth(points: np.ndarray) -> np.ndarray:
    """Return how far in front of the middle of the head the skin is at points (..., 2)."""
    offset = points - _CENTER
    ellipsoid = 1 - ((offset / (_HALF_WIDTH, _HALF_HEIGHT)) ** 2).sum(axis=-1)
    nose = np.exp(-(((points - REFERENCE_POINTS[2]) / _NOSE_SPREAD) ** 2).sum(axis=-1) / 2)
    return _HALF_DEPTH * np.sqrt(np.maximum(ellipsoid, _FLATTEST)) + _NOSE_HEIGHT * nose
