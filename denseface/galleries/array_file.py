"""The arrays of an ``.npz`` file, read block by block: mapped into memory where they are not compressed.

A mapped array is read where the operating system keeps the file, without a copy. Each block is let go after its use, so
that memory stays constant.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from denseface.core.errors import InputError, check_resources
from denseface.core.files import open_input

_MAX_TEXT = 1 << 20
_LENGTHS = struct.Struct("<26xHH")  # what a member begins with: lengths of its name and its extra field


class _Array(NamedTuple):
    """An array in the file."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    header: int  # bytes before the first element
    offset: int | None  # of the header in the file; None if the array is compressed


class _Mapping(mmap.mmap):
    def seekable(self) -> Literal[True]:
        """Answer :class:`zipfile.ZipFile`, as a mapping does only from Python 3.13 on."""
        return True


class ArrayFile:
    """An ``.npz`` file as it was when it was opened, even if another file takes its name later.

    Any thread may read from it.

    Parameters
    ----------
    path : path-like
    names : iterable of str
        The arrays that it must contain.

    Raises
    ------
    InputError
        If the file is missing, broken, or not such a file.
    """

    def __init__(self, path: str | Path, names: Iterable[str]):
        self.path = Path(path)
        self._sound: set[str] = set()  # mapped arrays that have been compared with their checksum
        with self._described():
            with open_input(self.path) as file:
                self._mapping = _Mapping(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._archive = zipfile.ZipFile(self._mapping)  # type: ignore[call-overload]  # reads and seeks as a file does
            self._arrays = {name: self._find(name) for name in names}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, as the file states it."""
        return self._arrays[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Return the type of an array, as the file states it."""
        return self._arrays[name].dtype

    def text(self, name: str) -> str:
        """Return an array that is one text of at most 1 MiB."""
        array = self._arrays[name]
        with self._described():
            if array.shape != () or array.dtype.kind != "U" or array.dtype.itemsize > _MAX_TEXT:
                raise ValueError(f"{name} is not a text")
        return self.texts(name, [0])[0]

    def texts(self, name: str, rows: Iterable[int]) -> dict[int, str]:
        """Return some elements of an array of text, by their rows."""
        array = self._arrays[name]
        size = array.dtype.itemsize
        wanted = sorted({int(row) for row in rows})
        found = {}
        with self._described(), contextlib.ExitStack() as opened:
            member = None if array.offset is not None else opened.enter_context(self._archive.open(array.info))
            for row in wanted:
                start = array.header + row * size
                if start + size > array.info.file_size:
                    raise ValueError(f"{name} is shorter than it says")
                if member is None:
                    content = self._mapped(array, start, size)
                else:
                    member.seek(start)
                    content = member.read(size)
                found[row] = str(np.frombuffer(content, array.dtype)[0])
        return found

    def blocks(self, name: str, step: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read an array of two axes, `step` rows at a time.

        An array that is read for the first time is compared with its checksum in the file at the end.

        Yields
        ------
        start, rows : int, ndarray of shape (n, d)
            The number of the first row; the rows are valid until the next are asked for.

        Raises
        ------
        InputError
            If the file is broken, or has become shorter.
        """
        array = self._arrays[name]
        count, width = array.shape
        row = width * array.dtype.itemsize
        with self._described():
            if array.header + count * row != array.info.file_size:
                raise ValueError(f"{name} has another size than its shape")
            read = self._unpacked if array.offset is None else self._mapped_whole
            contents = read(name, step * row)
            for start in range(0, count, step):
                rows = np.frombuffer(next(contents, b""), array.dtype).reshape(min(step, count - start), width)
                yield start, np.require(rows, requirements="A")  # a member may start at any byte

    def _unpacked(self, name: str, size: int) -> Iterator[bytes]:
        array = self._arrays[name]
        with self._archive.open(array.info) as member:  # compares the checksum
            member.read(array.header)
            while content := member.read(size):
                yield content

    def _mapped_whole(self, name: str, size: int) -> Iterator[memoryview]:
        """Yield what an array contains.

        The first time, it is compared with its checksum, and what was yielded before is let go. Later it stays mapped:
        to map it again would take as long as a search. The system takes such memory back when it needs it.
        """
        array = self._arrays[name]
        end, crc = array.info.file_size, None
        if name not in self._sound:
            crc = zlib.crc32(self._mapped(array, 0, array.header))
        for start in range(array.header, end, size):
            content = self._mapped(array, start, min(size, end - start))
            if crc is not None:
                crc = zlib.crc32(content, crc)
                if start + size >= end:
                    if crc != array.info.CRC:
                        raise ValueError(f"{name} differs from its checksum")
                    self._sound.add(name)
            yield content
            if crc is not None:
                first = (self._begin(array) + start) // mmap.PAGESIZE * mmap.PAGESIZE
                self._mapping.madvise(mmap.MADV_DONTNEED, first, len(content))

    def _mapped(self, array: _Array, start: int, size: int) -> memoryview:
        """Return a part of a mapped array, where the header is at 0."""
        first = self._begin(array) + start
        if self._mapping.size() < first + size:  # to touch what is gone would end the process
            raise ValueError("the file has become shorter")
        return memoryview(self._mapping)[first : first + size]

    @staticmethod
    def _begin(array: _Array) -> int:
        """Return where a mapped array begins in the file."""
        assert array.offset is not None, "compressed arrays are read another way"
        return array.offset

    def _find(self, name: str) -> _Array:
        info = self._archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA may ask for 4 GB
            raise ValueError(f"{name} is compressed in another way")
        with self._archive.open(info) as member:  # refuses a directory that does not fit the members
            shape, dtype = _read_header(member)
            header = member.tell()
        if info.compress_type == zipfile.ZIP_DEFLATED:
            return _Array(info, shape, dtype, header, None)
        lengths = _LENGTHS.unpack_from(self._mapping, info.header_offset)
        offset = info.header_offset + _LENGTHS.size + sum(lengths)
        if info.compress_size != info.file_size or offset + info.file_size > len(self._mapping):
            raise ValueError(f"{name} ends beyond the file")
        return _Array(info, shape, dtype, header, offset)

    @contextlib.contextmanager
    def _described(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # zipfile, zlib, mmap, NumPy and struct have many for a broken file
            check_resources(error, self.path)
            raise InputError(
                "not a file that denseface embed wrote, or broken; make it again", path=self.path
            ) from error


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and type of an array, from the start of its member."""
    if np.lib.format.read_magic(member) != (1, 0):  # later versions may ask for 4 GB
        raise ValueError("the header of an array is of another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran_order:
        raise ValueError("an array is in Fortran's order")
    return shape, dtype
