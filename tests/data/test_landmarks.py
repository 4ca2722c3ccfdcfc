import json
import os

import numpy as np
import pytest

from denseface.data.align import REFERENCE_POINTS
from denseface.data.detection import FaceError, Faces
from denseface.data.landmarks import LandmarkFile, face_lines, heading, reason_line, relative_name
from support.refusals import refused

DETECTOR = {"name": "centerface.onnx", "sha256": "0" * 64}


def as_line(name, points=REFERENCE_POINTS):
    return f"{name} {' '.join(f'{value:.4f}' for value in np.ravel(points))}\n"


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="landmarks.txt", folder=tmp_path):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
        return path

    return write


def points_of(landmarks, picture):
    located = landmarks.locate(picture)
    assert len(located.faces.landmarks) == 1
    return located.faces.landmarks[0]


def test_plain_lines_are_read(write, tmp_path):
    tabbed = as_line("x", REFERENCE_POINTS + 1).replace("x ", "", 1).replace(" ", "\t")
    path = write(
        as_line("anna/1.jpg"), "\n", f"  ./my friend//2 b.png\t{tabbed[:-1]}\r\n", as_line("1", REFERENCE_POINTS * 2)
    )
    landmarks = LandmarkFile(path)
    assert list(landmarks) == ["anna/1.jpg", "my friend/2 b.png", "1"]
    np.testing.assert_allclose(points_of(landmarks, tmp_path / "anna" / "1.jpg"), REFERENCE_POINTS)
    np.testing.assert_allclose(points_of(landmarks, tmp_path / "my friend" / "2 b.png"), REFERENCE_POINTS + 1)
    located = landmarks.locate(tmp_path / "1")
    assert located.size is None
    assert located.faces.scores.tolist() == [1]
    left, top, right, bottom = located.faces.boxes[0]
    assert right - left == pytest.approx(224) == pytest.approx(bottom - top)
    assert (left + right) / 2 == pytest.approx(2 * REFERENCE_POINTS[:, 0].mean())


def test_a_byte_order_mark_costs_no_line(write, tmp_path):
    landmarks = LandmarkFile(write("\ufeff", as_line("a.jpg"), as_line("b.jpg", REFERENCE_POINTS + 1)))
    np.testing.assert_allclose(points_of(landmarks, tmp_path / "a.jpg"), REFERENCE_POINTS)


def test_names_that_are_not_utf8_keep_their_bytes(write):
    assert list(LandmarkFile(write(as_line("\udcff.jpg")))) == ["\udcff.jpg"]


@pytest.mark.parametrize(
    "line",
    [
        "a.jpg",
        "a.jpg 1 2 3 4 5 6 7 8 9",
        "a.jpg 1 2 3 4 5 6 7 8 9 x",
        "a.jpg 1 2 3 4 5 6 7 8 9 nan",
        "\0",
        "a 1e9" * 11,
    ],
)
def test_a_line_of_anything_else_is_named(write, line):
    path = write(as_line("b.jpg"), line + "\n")
    with refused("line 2", "5 points", path=path):
        LandmarkFile(path)


def test_a_picture_named_twice_is_refused(write):
    path = write(as_line("b.jpg"), as_line("./b.jpg"))
    with refused("line 2", "b.jpg", path=path):
        LandmarkFile(path)


def test_a_missing_file_is_named(tmp_path):
    with refused(path=tmp_path / "absent", cause=FileNotFoundError):
        LandmarkFile(tmp_path / "absent")


def test_an_empty_file_has_no_landmarks(write, tmp_path):
    landmarks = LandmarkFile(write())
    assert len(landmarks) == 0
    with refused(landmarks.path, kind=FaceError):
        landmarks.locate(tmp_path / "a.jpg")


def test_paths_are_relative_to_the_file_wherever_a_command_is_typed(write, tmp_path, monkeypatch):
    landmarks = LandmarkFile(write(as_line("photos/anna/1.jpg")))
    (tmp_path / "photos" / "anna").mkdir(parents=True)
    for folder, picture in (
        (".", "photos/anna/1.jpg"),
        ("photos", "anna/1.jpg"),
        ("photos/anna", "1.jpg"),
        ("/", None),
    ):
        monkeypatch.chdir(tmp_path / folder)
        points_of(landmarks, picture or str(tmp_path / "photos" / "anna" / "1.jpg"))


def test_a_file_elsewhere_names_the_ends_of_paths(write, tmp_path, monkeypatch):
    landmarks = LandmarkFile(write(as_line("anna/1.jpg"), as_line("1.jpg", REFERENCE_POINTS + 1), name="lists/l.txt"))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_allclose(points_of(landmarks, "photos/anna/1.jpg"), REFERENCE_POINTS)  # the longer end
    np.testing.assert_allclose(points_of(landmarks, "photos/bert/1.jpg"), REFERENCE_POINTS + 1)
    with refused(landmarks.path, kind=FaceError):
        landmarks.locate("photos/bert/11.jpg")


def test_an_end_that_fits_two_pictures_is_refused(write, tmp_path):
    landmarks = LandmarkFile(write(as_line("1.jpg"), name="lists/l.txt"))
    for _ in range(2):
        points_of(landmarks, tmp_path / "anna" / "1.jpg")
    with refused("1.jpg", tmp_path / "anna" / "1.jpg", path=landmarks.path):
        landmarks.locate(tmp_path / "bert" / "1.jpg")


def test_a_line_of_a_picture_that_is_there_is_no_other_pictures(write, tmp_path):
    landmarks = LandmarkFile(write(as_line("1.jpg")))
    (tmp_path / "1.jpg").touch()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "1.jpg").touch()
    with refused(landmarks.path, kind=FaceError):
        landmarks.locate(tmp_path / "bert" / "1.jpg")
    os.symlink(tmp_path, tmp_path / "link")
    points_of(landmarks, tmp_path / "link" / "1.jpg")


@pytest.mark.parametrize(("listed", "stored"), [("Zo\u00eb", "Zoe\u0308"), ("Zoe\u0308", "Zo\u00eb")])
@pytest.mark.parametrize("name", ["landmarks.txt", "lists/l.txt"])
def test_names_are_found_in_either_form_of_unicode(write, tmp_path, name, listed, stored):
    landmarks = LandmarkFile(write(as_line(f"{listed}/1.jpg"), name=name))
    points_of(landmarks, tmp_path / stored / "1.jpg")


def test_a_line_of_a_picture_that_is_there_is_not_taken_for_the_other_form(write, tmp_path):
    landmarks = LandmarkFile(write(as_line("Zo\u00eb/1.jpg")))
    for form in ("Zo\u00eb", "Zoe\u0308"):
        (tmp_path / form).mkdir()
        (tmp_path / form / "1.jpg").touch()
    points_of(landmarks, tmp_path / "Zo\u00eb" / "1.jpg")
    with refused(landmarks.path, kind=FaceError):
        landmarks.locate(tmp_path / "Zoe\u0308" / "1.jpg")


def test_single_lines_of_no_face_are_left_to_their_pictures(write, tmp_path):
    exchanged = REFERENCE_POINTS[[0, 1, 2, 4, 3]]
    landmarks = LandmarkFile(write(as_line("a.jpg"), as_line("b.jpg", exchanged)))
    np.testing.assert_allclose(points_of(landmarks, tmp_path / "b.jpg"), exchanged, atol=1e-3)


@pytest.mark.parametrize(
    ("points", "cause"),
    [
        (REFERENCE_POINTS[:, ::-1], "y before x"),
        (REFERENCE_POINTS.T.reshape(5, 2), "all x before all y"),
        (REFERENCE_POINTS[[0, 1, 2, 4, 3]], "corners of the mouth exchanged"),
        (REFERENCE_POINTS / 112, "fractions"),
        (np.full((5, 2), 7), "x y of the left eye"),
    ],
)
def test_a_file_of_which_most_lines_fail_is_refused_with_the_cause(write, points, cause):
    lines = [as_line(f"{i}.jpg", points) for i in range(3)] + [as_line("right.jpg"), as_line("too.jpg")]
    path = write(*lines)
    with refused("3 of 5", cause, path=path):
        LandmarkFile(path)
    assert len(LandmarkFile(write(*lines, as_line("three.jpg")))) == 6


def detected():
    boxes = np.array([[10, 20, 30.125, 40], [1, 2, 3, 4]])
    return Faces(boxes, np.array([0.91, 0.5]), np.array([REFERENCE_POINTS, REFERENCE_POINTS * 0.5]))


def test_what_is_written_is_read_back(write, tmp_path):
    one = Faces(*(array[:1] for array in detected()))
    lines = [
        heading(DETECTOR),
        face_lines("photos/a b.jpg", detected(), (640, 480)),
        reason_line("photos/none.jpg", "no face is found in it"),
        face_lines("#1.jpg", one, (100, 200)),
    ]
    landmarks = LandmarkFile(write(*lines))
    assert landmarks.description["detector"] == DETECTOR
    located = landmarks.locate(tmp_path / "photos" / "a b.jpg")
    assert located.size == (640, 480)
    for read, written in zip(located.faces, detected()):
        np.testing.assert_allclose(read, written, atol=0.006)
    assert landmarks.locate(tmp_path / "#1.jpg").size == (100, 200)
    with refused(kind=FaceError) as caught:
        landmarks.locate(tmp_path / "photos" / "none.jpg")
    assert caught.value.reason == "no face is found in it"


@pytest.mark.parametrize(
    "first", ["# denseface detect", "# denseface detect {", "# denseface detect []", '# denseface detect {"a": [1]}']
)
def test_a_broken_first_line_is_named(write, first):
    path = write(first + "\n")
    with refused("line 1", "detector" if first.startswith("# denseface detect ") else "5 points", path=path):
        LandmarkFile(path)


def test_a_broken_line_is_named(write):
    good = face_lines("a.jpg", detected(), (640, 480))
    path = write(heading(DETECTOR), good, "b.jpg\t1\t2\n")
    with refused("line 5", path=path):
        LandmarkFile(path)


def test_names_are_relative_to_the_file(tmp_path):
    assert relative_name(tmp_path / "photos" / "a.jpg", tmp_path / "faces.txt") == "photos/a.jpg"
    assert relative_name(tmp_path / "a.jpg", tmp_path / "lists" / "faces.txt") == "../a.jpg"
    for name in ("a\tb.jpg", "a\nb.jpg"):
        with refused("tab"):
            relative_name(tmp_path / name, tmp_path / "faces.txt")


def test_the_file_says_which_it_is(write):
    path = write(as_line("a.jpg"))
    description = LandmarkFile(path).description
    assert description["landmarks"] == "landmarks.txt"
    assert json.dumps(description) != json.dumps(LandmarkFile(write(as_line("b.jpg"))).description)


def test_a_label_before_the_landmarks_is_not_part_of_the_name(tmp_path):
    (tmp_path / "faces.txt").write_text(as_line("a/my 2.jpg"))
    assert list(LandmarkFile(tmp_path / "faces.txt")) == ["a/my 2.jpg"]
    (tmp_path / "faces.txt").write_text(as_line("a/1.jpg 0"))
    with refused("line 1", "10 numbers", path=tmp_path / "faces.txt"):
        LandmarkFile(tmp_path / "faces.txt")


def test_a_file_that_knows_none_of_the_pictures_is_told_before_they_are_read(write, tmp_path):
    landmarks = LandmarkFile(write(as_line("photos/anna/1.jpg")))
    other = [tmp_path / "photos" / "bert" / f"{number}.jpg" for number in range(3)]
    with refused(3, other[0], "photos/anna/1.jpg", path=landmarks.path):
        landmarks.require_any(other)
    landmarks.require_any([*other, tmp_path / "photos" / "anna" / "1.jpg"])
    landmarks.require_any([])
    nobody = LandmarkFile(write(heading(DETECTOR), reason_line("a.jpg", "no face"), name="nobody.txt"))
    nobody.require_any([tmp_path / "a.jpg"])
    with refused("empty", path=tmp_path / "empty.txt"):
        LandmarkFile(write(name="empty.txt")).require_any(other)
