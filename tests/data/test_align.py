import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.align import REFERENCE_POINTS, align, estimate_similarity, read_landmarks


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
    with pytest.raises(InputError, match=message):
        estimate_similarity(src, REFERENCE_POINTS)


def test_points_that_only_a_reflection_would_match_are_refused():
    cross = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    with pytest.raises(InputError, match="no rotation"):
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


def test_a_profile_is_no_mirrored_face():
    narrow = (REFERENCE_POINTS - [56, 0]) * [-0.2, 1] + [56, 0]
    assert align(smooth_picture(112, 112), narrow).shape == (112, 112, 3)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (REFERENCE_POINTS[[1, 0, 2, 4, 3]], "left and right exchanged"),
        (REFERENCE_POINTS + 112, r"outside the picture of 112 x 112 pixels"),
        (REFERENCE_POINTS - [0, 80], "outside the picture"),
        (REFERENCE_POINTS[:4], r"5 landmarks.*\(4, 2\)"),
        (np.zeros((5, 2)), "coincide"),
        (REFERENCE_POINTS * [[1], [1], [np.inf], [1], [1]], "finite"),
    ],
)
def test_landmarks_of_no_face_are_refused(landmarks, message):
    with pytest.raises(InputError, match=message):
        align(smooth_picture(112, 112), landmarks)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3)), np.zeros(4, np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(InputError, match="a picture must be uint8"):
        align(picture, REFERENCE_POINTS)


def test_landmarks_are_read_from_text(tmp_path):
    numbers = " ".join(f"{value:.4f}" for value in REFERENCE_POINTS.ravel())
    path = tmp_path / "landmarks.txt"
    tabbed = numbers.replace(" ", "\t")
    path.write_text(f"anna/1.jpg {numbers}\n\n  ./my friend//2 b.png\t{tabbed}\r\n1 1e1{' 2' * 9}\n")
    found = read_landmarks(path)
    assert list(found) == ["anna/1.jpg", "my friend/2 b.png", "1"]
    assert found["anna/1.jpg"].shape == (5, 2)
    assert (found["my friend/2 b.png"] == REFERENCE_POINTS).all()
    assert found["1"].tolist() == [[10, 2], *[[2, 2]] * 4]


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    (tmp_path / "landmarks.txt").write_bytes(b"\xff.jpg 1 2 3 4 5 6 7 8 9 10\n")
    assert list(read_landmarks(tmp_path / "landmarks.txt")) == ["\udcff.jpg"]


@pytest.mark.parametrize(
    "line", ["a.jpg", "a.jpg 1 2 3 4 5 6 7 8 9", "a.jpg 1 2 3 4 5 6 7 8 9 x", "a.jpg 1 2 3 4 5 6 7 8 9 nan", "\0"]
)
def test_a_line_of_anything_else_is_named(tmp_path, line):
    path = tmp_path / "landmarks.txt"
    path.write_text(f"b.jpg 1 2 3 4 5 6 7 8 9 10\n{line}\n")
    with pytest.raises(InputError, match=r"landmarks\.txt: line 2 is not a picture's path and x, y of 5 points"):
        read_landmarks(path)


def test_a_picture_named_twice_is_refused(tmp_path):
    path = tmp_path / "landmarks.txt"
    path.write_text("b.jpg 1 2 3 4 5 6 7 8 9 10\n./b.jpg 1 2 3 4 5 6 7 8 9 10\n")
    with pytest.raises(InputError, match=r"line 2: b\.jpg is there twice"):
        read_landmarks(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: it cannot be read"):
        read_landmarks(tmp_path / "absent")
