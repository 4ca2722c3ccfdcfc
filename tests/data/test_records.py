import os

import numpy as np
import pytest

from denseface.data import records
from denseface.data.recordio import RecordError
from denseface.data.records import (
    FaceRecords,
    Property,
    read_property,
    write_face_records,
)
from support.record_sets import write_entries
from support.refusals import refused

import mxnet as mx

COUNTS = [2, 1, 4, 3]  # images of the identities 0 to 3
IMAGES = [(label, b"image %d of %d" % (number, label)) for label in range(4) for number in range(COUNTS[label])]


def write_set(folder, entries, num_classes=4):
    write_entries(folder, entries, num_classes, 8)
    return folder


def plain(images=IMAGES, first_key=0):
    return [(first_key + place, label, payload) for place, (label, payload) in enumerate(images)]


def layout(first, last, ranges):
    """The header records of InsightFace's layout, without images."""
    identities = [(first + place, ends, b"") for place, ends in enumerate(ranges)]
    return [(0, (first, last), b""), *identities]


def test_insightface_finds_every_image(tmp_path):
    """Walk the headers as InsightFace's loader does, with MXNet's own reader."""
    write_face_records(tmp_path, IMAGES, (112, 96))
    reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "r")

    def unpack(key):
        return mx.recordio.unpack(reader.read_idx(key))

    header, payload = unpack(0)
    assert header.flag == 2 and payload == b""
    first, last = map(int, header.label)
    assert last - first == len(COUNTS)
    found = []
    for label, identity in enumerate(range(first, last)):
        header, payload = unpack(identity)
        assert header.flag == 2 and payload == b""
        start, end = map(int, header.label)
        assert end - start == COUNTS[label]
        for key in range(start, end):
            header, payload = unpack(key)
            assert header.flag == 0 and header.id == key
            found.append((int(header.label), payload))
    assert found == IMAGES
    assert sorted(reader.keys) == list(range(last))
    reader.close()
    assert (tmp_path / "property").read_text() == "4,112,96\n"


def test_a_set_comes_back(tmp_path):
    assert write_face_records(tmp_path / "new" / "set", iter(IMAGES), (112, 96)) == Property(4, 112, 96)
    assert (tmp_path / "new" / "set" / "property").read_bytes() == b"4,112,96\n"
    with FaceRecords(tmp_path / "new" / "set") as faces:
        assert faces.num_classes == 4
        assert faces.image_shape == (112, 96)
        assert faces.keys.dtype == np.int64
        assert faces.keys.tolist() == list(range(1, 11))
        assert faces.identities.dtype == np.int64
        assert faces.identities.tolist() == [[1, 3], [3, 4], [4, 8], [8, 11]]
        assert [faces.read_image(key) for key in faces.keys] == IMAGES
        assert faces.label(faces.reader.read(4)) == 2


def test_the_same_images_give_the_same_files(tmp_path):
    for folder in ("a", "b"):
        write_face_records(tmp_path / folder, IMAGES)
    for name in ("train.rec", "train.idx", "property"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("first_key", [0, 1])
def test_in_a_plain_set_each_key_is_an_image(tmp_path, first_key):
    with FaceRecords(write_set(tmp_path, plain(first_key=first_key))) as faces:
        assert faces.identities is None
        assert faces.num_classes == 4
        assert faces.keys.tolist() == [first_key + place for place in range(10)]
        assert [faces.read_image(key) for key in faces.keys] == IMAGES


def test_keys_follow_the_ranges_wherever_they_are(tmp_path):
    images = [(key, key // 10 - 1, b"image") for key in (10, 11, 20, 30, 31)]
    with FaceRecords(write_set(tmp_path, [*images, *layout(40, 43, [(30, 32), (10, 12), (20, 21)])])) as faces:
        assert faces.keys.tolist() == [30, 31, 10, 11, 20]
        assert faces.read_image(31) == (2, b"image")


@pytest.mark.parametrize("written_as", ["insightface", "plain"])
def test_small_identities_are_left_out_and_classes_renumbered(tmp_path, written_as):
    if written_as == "plain":
        shuffled = [IMAGES[place] for place in np.random.default_rng(0).permutation(len(IMAGES))]
        write_set(tmp_path, plain(shuffled))
    else:
        write_face_records(tmp_path, IMAGES)
    with FaceRecords(tmp_path, images_filter=3) as faces:
        assert faces.num_classes == 2
        assert len(faces) == len(faces.keys) == 7
        images = [faces.read_image(key) for key in faces.keys]
        assert sorted(images) == [({2: 0, 3: 1}[label], payload) for label, payload in IMAGES if label >= 2]
        if written_as == "insightface":
            assert faces.identities.tolist() == [[4, 8], [8, 11]]
            with refused("key 1", "label 0", path=tmp_path / "train.rec", kind=RecordError):
                faces.read_image(1)
    with FaceRecords(tmp_path, images_filter=1) as faces:
        assert (faces.num_classes, len(faces)) == (4, 10)
    with refused("images_filter 5", path=tmp_path / "train.rec"):
        FaceRecords(tmp_path, images_filter=5)


def test_the_filter_leaves_no_class_without_images(tmp_path):
    with FaceRecords(write_set(tmp_path, plain([(label * 7, b"image") for label in (3, 0, 3, 0)]), 50), 2) as faces:
        assert faces.num_classes == 2
        assert [faces.read_image(key)[0] for key in faces.keys] == [1, 0, 1, 0]


@pytest.mark.parametrize("layout_of_set", ["insightface", "plain"])
def test_a_broken_record_does_not_hide_behind_the_filter(tmp_path, layout_of_set):
    write_face_records(tmp_path, IMAGES) if layout_of_set == "insightface" else write_set(tmp_path, plain(first_key=1))
    rec_path = tmp_path / "train.rec"
    content = bytearray(rec_path.read_bytes())
    offset = dict(map(int, line.split()) for line in (tmp_path / "train.idx").read_text().splitlines())[4]
    content[offset] = 0  # the first image of identity 2
    rec_path.write_bytes(content)
    with FaceRecords(tmp_path, images_filter=3) as faces:
        assert faces.keys.tolist() == list(range(4, 11))
        with refused(f"key 4 at byte {offset}", path=rec_path, kind=RecordError):
            faces.read_image(4)
        assert [faces.read_image(key)[0] for key in range(5, 11)] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("label", "named"), [(4, "4"), (-1, "-1"), (1.5, "1.5"), (np.nan, "nan"), (np.inf, "inf")])
@pytest.mark.parametrize("images_filter", [0, 2])
def test_a_label_that_is_no_class_is_named(tmp_path, label, named, images_filter):
    entries = [(0, 1, b"good"), (1, 1, b"good"), (7, label, b"bad")]
    with FaceRecords(write_set(tmp_path, entries), images_filter) as faces:
        facts = "key 7", f"label {named}", "4 classes", tmp_path / "property"
        with refused(*facts, path=tmp_path / "train.rec", kind=RecordError):
            faces.read_image(7)


IMAGE_RECORDS = [(key, 0, b"image") for key in (1, 2, 3)]


@pytest.mark.parametrize(
    ("headers", "facts"),
    [
        (layout(4, 6, [(1, 3), (2, 4)]), ["key 2", "two headers"]),
        (layout(4, 6, [(2, 4), (1, 3)]), ["key 2", "two headers"]),
        (layout(4, 5, [(1, 5)]), ["key 4", "two headers"]),
        (layout(4, 6, [(1, 4)]), ["record 0", "record 5"]),
        (layout(4, 6, [(1, 3), (7, 9)]), ["key 7", "index"]),
        (layout(4, 4, [(1, 4)]), ["key 0", "from 4 to 4"]),
        (layout(4, 3, [(1, 4)]), ["key 0", "from 4 to 3"]),
        (layout(4, 5, [(3, 3)]), ["key 4", "from 3 to 3"]),
        (layout(4, 5, [(0, 3)]), ["key 4", "from 0 to 3"]),
        (layout(4, 5, [(-2, 3)]), ["key 4", "from -2 to 3"]),
        (layout(4, 5, [(1, 3.5)]), ["key 4", "from 1 to 3.5"]),
        (layout(4, 5, [(np.nan, 3)]), ["key 4", "from nan to 3"]),
        (layout(4, np.inf, [(1, 3)]), ["key 0", "from 4 to inf"]),
        (layout(4, 5, [(1,)]), ["key 4", "two labels"]),
        (layout(4, 5, [1]), ["key 4", "two labels"]),
        (layout(4, 2**24, [(1, 3)]), ["key 0", 16777216, "float32"]),
        (layout(4, 5, [(1, 2**24 + 1)]), ["key 4", 16777216, "float32"]),
        (layout(4, 5, [(2**24, 2**25)]), ["key 4", 33554432, "float32"]),
    ],
)
def test_ranges_that_do_not_fit_are_refused(tmp_path, headers, facts):
    write_set(tmp_path, [*IMAGE_RECORDS, *headers])
    with refused(*facts, path=tmp_path / "train.rec"):
        FaceRecords(tmp_path)


def test_more_images_than_float32_can_count_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_EXACT_LIMIT", 15)
    write_face_records(tmp_path, IMAGES[:9])  # the last range ends at 1 + 9 + 4 = 14
    with FaceRecords(tmp_path) as faces:
        assert len(faces) == 9
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with refused("9 images", "float32", path=tmp_path / "train.rec"):
        write_face_records(tmp_path, IMAGES)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("labels", "facts"),
    [([], ["no image"]), ([1], ["label 1", 0]), ([0, 0, 2], ["label 2", 1]), ([0, 1, 0], ["label 0", 2])],
)
def test_what_cannot_be_written_leaves_the_old_set(tmp_path, labels, facts):
    write_face_records(tmp_path, IMAGES)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with refused(*facts, path=tmp_path / "train.rec"):
        write_face_records(tmp_path, [(label, b"new") for label in labels])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "property"])
def test_a_crash_never_leaves_a_mixture(tmp_path, monkeypatch, name):
    write_face_records(tmp_path, IMAGES)
    replace = os.replace

    def fail(source, target):
        if os.path.basename(target) == name:
            raise KeyboardInterrupt("power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_face_records(tmp_path, [(0, b"new")], (8, 8))
    with refused(path=tmp_path / "property", cause=FileNotFoundError):
        FaceRecords(tmp_path)


def test_property_may_have_spaces(tmp_path):
    (tmp_path / "property").write_bytes(b" 7, 8 ,9\r\n")
    assert read_property(tmp_path) == Property(num_classes=7, height=8, width=9)


@pytest.mark.parametrize(
    "text", ["", "7", "7,8", "7,8,9,10", "a,8,9", "-7,8,9", "7.0,8,9", "0,8,9", "7,8,0", "16777217,8,9", "7,8,9\n7,8,9"]
)
def test_a_property_file_that_says_anything_else_is_refused(tmp_path, text):
    (tmp_path / "property").write_text(text)
    with refused("num_classes,height,width", path=tmp_path / "property"):
        read_property(tmp_path)


@pytest.mark.parametrize("labels", [(2,), (2, 31.5), (2, 0, 5)])
@pytest.mark.parametrize("images_filter", [0, 1, 2])
def test_a_record_with_a_picture_is_a_picture_whatever_its_labels(tmp_path, labels, images_filter):
    """As im2rec packs labels that are arrays: keys from 0, and the identity is the first value."""
    with FaceRecords(
        write_set(tmp_path, [(key, labels, b"image %d" % key) for key in range(5)]), images_filter
    ) as faces:
        assert faces.identities is None and faces.keys.tolist() == [0, 1, 2, 3, 4]
        label = 0 if images_filter == 2 else 2
        assert [faces.read_image(key) for key in faces.keys] == [(label, b"image %d" % key) for key in range(5)]


def test_an_image_among_the_headers_is_refused(tmp_path):
    write_set(tmp_path, [*IMAGE_RECORDS, (0, (4, 5), b""), (4, (1, 4), b"image")])
    with refused("key 4", "payload", path=tmp_path / "train.rec"):
        FaceRecords(tmp_path)


def shuffle_as_insightface(folder, out, count=None):
    """What InsightFace's rec2shufrec.py makes of a set: images alone, in any order, without an index."""
    out.mkdir()
    writer = mx.recordio.MXRecordIO(str(out / "train.rec"), "w")
    with FaceRecords(folder) as faces:
        images = [faces.read_image(key) for key in np.random.RandomState(0).permutation(faces.keys)]
    for place, (label, payload) in enumerate(images):
        writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, label, place, 0), payload))
    writer.close()
    (out / "property").write_text(f"4,112,112\n{count or len(images)}\nshuffled\n2020-02-02 20:20:20.202020\n")
    return images


def test_a_shuffled_set_without_an_index_is_read(tmp_path):
    magic = b"\x0a\x23\xd7\xce"  # such content is split into several frames
    write_face_records(tmp_path / "set", [(label, payload + label * 2 * magic) for label, payload in IMAGES])
    images = shuffle_as_insightface(tmp_path / "set", tmp_path / "out")
    with FaceRecords(tmp_path / "out", images_filter=1) as faces:
        assert (faces.identities, faces.num_classes, faces.image_shape) == (None, 4, (112, 112))
        assert faces.keys.tolist() == list(range(10))
        assert [faces.read_image(key) for key in faces.keys] == images


@pytest.mark.parametrize(
    ("cut", "count", "facts"),
    [(0, 11, [11, 10]), (3, None, ["ends"]), (30, None, ["ends"]), (None, None, ["byte 44"])],
)
def test_a_damaged_set_without_an_index_is_refused(tmp_path, cut, count, facts):
    write_face_records(tmp_path / "set", IMAGES)
    shuffle_as_insightface(tmp_path / "set", tmp_path / "out", count)
    path = tmp_path / "out" / "train.rec"
    data = path.read_bytes()
    path.write_bytes(data[:8] * 2 + data[8:] if cut is None else data[: len(data) - cut])
    with refused(*facts, path=path):
        FaceRecords(tmp_path / "out")


def test_a_missing_index_of_any_other_set_is_named(tmp_path):
    write_face_records(tmp_path, IMAGES)
    (tmp_path / "train.idx").unlink()
    with refused(path=tmp_path / "train.idx", cause=FileNotFoundError):
        FaceRecords(tmp_path)


def test_a_byte_order_mark_before_property_is_not_part_of_it(tmp_path):
    (tmp_path / "property").write_bytes(b"\xef\xbb\xbf12,112,96\r\n")
    assert tuple(read_property(tmp_path)) == (12, 112, 96)
