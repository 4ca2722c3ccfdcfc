import errno
import os
import struct
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from denseface.data import recordio
from denseface.data.recordio import RecordError, RecordReader, RecordWriter
from support.refusals import refused

import mxnet as mx

MAGIC = struct.pack("<I", 0xCED7230A)
RNG = np.random.default_rng(0)
PAYLOADS = [
    b"",
    b"a",
    b"abcd",
    MAGIC,
    b"\0" + MAGIC + b"\0\0\0",  # not at a multiple of 4
    b"abcd" + MAGIC + MAGIC + b"efg",
    MAGIC + b"\0" + MAGIC + b"\0\0\0" + MAGIC,
    RNG.bytes(3 * recordio._READ_AHEAD + 1),
    RNG.bytes(recordio._READ_AHEAD) + MAGIC + RNG.bytes(recordio._READ_AHEAD + 3),
]


def write(folder, payloads=PAYLOADS, labels=None):
    """Write records with the keys 0, 1, 2 and so on, and their keys as labels."""
    with RecordWriter(folder / "a.rec", folder / "a.idx") as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, float(key) if labels is None else labels[key], payload)
    return folder / "a.rec"


def frame(content, kind=0):
    return MAGIC + struct.pack("<I", kind << 29 | len(content)) + content + bytes(-len(content) % 4)


def write_raw(folder, *records):
    """Write records as they are given, with the keys 0, 1, 2 and so on."""
    starts = np.cumsum([0, *map(len, records)])
    (folder / "a.rec").write_bytes(b"".join(records))
    (folder / "a.idx").write_text("".join(f"{key}\t{starts[key]}\n" for key in range(len(records))))
    return folder / "a.rec"


def test_files_are_those_that_mxnet_writes(tmp_path):
    write(tmp_path)
    theirs = mx.recordio.MXIndexedRecordIO(str(tmp_path / "mx.idx"), str(tmp_path / "mx.rec"), "w")
    for key, payload in enumerate(PAYLOADS):
        theirs.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, float(key), key, 0), payload))
    theirs.close()
    for suffix in ("idx", "rec"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"mx.{suffix}").read_bytes()


def test_mxnet_reads_every_record(tmp_path):
    labels = [[1.5], (2, 3), np.arange(4), 7, np.float32(0.25), 0, [0.5] * 9, 1, [3, 4]]
    write(tmp_path, labels=labels)
    reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "r")
    assert reader.keys == list(range(len(PAYLOADS)))
    for key, payload in enumerate(PAYLOADS):
        header, found = mx.recordio.unpack(reader.read_idx(key))
        assert found == payload
        assert header.id == key
        assert header.flag == np.size(labels[key]) * (np.ndim(labels[key]) > 0)
        np.testing.assert_array_equal(header.label, labels[key])
    reader.close()


def test_records_come_back(tmp_path):
    labels = [key if key % 2 else [key, 0.5] for key in range(len(PAYLOADS))]
    with RecordReader(write(tmp_path, labels=labels)) as reader:
        assert len(reader) == len(PAYLOADS)
        for key in reversed(range(len(PAYLOADS))):
            record = reader.read(key)
            assert (record.key, record.payload) == (key, PAYLOADS[key])
            assert record.flag == (0 if key % 2 else 2)
            assert record.labels.dtype == np.float32
            assert record.labels.tolist() == ([key] if key % 2 else [key, 0.5])
            np.testing.assert_array_equal(reader.read_labels(key), record.labels)


def test_labels_are_read_where_the_magic_number_splits_them(tmp_path):
    key = 0xCED7230A  # the writer keeps the key in the header, at a multiple of 4
    with RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx") as writer:
        writer.write(key, 3, b"image")
        writer.write(1, np.frombuffer(MAGIC, np.float32), b"image")
        writer.write(2, np.arange(100), b"image")
    with RecordReader(tmp_path / "a.rec") as reader:
        assert reader.read(key).payload == b"image"
        assert reader.read_labels(key).tolist() == [3]
        assert reader.read_labels(1).tobytes() == MAGIC
        assert reader.read_labels(2).tolist() == list(range(100))


def test_threads_share_a_reader(tmp_path):
    payloads = [RNG.bytes(int(size)) for size in RNG.integers(1, 40_000, 60)]
    with RecordReader(write(tmp_path, payloads)) as reader, ThreadPoolExecutor(8) as pool:
        keys = [int(key) for key in RNG.integers(0, len(payloads), 2000)]
        for key, record in zip(keys, pool.map(reader.read, keys)):
            assert record.payload == payloads[key]


def test_keys_keep_the_order_of_the_index(tmp_path):
    path = write(tmp_path, [b"zero", b"one", b"two"])
    lines = (tmp_path / "a.idx").read_text().splitlines()
    (tmp_path / "b.idx").write_text(f"{lines[2]}\r\n{lines[0]}\r\n{lines[1]}")
    with RecordReader(path, tmp_path / "b.idx") as reader:
        assert reader.keys.dtype == np.int64
        assert reader.keys.tolist() == [2, 0, 1]
        assert [reader.read(key).payload for key in reader.keys] == [b"two", b"zero", b"one"]
        assert 1 in reader and 3 not in reader
        assert reader.first_missing(np.array([1, 2, 5, 0, 4])) == 5
        assert reader.first_missing(np.array([1, 2])) is None


BAD_LINES = ["", "seven\t0", "7", "7 0", "7\t0\t0", "-7\t0", "7\t-1", "7\t0x0", "7\t1e3", "9" * 20 + "\t0"]


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("before", [0, 100_000])
def test_a_bad_index_line_is_named_by_its_number(tmp_path, line, before):
    path = write(tmp_path, [b"zero"])
    (tmp_path / "a.idx").write_text("".join(f"{key}\t0\n" for key in range(before)) + line + "\n5\t0\n")
    with refused(f"line {before + 1}", path=tmp_path / "a.idx"):
        RecordReader(path)


@pytest.mark.parametrize(
    ("index", "facts"),
    [
        (b"", ["empty"]),
        (b"\n", ["line 1"]),
        (b"\xff\xd8" * 3_000_000, ["line 1"]),
        (b"0\t0\n7\t0\n0\t0\n", ["key 0", "twice"]),
        (b"0\t0\n1\t36\n", ["line 2", "key 1", "byte 36", "a.rec"]),
        (b"0\t0\n1\t999999999999999999\n", ["line 2", "key 1", "byte 999999999999999999"]),
    ],
    ids=["empty", "blank", "binary", "twice", "past the end", "far past the end"],
)
def test_a_bad_index_is_refused(tmp_path, index, facts):
    path = write(tmp_path, [b"zero"])
    assert path.stat().st_size == 36
    (tmp_path / "a.idx").write_bytes(index)
    with refused(*facts, path=tmp_path / "a.idx"):
        RecordReader(path)


def test_missing_files_are_named(tmp_path):
    path = write(tmp_path)
    with refused(path=tmp_path / "none.idx", cause=FileNotFoundError):
        RecordReader(path, tmp_path / "none.idx")
    path.unlink()
    with refused(path=path, cause=FileNotFoundError):
        RecordReader(path)
    path.write_bytes(b"")
    with refused("line 1", path, path=tmp_path / "a.idx"):
        RecordReader(path)


HEADER = struct.Struct("<IfQQ")
GOOD = HEADER.pack(0, 5, 0, 0) + b"a picture"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"\0" + frame(GOOD)[1:], "starts"),
        (frame(GOOD, kind=2), "starts"),
        (frame(GOOD[:4], kind=1) + frame(GOOD[8:]), "starts"),
        (frame(GOOD[:4], kind=1) + frame(GOOD[8:], kind=1), "starts"),
        (MAGIC + struct.pack("<I", 2**29 - 1) + GOOD, "ends"),
        (frame(GOOD, kind=1), "ends"),
        (frame(b""), "0 bytes"),
        (frame(GOOD[:23]), "23 bytes"),
        (frame(HEADER.pack(3, 0, 0, 0) + bytes(11)), "3 labels do not fit into 35 bytes"),
        (frame(HEADER.pack(2**32 - 1, 0, 0, 0)), "4294967295 labels do not fit into 24 bytes"),
    ],
)
def test_a_broken_record_is_named_and_the_others_are_read(tmp_path, broken, reason):
    with RecordReader(write_raw(tmp_path, frame(GOOD), broken)) as reader:
        with refused("key 1 at byte", reason, path=reader.path, kind=RecordError):
            reader.read(1)
        assert reader.read(0).payload == b"a picture"
        with refused("key 2", path=reader.idx_path, kind=RecordError):
            reader.read(2)


@pytest.mark.parametrize(
    "broken",
    [b"\0" + frame(GOOD)[1:], frame(GOOD, kind=2), frame(GOOD[:23]), frame(HEADER.pack(1, 0, 0, 0) + bytes(3))],
)
def test_labels_are_not_read_from_a_broken_record(tmp_path, broken):
    with RecordReader(write_raw(tmp_path, frame(GOOD), broken, frame(GOOD))) as reader:
        with refused("key 1 at byte 44", path=reader.path, kind=RecordError):
            reader.read_labels(1)
        assert reader.read_labels(2).tolist() == [5]


@pytest.mark.parametrize("cut", [1, 4, 9, 30])
def test_a_truncated_file_loses_its_last_record_only(tmp_path, cut):
    path = write_raw(tmp_path, frame(GOOD), frame(GOOD + bytes(3)))
    path.write_bytes(path.read_bytes()[:-cut])
    with RecordReader(path) as reader:
        assert reader.read(0).payload == b"a picture"
        with refused("key 1 at byte 44", "ends", path=path, kind=RecordError):
            reader.read(1)


def test_no_damage_leads_to_another_error(tmp_path):
    path = write(tmp_path, [b"a picture"] * 4 + [MAGIC * 2], labels=[1, [2, 3], 4, [5], 6])
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with RecordReader(path) as reader:
            for key in range(5):
                try:
                    assert isinstance(reader.read(key).payload, bytes)
                except RecordError:
                    refused += 1
    assert refused > 60


@pytest.mark.parametrize("count", [200_000, pytest.param(5_800_000, marks=pytest.mark.torture)])
def test_the_index_is_compact(tmp_path, count):
    """The larger one is as long as MS1M's."""
    write(tmp_path, [b"zero"])
    (tmp_path / "a.idx").write_text("".join(f"{key}\t{key % 8 * 4}\n" for key in range(1, count)) + "0\t0\n")
    tracemalloc.start()
    with RecordReader(tmp_path / "a.rec") as reader:
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(reader) == count
    start = time.perf_counter()
    RecordReader(tmp_path / "a.rec").close()
    print(f"an index of {count:,} rows: {time.perf_counter() - start:.1f} s, at most {peak / 1e6:.0f} MB")
    assert kept < 26 * count
    assert peak < 34 * count + 4 * recordio._INDEX_BLOCK


def test_an_exception_leaves_the_old_files(tmp_path):
    path = write(tmp_path, [b"old"])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError), RecordWriter(path, tmp_path / "a.idx") as writer:
        writer.write(0, 0, b"new")
        raise ZeroDivisionError
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_is_missing_is_named(tmp_path):
    with refused("written", path=tmp_path / "none" / "a.rec", cause=FileNotFoundError):
        RecordWriter(tmp_path / "none" / "a.rec", tmp_path / "a.idx")
    assert not list(tmp_path.iterdir())


def test_new_records_never_stand_beside_an_old_index(tmp_path, monkeypatch):
    path = write(tmp_path, [b"old", b"older"])
    replace = os.replace

    def fail_at_the_index(source, target):
        if str(target).endswith(".idx"):
            raise KeyboardInterrupt("power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_index)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, [b"new"])
    with refused(path=tmp_path / "a.idx", cause=FileNotFoundError):
        RecordReader(path)


def test_keys_are_checked(tmp_path):
    paths = tmp_path / "a.rec", tmp_path / "a.idx"
    for key in (-1, 10**18):
        with refused(f"key {key}", path=paths[0]), RecordWriter(*paths) as writer:
            writer.write(key, 0, b"")
    with refused("key 3", "twice", path=paths[1]), RecordWriter(*paths) as writer:
        for key in (3, 4, 3):
            writer.write(key, 0, b"")
    assert not list(tmp_path.iterdir())


def test_a_record_too_long_for_the_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(recordio, "_LENGTH_LIMIT", 100)
    with RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx") as writer:
        writer.write(0, 0, bytes(75))
        with refused("key 1", "100 bytes", path=tmp_path / "a.rec"):
            writer.write(1, 0, bytes(76))


def test_closing_twice_keeps_the_files(tmp_path):
    writer = RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx")
    writer.write(0, 0, b"zero")
    writer.close()
    writer.close()
    with RecordReader(tmp_path / "a.rec") as reader:
        assert reader.read(0).payload == b"zero"


def test_a_disk_that_fails_is_named_with_the_byte(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with RecordReader(write(tmp_path, [b"one", b"two"])) as reader:
        monkeypatch.setattr(os, "pread", fail)
        for read in (reader.read, reader.read_labels):
            with refused("byte 36", os.strerror(errno.EIO), path=reader.path, kind=RecordError):
                read(1)
