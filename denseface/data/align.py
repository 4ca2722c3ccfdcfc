"""Align a face as networks trained on aligned faces expect it.

Five landmarks (the eyes, the tip of the nose, the corners of the mouth) are moved onto ArcFace's reference points by
turning, scaling and shifting the picture.

References
----------
S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
J. Deng et al., "ArcFace: Additive angular margin loss for deep face recognition", CVPR 2019.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from denseface.core.errors import InputError

# Where ArcFace has the landmarks in a crop of 112 x 112: x and y of the eye on the left of the picture and of that on
# the right, the tip of the nose, the left and the right corner of the mouth.
REFERENCE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
LANDMARK_ORDER = "x y of the left eye, the right eye, the nose, the left and the right corner of the mouth, as seen"
REFERENCE_SIZE = 112

# The largest distance of a landmark from its reference point, in pixels of that crop. On 220 faces of photographs and
# the 400 of ORL, CenterFace's landmarks reach 12.8, half of them stay within 4, and a strict profile has 16. In wrong
# orders they have 13 and more, and in their right order less than 0.8 of that; no right ones above 8 fit another order
# so well. Orders that turn the face by 90 or 180 degrees are accepted, because faces may be turned.
SURELY_FACE = 8.0
_NO_FACE = 17.0
_BETTER = 0.8

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
    """Cut a face out of a picture, upright and at ArcFace's position.

    Pixels are interpolated between their four neighbors, as InsightFace does; what lies outside the picture is black.

    Parameters
    ----------
    image : ndarray of shape (height, width), (height, width, 1) or (height, width, 3), uint8
        The picture, gray or in any order of three channels.
    landmarks : array-like of shape (5, 2)
        x and y in pixels, in the order of :data:`REFERENCE_POINTS`; the center of the top left pixel is (0, 0).
    size : int
        Height and width of the result in pixels; the reference points are scaled with it.

    Returns
    -------
    ndarray of shape (size, size) and the channels of the picture, uint8

    Raises
    ------
    InputError
        If the landmarks are not those of a face, in that order, or miss the picture.
    """
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
        raise InputError(f"a picture must be uint8 of shape (height, width, 3), not {image.dtype} {image.shape}")
    check_landmarks(landmarks)
    points = np.asarray(landmarks, np.float64)
    forward = estimate_similarity(points, REFERENCE_POINTS * (size / REFERENCE_SIZE))
    height, width = image.shape[:2]
    if not ((points.mean(axis=0) >= 0) & (points.mean(axis=0) < (width, height))).all():
        raise InputError(f"the landmarks are outside the picture of {width} x {height} pixels")
    picture = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    backward = tuple(_for_pillow(forward).ravel().tolist())
    crop = picture.transform((size, size), Image.Transform.AFFINE, backward, Image.Resampling.BILINEAR)
    return np.asarray(crop).reshape(size, size, *image.shape[2:])


def residuals(landmarks: np.ndarray) -> np.ndarray:
    """Measure how far landmarks stay from the reference points after the best rotation, scale and shift.

    Parameters
    ----------
    landmarks : array-like of shape (..., 5, 2)
        x and y, in any unit.

    Returns
    -------
    ndarray of shape (...), float64
        The largest of the five distances, in pixels of a crop of 112 x 112.
    """
    z, w = (np.asarray(points, np.float64) @ [1, 1j] for points in (landmarks, REFERENCE_POINTS))
    z, w = (points - points.mean(axis=-1, keepdims=True) for points in (z, w))
    spread = (np.abs(z) ** 2).sum(axis=-1, keepdims=True)
    a = (z.conj() * w).sum(axis=-1, keepdims=True) / np.where(spread > _TINY**2, spread, np.inf)
    return np.abs(a * z - w).max(axis=-1)


def check_landmarks(landmarks: np.ndarray) -> None:
    """Refuse points that cannot be the landmarks of a face in the order of :data:`REFERENCE_POINTS`.

    Parameters
    ----------
    landmarks : array-like of shape (5, 2)

    Raises
    ------
    InputError
        If they are not five finite points, coincide, are far from those of any face, or fit one in another order.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != REFERENCE_POINTS.shape:
        raise InputError(f"a face has 5 landmarks, x and y of each, not an array of shape {points.shape}")
    estimate_similarity(points, REFERENCE_POINTS)
    order = likely_order(points)
    if order:
        raise InputError(f"the landmarks seem to have {order}; write {LANDMARK_ORDER}")
    if residuals(points) > _NO_FACE:
        raise InputError(
            f"the landmarks are not those of a face: aligned, one is {residuals(points):.0f} pixels of "
            f"{REFERENCE_SIZE} from where it belongs; write {LANDMARK_ORDER}"
        )


def likely_order(landmarks: np.ndarray) -> str | None:
    """Name the wrong order that points (5, 2) seem to have; None if their order is right, or none fits."""
    values = np.ravel(landmarks)
    found = residuals(values.reshape(5, 2))
    if found <= SURELY_FACE:
        return None
    orders = {
        "y before x": values.reshape(5, 2)[:, ::-1],
        "left and right exchanged": values.reshape(5, 2)[[1, 0, 2, 4, 3]],
        "the corners of the mouth exchanged": values.reshape(5, 2)[[0, 1, 2, 4, 3]],
        "the eyes exchanged": values.reshape(5, 2)[[1, 0, 2, 3, 4]],
        "all x before all y": values.reshape(2, 5).T,
        "all y before all x": values.reshape(2, 5).T[:, ::-1],
    }
    upright = {name: residuals(points) for name, points in orders.items() if turned_by(points) < 45}
    best = min(upright, key=upright.__getitem__, default=None)
    return best if best is not None and upright[best] < min(_BETTER * found, _NO_FACE) else None


def turned_by(landmarks: np.ndarray) -> float:
    """Return by how many degrees a face with landmarks (5, 2) is turned from upright, 0 to 180."""
    z, w = _complex_points(landmarks), _complex_points(REFERENCE_POINTS)
    turn = np.vdot(z - z.mean(), w - w.mean())
    return abs(math.degrees(math.atan2(turn.imag, turn.real)))


def crop_side(landmarks: np.ndarray) -> float:
    """Return the side, in pixels of the picture, of the square that `align` cuts out for landmarks (5, 2)."""
    matrix = estimate_similarity(landmarks, REFERENCE_POINTS)
    return REFERENCE_SIZE / math.hypot(*matrix[:, 0])


def _complex_points(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise InputError(f"points must be an array of shape (n, 2), n at least 2, not {points.shape}")
    if not (np.abs(points) <= _LARGEST_COORDINATE).all():
        raise InputError("the points must be finite numbers of pixels")
    return points[:, 0] + 1j * points[:, 1]


def _for_pillow(forward: np.ndarray) -> np.ndarray:
    """Invert a matrix, and move it to Pillow's coordinates, in which the first pixel's center is (0.5, 0.5)."""
    scale_squared = math.hypot(*forward[:, 0]) ** 2
    backward = forward[:, :2].T / scale_squared
    center = np.array([0.5, 0.5])
    return np.column_stack([backward, center - backward @ (forward[:, 2] + center)])
