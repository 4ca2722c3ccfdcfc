import json
import os

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.pairs import write_pairs
from denseface.data.recordio import RecordWriter
from denseface.data.records import Property, write_face_records, write_property
from denseface.datasets.inspection import Pictures, inspect_pairs, inspect_records
from support.picture_folders import face
from support.tiny_models import encode


def images(counts, kind="JPEG", size=16):
    return [(person, encode(face(person, n, size), kind)) for person, count in enumerate(counts) for n in range(count)]


def write_records(folder, entries, num_classes):
    folder.mkdir()
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for entry in entries:
            writer.write(*entry)
    write_property(folder, Property(num_classes, 16, 16))


def test_a_sound_training_set(tmp_path):
    write_face_records(tmp_path, images([1, 2, 3, 8, 4]), (16, 16))
    seen = []
    report = inspect_records(tmp_path, lambda *counts: seen.append(counts))
    assert report.problems == []
    assert (report.path, report.layout) == (str(tmp_path), "insightface")
    assert report.pictures == Pictures(18, {"16x16": 18}, {"JPEG": 18}, 0, [])
    assert (report.num_people, report.num_classes, report.height, report.width) == (5, 5, 16, 16)
    assert report.per_person == {"min": 1, "median": 3, "max": 8}
    assert report.histogram == {"1": 1, "2-3": 2, "4-7": 1, "8-15": 1}
    assert seen == [(done, 18) for done in range(1, 19)]
    assert json.loads(json.dumps(report.to_dict()))["pictures"]["sizes"] == {"16x16": 18}


def test_pictures_and_property_are_compared(tmp_path):
    odd = [(2, encode(face(2, 1, 18))), (2, encode(np.zeros((16, 12, 3), np.uint8)))]
    write_face_records(tmp_path, [*images([2, 3]), *odd], (16, 16))
    write_property(tmp_path, Property(5, 16, 16))
    report = inspect_records(tmp_path)
    assert report.pictures.sizes == {"16x16": 5, "18x18": 1, "12x16": 1}
    assert report.pictures.formats == {"JPEG": 5, "PNG": 2}
    assert report.problems == [
        "2 of the 5 classes in property without a picture, the first is 3",
        "2 pictures of another size than 16x16, the size in property",
    ]


def test_broken_pictures_and_records_are_named(tmp_path):
    bad = [(1, b"broken"), (1, b"text"), *[(2, b"")] * 30]
    write_face_records(tmp_path, [*images([2]), *bad], (16, 16))
    with open(tmp_path / "train.rec", "r+b") as file:
        file.write(b"\0\0\0\0")  # where the record with key 1 starts
    report = inspect_records(tmp_path)
    assert report.pictures.num_broken == 33
    assert report.pictures.count == 34
    assert len(report.pictures.broken) == 20
    rec = tmp_path / "train.rec"
    assert report.pictures.broken[:3] == [
        f"{rec}: key 1 at byte 0: no record starts here",
        f"{rec}: key 3: not a JPEG, PNG, BMP, PPM, WebP, GIF, TIFF or AVIF picture",
        f"{rec}: key 4: not a JPEG, PNG, BMP, PPM, WebP, GIF, TIFF or AVIF picture",
    ]
    assert report.problems == ["33 pictures cannot be read"]
    assert report.num_people == 3


def test_labels_that_are_no_classes_are_counted(tmp_path):
    picture = images([1])[0][1]
    write_records(tmp_path / "set", [(key, label, picture) for key, label in ((3, 0), (4, 2), (5, 1.5), (6, 1))], 2)
    report = inspect_records(tmp_path / "set")
    assert report.layout == "plain"
    assert report.num_people == 2
    assert report.per_person == {"min": 1, "median": 1, "max": 1}
    (problem,) = report.problems
    assert problem.startswith("2 pictures with a label outside the classes in property, the first: ")
    assert "key 4: label 2 is not one of the 2 classes" in problem


def test_labels_and_identities_are_compared(tmp_path):
    picture = images([1])[0][1]
    labels = [0, 0, 1, 1, 0]
    entries = [(key, label, picture) for key, label in enumerate(labels, 1)]
    headers = [(6, (1, 3), b""), (7, (3, 4), b""), (8, (4, 6), b""), (0, (6, 9), b"")]
    write_records(tmp_path / "set", entries + headers, 2)
    assert inspect_records(tmp_path / "set").problems == [
        "1 identity record with several labels, the first is identity 2",
        "2 labels in several identity records, the first is 0",
    ]


def test_nothing_that_can_be_used(tmp_path):
    write_records(tmp_path / "set", [(1, 7, b"")], 2)
    report = inspect_records(tmp_path / "set")
    assert (report.num_people, report.per_person, report.histogram, report.pictures.sizes) == (0, {}, {}, {})
    assert len(report.problems) == 3


def test_a_set_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InputError, match="property: it cannot be read"):
        inspect_records(tmp_path)
    with pytest.raises(InputError, match=r"a\.bin: it cannot be read"):
        inspect_pairs(tmp_path / "a.bin")


def test_a_sound_verification_set(tmp_path):
    one, two, three = (encode(face(0, n)) for n in range(3))
    write_pairs(tmp_path / "a.bin", [one, two, one, three] * 5, [True, False] * 5)
    seen = []
    report = inspect_pairs(tmp_path / "a.bin", lambda *counts: seen.append(counts))
    assert report.to_dict() == {
        "path": str(tmp_path / "a.bin"),
        "num_genuine": 5,
        "num_impostor": 5,
        "pictures": {"count": 3, "sizes": {"16x16": 3}, "formats": {"PNG": 3}, "num_broken": 0, "broken": []},
        "problems": [],
    }
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_is_wrong_with_pairs(tmp_path):
    one, two = (encode(face(0, n)) for n in range(2))
    path = tmp_path / "a.bin"
    write_pairs(path, [one, two, one, one, two, b"broken"], [True, True, True])
    report = inspect_pairs(path)
    assert report.pictures.num_broken == 1
    assert report.pictures.broken[0].startswith(f"{path}: image 5: not a JPEG, PNG")
    assert report.problems == [
        "1 picture cannot be read",
        "1 pair of a picture with itself, the first is pair 1",
        "no impostor pair",
        "3 pairs, too few for 10 folds",
    ]
    write_pairs(path, [one, two] * 10, [False] * 10)
    assert inspect_pairs(path).problems == ["no genuine pair"]
    assert os.listdir(tmp_path) == ["a.bin"]
