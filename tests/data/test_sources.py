import errno
import os

import numpy as np
import pytest

from denseface.data.pairs import write_pairs
from denseface.data.recordio import RecordWriter
from denseface.data.records import write_face_records
from denseface.data.sources import Sources
from support.refusals import refused
from support.tiny_models import encode, pictures

IMAGES = [encode(picture) for picture in pictures(6)]


def found(*paths):
    """Names and contents of all pictures of some paths."""
    with Sources(paths) as sources:
        listed = [(source.name, source.load()) for source in sources]
        assert len(sources) == len(listed)
        return listed


def fill(folder, *names):
    for name, image in zip(names, IMAGES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def test_a_folder_is_walked_in_sorted_order(tmp_path):
    fill(tmp_path, "b/2.png", "b/1.JPG", "a.jpeg", "c/d/e.pgm", ".hidden.jpg", ".cache/f.png")
    (tmp_path / "notes.md").write_text("no picture")
    expected = [("a.jpeg", 2), ("b/1.JPG", 1), ("b/2.png", 0), ("c/d/e.pgm", 3)]
    assert found(tmp_path) == [(str(tmp_path / name), IMAGES[i]) for name, i in expected]


def test_pictures_of_a_folder_are_known_by_suffix_or_content(tmp_path):
    fill(tmp_path, "a.jfif", "b/without-suffix", "c.jpg.bak")
    (tmp_path / "d.heic").write_bytes(b"not read here, but listed")
    (tmp_path / "b" / "notes.txt").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    with Sources([tmp_path]) as sources:
        names = [os.path.relpath(source.name, tmp_path) for source in sources]
        assert names == ["a.jfif", "b/without-suffix", "c.jpg.bak", "d.heic", "itself.jpg"]
        assert sources.left_out == [f"{tmp_path}/b/notes.txt", f"{tmp_path}/link"]
        with refused(os.strerror(errno.ELOOP), path=tmp_path / "itself.jpg"):
            list(sources)[-1].load()


def test_a_link_in_a_circle_is_not_followed(tmp_path):
    fill(tmp_path, "a/1.png")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert len(found(tmp_path)) == 1


def test_a_list_is_relative_to_its_folder(tmp_path):
    fill(tmp_path, "faces/1.png", "2.png")
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "some.txt"
    path.write_text(f"../faces/1.png\n\n  {tmp_path}/2.png\r\n")
    assert [image for _, image in found(path)] == IMAGES[:2]


def test_a_list_from_windows_is_read(tmp_path):
    fill(tmp_path, "anna k.png", "b.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfanna k.png\r\nb.png\r\n")
    assert [image for _, image in found(tmp_path / "list.txt")] == IMAGES[:2]


def test_names_in_a_list_are_found_in_either_form_of_unicode(tmp_path):
    fill(tmp_path, "Zoe\u0308/1.png")
    (tmp_path / "list.txt").write_text("Zo\u00eb/1.png\n", encoding="utf-8")
    assert found(tmp_path / "list.txt") == [(f"{tmp_path}/Zoe\u0308/1.png", IMAGES[0])]


def test_a_training_set_gives_its_images_without_header_records(tmp_path):
    write_face_records(tmp_path, [(0, IMAGES[0]), (0, IMAGES[1]), (1, IMAGES[2])], (16, 16))
    expected = [(f"{tmp_path}/train.rec:{key}", IMAGES[key - 1]) for key in (1, 2, 3)]
    assert found(tmp_path) == found(tmp_path / "train.rec") == expected


def test_a_plain_record_file_gives_every_image(tmp_path):
    path = tmp_path / "faces.rec"
    with RecordWriter(path, tmp_path / "faces.idx") as writer:
        for key in (0, 7, 3):
            writer.write(key, 1.0, IMAGES[key % 6])
    assert found(path) == [(f"{path}:{key}", IMAGES[key % 6]) for key in (0, 7, 3)]


@pytest.mark.parametrize("labels", [(3,), (3, 25.5), (0, 4)])
def test_labels_that_are_arrays_make_no_headers(tmp_path, labels):
    with RecordWriter(tmp_path / "train.rec", tmp_path / "train.idx") as writer:
        for key in range(6):
            writer.write(key, labels, IMAGES[key])
    assert [image for _, image in found(tmp_path)] == IMAGES


def test_a_shuffled_record_file_needs_no_index(tmp_path):
    write_face_records(tmp_path, [(0, image) for image in IMAGES])
    (tmp_path / "train.idx").unlink()
    (tmp_path / "property").write_text("1,16,16\n6\nshuffled\n2020-02-02 20:20:20.202020\n")
    assert [image for _, image in found(tmp_path)] == IMAGES


def test_a_verification_set_gives_all_its_images(tmp_path):
    path = tmp_path / "set.bin"
    write_pairs(path, [IMAGES[0], IMAGES[1], IMAGES[0], IMAGES[2]], np.array([True, False]))
    assert found(path) == [(f"{path}:{i}", IMAGES[j]) for i, j in enumerate((0, 1, 0, 2))]


def test_paths_follow_each_other(tmp_path):
    fill(tmp_path, "b.png", "a.png")
    assert [image for _, image in found(tmp_path / "b.png", tmp_path)] == [IMAGES[0], IMAGES[1], IMAGES[0]]


@pytest.mark.parametrize("name", ["absent.png", "absent", "absent.txt", "absent.rec", "absent.bin"])
def test_what_does_not_exist_is_named_before_anything_is_done(tmp_path, name):
    fill(tmp_path, "a.png")
    with refused(path=tmp_path / name, cause=FileNotFoundError):
        Sources([tmp_path / "a.png", tmp_path / name])


def test_nothing_to_embed_is_named(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for path in (tmp_path, tmp_path / "empty.txt"):
        with refused("no picture", path=path):
            Sources([path])
    with refused("1 file", tmp_path / "empty.txt", path=tmp_path):
        Sources([tmp_path])


def test_a_file_that_vanishes_is_named_when_it_is_read(tmp_path):
    fill(tmp_path, "a.png")
    with Sources([tmp_path]) as sources:
        (source,) = sources
        (tmp_path / "a.png").unlink()
        with refused(path=tmp_path / "a.png", cause=FileNotFoundError):
            source.load()
