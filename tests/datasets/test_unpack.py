import csv
import os

from denseface.data.records import write_face_records
from denseface.datasets import folder
from denseface.datasets.faces import Encoding
from denseface.datasets.unpack import unpack
from support.picture_folders import contents, face, save_people
from support.record_sets import write_entries
from support.refusals import refused
from support.tiny_models import encode


def test_pictures_come_back_byte_for_byte(tmp_path):
    images = [(0, encode(face(0, 1), "JPEG")), (0, encode(face(0, 2))), (1, encode(face(1, 1), "JPEG"))]
    write_face_records(tmp_path / "set", images, (16, 16))
    seen = []
    assert unpack(tmp_path / "set", tmp_path / "out", lambda *counts: seen.append(counts)) == (3, 0)
    names = ["0/1.jpg", "0/2.png", "1/3.jpg"]
    assert contents(tmp_path / "out") == {name: image for name, (_, image) in zip(names, images)}
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_names_sort_as_numbers_do_so_that_the_same_set_can_be_made_again(tmp_path):
    folder.build_from_folder(save_people(tmp_path / "people", [2] * 11), tmp_path / "set", encoding=Encoding(16))
    unpack(tmp_path / "set", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out"))[:2] == ["00", "01"]
    assert sorted(os.listdir(tmp_path / "out" / "10")) == ["21.jpg", "22.jpg"]
    folder.build_from_folder(tmp_path / "out", tmp_path / "again", encoding=Encoding(16))
    sets = [contents(tmp_path / name) for name in ("set", "again")]
    for name in ("train.rec", "train.idx", "property"):
        assert sets[0][name] == sets[1][name]


def test_records_that_cannot_be_read_are_listed(tmp_path):
    """A plain set whose keys, labels and payloads are not to be trusted."""
    picture = encode(face(0, 1), "JPEG")
    entries = [(10**17, 1, picture), (4, 2, picture), (5, -1, picture), (6, float("nan"), picture), (7, 0, b"../../x")]
    write_entries(tmp_path / "set", entries, 2, 16)
    assert unpack(tmp_path / "set", tmp_path / "out") == (1, 4)
    assert sorted(contents(tmp_path / "out")) == [f"1/{10**17}.jpg", "bad.csv"]
    with open(tmp_path / "out" / "bad.csv", newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == ["key", "reason"]
    assert [row[0] for row in rows] == ["4", "5", "6", "7"]
    assert "label 2 is not one of the 2 classes" in rows[0][1]
    assert rows[3][1] == "its first bytes are not those of a picture"


def test_what_cannot_be_done_is_refused(tmp_path):
    with refused(path=tmp_path / "absent" / "property", cause=FileNotFoundError):
        unpack(tmp_path / "absent", tmp_path / "out")
    write_face_records(tmp_path / "set", [(0, encode(face(0, 1)))], (16, 16))
    with refused("already exists", path=tmp_path / "set"):
        unpack(tmp_path / "set", tmp_path / "set")
