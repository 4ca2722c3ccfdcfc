"""Photographs made of synthetic faces, and a detector that knows where they are."""

import numpy as np
from PIL import Image

from denseface.data.align import REFERENCE_POINTS
from denseface.data.detection import Faces

SIZE = 32
SHAPE = (SIZE, SIZE, 3)
POINTS = REFERENCE_POINTS * (SIZE / 112)


def face(seed):
    """A smooth picture of the network's size."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def photo(seed, left=20, top=9):
    """The face on its side, its top to the left, in a larger picture; and its landmarks there."""
    picture = np.full((60, 80, 3), 100, np.uint8)
    picture[top : top + SIZE, left : left + SIZE] = np.rot90(face(seed))
    return picture, np.column_stack([left + POINTS[:, 1], top + SIZE - 1 - POINTS[:, 0]])


def group(*corners):
    """Upright faces at these corners (left, top) of a picture of 200 x 100; the face of corner i has seed i."""
    picture = np.full((100, 200, 3), 100, np.uint8)
    for seed, (left, top) in enumerate(corners):
        picture[top : top + SIZE, left : left + SIZE] = face(seed)
    return picture


def faces_at(*corners, scores=None, scale=1.0):
    """What a detector returns for `group`."""
    corners = np.reshape(np.array(corners, float), (-1, 2))
    boxes = np.hstack([corners, corners + SIZE])
    scores = np.full(len(corners), 0.9) if scores is None else np.array(scores)
    return Faces(boxes, scores, corners[:, None] + POINTS * scale)


def as_line(name, points):
    """A line of a file of landmarks."""
    return f"{name} {' '.join(str(value) for value in points.ravel())}\n"
