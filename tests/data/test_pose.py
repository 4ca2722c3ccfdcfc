"""A turned head is what a rotation in space shows, aligned again."""

import math

import numpy as np
import pytest

from denseface.data.align import REFERENCE_POINTS, estimate_similarity
from denseface.data.pose import turn_head

FACE = np.array([*REFERENCE_POINTS, (56, 30), (45, 62), (68, 80), (60, 100)])


def ramps(height, width):
    """Return a picture whose two first channels are twice the x and the y of the pixel in a crop of 112 x 112."""
    y, x = (np.mgrid[:height, :width] + 0.5) * np.array([112 / height, 112 / width])[:, None, None] - 0.5
    return np.rint(np.stack([2 * x, 2 * y, 0 * x], axis=-1).clip(0, 255)).astype(np.uint8)


def read_at(image, point):
    """Interpolate a picture at a point of a crop of 112 x 112, and return the x and y that its channels tell."""
    height, width = image.shape[:2]
    x, y = (np.asarray(point) + 0.5) * (width / 112, height / 112) - 0.5
    left, top = int(x), int(y)
    across, down = x - left, y - top
    four = image[top : top + 2, left : left + 2, :2].astype(float)
    rows = four[:, 0] * (1 - across) + four[:, 1] * across
    return (rows[0] * (1 - down) + rows[1] * down) / 2


def turned_in_space(points, yaw, pitch):
    """Where points of the face come to lie: an ellipsoid with a nose, turned by matrices and aligned again.

    A turn to the side moves x, one up or down moves y, and both start from the face as it was.
    """

    def skin(points):
        x, y = (points - (56, 64)).T
        nose = 13 * np.exp(-(((points - REFERENCE_POINTS[2]) / (7, 9)) ** 2).sum(axis=1) / 2)
        return np.stack([x, y, 48 * np.sqrt(1 - (x / 48) ** 2 - (y / 99) ** 2) + nose], axis=1)

    def turned(points):
        space = skin(points) - (0, 0, skin(REFERENCE_POINTS)[:, 2].mean())
        a, b = math.radians(yaw), math.radians(pitch)
        about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
        about_x = np.array([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]])
        return np.stack([(space @ about_y.T)[:, 0], (space @ about_x.T)[:, 1]], axis=1) + (56, 64)

    matrix = estimate_similarity(turned(REFERENCE_POINTS), REFERENCE_POINTS)
    return turned(points) @ matrix[:, :2].T + matrix[:, 2]


def test_a_head_that_does_not_turn_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(turn_head(image, 0, 0), image)


@pytest.mark.parametrize("turn", [(25, 0), (-25, 0), (0, 12), (0, -12), (20, 10), (-35, 8)])
@pytest.mark.parametrize("size", [(112, 112), (56, 56), (224, 224), (112, 56)])
def test_points_of_the_face_move_as_in_space(turn, size):
    turned = turn_head(ramps(*size), *turn)
    for point, goal in zip(FACE, turned_in_space(FACE, *turn)):
        assert read_at(turned, goal) == pytest.approx(point, abs=1.2 if min(size) >= 112 else 2)


@pytest.mark.parametrize(("turn", "axis"), [((20, 0), 0), ((0, 12), 1)])
def test_the_nose_goes_where_the_face_turns(turn, axis):
    """So that the skin now seen at the nose's place was further back on that axis, and the other way round."""
    nose = REFERENCE_POINTS[2]
    image = ramps(112, 112)
    assert read_at(turn_head(image, *turn), nose)[axis] < nose[axis] - 2
    assert read_at(turn_head(image, *(-angle for angle in turn)), nose)[axis] > nose[axis] + 2


def test_the_mirrored_face_turns_the_other_way():
    image = ramps(112, 112)
    one, other = turn_head(image, 18, 0), turn_head(image[:, ::-1], -18, 0)[:, ::-1]
    assert np.abs(one.astype(int) - other)[20:100, 20:92].mean() < 1


def test_gray_turns_as_color_does():
    image = ramps(112, 112)[:, :, :1]
    np.testing.assert_array_equal(turn_head(image, 18, 5), turn_head(image.repeat(3, axis=2), 18, 5)[:, :, :1])


@pytest.mark.parametrize("size", [(112, 112), (30, 27), (1, 1)])
def test_nothing_black_comes_in_from_outside(size):
    for yaw, pitch in ((45, 30), (-45, -30)):
        assert (turn_head(np.full((*size, 3), 200, np.uint8), yaw, pitch) == 200).all()
