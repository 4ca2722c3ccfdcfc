"""Mix two aligned faces into one of a person who does not exist.

A mixture has no label, but a teacher can embed it. So a few faces become as many as a student needs, as in function
matching, where teacher and student see the same mixtures and nothing else.

References
----------
L. Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022, where a mixture has one
weight for all pixels (mixup); here it varies over the face, so that features of one person meet those of another.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDES = (2, 5)  # fewest and most nodes along a side of the grid on which the weight is drawn
_STEEPNESS = (0.5, 3.0)  # standard deviation of the weight's logit: even mixtures, and sharp borders
_BIAS = 0.5


def mix_faces(face: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix two faces with a weight that varies smoothly over the picture.

    Parameters
    ----------
    face, other : ndarray of shape (H, W, C), uint8
        Aligned faces. ``other`` gets the mean and the contrast of ``face`` first, channel by channel, as measured in
        the middle of the picture.
    rng : numpy.random.Generator
        The source of the weight.

    Returns
    -------
    ndarray of shape (H, W, C), uint8
    """
    height, width = face.shape[:2]
    side = int(rng.integers(_SIDES[0], _SIDES[1] + 1))
    logits = rng.standard_normal((side, side)) * rng.uniform(*_STEEPNESS) + rng.standard_normal() * _BIAS
    smooth = Image.fromarray(logits.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    weight = 1 / (1 + np.exp(-np.asarray(smooth)))[:, :, np.newaxis]
    first, second = face.astype(np.float32), other.astype(np.float32)
    (mean, spread), (other_mean, other_spread) = _contrast(first), _contrast(second)
    matched = (second - other_mean) * (spread / other_spread) + mean
    return np.clip(np.rint(weight * first + (1 - weight) * matched), 0, 255).astype(np.uint8)


def _contrast(face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel in the middle of a picture; 1 where it is flat."""
    height, width = face.shape[:2]
    middle = face[height // 4 : height - height // 4, width // 4 : width - width // 4]
    spread = middle.std(axis=(0, 1))
    return middle.mean(axis=(0, 1)), np.where(spread > 0, spread, 1)
