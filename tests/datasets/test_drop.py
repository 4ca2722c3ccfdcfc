"""A training set without some of its pictures."""

import csv

from denseface.data.pairs import write_pairs
from denseface.data.records import FaceRecords, write_face_records
from denseface.datasets.drop import write_without
from denseface.datasets.manifest import read_manifest, write_manifest
from support.refusals import refused
from support.tiny_models import encode, pictures


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_people_without_pictures_lose_their_label_and_others_keep_their_files(tmp_path):
    write_face_records(tmp_path / "set", [(n // 2, encode(face)) for n, face in enumerate(pictures(6))])
    with write_manifest(tmp_path / "set") as manifest:
        manifest.writerows((n + 1, n // 2, f"p{n // 2}", f"{n}.png") for n in range(6))
    with FaceRecords(tmp_path / "set") as records:
        made = write_without(records, {1: ("80.00", "far"), 3: ("", "broken"), 4: ("90.00", "far")}, tmp_path / "out")
        assert made == (3, 2, 1)
        with refused("no picture", path=tmp_path / "set"):
            write_without(records, dict.fromkeys(range(1, 7), ("", "")), tmp_path / "none")
    with FaceRecords(tmp_path / "out") as kept:
        assert kept.num_classes == 2
        assert [kept.read_image(key) for key in kept.keys] == [
            (label, encode(pictures(6)[n])) for label, n in ((0, 1), (1, 4), (1, 5))
        ]
        assert [entry[1:] for entry in read_manifest(tmp_path / "out", kept.keys).values()] == [
            ("p0", "1.png"), ("p2", "4.png"), ("p2", "5.png")
        ]  # fmt: skip
    assert read_table(tmp_path / "out" / "dropped.csv")[1:] == [
        ["1", "0", "80.00", "far", "0.png"], ["3", "1", "", "broken", "2.png"], ["4", "1", "90.00", "far", "3.png"],
    ]  # fmt: skip


def test_verification_sets_are_taken_along(tmp_path):
    faces = [encode(face) for face in pictures(4)]
    write_face_records(tmp_path / "set", enumerate(faces))
    write_pairs(tmp_path / "set" / "holdout.bin", faces, [True, False], ["a", "a", "b", "c"])
    (tmp_path / "set" / "holdout.csv").write_text("file1,file2,same\n")
    (tmp_path / "set" / "notes.csv").write_text("of no set")
    with FaceRecords(tmp_path / "set") as records:
        write_without(records, {1: ("80.00", "far")}, tmp_path / "out")
    for name in ("holdout.bin", "holdout.people.csv", "holdout.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()
    assert not (tmp_path / "out" / "notes.csv").exists()
