import csv
import errno
import io
import os
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from denseface.core import files
from denseface.core.errors import InputError
from denseface.data.align import REFERENCE_POINTS
from denseface.data.cropping import Cropper
from denseface.data.landmarks import LandmarkFile
from denseface.data.pairs import read_pairs
from denseface.data.records import FaceRecords
from denseface.datasets import folder
from denseface.datasets.faces import ONE_FACE, Encoding
from denseface.datasets.output import no_progress
from support.broken_disks import let_reads_fail
from support.photographs import orl_square
from support.photos import as_line
from support.picture_folders import contents, face, save_face, save_people, who
from support.refusals import refused

import mxnet as mx

COUNTS = [3, 1, 4, 2]
PICTURES = [(person, number) for person, count in enumerate(COUNTS) for number in range(1, count + 1)]


@pytest.fixture
def people(tmp_path):
    return save_people(tmp_path / "people", COUNTS)


def build(source, **options):
    return build_in(source.parent / "out", source, **options)


def build_in(out, source, crop=ONE_FACE, processes=1, on_progress=no_progress, **split):
    encoding = Encoding(16, crop=crop, processes=processes)
    return folder.build_from_folder(source, out, folder.Split(**split), encoding, on_progress)


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def training_set(path):
    with FaceRecords(path) as records:
        return [records.read_image(key) for key in records.keys]


def test_people_become_records(people, tmp_path):
    made = build(people)
    assert made == folder.Summary(4, 10, 0, 0, 0, [], 0, 0, {}, {})
    with FaceRecords(tmp_path / "out") as records:
        assert (records.num_classes, records.image_shape) == (4, (16, 16))
        assert records.identities.tolist() == [[1, 4], [4, 5], [5, 9], [9, 11]]
    found = training_set(tmp_path / "out")
    assert [(label, who(payload)) for label, payload in found] == [(person, (person, n)) for person, n in PICTURES]
    heading, *rows = read_table(tmp_path / "out" / "manifest.csv")
    assert heading == ["key", "label", "person", "file"]
    assert rows == [
        [str(key), str(person), f"p{person:02}", f"p{person:02}/{number:02}.png"]
        for key, (person, number) in enumerate(PICTURES, 1)
    ]
    assert sorted(os.listdir(tmp_path / "out")) == ["manifest.csv", "property", "train.idx", "train.rec"]
    assert sorted(os.listdir(tmp_path)) == ["out", "people"]


def test_insightface_reads_them(people, tmp_path):
    """Walk the headers as InsightFace's loader does, and decode with MXNet's own decoder."""
    build(people)
    out = tmp_path / "out"
    reader = mx.recordio.MXIndexedRecordIO(str(out / "train.idx"), str(out / "train.rec"), "r")
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    assert header.flag > 0
    images = []
    for identity in range(int(header.label[0]), int(header.label[1])):
        ends = mx.recordio.unpack(reader.read_idx(identity))[0].label
        for key in range(int(ends[0]), int(ends[1])):
            header, payload = mx.recordio.unpack(reader.read_idx(key))
            images.append((int(header.label), mx.image.imdecode(payload).asnumpy()))
    reader.close()
    assert [label for label, _ in images] == [person for person, _ in PICTURES]
    for (_, image), (_, payload) in zip(images, training_set(out)):
        assert image.shape == (16, 16, 3)
        assert np.abs(image - np.asarray(Image.open(io.BytesIO(payload))).astype(int)).max() <= 2


def test_folders_below_a_person_are_its_own(tmp_path):
    people = tmp_path / "people"
    for name, number in (("b/video1/1.png", 2), ("b/a.JPG", 1), ("a/1.webp", 1), (".hidden/1.png", 1), ("a/.x.png", 1)):
        save_face(people / name, "ab.".index(name[0]), number)
    assert build(people).num_classes == 2
    rows = read_table(tmp_path / "out" / "manifest.csv")[1:]
    assert [row[1:] for row in rows] == [
        ["0", "a", "a/1.webp"], ["1", "b", "b/a.JPG"], ["1", "b", "b/video1/1.png"],
    ]  # fmt: skip


def test_every_file_that_is_left_out_is_listed(people, tmp_path):
    (people / "p00" / "00.png").write_bytes(b"broken")
    (people / "p01" / "01.png").write_bytes(b"broken")
    save_face(people / "loose.png", 0, 0)
    (people / "readme.txt").write_text("text")
    (people / "p02" / "Thumbs.db").write_text("text")
    (people / "p02" / ".hidden").write_text("text")
    (people / "empty").mkdir()
    os.mkfifo(people / "p03" / "pipe.png")
    made = build(people, min_pictures=1)
    assert (made.num_classes, made.num_images, made.left_out, made.num_bad) == (3, 9, ["empty", "p01"], 6)
    assert made.reasons == {
        ("not a picture", None): 2,
        ("cannot be read", None): 2,
        ("not in a person's folder", None): 1,
        ("not a regular file", None): 1,
    }
    heading, *rows = read_table(tmp_path / "out" / "bad.csv")
    assert heading == ["file", "reason"]
    assert rows == [
        ["loose.png", "not in a person's folder"],
        ["p00/00.png", ANY],
        ["p01/01.png", ANY],
        ["p02/Thumbs.db", "not a picture"],
        ["p03/pipe.png", "not a regular file"],
        ["readme.txt", "not a picture"],
    ]
    assert "not a JPEG" in rows[1][1] and "not a JPEG" in rows[2][1]
    assert [(label, who(payload)[0]) for label, payload in training_set(tmp_path / "out")] == [
        (label, person) for label, person in ((0, 0), (1, 2), (2, 3)) for _ in range(COUNTS[person])
    ]


def test_pictures_without_identities_become_one_class(people, tmp_path):
    save_face(people / "loose.png", 0, 9)
    (people / "readme.txt").write_text("text")
    made = build(people, unlabeled=True)
    assert made == folder.Summary(1, 11, 0, 0, 0, [], 0, 1, {("not a picture", None): 1}, {})
    assert [label for label, _ in training_set(tmp_path / "out")] == [0] * 11
    rows = read_table(tmp_path / "out" / "manifest.csv")[1:]
    assert rows[0] == ["1", "0", "", "loose.png"] and rows[1] == ["2", "0", "", "p00/01.png"]
    with pytest.raises(InputError) as caught:
        build(people, unlabeled=True, holdout=2)
    assert caught.value.option == "holdout"
    (tmp_path / "empty").mkdir()
    with refused("no picture", path=tmp_path / "empty"):
        build(tmp_path / "empty", unlabeled=True)


def test_content_decides_what_is_a_picture(people, tmp_path):
    for person, name in enumerate(("a.jfif", "photo", "b.dat", "c.GIF")):
        kind = ("JPEG", "PNG", "TIFF", "GIF")[person]
        Image.fromarray(face(person, 9)).save(people / f"p{person:02}" / name, kind)
    (people / "p00" / "camera.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    made = build(people)
    assert (made.num_images, made.num_bad) == (14, 1)
    assert {row[3] for row in read_table(tmp_path / "out" / "manifest.csv")} >= {
        "p00/a.jfif", "p01/photo", "p02/b.dat", "p03/c.GIF",
    }  # fmt: skip
    ((file, reason),) = read_table(tmp_path / "out" / "bad.csv")[1:]
    assert file == "p00/camera.heic" and "HEIC" in reason


def test_links_that_leave_the_folder_are_not_followed(people, tmp_path):
    secret = save_face(tmp_path / "secret" / "1.png", 7, 7)
    (people / "p00" / "in.png").symlink_to("../p02/01.png")
    (people / "p00" / "out.png").symlink_to(secret)
    (people / "p00" / "up.png").symlink_to("../../secret/1.png")
    (people / "p09").symlink_to(tmp_path / "secret")
    (people / "p01" / "loop").symlink_to("..")
    made = build(people)
    assert (made.num_images, made.num_bad) == (11, 4)
    folder_link, leaving = (
        f"a link {kind}; these are not followed"
        for kind in ("to a folder around it", "that leaves the folder of all people")
    )
    assert dict(read_table(tmp_path / "out" / "bad.csv")[1:]) == {
        "p00/out.png": leaving, "p00/up.png": leaving, "p01/loop": folder_link, "p09": leaving,
    }  # fmt: skip
    assert all(who(payload)[0] != 7 for _, payload in training_set(tmp_path / "out"))


def test_links_to_nowhere_are_listed(people, tmp_path):
    (people / "p00" / "x.jpg").symlink_to("x.jpg")
    (people / "p00" / "y.jpg").symlink_to("z.jpg")
    (people / "p00" / "z.jpg").symlink_to("y.jpg")
    (people / "p01" / "lost.png").symlink_to("nowhere.png")
    (people / "p01" / "self").symlink_to("self")
    (people / "alone").symlink_to("alone")
    assert build(people).num_images == 10
    loop, lost = (f"a link that cannot be followed ({os.strerror(n)})" for n in (errno.ELOOP, errno.ENOENT))
    assert dict(read_table(tmp_path / "out" / "bad.csv")[1:]) == {
        "alone": loop, "p00/x.jpg": loop, "p00/y.jpg": loop, "p00/z.jpg": loop, "p01/lost.png": lost, "p01/self": loop,
    }  # fmt: skip


def test_folders_that_cannot_be_read_are_listed(people, tmp_path, monkeypatch):
    """Run by root, the tests can read every folder; so scandir refuses one."""
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "p01":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    made = build(people)
    assert (made.num_classes, made.left_out) == (3, ["p01"])
    assert read_table(tmp_path / "out" / "bad.csv")[1:] == [["p01/", "cannot be read (Permission denied)"]]


def test_files_that_fail_while_they_are_read_are_listed(people, tmp_path, monkeypatch):
    let_reads_fail(monkeypatch, files, "03.png")
    assert build(people).num_images == 8
    bad = dict(read_table(tmp_path / "out" / "bad.csv")[1:])
    assert sorted(bad) == ["p00/03.png", "p02/03.png"]
    assert {*bad.values()} == {"it cannot be read (Input/output error)"}


def test_people_with_few_pictures_are_left_out(people, tmp_path):
    (people / "p03" / "02.png").write_bytes(b"broken")
    made = build(people, min_pictures=2)
    assert (made.num_classes, made.left_out) == (2, ["p01", "p03"])
    assert [row[0] for row in read_table(tmp_path / "out" / "bad.csv")[1:]] == ["p03/02.png"]
    assert read_table(tmp_path / "out" / "few.csv")[1:] == [["p01/01.png", "p01"], ["p03/01.png", "p03"]]
    assert [row[2] for row in read_table(tmp_path / "out" / "manifest.csv")[1:]] == ["p00"] * 3 + ["p02"] * 4
    with refused("p03/01.png: p03 has too few", path=people):
        build_in(tmp_path / "other", people, min_pictures=5)
    assert not (tmp_path / "other").exists()


def test_people_held_out_become_pairs(tmp_path):
    people = save_people(tmp_path / "people", [3] * 10 + [1])
    made = build(people, holdout=4, max_pairs=None)
    assert (made.num_classes, made.num_images) == (7, 19)
    assert (made.num_holdout, made.num_genuine, made.num_impostor) == (4, 12, 54)
    pairs = read_pairs(tmp_path / "out" / "holdout.bin")
    found = [who(image) for image in pairs.images]
    held_out = {person for person, _ in found}
    assert len(held_out) == 4 and 10 not in held_out
    assert not held_out & {who(payload)[0] for _, payload in training_set(tmp_path / "out")}
    assert pairs.issame.tolist() == [a[0] == b[0] for a, b in zip(found[::2], found[1::2])]
    heading, *rows = read_table(tmp_path / "out" / "holdout.csv")
    assert heading == ["file1", "file2", "same"]
    names = [f"p{person:02}/{number:02}.png" for person, number in found]
    assert rows == [[a, b, str(int(same))] for a, b, same in zip(names[::2], names[1::2], pairs.issame)]


def test_a_small_verification_set_has_both_kinds_in_every_fold(tmp_path):
    people = save_people(tmp_path / "people", [4] * 10)
    build(people, holdout=0.4, max_pairs=10)
    issame = read_pairs(tmp_path / "out" / "holdout.bin").issame
    assert [sorted(fold.tolist()) for fold in np.array_split(issame, 10)] == [[False, True]] * 10


def test_the_seed_decides_who_is_held_out(tmp_path):
    people = save_people(tmp_path / "people", [2] * 12)
    sets = []
    for place, seed in enumerate((0, 0, 1)):
        made = build_in(tmp_path / str(place), people, holdout=0.25, max_pairs=2, seed=seed)
        assert (made.num_holdout, made.num_genuine, made.num_impostor) == (3, 2, 2)
        sets.append(contents(tmp_path / str(place)))
    assert sets[0] == sets[1]
    assert sets[0]["manifest.csv"] != sets[2]["manifest.csv"]


@pytest.mark.parametrize(
    ("holdout", "facts"),
    [(1, [1, "1 person", "at least 2", "at most the 3"]), (4, [4, "4 people"]), (0.1, [0.1, "0 people"])],
)
def test_impossible_holdouts_are_refused(people, tmp_path, holdout, facts):
    with refused(*facts, option="holdout"):
        build(people, holdout=holdout)
    assert not (tmp_path / "out").exists()


def test_somebody_must_be_left(tmp_path):
    people = save_people(tmp_path / "people", [2, 2])
    with refused("everybody", option="holdout"):
        build(people, holdout=2)


def test_the_number_of_processes_changes_nothing(tmp_path):
    people = save_people(tmp_path / "people", [9, 12, 3, 10], ".jpg")
    (people / "p01" / "05.jpg").write_bytes(b"broken")
    for processes in (1, 2):
        build_in(tmp_path / str(processes), people, holdout=2, processes=processes)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_progress_counts_every_picture(people):
    seen = []
    build(people, holdout=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_landmarks_align_the_faces(tmp_path):
    people = save_people(tmp_path / "people", [2, 1], size=40)
    points = REFERENCE_POINTS * (40 / 112)
    exchanged = as_line("p00/02.png", points[[1, 0, 2, 4, 3]])
    lines = as_line("p00/01.png", points), exchanged, as_line("people/p01/01.png", points)
    (tmp_path / "landmarks.txt").write_text("".join(lines))
    made = build(people, crop=Cropper(landmarks=LandmarkFile(tmp_path / "landmarks.txt")))
    assert (made.num_images, made.num_bad) == (2, 1)
    assert [who(payload) for _, payload in training_set(tmp_path / "out")] == [(0, 1), (1, 1)]
    assert "left and right exchanged" in read_table(tmp_path / "out" / "bad.csv")[1][1]


@pytest.mark.parametrize("place", ["people", "people/out", "people/p00/deep/out", "other/../people/out", "link/out"])
def test_writing_into_the_source_is_refused(people, tmp_path, place):
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(people)
    before = contents(people)
    with refused(f"inside {people}", path=tmp_path / place):
        folder.build_from_folder(people, tmp_path / place)
    assert contents(people) == before


def test_what_is_there_is_not_replaced(people, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("kept")
    with refused("already exists", path=tmp_path / "out"):
        build(people)
    assert os.listdir(tmp_path / "out") == ["precious"]


@pytest.mark.parametrize("files", [[], ["1.png"], ["a/readme.txt"]])
def test_a_folder_without_people_is_named(tmp_path, files):
    (tmp_path / "people" / "a").mkdir(parents=True)
    for name in files:
        (tmp_path / "people" / name).write_text("text")
    with refused("no picture in a folder", path=tmp_path / "people"):
        build(tmp_path / "people")
    with refused("not a folder", path=tmp_path / "absent"):
        build(tmp_path / "absent")


def test_orl_faces_come_back_from_png_folders(tmp_path):
    """From pictures of real faces to records and back to arrays."""
    originals = {}
    for person in (1, 2, 40):
        for number in range(1, 5):
            originals[f"s{person}/{number}.png"] = orl_square(person, number)
    for file, pixels in originals.items():
        (tmp_path / "orl" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "orl" / file)
    folder.build_from_folder(tmp_path / "orl", tmp_path / "out")
    rows = read_table(tmp_path / "out" / "manifest.csv")[1:]
    with FaceRecords(tmp_path / "out") as records:
        assert records.num_classes == 3
        assert [row[3] for row in rows] == sorted(originals)
        for key, label, person, file in rows:
            found_label, payload = records.read_image(int(key))
            assert found_label == int(label) == ["s1", "s2", "s40"].index(person)
            found = np.asarray(Image.open(io.BytesIO(payload))).astype(int)
            assert found.shape == (112, 112, 3)
            assert np.abs(found - originals[file]).mean() < 2


@pytest.mark.parametrize(
    "text",
    ["p00\np02/\n", "2\np00\t3\np02\t4\n", "2\n1\np02 4\n1\np00 3\n", "\ufeff\np00  3\r\np02\r\n"],
)
def test_people_are_selected_by_a_list(people, tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text.encode())
    build(people, people=tmp_path / "list.txt")
    assert [who(payload)[0] for _, payload in training_set(tmp_path / "out")] == [0] * 3 + [2] * 4


def test_lists_hold_out_and_exclude(people, tmp_path):
    save_face(people / "p10" / "1.png", 10, 1)
    (tmp_path / "train.txt").write_text("p0*")
    (tmp_path / "test.txt").write_text("p02\np10\n")
    (tmp_path / "no.txt").write_text("p03\nelsewhere\n")
    lists = {"people": tmp_path / "train.txt", "holdout": tmp_path / "test.txt", "exclude": tmp_path / "no.txt"}
    made = build(people, **lists)
    assert [who(payload)[0] for _, payload in training_set(tmp_path / "out")] == [0] * 3 + [1]
    pairs = read_pairs(tmp_path / "out" / "holdout.bin")
    assert {who(image)[0] for image in pairs.images} == {2, 10}
    assert (made.num_holdout, made.num_absent) == (2, {"people": 0, "exclude": 1, "holdout": 0})
    (tmp_path / "no.txt").write_text("p02\n")
    with pytest.raises(InputError) as caught:
        build(people, **lists)
    assert caught.value.option == "exclude"


@pytest.mark.parametrize(
    ("text", "is_read", "facts"),
    [
        ("p00\np77\n", True, ["1 person", "p77"]),
        ("3\np00\t3\np02\t4\n", False, ["3 people", "2 names"]),
        ("\n", False, ["no name"]),
        ("9" * 5000 + "\np00\n", True, ["1 person"]),
        ("p00" + " " * 60_000 + "x", True, ["1 person"]),
        ("\0\np00\n", True, [r"\x00"]),
    ],
)
def test_a_list_that_cannot_be_met_is_refused(people, tmp_path, text, is_read, facts):
    path = tmp_path / "list.txt"
    path.write_text(text)
    for option in ("people", "holdout"):
        with refused(*facts, path=path, option=option if is_read else None):
            build(people, **{option: path})
    with pytest.raises(InputError) as caught:
        build(people, unlabeled=True, people=tmp_path / "list.txt")
    assert caught.value.option == "people"


def test_names_are_the_same_however_their_accents_are_written(tmp_path):
    people = tmp_path / "people"
    for name in ("Zoe\u0308", "Rene\u0301", "Bo"):
        save_face(people / name / "1.png", 1, 1)
    (tmp_path / "list.txt").write_text("Zo\u00eb\nRen\u00e9 1\n", encoding="utf-8")
    assert build(people, people=tmp_path / "list.txt").num_classes == 2


def test_a_folder_that_is_called_as_a_number_is_a_person(tmp_path):
    for name in ("0001", "0002", "0003"):
        save_face(tmp_path / "people" / name / "1.png", 1, 1)
    (tmp_path / "list.txt").write_text("0001\n0003\n")
    assert build(tmp_path / "people", people=tmp_path / "list.txt").num_classes == 2


def test_people_with_too_few_pictures_are_not_files_that_failed(people, tmp_path):
    made = build(people, min_pictures=3)
    assert (made.left_out, made.num_few, made.num_bad) == (["p01", "p03"], 3, 0)
    assert not (tmp_path / "out" / "bad.csv").exists()
    assert read_table(tmp_path / "out" / "few.csv") == [
        ["file", "person"], ["p01/01.png", "p01"], ["p03/01.png", "p03"], ["p03/02.png", "p03"],
    ]  # fmt: skip


def test_thumbnails_of_other_programs_are_passed_over(people, tmp_path):
    before = build(people)
    (tmp_path / "out").rename(tmp_path / "before")
    for name in ("@eaDir/01.png/SYNOPHOTO_THUMB_M.png", "Thumbs/01.png", "__MACOSX/01.png", ".thumbnails/01.png"):
        save_face(people / "p00" / name, 0, 1)
        save_face(people / name, 0, 1)
    assert build(people) == before
    assert contents(tmp_path / "out") == contents(tmp_path / "before")


def test_links_to_folders_inside_are_followed(people, tmp_path):
    (people / "p01" / "more").symlink_to("../p03")
    (people / "p05").symlink_to(people / "p00")
    (people / "p02" / "one").symlink_to("../p03/two")
    (people / "p03" / "two").symlink_to("../p02")
    made = build(people)
    found = read_table(tmp_path / "out" / "manifest.csv")[1:]
    assert [row[3] for row in found if row[2] == "p05"] == ["p05/01.png", "p05/02.png", "p05/03.png"]
    assert {"p01/01.png", "p01/more/01.png", "p01/more/two/04.png", "p03/two/04.png"} <= {row[3] for row in found}
    assert made.num_bad > 0  # the circle between p02 and p03 ends
