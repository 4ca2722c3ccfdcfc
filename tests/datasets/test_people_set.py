"""Folders and records audited by the command, with a network that answers with the colors of a picture."""

import csv
import errno
import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.core.errors import InputError
from denseface.data.pairs import write_pairs
from denseface.data.pictures import Photograph
from denseface.data.records import FaceRecords, write_face_records
from denseface.datasets import people_set
from denseface.datasets.faces import Encoding
from denseface.datasets.folder import build_from_folder
from denseface.datasets.people_set import PeopleSet, distinct_pictures
from support.broken_disks import let_reads_fail
from support.photographs import orl_faces
from support.refusals import refused

import mxnet as mx


@pytest.fixture
def colors(tmp_path):
    """A saved network: the mean colors of sixteen squares of a picture, less gray."""
    data = mx.sym.Variable("data")
    pooled = mx.sym.Pooling((data - 127.5) * 0.01, kernel=(4, 4), stride=(4, 4), pool_type="avg")
    mx.model.save_checkpoint(str(tmp_path / "colors"), 1, mx.sym.Flatten(pooled, name="fc1"), {}, {})
    return ["--model", str(tmp_path / "colors"), "--image-size", "16,16"]


def painted(random, colors):
    """A picture of sixteen colored squares, no two alike."""
    pixels = np.kron(colors.reshape(4, 4, 3) + random.normal(0, 20, (4, 4, 3)), np.ones((4, 4, 1)))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def people(tmp_path):
    """Twelve people with six pictures each, one of them of another person, one twice."""
    random = np.random.default_rng(0)
    for person in range(12):
        colors = random.integers(30, 226, 48)
        folder = tmp_path / "people" / f"p{person:02}"
        folder.mkdir(parents=True)
        for number in range(6):
            painted(random, colors).save(folder / f"{number}.png")
    (tmp_path / "people" / "p03" / "5.png").rename(tmp_path / "people" / "p04" / "wrong.png")
    with Image.open(tmp_path / "people" / "p07" / "2.png") as picture:
        picture.save(tmp_path / "people" / "p07" / "copy.jpg", quality=90)
    return tmp_path / "people"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def run(*arguments):
    return cli.main(["dataset", "audit", *map(str, arguments)])


def test_a_folder_is_audited_and_cleaned(people, colors, tmp_path, capsys):
    before = {path: path.read_bytes() for path in people.rglob("*.*")}
    out, clean = tmp_path / "audit", tmp_path / "clean"
    assert run(people, *colors, "-o", out, "--apply", clean, "--aligned") == 0
    said = capsys.readouterr().out
    heading, *found = rows_of(out / "suspects.csv")
    assert heading == ["picture", "kind", "probability", "reason"]
    assert {(row[0], row[1]) for row in found} >= {("p07/copy.jpg", "duplicate")}
    assert [row[0] for row in found] == ["p04/wrong.png", "p07/copy.jpg"]
    assert found[0][3] in ("looks like p03", "no face is found in it")  # as a detector is installed or not
    assert f"{clean}: 71 pictures, 2 left out" in said
    with Image.open(out / "suspects.png") as sheet:
        assert sheet.height > 200
    kept = {path.relative_to(clean): path.read_bytes() for path in clean.rglob("*.png")}
    assert kept == {
        path.relative_to(people): content for path, content in before.items()
        if path.name not in ("wrong.png", "copy.jpg")
    }  # fmt: skip
    assert [row[0] for row in rows_of(clean / "dropped.csv")] == ["file", "p04/wrong.png", "p07/copy.jpg"]
    assert {path: path.read_bytes() for path in people.rglob("*.*")} == before
    made = (out / "embeddings.npz").stat().st_mtime_ns
    assert run(people, *colors, "-o", out, "--aligned") == 0
    assert (out / "embeddings.npz").stat().st_mtime_ns == made  # nothing was embedded again
    (people / "p01" / "0.png").unlink()
    assert run(people, *colors, "-o", out, "--aligned") == 0
    assert (out / "embeddings.npz").stat().st_mtime_ns > made
    assert run(clean, *colors, "-o", out, "--aligned") == 0
    assert len(rows_of(out / "suspects.csv")) == 1
    with Image.open(out / "suspects.png") as sheet:
        assert sheet.height < 200  # not that of the suspects before


def test_records_are_audited_and_cleaned(people, colors, tmp_path, capsys):
    folders = sorted(people.iterdir())
    labeled = [(label, path.read_bytes()) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    (tmp_path / "records").mkdir()
    write_face_records(tmp_path / "records", labeled, (16, 16))
    assert run(tmp_path / "records", *colors, "-o", tmp_path / "audit", "--apply", tmp_path / "clean") == 0
    assert "71 pictures, 2 left out" in capsys.readouterr().out
    with PeopleSet(tmp_path / "records") as pictures:
        wrong = [pictures.load(row[0]) for row in rows_of(tmp_path / "audit" / "suspects.csv")[1:]]
    assert wrong == [(people / "p04" / "wrong.png").read_bytes(), (people / "p07" / "copy.jpg").read_bytes()]
    with FaceRecords(tmp_path / "clean") as clean:
        kept = [clean.read_image(key)[1] for key in clean.keys.tolist()]
    assert sorted(kept) == sorted(payload for _, payload in labeled if payload not in wrong)


def test_pictures_encoded_again_are_duplicates_and_others_of_the_person_are_not(tmp_path):
    for number, path in enumerate(orl_faces()[:10]):
        place = tmp_path / "s1" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        with Image.open(path) as picture:
            picture.save(place)
            again = io.BytesIO()
            picture.save(again, "JPEG", quality=50)
        (tmp_path / "s1" / f"{number}-again.jpg").write_bytes(again.getvalue())
    with PeopleSet(tmp_path) as pictures:
        assert len(pictures) == 20
        for one in range(10):
            assert pictures.is_duplicate(f"s1/{one}.png", f"s1/{one}-again.jpg")
            assert not any(pictures.is_duplicate(f"s1/{one}.png", f"s1/{other}.png") for other in range(one))


def test_an_audit_answers_from_the_pictures_that_are_there(people, colors, tmp_path, capsys):
    """A copy keeps its old date, here the one before the first audit, and the size may be the same."""
    out, wrong = tmp_path / "audit", people / "p09" / "3.png"
    assert run(people, *colors, "-o", out, "--aligned") == 0
    content, stamp = (people / "p02" / "1.png").read_bytes(), wrong.stat()
    wrong.write_bytes(content)
    os.utime(wrong, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(people, *colors, "-o", out, "--aligned") == 0
    assert "p09/3.png" in [row[0] for row in rows_of(out / "suspects.csv")]


def test_a_picture_that_cannot_be_read_is_listed_with_the_reason(people, colors, tmp_path):
    (people / "p05" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    assert run(people, *colors, "-o", tmp_path / "audit", "--apply", tmp_path / "clean", "--aligned") == 0
    (found,) = [row for row in rows_of(tmp_path / "audit" / "suspects.csv") if row[0] == "p05/2.png"]
    assert found[1] == "cannot be read" and "PNG" in found[3]
    assert not (tmp_path / "clean" / "p05" / "2.png").exists()


def test_a_picture_that_could_not_be_read_once_is_not_left_out(people, colors, tmp_path, monkeypatch, capsys):
    failures = [InputError("it cannot be read (Input/output error)")]

    def read(payload):
        if failures:
            raise failures.pop()
        return Photograph(payload)

    monkeypatch.setattr("denseface.data.faces.Photograph", read)
    arguments = (people, *colors, "-o", tmp_path / "audit", "--apply", tmp_path / "clean", "--aligned")
    assert run(*arguments) == 1
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "clean").exists()
    assert run(*arguments) == 0
    assert "71 pictures, 2 left out" in capsys.readouterr().out


def test_two_sets_may_have_one_folder_of_results(people, colors, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(people, other)
    shutil.rmtree(other / "p04")
    out = tmp_path / "audit"
    for source, expected in ((people, ["p04/wrong.png", "p07/copy.jpg"]), (other, ["p07/copy.jpg"])):
        assert run(source, *colors, "-o", out, "--aligned") == 0
        assert [row[0] for row in rows_of(out / "suspects.csv")[1:]] == expected


def test_pictures_held_out_are_embedded_once_and_named_by_their_table(people, colors, tmp_path, monkeypatch, capsys):
    first, second, third = (people / name for name in ("p05/0.png", "p05/1.png", "p06/0.png"))
    (people / "notes.txt").write_text("")
    images = [path.read_bytes() for path in (first, second, first, third, second, third)]
    write_pairs(tmp_path / "held.bin", images, [True, False, False])
    files = [("x/a.png", "x/b.png", 1), ("x/a.png", "y/c.png", 0), ("x/b.png", "y/c.png", 0)]
    with open(tmp_path / "held.csv", "w", newline="") as table:
        csv.writer(table).writerows([("file1", "file2", "same"), *files])
    assert [source.name for source in distinct_pictures(tmp_path / "held.bin")] == ["x/a.png", "x/b.png", "y/c.png"]
    out = tmp_path / "audit"
    assert run(people, *colors, "-o", out, "--aligned", "--held-out", tmp_path / "held.bin") == 0
    said, warned = capsys.readouterr()
    assert f"{out / 'suspects.csv'}: 2 of 73 pictures\n" in said
    assert "held.bin: people of the set are in 3 of 3 pictures\n" in said
    assert "1 file left out, such as notes.txt: not" in warned
    assert [row[0] for row in rows_of(out / "suspects.csv")[-3:]] == ["x/a.png", "x/b.png", "y/c.png"]
    with monkeypatch.context() as patch, refused(os.strerror(errno.EIO), path=tmp_path / "held.csv"):
        let_reads_fail(patch, people_set, "held.csv")
        distinct_pictures(tmp_path / "held.bin")
    (tmp_path / "held.csv").write_text("another table")
    names = [source.name for source in distinct_pictures(tmp_path / "held.bin")]
    assert names == [f"{tmp_path}/held.bin:{index}" for index in (0, 1, 3)]


def test_records_are_named_by_their_manifest(people, colors, tmp_path, capsys):
    build_from_folder(people, tmp_path / "set", encoding=Encoding(16))
    assert run(tmp_path / "set", *colors, "-o", tmp_path / "audit") == 0
    found = rows_of(tmp_path / "audit" / "suspects.csv")[1:]
    assert [row[0] for row in found] == ["p04/wrong.png", "p07/copy.jpg"]
    assert found[1][3] == "nearly the same pixels as p07/2.png"
