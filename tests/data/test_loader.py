"""Batches depend on seed and step alone, broken pictures are replaced and named, and errors reach the consumer."""

import io
import itertools
import logging
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, Part, PictureReader
from denseface.data.pictures import ImageError, decode
from denseface.data.records import FaceRecords, write_face_records
from support.refusals import refused

SIDE = 16
SHAPE = (SIDE, SIDE, 3)
EVERYTHING = Augmentation(color=2, cutoff=5, rotate=10, scale=0.1, shift=0.1, crop=0.8, downsample=5, blur=2)
PLAIN = Augmentation(mirror=False)


def encode(image, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=95)
    return buffer.getvalue()


def flat(value):
    """A picture whose every pixel has this value, so that it can be told from others; JPEG keeps it."""
    return encode(np.full((SIDE, SIDE), value, np.uint8))


def write_set(folder, payloads, per_class=5):
    """The payloads get the keys 1 to N, and classes of ``per_class`` pictures."""
    write_face_records(folder, [(i // per_class, payload) for i, payload in enumerate(payloads)], (SIDE, SIDE))
    return FaceRecords(folder)


@pytest.fixture
def flats(tmp_path):
    """40 pictures; the one with key k is flat with value 3 k."""
    with write_set(tmp_path, [flat(3 * key) for key in range(1, 41)]) as records:
        yield records


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(1)
    with write_set(tmp_path, [encode(rng.integers(0, 256, SHAPE, dtype=np.uint8)) for _ in range(23)]) as records:
        yield records


def make_loader(records, batch_size, image_shape, augmentation, threads=2, max_bad=None, **changes):
    reader = PictureReader(records, image_shape, threads, max_bad)
    return BatchLoader(reader, batch_size, augmentation, **changes)


def take(loader, count, start_batch=0):
    stream = loader.batches(start_batch)
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def keys_of(batch):
    """The keys of flat pictures."""
    values = batch.data[:, 0, 0, 0]
    assert (batch.data == values[:, np.newaxis, np.newaxis, np.newaxis]).all()
    return (values / 3).astype(int).tolist()


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others):
        np.testing.assert_array_equal(one.data, other.data)
        np.testing.assert_array_equal(one.label, other.label)


class Spy:
    """Records that remember which keys were read."""

    def __init__(self, records):
        self.keys, self.label, self.reader = records.keys, records.label, self
        self.path, self.inner, self.read_keys = records.reader.path, records.reader, []

    def read(self, key):
        self.read_keys.append(key)
        return self.inner.read(key)


def test_a_batch_holds_the_pictures_and_their_classes(flats):
    (batch,) = take(make_loader(flats, 8, SHAPE, PLAIN), 1)
    assert batch.data.shape == (8, 3, SIDE, SIDE) and batch.data.dtype == np.float32
    assert batch.label.shape == (8,) and batch.label.dtype == np.float32
    assert batch.label.tolist() == [(key - 1) // 5 for key in keys_of(batch)]


def test_channels_are_rgb(tmp_path):
    color = np.empty(SHAPE, np.uint8)
    color[:] = (200, 100, 50)
    with write_set(tmp_path, [encode(color, "PNG")]) as records:
        (batch,) = take(make_loader(records, 1, SHAPE, PLAIN), 1)
    np.testing.assert_array_equal(batch.data[0, :, 3, 7], [200, 100, 50])


@pytest.mark.parametrize("threads", [2, 5])
def test_the_stream_is_the_same_for_any_number_of_threads(faces, threads):
    alone = take(make_loader(faces, 4, SHAPE, EVERYTHING, seed=7, mix=0.5, threads=1), 12)
    assert_same(take(make_loader(faces, 4, SHAPE, EVERYTHING, seed=7, mix=0.5, threads=threads), 12), alone)


def test_each_seed_epoch_and_position_has_draws_of_its_own(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    with write_set(tmp_path, [encode(image)]) as records:
        pictures = [
            batch.data[position].tobytes()
            for seed in (0, 1, 2**64 - 1)
            for batch in take(make_loader(records, 4, SHAPE, EVERYTHING, seed=seed), 3)
            for position in range(4)
        ]
    assert len(set(pictures)) == len(pictures) == 36


@pytest.mark.parametrize("start_batch", [1, 5, 6, 17])
def test_a_resumed_stream_is_the_tail_of_a_whole_one(faces, start_batch):
    loader = make_loader(faces, 4, SHAPE, EVERYTHING, seed=3, mix=0.5)
    assert loader.batches_per_epoch == 5
    assert_same(take(loader, 6, start_batch), take(loader, start_batch + 6)[start_batch:])


def test_resuming_reads_nothing_before(flats):
    whole = [key for batch in take(make_loader(flats, 4, SHAPE, PLAIN), 10) for key in keys_of(batch)]
    spy = Spy(flats)
    take(make_loader(spy, 4, SHAPE, PLAIN, threads=1), 2, start_batch=8)
    assert not set(spy.read_keys[:8]) & set(whole[:32])


def test_an_epoch_is_a_permutation_and_the_next_is_another(flats):
    loader = make_loader(flats, 8, SHAPE, PLAIN)
    assert loader.batches_per_epoch == 5
    order = [key for batch in take(loader, 10) for key in keys_of(batch)]
    first, second = order[:40], order[40:]
    assert sorted(first) == sorted(second) == list(range(1, 41))
    assert first != second and first != sorted(first)
    other_seed = [key for batch in take(make_loader(flats, 8, SHAPE, PLAIN, seed=1), 5) for key in keys_of(batch)]
    assert sorted(other_seed) == sorted(first) and other_seed != first


def test_an_incomplete_last_batch_is_dropped(flats):
    loader = make_loader(flats, 12, SHAPE, PLAIN)
    assert loader.batches_per_epoch == 3
    order = [key for batch in take(loader, 3) for key in keys_of(batch)]
    assert len(set(order)) == 36


def test_a_set_smaller_than_a_batch_is_repeated(tmp_path):
    with write_set(tmp_path, [flat(3 * key) for key in (1, 2, 3)]) as records:
        loader = make_loader(records, 7, SHAPE, PLAIN)
        assert loader.batches_per_epoch == 1
        for batch in take(loader, 2):
            keys = keys_of(batch)
            assert set(keys[:3]) == {1, 2, 3} and keys == (keys[:3] * 3)[:7]


def test_parts_share_each_step_equally(faces):
    whole = make_loader(faces, 6, SHAPE, EVERYTHING, seed=5)
    parts = [make_loader(faces, 2, SHAPE, EVERYTHING, seed=5, part=Part(part, 3)) for part in range(3)]
    assert {loader.batches_per_epoch for loader in [whole, *parts]} == {3}
    for step, shares in zip(take(whole, 5), zip(*(take(part, 5) for part in parts))):
        np.testing.assert_array_equal(np.concatenate([share.data for share in shares]), step.data)
        np.testing.assert_array_equal(np.concatenate([share.label for share in shares]), step.label)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", [(SIDE, SIDE), (SIDE, SIDE, 3), (30, 20), (9, 40, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_other_sizes_and_channels_are_converted(stored, channels, kind):
    image = decode(encode(np.full(stored, 77, np.uint8), kind), (SIDE, 24, channels))
    assert image.shape == (SIDE, 24, channels) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - 77).max() <= 1


def test_gray_batches(faces):
    (batch,) = take(make_loader(faces, 5, (SIDE, SIDE, 1), EVERYTHING), 1)
    assert batch.data.shape == (5, 1, SIDE, SIDE)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_size(width, height):
    """A PNG that claims this size and holds next to nothing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b""))


NOISE = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
NO_PICTURES = {
    "nothing": (b"", "not a JPEG, PNG"),
    "text": (b"no picture at all", "not a JPEG, PNG"),
    "half a JPEG": (encode(NOISE)[:3000], "broken"),
    "half a PNG": (encode(NOISE, "PNG")[:3000], "broken"),
    "80 megapixels": (png_of_size(80_000, 1000), "pixels"),
    "800 megapixels": (png_of_size(800_000, 1000), "pixels"),
}


@pytest.mark.parametrize(("payload", "reason"), NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_refused(payload, reason):
    with refused(reason, kind=ImageError) as refusal:
        decode(payload, SHAPE)
    assert "\n" not in str(refusal.value) and " at 0x" not in str(refusal.value)


@pytest.fixture
def damaged(tmp_path):
    """Like ``flats``, but 4 is cut off, 9 is no picture, and 20 is no record."""
    payloads = [flat(3 * key) for key in range(1, 41)]
    payloads[3] = payloads[3][:-200]
    payloads[8] = b"no picture"
    write_set(tmp_path, payloads).close()
    offset = dict(line.split() for line in (tmp_path / "train.idx").read_text().splitlines())["20"]
    with open(tmp_path / "train.rec", "r+b") as file:
        file.seek(int(offset))
        file.write(b"????")
    with FaceRecords(tmp_path) as records:
        yield records


def test_broken_pictures_are_replaced_and_named_once(damaged, caplog):
    loader = make_loader(damaged, 8, SHAPE, PLAIN)
    with caplog.at_level(logging.WARNING, "denseface"):
        batches = take(loader, 3 * loader.batches_per_epoch)
    for batch in batches:
        assert not set(keys_of(batch)) & {4, 9, 20}
        assert batch.label.tolist() == [(key - 1) // 5 for key in keys_of(batch)]
    assert set(loader.reader.bad) == {4, 9, 20}
    for key, reason in loader.reader.bad.items():
        assert f"key {key}" in reason and "train.rec" in reason
        assert sum(reason in record.getMessage() for record in caplog.records) == 1
    assert len(caplog.records) == 3


def test_replacements_are_the_same_for_any_threads_and_start(damaged):
    loaders = [make_loader(damaged, 8, SHAPE, EVERYTHING, threads=threads) for threads in (1, 3)]
    whole, other = (take(loader, 10) for loader in loaders)
    assert_same(whole, other)
    assert list(loaders[0].reader.bad.items()) == list(loaders[1].reader.bad.items())
    assert_same(take(loaders[0], 4, start_batch=6), whole[6:])


def test_so_many_pictures_are_mixed_with_another_one(faces):
    plain, some, all_ = (take(make_loader(faces, 23, SHAPE, PLAIN, mix=mix), 8) for mix in (0, 0.4, 1))
    originals = {picture.tobytes() for batch in plain for picture in batch.data}
    assert len(originals) == 23
    kept = [
        np.mean([picture.tobytes() in originals for batch in run for picture in batch.data]) for run in (some, all_)
    ]
    assert 0.5 < kept[0] < 0.7
    assert kept[1] < 0.1  # a picture may be drawn to be mixed with itself


def test_a_picture_that_meets_a_broken_one_stays_as_it_is(damaged):
    loader = make_loader(damaged, 8, SHAPE, PLAIN, mix=1)
    for batch in take(loader, 3 * loader.batches_per_epoch):
        assert not set(keys_of(batch)) & {4, 9, 20}  # flat pictures stay flat when mixed
    assert set(loader.reader.bad) == {4, 9, 20}


def test_many_broken_pictures_are_counted(tmp_path, caplog):
    payloads = [flat(key) if key % 2 else b"no picture" for key in range(220)]
    with write_set(tmp_path, payloads) as records, caplog.at_level(logging.WARNING, "denseface"):
        loader = make_loader(records, 22, SHAPE, PLAIN)
        take(loader, loader.batches_per_epoch)
    assert len(loader.reader.bad) == 110
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 21
    assert all("key " in message for message in messages[:20])
    assert "100 broken pictures" in messages[20]


@pytest.mark.parametrize("threads", [1, 3])
def test_more_than_max_bad_is_an_error(damaged, threads):
    take(make_loader(damaged, 8, SHAPE, PLAIN, max_bad=3), 5)
    loader = make_loader(damaged, 8, SHAPE, PLAIN, max_bad=2, threads=threads)
    with refused(damaged.reader.path, "max_bad = 2"):
        take(loader, 5)
    assert len(loader.reader.bad) == 3


def test_a_set_without_good_pictures_is_an_error(tmp_path):
    with write_set(tmp_path, [b"no picture"] * 10) as records, refused(records.reader.path, "100 others"):
        take(make_loader(records, 4, SHAPE, PLAIN), 1)


def test_a_label_outside_the_classes_ends_the_run(flats, tmp_path):
    (tmp_path / "property").write_text(f"7,{SIDE},{SIDE}\n")
    with FaceRecords(tmp_path) as records, refused("label 7", path=records.reader.path):
        take(make_loader(records, 8, SHAPE, PLAIN), 5)


class Failing:
    """An augmentation that fails on the picture with value 3 * 17."""

    def __call__(self, image, rng):
        if image[0, 0, 0] == 51:
            raise ZeroDivisionError("from a worker")
        return image


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("denseface-batches")]


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_in_a_worker_reaches_the_consumer(flats, threads):
    raised = []

    def consume():
        try:
            take(make_loader(flats, 4, SHAPE, Failing(), threads=threads), 10)
        except ZeroDivisionError as error:
            raised.append(str(error))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(timeout=20)
    assert not consumer.is_alive() and raised == ["from a worker"]
    assert not loader_threads()


def test_no_thread_outlives_its_generator(flats):
    loader = make_loader(flats, 4, SHAPE, PLAIN, threads=3)
    stream = loader.batches()
    assert not loader_threads(), "nothing starts before the first batch is wanted"
    next(stream)
    assert 1 <= len(loader_threads()) <= 3
    stream.close()
    assert not loader_threads()
    stream = loader.batches()
    next(stream)
    del stream
    assert not loader_threads()


def test_only_a_few_batches_are_made_ahead(flats):
    spy = Spy(flats)
    stream = make_loader(spy, 4, SHAPE, PLAIN).batches()
    for taken in (1, 2, 3):
        next(stream)
        time.sleep(0.1)
        assert len(spy.read_keys) <= 4 * (taken + 2)
    stream.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("threads", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("part", Part(0, 0)),
        ("part", Part(1, 1)),
        ("part", Part(-1, 1)),
        ("max_bad", -1),
        ("data_mix", 1.5),
        ("image_shape", (16, 16, 4)),
        ("image_shape", (0, 16, 3)),
        ("image_shape", (16, 16)),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(flats, name, value):
    arguments = {"batch_size": 4, "image_shape": SHAPE, "augmentation": PLAIN, name.removeprefix("data_"): value}
    with refused(name):
        make_loader(flats, **arguments)


def test_a_negative_start_is_refused(flats):
    with refused("start_batch"):
        next(make_loader(flats, 4, SHAPE, PLAIN).batches(-1))
