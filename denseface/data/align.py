"""Bring a face to the place in its picture where networks trained on aligned faces expect it.

Five landmarks (the eyes, the tip of the nose, the corners of the mouth) are moved onto ArcFace's reference points by
turning, scaling and shifting the picture.

References
----------
S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
J. Deng et al., "ArcFace: Additive angular margin loss for deep face recognition", CVPR 2019.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from denseface.core.errors import InputError
from denseface.core.files import open_input

# Where ArcFace has the landmarks in a crop of 112 x 112: x and y of the eye on the left of the picture and of that on
# the right, the tip of the nose, the left and the right corner of the mouth.
REFERENCE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_REFERENCE_SIZE = 112

_LARGEST_COORDINATE = 1e6
_TINY = 1e-6


def estimate_similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Find the rotation, scale and shift that bring points closest to others, in the sense of least squares.

    With each point as a complex number x + iy, a similarity of the plane is ``z -> a * z + b``, and equations 40 to 42
    of Umeyama (without reflection) become a division: ``a = sum(conj(z) * w) / sum(|z|**2)`` over the points less their
    means, and ``b = mean(w) - a * mean(z)``.

    Parameters
    ----------
    src, dst : array-like of shape (n, 2), n >= 2
        x and y of corresponding points.

    Returns
    -------
    ndarray of shape (2, 3), float64
        ``matrix @ [x, y, 1]`` is where (x, y) goes.

    Raises
    ------
    InputError
        If the points are not finite, differ in number, coincide, or no similarity takes them anywhere near the others.
    """
    z, w = _complex_points(src), _complex_points(dst)
    if len(z) != len(w):
        raise InputError(f"{len(z)} points cannot be matched with {len(w)}")
    z_mean, w_mean = z.mean(), w.mean()
    z_spread, w_spread = np.linalg.norm(z - z_mean), np.linalg.norm(w - w_mean)
    if z_spread <= _TINY or w_spread <= _TINY:
        raise InputError("the points coincide")
    a = np.vdot(z - z_mean, w - w_mean) / z_spread**2
    if abs(a) * z_spread <= _TINY * w_spread:
        raise InputError("no rotation, scale and shift takes the points to the others")
    b = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """Cut a face out of a picture, upright and at ArcFace's place.

    Pixels are interpolated between their four neighbours, as InsightFace does; what lies outside the picture is black.

    Parameters
    ----------
    image : ndarray of shape (height, width), (height, width, 1) or (height, width, 3), uint8
        The picture, gray or in any order of three channels.
    landmarks : array-like of shape (5, 2)
        x and y in pixels, in the order of :data:`REFERENCE_POINTS`; the centre of the top left pixel is (0, 0).
    size : int
        Height and width of the result in pixels; the reference points are scaled with it.

    Returns
    -------
    ndarray of shape (size, size) and the channels of the picture, uint8

    Raises
    ------
    InputError
        If the landmarks are not five finite points, coincide, have left and right exchanged, or miss the picture.
    """
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
        raise InputError(f"a picture must be uint8 of shape (height, width, 3), not {image.dtype} {image.shape}")
    points = np.asarray(landmarks, np.float64)
    if points.shape != REFERENCE_POINTS.shape:
        raise InputError(f"a face has 5 landmarks, x and y of each, not an array of shape {points.shape}")
    forward = estimate_similarity(points, REFERENCE_POINTS * (size / _REFERENCE_SIZE))
    height, width = image.shape[:2]
    if _are_mirrored(points):
        raise InputError("the landmarks have left and right exchanged; left is the left side of the picture")
    if not ((points.mean(axis=0) >= 0) & (points.mean(axis=0) < (width, height))).all():
        raise InputError(f"the landmarks are outside the picture of {width} x {height} pixels")
    picture = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    backward = tuple(_for_pillow(forward).ravel().tolist())
    crop = picture.transform((size, size), Image.Transform.AFFINE, backward, Image.Resampling.BILINEAR)
    return np.asarray(crop).reshape(size, size, *image.shape[2:])


def read_landmarks(path: str | Path) -> dict[str, np.ndarray]:
    """Read the landmarks of pictures from a text file.

    Parameters
    ----------
    path : path-like
        A line is ``picture x1 y1 x2 y2 x3 y3 x4 y4 x5 y5``, separated by spaces or tabs; the picture's path may have
        spaces itself.  Empty lines do not count.

    Returns
    -------
    dict of str to ndarray of shape (5, 2), float64
        By the picture's path, with ``/`` between folders and without ``./``.

    Raises
    ------
    InputError
        If the file cannot be read, a line is anything else, or a picture is there twice.
    """
    found: dict[str, np.ndarray] = {}
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            name, *values = line.rsplit(None, 10) or (b"",)
            if not name:
                continue
            try:
                points = np.array([float(value) for value in values]).reshape(5, 2)
                _complex_points(points)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is not a picture's path and x, y of 5 points") from error
            picture = str(PurePosixPath(name.decode("utf-8", "surrogateescape").strip()))
            if picture in found:
                raise InputError(f"{path}: line {number}: {picture} is there twice")
            found[picture] = points
    return found


def _complex_points(points):
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise InputError(f"points must be an array of shape (n, 2), n at least 2, not {points.shape}")
    if not (np.abs(points) <= _LARGEST_COORDINATE).all():
        raise InputError("the points must be finite numbers of pixels")
    return points[:, 0] + 1j * points[:, 1]


def _are_mirrored(points):
    """Whether the points fit the mirrored reference twice as well; on a profile both fit about alike."""
    z, w = _complex_points(points), _complex_points(REFERENCE_POINTS)
    z, w = z - z.mean(), w - w.mean()
    return abs(np.dot(z, w)) > 2 * abs(np.vdot(z, w))


def _for_pillow(forward):
    """Invert a matrix, and move it to Pillow's coordinates, in which the first pixel's centre is (0.5, 0.5)."""
    scale_squared = math.hypot(*forward[:, 0]) ** 2
    backward = forward[:, :2].T / scale_squared
    centre = np.array([0.5, 0.5])
    return np.column_stack([backward, centre - backward @ (forward[:, 2] + centre)])
