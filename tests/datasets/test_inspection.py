import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.datasets import folder
from denseface.datasets.faces import Encoding
from denseface.datasets.inspection import inspect_pairs, inspect_records
from denseface.datasets.picture_checks import Pictures
from support.photographs import orl_square
from support.picture_folders import face, save_people
from support.record_sets import write_entries, write_property
from support.refusals import refused
from support.tiny_models import encode


def images(counts, kind="JPEG", size=16):
    return [(person, encode(face(person, n, size), kind)) for person, count in enumerate(counts) for n in range(count)]


def test_a_sound_training_set(tmp_path):
    write_face_records(tmp_path, images([1, 2, 3, 8, 4]), (16, 16))
    seen = []
    report = inspect_records(tmp_path, lambda *counts: seen.append(counts))
    assert report.problems == []
    assert (report.path, report.layout) == (str(tmp_path), "insightface")
    assert report.pictures == Pictures(18, {"16x16": 18}, {"JPEG": 18}, [], [], [], [])
    assert (report.num_people, report.num_classes, report.height, report.width) == (5, 5, 16, 16)
    assert report.per_person == {"min": 1, "median": 3, "max": 8}
    assert report.histogram == {"1": 1, "2-3": 2, "4-7": 1, "8-15": 1}
    assert seen == [(done, 18) for done in range(1, 19)]
    assert json.loads(json.dumps(report.to_dict()))["pictures"]["sizes"] == {"16x16": 18}


def test_pictures_and_property_are_compared(tmp_path):
    odd = [(2, encode(face(2, 1, 18))), (2, encode(face(2, 2)[:, :12]))]
    write_face_records(tmp_path, [*images([2, 3]), *odd], (16, 16))
    write_property(tmp_path, 5, 16, 16)
    report = inspect_records(tmp_path)
    assert report.pictures.sizes == {"16x16": 5, "18x18": 1, "12x16": 1}
    assert report.pictures.formats == {"JPEG": 5, "PNG": 2}
    assert report.problems == [
        "2 of the 5 classes in property without a picture: 3, 4",
        "2 pictures of another size than 16x16, the size in property",
    ]


def test_broken_pictures_and_records_are_named(tmp_path):
    bad = [(1, b"broken"), (1, b"text"), *[(2, b"")] * 30]
    write_face_records(tmp_path, [*images([2]), *bad], (16, 16))
    with open(tmp_path / "train.rec", "r+b") as file:
        file.write(b"\0\0\0\0")  # where the record with key 1 starts
    report = inspect_records(tmp_path)
    assert report.pictures.count == 34
    assert len(report.pictures.broken) == 33
    rec = tmp_path / "train.rec"
    assert report.pictures.broken[0] == f"{rec}: key 1 at byte 0: no record starts here"
    assert report.pictures.broken[1].startswith(f"{rec}: key 3: not a JPEG")
    assert report.problems == [f"33 pictures cannot be read: {', '.join(report.pictures.broken[:5])}, ..."]
    assert report.num_people == 3


def test_labels_that_are_no_classes_are_counted(tmp_path):
    entries = [(key, label, encode(face(0, key))) for key, label in ((3, 0), (4, 2), (5, 1.5), (6, 1))]
    write_entries(tmp_path / "set", entries, 2, 16)
    report = inspect_records(tmp_path / "set")
    assert report.layout == "plain"
    assert report.num_people == 2
    assert report.per_person == {"min": 1, "median": 1, "max": 1}
    (problem,) = report.problems
    assert problem.startswith("2 pictures with a label outside the classes in property, the first: ")
    assert "key 4: label 2 is not one of the 2 classes" in problem


def test_labels_and_identities_are_compared(tmp_path):
    entries = [(key, label, encode(face(0, key))) for key, label in enumerate([0, 0, 1, 1, 0], 1)]
    headers = [(6, (1, 3), b""), (7, (3, 4), b""), (8, (4, 6), b""), (0, (6, 9), b"")]
    write_entries(tmp_path / "set", entries + headers, 2, 16)
    assert inspect_records(tmp_path / "set").problems == [
        "1 identity record with several labels, the first is identity 2",
        "2 labels in several identity records, the first is 0",
    ]


def test_nothing_that_can_be_used(tmp_path):
    write_entries(tmp_path / "set", [(1, 7, b"")], 2, 16)
    report = inspect_records(tmp_path / "set")
    assert (report.num_people, report.per_person, report.histogram, report.pictures.sizes) == (0, {}, {}, {})
    assert len(report.problems) == 3


def test_a_set_that_cannot_be_opened_is_named(tmp_path):
    with refused(path=tmp_path / "property", cause=FileNotFoundError):
        inspect_records(tmp_path)
    with refused(path=tmp_path / "a.bin", cause=FileNotFoundError):
        inspect_pairs(tmp_path / "a.bin")


def test_a_sound_verification_set(tmp_path):
    one, two, three = (encode(face(0, n)) for n in range(3))
    write_pairs(tmp_path / "a.bin", [one, two, one, three] * 10, [True, False] * 10)
    seen = []
    report = inspect_pairs(tmp_path / "a.bin", lambda *counts: seen.append(counts))
    assert report.to_dict() == {
        "path": str(tmp_path / "a.bin"),
        "num_genuine": 10,
        "num_impostor": 10,
        "pictures": {
            "count": 3,
            "sizes": {"16x16": 3},
            "formats": {"PNG": 3},
            "broken": [],
            "blank": [],
            "enlarged": [],
            "copies": [],
        },
        "problems": [],
    }
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_what_is_wrong_with_pairs(tmp_path):
    one, two = (encode(face(0, n)) for n in range(2))
    path = tmp_path / "a.bin"
    write_pairs(path, [one, two, one, one, two, b"broken"], [True, True, True])
    report = inspect_pairs(path)
    (broken,) = report.pictures.broken
    assert broken.startswith(f"{path}: image 5 (pair 2): not a JPEG")
    assert report.problems == [
        f"1 picture cannot be read: {broken}",
        "1 genuine pair of a picture with itself: pair 1",
        "3 pairs, too few for 10 folds",
        "no impostor pair",
    ]
    write_pairs(path, [one, two] * 10, [False] * 10)
    assert inspect_pairs(path).problems == ["no genuine pair"]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_pairs_are_compared_by_pixels(tmp_path):
    """Three pictures, the first of which is also there with other bytes."""
    one, two, three = (encode(face(0, n)) for n in range(3))
    again = encode(face(0, 0), "BMP")
    path = tmp_path / "a.bin"
    write_pairs(path, [one, two, one, three] * 9 + [one, again, three, again], [True, False] * 9 + [False, True])
    report = inspect_pairs(path)
    assert report.pictures.copies == [["image 0 (pair 0)", "image 37 (pair 18)"]]
    both = ", ".join(f"pair {index}" for index in (1, 3, 5, 7, 9))
    assert report.problems == [
        "1 impostor pair of a picture with itself: pair 18",
        f"10 pairs both genuine and impostor: {both}, ...",
    ]


@pytest.mark.parametrize(
    ("issame", "problems"),
    [
        ([True, False] * 10, []),
        ([True] * 10 + [False] * 10, [f"5 of 10 folds without {kind} pairs" for kind in ("genuine", "impostor")]),
        ([True, False, False] * 3 + [False] * 11, ["7 of 10 folds without genuine pairs"]),
    ],
)
def test_folds_without_a_kind_are_counted(tmp_path, issame, problems):
    write_pairs(tmp_path / "a.bin", [encode(face(n % 6, n)) for n in range(40)], issame)
    divides = ", on which InsightFace's verification divides by zero"
    assert inspect_pairs(tmp_path / "a.bin").problems == [problem + divides for problem in problems]


def test_equal_pictures_are_named(tmp_path):
    """Four times one file for one person, and one picture for two, once as JPEG and once as PNG of its pixels."""
    people = save_people(tmp_path / "people", [4, 3, 2])
    for number in (2, 3, 4):
        shutil.copy(people / "p00" / "01.png", people / "p00" / f"0{number}.png")
    shutil.copy(people / "p02" / "01.png", people / "p01" / "again.png")
    folder.build_from_folder(people, tmp_path / "out", encoding=Encoding(16))
    report = inspect_records(tmp_path / "out")
    ones, twos = [
        [f"key {key} (p00/0{key}.png)" for key in (1, 2, 3, 4)],
        ["key 8 (p01/again.png)", "key 9 (p02/01.png)"],
    ]
    assert report.pictures.copies == [ones, twos]
    assert report.problems == [
        f"1 picture of several people: {' = '.join(twos)}",
        f"1 picture repeated: {' = '.join(ones)}",
    ]
    (tmp_path / "out" / "manifest.csv").unlink()
    assert inspect_records(tmp_path / "out").problems[0] == (
        "1 picture of several people: key 8 (label 1) = key 9 (label 2)"
    )


def test_equal_pixels_are_enough(tmp_path):
    picture = face(0, 1)
    write_face_records(tmp_path, [(0, encode(picture)), (0, encode(face(0, 2))), (1, encode(picture, "BMP"))], (16, 16))
    assert inspect_records(tmp_path).problems == ["1 picture of several people: key 1 (label 0) = key 3 (label 1)"]


def test_a_manifest_of_other_records_names_nothing(tmp_path):
    write_face_records(tmp_path, [(0, encode(face(0, 1))), (0, encode(face(0, 1)))], (16, 16))
    (tmp_path / "manifest.csv").write_text("key,label,person,file\n1,7,anna,anna/1.png\n2,0,anna,anna/2.png\n")
    assert inspect_records(tmp_path).problems == ["1 picture repeated: key 1 (label 0) = key 2 (anna/2.png)"]


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_blank_and_enlarged_pictures_are_named(tmp_path, resample):
    faces = [orl_square(person, 1) for person in range(1, 7)]
    small = Image.fromarray(faces[3]).resize((20, 20), resample)
    faces[3] = np.asarray(small.resize((112, 112), resample))
    faces[5] = np.full((112, 112, 3), 90, np.uint8)
    write_face_records(tmp_path, [(label, encode(picture, "JPEG")) for label, picture in enumerate(faces)])
    report = inspect_records(tmp_path)
    assert (report.pictures.blank, report.pictures.enlarged) == (["key 6 (label 5)"], ["key 4 (label 3)"])
    assert report.problems == [
        "1 picture of one color: key 6 (label 5)",
        "1 picture blurred, or enlarged from less than a quarter of its size: key 4 (label 3)",
    ]


def test_near_copies_within_a_person_are_counted(tmp_path):
    """Encoded again, and reduced and enlarged again; the same picture of another person is not one."""
    random = np.random.RandomState(0)
    people = [
        np.asarray(Image.fromarray(random.randint(0, 256, (6, 6, 3)).astype(np.uint8)).resize((64, 64)))
        for _ in range(3)
    ]
    again = io.BytesIO()
    Image.fromarray(people[0]).save(again, "JPEG", quality=50)
    small = np.asarray(Image.fromarray(people[1]).resize((40, 40)).resize((64, 64)))
    entries = [
        (0, encode(people[0])), (0, encode(people[2])), (0, again.getvalue()),
        (1, encode(people[1])), (1, encode(people[1])), (1, encode(small)), (1, again.getvalue()),
    ]  # fmt: skip
    write_face_records(tmp_path, entries, (64, 64))
    report = inspect_records(tmp_path)
    assert report.near_copies == ["key 3 (label 0) ~ key 1 (label 0)", "key 6 (label 1) ~ key 4 (label 1)"]
    assert len(report.pictures.copies) == 2
    write_face_records(tmp_path, [(0, payload) for _, payload in entries], (64, 64))
    assert not inspect_records(tmp_path).near_copies  # pictures without identities
