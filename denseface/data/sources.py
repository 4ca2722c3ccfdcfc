"""Find the pictures of paths: files, folders, lists, record files and verification sets."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError, is_lack
from denseface.core.files import open_input, read_input, read_lines
from denseface.core.text import counted
from denseface.data.folders import existing, walk
from denseface.data.pairs import read_pairs
from denseface.data.pictures import MAX_FILE_SIZE, is_picture
from denseface.data.recordio import RecordReader
from denseface.data.records import open_records, read_header_range


class Source(NamedTuple):
    """One picture.

    Attributes
    ----------
    name : str
        Its path; ``PATH:KEY`` in a record file and ``PATH:INDEX`` in a verification set.
    file : Path
        The file that contains it.
    load : callable
        Returns the encoded picture, or raises an InputError that names the file.
    is_aligned : bool
        Whether it is an aligned face whatever its size, as those in record files and verification sets are.
    """

    name: str
    file: Path
    load: Callable[[], bytes]
    is_aligned: bool = False

    @classmethod
    def of_file(cls, path: str | Path) -> Source:
        """Make the source of a picture file."""
        file = Path(path)
        return cls(str(path), file, partial(read_input, file, MAX_FILE_SIZE))

    def stamp(self) -> tuple[int, int]:
        """Return size and modification time of the file, to notice a changed file."""
        try:
            found = self.file.stat()
        except (OSError, ValueError):
            return -1, -1
        return found.st_size, found.st_mtime_ns


class Sources:
    """All pictures of some paths, in the order of the paths; searched again at each iteration, and never all in memory.

    Parameters
    ----------
    paths : iterable of path-like
        Each is one of these:

        - a folder with ``train.rec``, or a record file ``.rec`` with its index: the images, by their keys
        - any other folder: the pictures in it and below it, by suffix or content, sorted by name, without hidden files
        - a verification set ``.bin``: its 2n images
        - a list ``.txt``: one path per line, relative to the list's folder
        - any other file: a picture

    Attributes
    ----------
    roots : list of str
        The folders among the paths that pictures are searched in. A person's pictures are in the first folder below
        one, see `denseface.galleries.people.PeopleFolders`.
    left_out : list of str
        The files in the folders that are not pictures, and the links to folders, as far as the last iteration came.
    unreadable : dict of str to str
        The folders in them that cannot be read, with the reasons, as far as the last iteration came.

    Raises
    ------
    InputError
        If a path does not exist, or there is no picture in it.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.roots: list[str] = []
        self._left_out: dict[str, None] = {}
        self._unreadable: dict[str, str] = {}
        self._open_files = contextlib.ExitStack()
        try:
            self._groups = [self._group(Path(path)) for path in paths]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Source]:
        return itertools.chain.from_iterable(group() for group in self._groups)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self)

    @property
    def left_out(self) -> list[str]:
        return list(self._left_out)

    @property
    def unreadable(self) -> dict[str, str]:
        return dict(self._unreadable)

    def close(self) -> None:
        """Close the record files."""
        self._open_files.close()

    def _group(self, path: Path) -> Callable[[], Iterator[Source]]:
        """Return an iterable of the pictures of one path."""
        if (path / "train.rec").is_file():
            path = path / "train.rec"
        if path.is_dir():
            group = partial(_walk, path, self._left_out, self._unreadable)
            self.roots.append(str(path))
        elif path.suffix == ".rec":
            reader = self._open_files.enter_context(open_records(path))
            group = partial(_records, reader, _picture_keys(reader))
        elif path.suffix == ".bin":
            group = partial(_pair_images, path, read_pairs(path).images)
        elif path.suffix == ".txt":
            group = partial(_listed, path)
        else:
            open_input(path).close()
            group = partial(_single, path)
        if next(group(), None) is None:
            raise InputError(f"contains no picture{_excuse(self._left_out, self._unreadable)}", path=path)
        return group


def _single(path: str | Path) -> Iterator[Source]:
    yield Source.of_file(path)


def _excuse(left_out: Collection[str], unreadable: Mapping[str, str]) -> str:
    for folder, reason in unreadable.items():
        return f"; {folder}: {reason}"
    return f"; {counted(len(left_out), 'file')} of other kinds, such as {next(iter(left_out))}" if left_out else ""


def _walk(folder: Path, left_out: dict[str, None], unreadable: dict[str, str]) -> Iterator[Source]:
    for path, entry, error in walk(folder):
        if error:
            if is_lack(error):
                raise error
            unreadable[entry.path] = f"cannot be read ({error.strerror})"
        if path.endswith("/"):
            continue
        if is_picture(entry.path):
            yield from _single(Path(entry.path))
        else:
            left_out[entry.path] = None


def _listed(path: Path) -> Iterator[Source]:
    for _, line in read_lines(path):
        name = line.strip()
        if name:
            yield from _single(existing(path.parent / name))


def _pair_images(path: Path, images: Sequence[bytes]) -> Iterator[Source]:
    for index, image in enumerate(images):
        yield Source(f"{path}:{index}", path, partial(bytes, image), is_aligned=True)


def _records(reader: RecordReader, keys: np.ndarray) -> Iterator[Source]:
    for key in keys.tolist():
        yield Source(f"{reader.path}:{key}", reader.path, partial(_payload, reader, key), is_aligned=True)


def _payload(reader: RecordReader, key: int) -> bytes:
    return reader.read(key).payload


def _picture_keys(reader: RecordReader) -> np.ndarray:
    """Leave out the header records of InsightFace's layout."""
    headers = read_header_range(reader)
    if headers is None:
        return reader.keys
    start, end = headers
    return reader.keys[(reader.keys != 0) & ~((start <= reader.keys) & (reader.keys < end))]
