"""MXNet's files of named arrays (``PREFIX-NNNN.params``), read and written without MXNet.

MXNet's own reader trusts what a file says about itself, so a damaged one can crash the process. The reader here checks
every number before it uses it.

A file is, all little-endian::

    uint64 0x112, uint64 0
    uint64 count, then each array: kind and shape, int32 device type, int32 device number, int32 type, elements
    uint64 count, then each name: uint64 length, UTF-8

The kind and the shape of an array depend on the age of the MXNet that wrote it; see `_FORMATS`.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input

_FILE_MAGIC = 0x112
_CPU = 1
_DEVICES = (_CPU, 2, 3, 5)  # CPU, GPU, and two sorts of CPU memory
_MAX_DIMENSIONS = 32

# The first word of an array tells whether the kind of storage follows, and how dimensions are written.
_NUMPY_SHAPES = 0xF993FACA  # an array without dimensions is one number; in the other formats it is not an array
_CURRENT = 0xF993FAC9
_EARLIER = 0xF993FAC8
_FORMATS = {_NUMPY_SHAPES: (True, "q"), _CURRENT: (True, "q"), _EARLIER: (False, "q")}
_OLDEST = (False, "I")  # the first word is the number of dimensions
_STORAGES = {1: "row_sparse", 2: "csr"}

_TYPES = {code: np.dtype(name) for code, name in enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8"))}
_CODES = {dtype: code for code, dtype in _TYPES.items()}


class FileMark(NamedTuple):
    """Size in bytes and CRC-32 of a file, by which a change to it is found."""

    size: int
    crc32: int


def read_arrays(path: str | Path, mark: FileMark | None = None) -> dict[str, np.ndarray]:
    """Read a file that `write_arrays` or ``mx.nd.save`` wrote from a dict, in any MXNet from 0.5 to 1.9.

    Parameters
    ----------
    path : path-like
        The file. It is read in one pass, and takes no more memory than its own size accounts for.
    mark : FileMark, optional
        What `write_arrays` returned when the file was written.

    Returns
    -------
    dict of str to ndarray
        In the order of the file, each array a writable copy of its own, of dtype float16, float32, float64, int8,
        int32, int64 or uint8. Names keep their prefix, ``arg:`` or ``aux:`` in a checkpoint.

    Raises
    ------
    InputError
        If the file is missing, cut off, damaged, differs from its mark, or contains sparse, empty or nameless arrays.
        The message names the byte and the array, by number because names come last.
    """
    with open_input(path) as file:
        reader = _Reader(file, path)
        if reader.size < 16 or reader.numbers("Q") != (_FILE_MAGIC,):
            raise InputError("it is not a file of MXNet arrays (.params)", path=path)
        reader.numbers("Q")
        arrays = reader.arrays()
        names = reader.names(len(arrays))
        reader.end(mark)
    return dict(zip(names, arrays))


def write_arrays(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> FileMark:
    """Write named arrays as ``mx.nd.save`` does, byte for byte.

    Parameters
    ----------
    file : binary file, open for writing
        What ``denseface.core.files.replacing`` yields, for instance.
    arrays : mapping of str to ndarray
        Of dtype float16, float32, float64, int8, int32, int64 or uint8, with 1 to 32 dimensions, none of them 0.
        Names are printable.

    Returns
    -------
    FileMark
        Of the bytes written.

    Raises
    ------
    ValueError
        If an array or a name cannot be written. Nothing has been written then.
    """
    for name, array in arrays.items():
        _check_writable(name, array)
    size = crc = 0

    def write(data: bytes) -> None:
        nonlocal size, crc
        file.write(data)
        size, crc = size + memoryview(data).nbytes, zlib.crc32(data, crc)

    write(struct.pack("<3Q", _FILE_MAGIC, 0, len(arrays)))
    for array in arrays.values():
        dtype = array.dtype.newbyteorder("<")
        write(struct.pack(f"<Iii{array.ndim}q", _CURRENT, 0, array.ndim, *array.shape))
        write(struct.pack("<3i", _CPU, 0, _CODES[dtype]))
        write(np.ascontiguousarray(array, dtype).data)
    write(struct.pack("<Q", len(arrays)))
    for name in arrays:
        encoded = name.encode("utf-8")
        write(struct.pack("<Q", len(encoded)) + encoded)
    return FileMark(size, crc)


def _check_writable(name: str, array: np.ndarray) -> None:
    if not name.isprintable():
        raise ValueError(f"the array name {name!r} is not printable")
    if array.dtype.newbyteorder("<") not in _CODES:
        raise ValueError(f"array {name}: {array.dtype} is not one of {', '.join(str(dtype) for dtype in _CODES)}")
    if not 1 <= array.ndim <= _MAX_DIMENSIONS or array.size == 0:
        raise ValueError(f"array {name}: the shape {array.shape} cannot be written in MXNet's format")


class _Reader:
    """A file of arrays, read from its start to its end."""

    def __init__(self, file: BinaryIO, path: str | Path):
        self.file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.offset = 0
        self.crc32 = 0
        self.part = "the header"

    def fail(self, problem: str) -> NoReturn:
        raise InputError(f"{self.part}, near byte {self.offset}: {problem}; get the file again", path=self.path)

    def claim(self, length: int) -> None:
        """Advance by ``length`` bytes, which must exist."""
        if length > self.size - self.offset:
            self.fail(f"{length} bytes should follow, but the file ends at byte {self.size}")
        self.offset += length

    def numbers(self, layout: str) -> tuple[int, ...]:
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def take(self, length: int) -> bytes:
        self.claim(length)
        data = self.file.read(length)
        if len(data) != length:
            self.fail("the file has become shorter while it was read")
        self.crc32 = zlib.crc32(data, self.crc32)
        return data

    def arrays(self) -> list[np.ndarray]:
        (count,) = self.numbers("Q")
        if count > self.size - self.offset:
            self.fail(f"it promises {count} arrays, more than there are bytes")
        arrays = []
        for number in range(count):
            self.part = f"array {number} of {count}"
            arrays.append(self.array())
        return arrays

    def array(self) -> np.ndarray:
        shape = self.shape()
        device, _, code = self.numbers("3i")
        if device not in _DEVICES:
            self.fail(f"there is no device type {device}")
        if code not in _TYPES:
            self.fail(f"the element type {code} is not known")
        dtype = _TYPES[code]
        self.claim(math.prod(shape) * dtype.itemsize)
        array = np.empty(shape, dtype)
        octets = array.reshape(-1).view(np.uint8)
        if self.file.readinto(octets) != array.nbytes:  # type: ignore[attr-defined]  # every file has it
            self.fail("the file has become shorter while it was read")
        self.crc32 = zlib.crc32(octets, self.crc32)
        return array

    def shape(self) -> tuple[int, ...]:
        (magic,) = self.numbers("I")
        if magic not in _FORMATS and magic > _MAX_DIMENSIONS:
            self.fail(f"{magic:#010x} is not the start of an array")
        has_storage, dimension = _FORMATS.get(magic, _OLDEST)
        if has_storage:
            self.check_storage()
        ndim = self.numbers("i")[0] if magic in _FORMATS else magic
        if not -1 <= ndim <= _MAX_DIMENSIONS:
            self.fail(f"an array has 1 to {_MAX_DIMENSIONS} dimensions, not {ndim}")
        if ndim == -1 or (ndim == 0 and magic != _NUMPY_SHAPES):
            self.fail("the array has no shape and no elements")
        shape = self.numbers(f"{ndim}{dimension}")
        if any(length < 1 for length in shape):
            self.fail(f"the shape {shape} has a dimension of length 0")
        return shape

    def check_storage(self) -> None:
        (storage,) = self.numbers("i")
        if storage in _STORAGES:
            raise InputError(
                f"{self.part}, near byte {self.offset}: it is sparse ({_STORAGES[storage]}); "
                "save it again after tostype('default')",
                path=self.path,
            )
        if storage != 0:
            self.fail(f"there is no storage type {storage}")

    def names(self, expected: int) -> list[str]:
        self.part = "the names"
        (count,) = self.numbers("Q")
        if count != expected:
            self.fail(f"there are {expected} arrays but {count} names")
        names: dict[str, None] = {}
        for number in range(count):
            self.part = f"name {number} of {count}"
            name = self.name()
            if name in names:
                self.fail(f"the name {name[:80]} comes twice")
            names[name] = None
        return list(names)

    def name(self) -> str:
        (length,) = self.numbers("Q")
        try:
            name = self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            self.fail("it is not UTF-8")
        if not name.isprintable():
            self.fail("it is not printable")
        return name

    def end(self, mark: FileMark | None) -> None:
        if self.offset != self.size:
            self.fail(f"{self.size - self.offset} bytes follow the last name")
        if mark is not None and mark != (self.size, self.crc32):
            raise InputError(
                "damaged, its size or CRC-32 is not what was written; bring the file back, or remove the "
                ".json file of this checkpoint to resume from an earlier one",
                path=self.path,
            )
