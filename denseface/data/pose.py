"""Turn the head in an aligned picture, using an average head shape.

A head is modeled as an ellipsoid with a nose. Each pixel gets a depth, the points in space are turned and seen from far
away, and the picture is aligned again, as it would have been had the person turned.

References
----------
I. Masi et al., "Do we really need to collect millions of faces for effective face recognition?", ECCV 2016, which turns
faces by three-dimensional shapes of heads to train with more poses.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from denseface.data.align import REFERENCE_POINTS, REFERENCE_SIZE, estimate_similarity
from denseface.data.warp import from_pillow, pad_for, to_pillow

# The ellipsoid, in pixels of an aligned crop of 112 x 112: a head is 2.4 times as wide as its pupils are apart, which
# the reference points put 35 pixels apart. Its depth is flattened where it would be steep, at the outline.
_CENTER = np.array([56.0, 64.0])
_HALF_WIDTH, _HALF_HEIGHT, _HALF_DEPTH = 48.0, 99.0, 48.0
_FLATTEST = 0.02
_NOSE_HEIGHT, _NOSE_SPREAD = 13.0, np.array([7.0, 9.0])

_CELLS = 28  # along each side; within a cell the warp is bilinear
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
    rows, columns = (np.linspace(0, side, min(side, _CELLS) + 1).round().astype(int) for side in (height, width))
    # Pillow counts from the corner of the first pixel, landmarks are counted from its center.
    scale = np.array([width, height]) / REFERENCE_SIZE
    nodes = np.stack(np.meshgrid(columns, rows), axis=-1)
    sources = _origins((nodes - 0.5) / scale, math.radians(yaw), math.radians(pitch)) * scale + 0.5

    padded, padding = pad_for(image, sources.reshape(-1, 2))
    sources = sources + padding
    corners = [sources[:-1, :-1], sources[1:, :-1], sources[1:, 1:], sources[:-1, 1:]]  # counter-clockwise from the top
    quads = np.concatenate(corners, axis=-1).reshape(-1, 8).tolist()
    boxes = np.concatenate([nodes[:-1, :-1], nodes[1:, 1:]], axis=-1).reshape(-1, 4).tolist()
    mesh = [(tuple(box), tuple(quad)) for box, quad in zip(boxes, quads)]
    return from_pillow(
        to_pillow(padded).transform((width, height), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    )


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
