import errno
import os
import pickle

import numpy as np
import pytest

from denseface.data import pairs as pairs_module
from denseface.data.pairs import read_pairs, write_pairs
from support.broken_disks import let_reads_fail
from support.refusals import refused

IMAGES = [b"\xff\xd8 a", b"\xff\xd8 b", b"\xff\xd8 c", b"\xff\xd8 a", b"\xff\xd8 b", b"\xff\xd8 a"]
ISSAME = [True, False, True]


def save(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_a_set_comes_back(tmp_path):
    write_pairs(tmp_path / "lfw.bin", IMAGES, np.array(ISSAME))
    pairs = read_pairs(tmp_path / "lfw.bin")
    assert pairs.name == "lfw"
    assert pairs.images == IMAGES
    assert pairs.issame.dtype == bool
    assert pairs.issame.tolist() == ISSAME
    assert [file.name for file in tmp_path.iterdir()] == ["lfw.bin"]


def test_people_come_back_and_belong_to_their_set(tmp_path):
    people = ["anna", "bert", "carl", "anna", "bert", "anna"]
    write_pairs(tmp_path / "lfw.bin", IMAGES, ISSAME, people)
    pairs = read_pairs(tmp_path / "lfw.bin")
    assert pairs.people_of(pairs.images) == people
    with refused("lfw.people.csv", "another set"):
        pairs.people_of([b"another"])
    (tmp_path / "lfw.people.csv").write_text("name\nanna\n")
    with refused("sha256 and person", path=tmp_path / "lfw.people.csv"):
        read_pairs(tmp_path / "lfw.bin")
    write_pairs(tmp_path / "lfw.bin", IMAGES, ISSAME)
    assert read_pairs(tmp_path / "lfw.bin").people_of(IMAGES) is None


def test_people_that_cannot_be_read_now_are_not_called_another_table(tmp_path, monkeypatch):
    write_pairs(tmp_path / "lfw.bin", IMAGES, ISSAME, ["anna", "bert", "carl", "anna", "bert", "anna"])
    let_reads_fail(monkeypatch, pairs_module, "lfw.people.csv")
    with refused("cannot be read", os.strerror(errno.EIO), path=tmp_path / "lfw.people.csv"):
        read_pairs(tmp_path / "lfw.bin")


def test_equal_images_of_two_people_name_nobody(tmp_path):
    write_pairs(tmp_path / "a.bin", IMAGES, ISSAME, ["anna", "bert", "carl", "dora", "bert", "anna"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_insightface_reads_the_file(tmp_path):
    write_pairs(tmp_path / "lfw.bin", IMAGES, np.array(ISSAME))
    data = (tmp_path / "lfw.bin").read_bytes()
    assert data[:2] == b"\x80\x02"
    images, issame = pickle.loads(data)
    assert (images, issame) == (IMAGES, ISSAME)
    assert all(type(same) is bool for same in issame)


def test_an_image_is_stored_once_and_comes_back_as_one_object(tmp_path):
    image = bytes(range(128)) * 100
    copies = [bytes(bytearray(image)) for _ in range(200)]
    write_pairs(tmp_path / "a.bin", copies, [True] * 100)
    assert (tmp_path / "a.bin").stat().st_size < 2 * len(image)
    assert len({id(found) for found in read_pairs(tmp_path / "a.bin").images}) == 1


def test_unique_images_keep_the_order_of_first_use(tmp_path):
    images = [bytes(bytearray(image)) for image in IMAGES]  # equal, but not the same objects
    pairs = read_pairs(save(tmp_path / "a.bin", (images, ISSAME)))
    unique, places = pairs.unique()
    assert unique == [b"\xff\xd8 a", b"\xff\xd8 b", b"\xff\xd8 c"]
    assert places.dtype == np.int64
    assert places.tolist() == [[0, 1], [2, 0], [1, 0]]
    assert [unique[place] for place in places.ravel()] == pairs.images


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "convert",
    [
        bytes,
        bytearray,
        lambda image: np.frombuffer(image, np.uint8),
        lambda image: np.frombuffer(image, np.uint8).reshape(-1, 1).copy(),  # what cv2.imencode returns
    ],
)
@pytest.mark.parametrize("issame", [ISSAME, tuple(ISSAME), np.array(ISSAME), list(np.array(ISSAME))])
def test_every_kind_of_set_that_packing_scripts_write_is_read(tmp_path, protocol, convert, issame):
    content = ([convert(image) for image in IMAGES], issame)
    pairs = read_pairs(save(tmp_path / "a.bin", content, protocol))
    assert pairs.images == IMAGES
    assert pairs.issame.dtype == bool
    assert pairs.issame.tolist() == ISSAME


NUMBERS = [1, 0, 1]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [bool, "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_zeros_and_ones_are_bools(tmp_path, protocol, kind):
    for issame in (NUMBERS, tuple(NUMBERS), np.array(NUMBERS, kind), list(np.array(NUMBERS, kind)), [True, 0, 1]):
        pairs = read_pairs(save(tmp_path / "a.bin", (IMAGES, issame), protocol))
        assert pairs.issame.dtype == bool and pairs.issame.tolist() == ISSAME


def test_a_set_from_python_2_is_read(tmp_path):
    first_two = b"U\x03\xff\xd8aq\x02U\x03\xff\xd8bq\x03"
    (tmp_path / "a.bin").write_bytes(b"\x80\x02]q\x01(" + first_two + b"h\x03h\x02e]q\x04(\x88\x89e\x86q\x05.")
    pairs = read_pairs(tmp_path / "a.bin")
    assert pairs.images == [b"\xff\xd8a", b"\xff\xd8b", b"\xff\xd8b", b"\xff\xd8a"]
    assert pairs.issame.tolist() == [True, False]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ([], "not a verification set"),
        (7, "not a verification set"),
        (IMAGES, "not a verification set"),
        ((IMAGES, ISSAME, []), "not a verification set"),
        ((b"ab", [True]), "not a verification set"),
        ((IMAGES, b"\1\0\1"), "second part"),
        ((IMAGES, [1, 0, 2]), "second part"),
        ((IMAGES, [1, 0, -1]), "second part"),
        ((IMAGES, np.array([1, 0, 256])), "second part"),
        ((IMAGES, ["1", "0", "1"]), "second part"),
        ((IMAGES, [True, None, True]), "second part"),
        ((IMAGES, np.array([[True, False, True]])), "second part"),
        ((IMAGES, [True, False]), "6 images for 2 pairs"),
        ((IMAGES[:5], ISSAME), "5 images for 3 pairs"),
        (([], []), "0 images for 0 pairs"),
        ((["text", *IMAGES[1:]], ISSAME), "image 0"),
        (([*IMAGES[:5], None], ISSAME), "image 5"),
        (([*IMAGES[:5], b""], ISSAME), "image 5"),
        (([*IMAGES[:5], [b"a"]], ISSAME), "image 5"),
        (([*IMAGES[:5], np.array([True])], ISSAME), "image 5"),
    ],
)
def test_other_content_is_refused(tmp_path, content, fact):
    with refused(fact, path=tmp_path / "a.bin"):
        read_pairs(save(tmp_path / "a.bin", content))


def test_every_truncation_is_refused(tmp_path):
    write_pairs(tmp_path / "whole.bin", IMAGES, ISSAME)
    data = (tmp_path / "whole.bin").read_bytes()
    for length in range(len(data)):
        (tmp_path / "cut.bin").write_bytes(data[:length])
        with refused(path=tmp_path / "cut.bin"):
            read_pairs(tmp_path / "cut.bin")


def test_a_file_that_asks_for_more_is_refused_by_name(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "lfw.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with refused("os.system", path=tmp_path / "lfw.bin"):
        read_pairs(tmp_path / "lfw.bin")
    assert not canary.exists()


def test_a_missing_or_empty_file_is_named(tmp_path):
    with refused(path=tmp_path / "lfw.bin", cause=FileNotFoundError):
        read_pairs(tmp_path / "lfw.bin")
    (tmp_path / "lfw.bin").touch()
    with refused("empty", path=tmp_path / "lfw.bin"):
        read_pairs(tmp_path / "lfw.bin")


@pytest.mark.parametrize(("images", "issame"), [([], []), (IMAGES, [True]), (IMAGES[:1], [True])])
def test_counts_are_checked_before_anything_is_written(tmp_path, images, issame):
    (tmp_path / "a.bin").write_bytes(b"old")
    with refused(len(images), len(issame), path=tmp_path / "a.bin"):
        write_pairs(tmp_path / "a.bin", images, issame)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_set_and_its_people_are_replaced_together_or_not_at_all(tmp_path, monkeypatch):
    images = IMAGES[:4]
    path = tmp_path / "set.bin"
    write_pairs(path, images, [True, False], list("abca"))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert sorted(before) == ["set.bin", "set.people.csv"]

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, refused("written", os.strerror(errno.ENOSPC), path=path):
        patched.setattr(os, "fsync", full)
        write_pairs(path, images[::-1], [True, False], list("acba"))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    write_pairs(path, images, [True, False])
    assert [each.name for each in tmp_path.iterdir()] == ["set.bin"]
