"""MXNet's RecordIO files with an index, read and written without MXNet.

A record file is a sequence of frames, each a magic number, a word of 3 bits of kind and 29 bits of length, and
the content padded to 4 bytes. Where the content itself contains the magic number at a multiple of 4, it is split there
into several frames and the number is left out. The content is a header (flag, label, id, id2), ``flag`` more labels,
and the payload. The index has one line ``key<TAB>offset`` per record.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing_together

_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", _MAGIC)
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS = 29
_LENGTH_LIMIT = 1 << _LENGTH_BITS

# Almost every aligned face fits into one read of this many bytes.
_READ_AHEAD = 1 << 14
# Enough for the frame, the header and a few labels, when the payload is not wanted.
_READ_LABELS = _FRAME.size + _HEADER.size + 32
_INDEX_BLOCK = 1 << 20
_KEY_DIGITS = 18
_COPY = "if the files were copied, copy both again, else write them again"
_BAD_INDEX_LINE = re.compile(rb"^(?![0-9]{1,%d}\t[0-9]{1,18}\r?$)" % _KEY_DIGITS, re.MULTILINE)


class RecordError(InputError):
    """One record cannot be used; the others of its file can."""


class Record(NamedTuple):
    """One record of a file.

    Attributes
    ----------
    key : int
        Its key in the index.
    labels : ndarray of shape (n,), float32, n >= 1
        Its labels; if ``flag`` is 0, the one in the header.
    flag : int
        The number of labels after the header; 0 for one label in it, 2 for InsightFace's header records.
    payload : bytes
        The encoded image; empty in header records.
    """

    key: int
    labels: np.ndarray
    flag: int
    payload: bytes


class RecordReader:
    """Random access to the records of a file; safe to share between threads and across a fork.

    Parameters
    ----------
    rec_path : path-like
        The record file.
    idx_path : path-like, optional
        Its index; by default the file of the same name that ends in ``.idx``.
    indexed : bool
        False for a record file without an index. It is read from start to end once, and its records with a payload
        get the keys 0, 1, 2 and so on, as they follow each other.

    Attributes
    ----------
    path, idx_path : Path
        The two files.
    keys : ndarray of shape (n,), int64
        The keys in the order of the index.

    Raises
    ------
    InputError
        If the record file is missing, the index is empty or has a line that is not ``key<TAB>offset``, a key occurs
        twice, or an offset lies outside the record file; without an index, if the record file is damaged.
    """

    def __init__(self, rec_path: str | Path, idx_path: str | Path | None = None, *, indexed: bool = True):
        self.path = Path(rec_path)
        self.idx_path = self.path.with_suffix(".idx") if idx_path is None else Path(idx_path)
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(open_input(self.path))
            self._size = os.fstat(self._file.fileno()).st_size
            if indexed:
                self.keys, self._offsets = _read_index(self.idx_path)
                self._order = _sorting_order(self.keys, self.idx_path)
                self._check_offsets()
            else:
                self._offsets = self._find_records()
                self.keys = self._order = np.arange(len(self._offsets))
            opened.pop_all()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: int) -> bool:
        return self.first_missing(np.array([key])) is None

    def close(self) -> None:
        """Close the record file."""
        self._file.close()

    def first_missing(self, keys: np.ndarray) -> int | None:
        """Return the first of ``keys``, integers of shape (n,), that the index does not have, or None."""
        position = np.searchsorted(self.keys, keys, sorter=self._order)
        found = self.keys[self._order[np.minimum(position, len(self.keys) - 1)]] == keys
        return None if found.all() else int(keys[found.argmin()])

    def read(self, key: int) -> Record:
        """Read one record.

        Raises
        ------
        RecordError
            If the index does not have ``key``, or there is no whole record at its offset.
        """
        content = self._content(key)
        flag, labels, payload_start = self._parse_header(key, content)
        return Record(int(key), labels, flag, content[payload_start:])

    def read_labels(self, key: int) -> np.ndarray:
        """Read the labels of one record, float32 of shape (n,), without its payload.

        Raises
        ------
        RecordError
            As `read` does, but the end of the payload is not read.
        """
        block = self._pread(_READ_LABELS, self._offset(key))
        if len(block) >= _FRAME.size + _HEADER.size:
            magic, word = _FRAME.unpack_from(block)
            content = block[_FRAME.size : _FRAME.size + word]  # the word of a whole frame is its length
            flag = _HEADER.unpack_from(block, _FRAME.size)[0]
            if magic == _MAGIC and word < _LENGTH_LIMIT and _HEADER.size + 4 * flag <= len(content):
                return self._parse_header(key, content)[1]
        return self.read(key).labels

    def _check_offsets(self) -> None:
        outside = self._offsets > self._size - _FRAME.size
        if outside.any():
            line = int(outside.argmax())
            raise InputError(
                f"line {line + 1}: the index puts key {self.keys[line]} at byte "
                f"{self._offsets[line]}, beyond the end of {self.path} ({self._size} bytes); {_COPY}",
                path=self.idx_path,
            )

    def _find_records(self) -> np.ndarray:
        """Return the offsets of the records that have a payload, from the first frame of the file to the last."""
        offsets = array("q")
        offset, kind = 0, _WHOLE
        while offset < self._size:
            block = self._pread(_FRAME.size + 4, offset)
            magic, word, flag = struct.unpack("<III", block.ljust(_FRAME.size + 4, b"\0"))
            before, kind, length = kind, word >> _LENGTH_BITS, word % _LENGTH_LIMIT
            if magic != _MAGIC or kind not in ((_MIDDLE, _LAST) if before in (_FIRST, _MIDDLE) else (_WHOLE, _FIRST)):
                raise InputError(f"byte {offset}: no record starts here; {_COPY}", path=self.path)
            # A record without a payload is a header of the identities.
            if kind == _FIRST or (kind == _WHOLE and length > _HEADER.size + 4 * flag):
                offsets.append(offset)
            offset += _FRAME.size + _padded(length)
        if offset > self._size or kind in (_FIRST, _MIDDLE):
            raise InputError(f"the file ends inside its last record; {_COPY}", path=self.path)
        if not offsets:
            raise InputError("contains no record with a picture", path=self.path)
        return np.array(offsets, np.int64)

    def _offset(self, key: int) -> int:
        position = self.keys.searchsorted(key, sorter=self._order)
        if position < len(self._order):
            line = self._order[position]
            if self.keys[line] == key:
                return int(self._offsets[line])
        raise RecordError(f"contains no record with key {key}", path=self.idx_path)

    def _content(self, key: int) -> bytes:
        """Join the frames of one record."""
        offset = self._offset(key)
        parts: list[bytes] = []
        while True:
            block = self._pread(_READ_AHEAD, offset)
            if len(block) < _FRAME.size:
                raise self._broken(key, offset, "the file ends inside this record")
            magic, word = _FRAME.unpack_from(block)
            kind, length = word >> _LENGTH_BITS, word % _LENGTH_LIMIT
            if magic != _MAGIC or kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
                raise self._broken(key, offset, "no record starts here")
            end = _FRAME.size + length
            if len(block) < end <= self._size - offset:
                block = self._pread(end, offset)
            if len(block) < end:
                raise self._broken(key, offset, "the file ends inside this record")
            parts.append(block[_FRAME.size : end])
            if kind in (_WHOLE, _LAST):
                return _MAGIC_BYTES.join(parts)
            offset += _FRAME.size + _padded(length)

    def _parse_header(self, key: int, content: bytes) -> tuple[int, np.ndarray, int]:
        """Return the flag, the labels, and where the payload starts."""
        if len(content) < _HEADER.size:
            raise self._broken(key, self._offset(key), f"{len(content)} bytes are too few for a record's header")
        flag, label, _, _ = _HEADER.unpack_from(content)
        if flag == 0:
            return 0, np.array([label], np.float32), _HEADER.size
        payload_start = _HEADER.size + 4 * flag
        if payload_start > len(content):
            raise self._broken(key, self._offset(key), f"{flag} labels do not fit into {len(content)} bytes")
        return flag, np.frombuffer(content, "<f4", flag, _HEADER.size).astype(np.float32), payload_start

    def _pread(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise RecordError(f"byte {offset}: it cannot be read ({error.strerror})", path=self.path) from error

    def _broken(self, key: int, offset: int, reason: str) -> RecordError:
        return RecordError(f"key {key} at byte {offset}: {reason}", path=self.path)


class RecordWriter:
    """Write a record file and its index, readable by MXNet's ``MXIndexedRecordIO``.

    They are written aside (``.tmp``), synced, and renamed by `close`, all once all are complete. As a context manager
    it closes at the end, and leaves nothing behind if the block raises.

    Parameters
    ----------
    rec_path, idx_path : path-like
        The files to write.
    last_path : path-like, optional
        A third file, without which the others do not count.

    Attributes
    ----------
    last : binary file or None
        The third file, open for writing.
    """

    def __init__(self, rec_path: str | Path, idx_path: str | Path, last_path: str | Path | None = None):
        self.path = Path(rec_path)
        self.idx_path = Path(idx_path)
        paths = [self.path, self.idx_path, *([] if last_path is None else [last_path])]
        with contextlib.ExitStack() as files:
            # The old records must never stand beside the new index, so the last file is away while they are renamed.
            self._records, self._index, *last = files.enter_context(replacing_together(*paths, last_completes=True))
            self._files = files.pop_all()
        self.last: BinaryIO | None = last[0] if last else None
        self._position = 0
        self._keys = array("q")

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._files.__exit__(kind, error, traceback)

    def write(self, key: int, labels: float | Sequence[float] | np.ndarray, payload: bytes) -> None:
        """Add one record.

        Parameters
        ----------
        key : int
            Its key, 0 or more.
        labels : float or sequence of float
            One number is written into the header (flag 0), a sequence after it (flag = its length).
        payload : bytes
            The encoded image; empty for a header record.

        Raises
        ------
        InputError
            If the record is too long for the format (512 MiB), or the key is negative or too large.
        """
        if not 0 <= key < 10**_KEY_DIGITS:
            raise InputError(f"key {key} is not a whole number of at most {_KEY_DIGITS} digits", path=self.path)
        content = _pack(key, labels, payload)
        if len(content) >= _LENGTH_LIMIT:
            raise InputError(
                f"key {key}: a record must be shorter than 512 MiB, not {len(content)} bytes", path=self.path
            )
        self._keys.append(key)
        self._index.write(b"%d\t%d\n" % (key, self._position))
        for kind, part in _split_at_magic(content):
            padding = bytes(_padded(len(part)) - len(part))
            self._records.write(_FRAME.pack(_MAGIC, kind << _LENGTH_BITS | len(part)) + part + padding)
            self._position += _FRAME.size + len(part) + len(padding)

    def close(self) -> None:
        """Finish the files; a second call does nothing.

        Raises
        ------
        InputError
            If a key was written twice; the files are then removed.
        """
        if self._records.closed:
            return
        with self._files:
            _sorting_order(np.array(self._keys, np.int64), self.idx_path)


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and the offsets of an index, in its order."""
    with open_input(path) as file:
        count = sum(block.count(b"\n") for block in _line_blocks(file))
        keys, offsets = np.empty(count, np.int64), np.empty(count, np.int64)
        file.seek(0)
        line = 0
        for block in _line_blocks(file):
            bad = _BAD_INDEX_LINE.search(block, 0, len(block) - 1)
            if bad:
                number = line + block.count(b"\n", 0, bad.start()) + 1
                raise InputError(f"line {number} is not a key, a tab and an offset; {_COPY}", path=path)
            pairs = np.fromstring(block, np.int64, sep=" ").reshape(-1, 2)
            keys[line : line + len(pairs)], offsets[line : line + len(pairs)] = pairs.T
            line += len(pairs)
    if not count:
        raise InputError(f"the index is empty; {_COPY}", path=path)
    return keys, offsets


def _line_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Cut a file into blocks of whole lines, and end the last line if need be."""
    while block := file.read(_INDEX_BLOCK):
        block += file.readline(_INDEX_BLOCK)
        yield block if block.endswith(b"\n") else block + b"\n"


def _sorting_order(keys: np.ndarray, path: Path) -> np.ndarray:
    """Return the order that sorts the keys, and refuse a key that occurs twice."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    twice = in_order[1:] == in_order[:-1]
    if twice.any():
        raise InputError(f"key {in_order[1:][twice][0]} occurs twice; every record needs its own key", path=path)
    return order


def _pack(key: int, labels: float | Sequence[float] | np.ndarray, payload: bytes) -> bytes:
    """Put header, labels and payload together."""
    values = np.asarray(labels, "<f4")
    if values.ndim == 0:
        return _HEADER.pack(0, float(values), key, 0) + payload
    return _HEADER.pack(values.size, 0, key, 0) + values.tobytes() + payload


def _split_at_magic(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut the content at each magic number at a multiple of 4; yield the kind and content of each frame."""
    start = 0
    found = content.find(_MAGIC_BYTES)
    while found >= 0:
        if found % 4 == 0:
            yield _MIDDLE if start else _FIRST, content[start:found]
            start = found + 4
            found = content.find(_MAGIC_BYTES, start)
        else:
            found = content.find(_MAGIC_BYTES, found + 1)
    yield _LAST if start else _WHOLE, content[start:]


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4
