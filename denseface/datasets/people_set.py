"""The pictures of a set with the person of each: records, or one folder per person."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input, read_input
from denseface.data.pairs import read_pairs
from denseface.data.pictures import MAX_FILE_SIZE, decode
from denseface.data.records import FaceRecords
from denseface.data.sources import Source
from denseface.datasets.drop import write_without
from denseface.datasets.manifest import read_manifest
from denseface.datasets.output import fresh_folder, replacing_csv
from denseface.datasets.people import find_people
from denseface.datasets.picture_checks import are_near, reduced

if TYPE_CHECKING:
    from denseface.datasets.manifest import Entry


class PeopleSet:
    """A set whose pictures are named ``PERSON/PICTURE``: ``LABEL/KEY`` in records, else a path below the folder.

    Parameters
    ----------
    path : path-like
        A folder with ``train.rec``, or with one folder of pictures per person.

    Attributes
    ----------
    left_out : dict of str to str
        Files of the folder that belong to nobody, or cannot be used, with the reasons.
    unreadable : dict of str to str
        The folders in it that cannot be read, with the reasons.

    Raises
    ------
    InputError
        If it is neither.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._open = contextlib.ExitStack()
        self.records = None
        self.left_out: dict[str, str] = {}
        if (self.path / "train.rec").is_file():
            self.records = self._open.enter_context(FaceRecords(self.path))
            self._names = [
                f"{label}/{key}" for label, keys in enumerate(self.records.keys_by_identity()) for key in keys.tolist()
            ]
        else:
            people, self.left_out = find_people(self.path)
            self._names = [file for person in people for file in person.files]

    @property
    def unreadable(self) -> dict[str, str]:
        return {str(self.path / file): reason for file, reason in self.left_out.items() if file.endswith("/")}

    def __enter__(self) -> PeopleSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Source]:
        """Iterate over the pictures, those of a person together."""
        for name in self._names:
            yield Source(name, self._file(name), partial(self.load, name), is_aligned=self.records is not None)

    def load(self, name: str) -> bytes:
        """Return an encoded picture.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        if self.records is None:
            return read_input(self._file(name), MAX_FILE_SIZE)
        return self.records.read_image(int(os.path.basename(name)))[1]

    def shown(self, name: str) -> str:
        """Return the file of a picture, as the manifest of the records says, else its name."""
        entry = self._manifest.get(int(os.path.basename(name))) if self.records is not None else None
        return entry.file if entry and entry.label == os.path.dirname(name) else name

    @functools.cached_property
    def _manifest(self) -> dict[int, Entry]:
        return {} if self.records is None else read_manifest(self.path, self.records.keys.tolist())

    def is_duplicate(self, one: str, other: str) -> bool:
        """Whether two pictures are nearly the same, pixel by pixel, as one that was encoded again is."""
        return are_near(self._small(one), self._small(other))

    def write_without(
        self, dropped: Mapping[str, tuple[str, str]], out: str | Path, measure: str = "probability"
    ) -> int:
        """Write the other pictures, byte for byte, and ``dropped.csv``; return their number.

        The verification sets beside records are copied.

        Parameters
        ----------
        dropped : mapping of str to (number, reason)
            By the names of pictures.
        out : path-like
            The folder to make. It may exist if it is empty.
        measure : str
            What the number is.

        Raises
        ------
        InputError
            If no picture is left, or ``out`` cannot be made.
        """
        if self.records is not None:
            keys = {int(os.path.basename(name)): said for name, said in dropped.items()}
            return write_without(self.records, keys, out, measure).num_images
        kept = [name for name in self._names if name not in dropped]
        if not kept:
            raise InputError("no picture would be left; drop fewer", path=self.path)
        with fresh_folder(out) as folder:
            for name in kept:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._file(name), folder / name)
            with replacing_csv(folder / "dropped.csv", ("file", measure, "reason")) as table:
                table.writerows((name, *said) for name, said in dropped.items())
        return len(kept)

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - a set lives as long as its audit
    def _small(self, name: str) -> np.ndarray:
        return reduced(decode(self.load(name)))

    def _file(self, name: str) -> Path:
        return self.path / ("train.rec" if self.records is not None else name)


def distinct_pictures(path: str | Path) -> list[Source]:
    """List the distinct pictures of a verification set, named by ``NAME.csv`` beside it if there is one."""
    path = Path(path)
    images, pairs = read_pairs(path).unique()
    _, firsts = np.unique(pairs, return_index=True)
    files = _files_of(path.with_suffix(".csv"), len(pairs))
    names = [files[first] if files else f"{path}:{first}" for first in firsts.tolist()]
    return [Source(name, path, partial(bytes, image), is_aligned=True) for name, image in zip(names, images)]


def _files_of(path: Path, count: int) -> list[str]:
    """Read the files of all pairs in a table that ``dataset folder`` has written; none if it is another table."""
    if not path.exists():
        return []
    with io.TextIOWrapper(open_input(path), "utf-8", "surrogateescape", newline="") as text:
        try:
            heading, *rows = csv.reader(text)
        except InputError:
            raise
        except (ValueError, csv.Error):
            return []
    is_known = heading == ["file1", "file2", "same"] and len(rows) == count and all(len(row) == 3 for row in rows)
    return [file for row in rows for file in row[:2]] if is_known else []


def digest_of(sources: Iterable[Source]) -> str:
    """Hash the names and contents of pictures, or why they cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        try:
            content = source.load()
        except InputError as error:
            content = str(error).encode("utf-8", "surrogatepass")
        digest.update(hashlib.blake2b(source.name.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        digest.update(hashlib.blake2b(content, digest_size=16).digest())
    return digest.hexdigest()
