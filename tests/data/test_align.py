import itertools

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.align import (
    REFERENCE_POINTS,
    align,
    check_landmarks,
    crop_side,
    estimate_similarity,
    likely_order,
    residuals,
)
from support.refusals import refused


def similarity(degrees, scale, shift):
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([scale * rotation, shift])


def move(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(src, dst):
    """The same by singular values, as equations 40 to 42 of the paper have it."""
    src_mean, dst_mean = src.mean(axis=0), dst.mean(axis=0)
    covariance = (dst - dst_mean).T @ (src - src_mean) / len(src)
    U, D, Vt = np.linalg.svd(covariance)
    S = np.diag([1, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    rotation = U @ S @ Vt
    scale = np.trace(np.diag(D) @ S) / (src - src_mean).var(axis=0).sum()
    return np.column_stack([scale * rotation, dst_mean - scale * rotation @ src_mean])


def smooth_picture(height, width, channels=3):
    """Waves of a length that interpolation keeps."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [127 + 60 * np.sin(x / (7 + c)) + 60 * np.cos(y / (9 - c)) for c in range(channels)], axis=2
    ).astype(np.uint8)


def bilinear(image, points):
    """The picture's values at points (x, y) inside it."""
    left, top = np.floor(points).astype(int).T
    right, bottom = (points - np.stack([left, top], 1)).T[..., None]
    above = image[top, left] * (1 - right) + image[top, left + 1] * right
    below = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return above * (1 - bottom) + below * bottom


@pytest.mark.parametrize(
    "transform", [(0, 1, (0, 0)), (30, 1, (0, 0)), (0, 0.25, (5, -3)), (-170, 4, (1000, 20)), (90, 0.01, (-7, 0.5))]
)
def test_a_known_transform_is_recovered(transform):
    expected = similarity(*transform)
    found = estimate_similarity(REFERENCE_POINTS, move(expected, REFERENCE_POINTS))
    assert found.shape == (2, 3)
    assert np.abs(found - expected).max() < 1e-6


def test_the_reference_points_map_to_themselves():
    found = estimate_similarity(REFERENCE_POINTS, REFERENCE_POINTS)
    assert np.abs(found - np.eye(2, 3)).max() < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_noisy_points_give_what_singular_values_give(seed):
    random = np.random.RandomState(seed)
    src, dst = random.uniform(0, 100, (2, 6, 2))
    assert np.allclose(estimate_similarity(src, dst), umeyama(src, dst), atol=1e-9)


def test_no_other_similarity_is_closer():
    random = np.random.RandomState(0)
    src = REFERENCE_POINTS * 2 + random.normal(0, 3, (5, 2))
    best = estimate_similarity(src, REFERENCE_POINTS)

    def error(matrix):
        return np.square(move(matrix, src) - REFERENCE_POINTS).sum()

    for change in random.normal(0, 0.01, (50, 4)):
        a, b, x, y = best[0, 0] + change[0], best[1, 0] + change[1], best[0, 2] + change[2], best[1, 2] + change[3]
        assert error(np.array([[a, -b, x], [b, a, y]])) > error(best)


@pytest.mark.parametrize(
    ("src", "message"),
    [
        (np.full((5, 2), 7.0), "coincide"),
        (np.full((5, 2), np.nan), "finite"),
        (np.full((5, 2), 1e300), "finite"),
        (REFERENCE_POINTS[:4], "4 points cannot be matched with 5"),
        (REFERENCE_POINTS[:1], "at least 2"),
        (REFERENCE_POINTS.ravel(), "at least 2"),
    ],
)
def test_points_without_an_answer_are_refused(src, message):
    with refused(message):
        estimate_similarity(src, REFERENCE_POINTS)


def test_points_that_only_a_reflection_would_match_are_refused():
    cross = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    with refused("rotation"):
        estimate_similarity(cross, cross * [1, -1])


def test_a_crop_in_place_is_the_picture():
    picture = np.random.RandomState(0).randint(0, 256, (112, 112, 3)).astype(np.uint8)
    crop = align(picture, REFERENCE_POINTS)
    assert crop.dtype == np.uint8
    assert np.abs(crop - picture.astype(int)).max() <= 1


@pytest.mark.parametrize(("channels", "shape"), [(3, (300, 260, 3)), (1, (300, 260, 1)), (1, (300, 260))])
@pytest.mark.parametrize("size", [112, 56])
def test_a_turned_face_comes_upright(channels, shape, size):
    picture = smooth_picture(300, 260, channels).reshape(shape)
    to_picture = similarity(25, 1.3, (70, 30))
    crop = align(picture, move(to_picture, REFERENCE_POINTS), size)
    assert crop.shape == (size, size, *shape[2:])
    y, x = np.mgrid[:size, :size]
    places = move(to_picture, np.stack([x.ravel(), y.ravel()], 1) * (112 / size))
    expected = bilinear(picture.reshape(300, 260, channels).astype(float), places)
    assert np.abs(crop.reshape(-1, channels) - expected).max() <= 1


def test_outside_the_picture_is_black():
    crop = align(np.full((112, 112), 200, np.uint8), REFERENCE_POINTS + [30, 0])
    assert (crop[:, :82] == 200).all()
    assert (crop[:, 82:] == 0).all()


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (REFERENCE_POINTS[[1, 0, 2, 4, 3]], "left and right exchanged"),
        (REFERENCE_POINTS + 112, "outside the picture of 112 x 112 pixels"),
        (REFERENCE_POINTS - [0, 80], "outside the picture"),
        (REFERENCE_POINTS[:4], "(4, 2)"),
        (np.zeros((5, 2)), "coincide"),
        (REFERENCE_POINTS * [[1], [1], [np.inf], [1], [1]], "finite"),
    ],
)
def test_landmarks_of_no_face_are_refused(landmarks, message):
    with refused(message):
        align(smooth_picture(112, 112), landmarks)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3)), np.zeros(4, np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_what_is_no_picture_is_refused(picture):
    with refused("uint8"):
        align(picture, REFERENCE_POINTS)


IN_WRONG_ORDER = {
    "y before x": REFERENCE_POINTS[:, ::-1],
    "left and right exchanged": REFERENCE_POINTS[[1, 0, 2, 4, 3]],
    "the corners of the mouth exchanged": REFERENCE_POINTS[[0, 1, 2, 4, 3]],
    "the eyes exchanged": REFERENCE_POINTS[[1, 0, 2, 3, 4]],
    "all x before all y": REFERENCE_POINTS.T.reshape(5, 2),
    "all y before all x": REFERENCE_POINTS[:, ::-1].T.reshape(5, 2),
}


@pytest.mark.parametrize("order", IN_WRONG_ORDER)
@pytest.mark.parametrize("seed", range(3))
def test_landmarks_in_a_wrong_order_are_refused_by_its_name(order, seed):
    random = np.random.RandomState(seed)
    points = (IN_WRONG_ORDER[order] + random.normal(0, 1.5, (5, 2))) * random.uniform(0.5, 4) + 3
    with refused(order):
        align(smooth_picture(500, 500), points)


@pytest.mark.parametrize(
    ("numbers", "order"),
    [
        ("38 74 56 42 71 52 52 72 92 92", "all x before all y"),
        ("38 52 74 52 56 72 71 92 42 92", "the corners of the mouth exchanged"),
    ],
)
def test_common_mistakes_are_told(numbers, order):
    points = np.array(numbers.split(), float).reshape(5, 2)
    with refused(order):
        align(smooth_picture(112, 112), points)
    assert likely_order(points) == order


def test_every_other_order_is_refused_unless_it_turns_the_face():
    accepted = []
    for order in itertools.permutations(range(5)):
        try:
            check_landmarks(REFERENCE_POINTS[list(order)])
        except InputError:
            continue
        accepted.append(order)
    assert accepted == [(0, 1, 2, 3, 4), (1, 4, 2, 0, 3), (3, 0, 2, 4, 1), (4, 3, 2, 1, 0)]


def test_points_of_anything_else_are_refused():
    line = np.column_stack([np.arange(5) * 20, np.arange(5) * 20])
    with refused("pixels of 112"):
        align(smooth_picture(112, 112), line)


def test_residuals_do_not_depend_on_place_scale_and_rotation():
    points = REFERENCE_POINTS + [[0, 5], [0, 0], [0, 0], [0, 0], [0, 0]]
    expected = residuals(points)
    moved = move(similarity(70, 3.5, (100, -40)), points)
    np.testing.assert_allclose(residuals([points, moved, points / 1000]), expected, rtol=1e-6)
    best = move(estimate_similarity(points, REFERENCE_POINTS), points)
    assert expected == pytest.approx(np.linalg.norm(best - REFERENCE_POINTS, axis=1).max())


@pytest.mark.parametrize("width", [0.15, 0.5, 1])
def test_turned_heads_are_faces(width):
    narrow = (REFERENCE_POINTS - [56, 0]) * [width, 1] + [56, 0]
    assert align(smooth_picture(112, 112), narrow).shape == (112, 112, 3)
    assert likely_order(narrow) is None


@pytest.mark.parametrize(("scale", "expected"), [(1, 112), (0.25, 28), (10, 1120)])
def test_the_side_of_a_crop_is_told_in_pixels_of_the_picture(scale, expected):
    assert crop_side(move(similarity(30, scale, (5, 5)), REFERENCE_POINTS)) == pytest.approx(expected)
