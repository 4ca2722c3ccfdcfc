"""The pictures of a set with the person of each: records, or one folder per person."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.data.pictures import MAX_FILE_SIZE, decode
from denseface.data.records import FaceRecords
from denseface.data.sources import Source
from denseface.datasets.drop import write_without
from denseface.datasets.output import fresh_folder, replacing_csv
from denseface.datasets.people import find_people

_SIDE = 32
_MOST_DIFFERENCE = 2.0  # gray levels on average; JPEG of quality 50 changes a reduced picture by less than 1


class PeopleSet:
    """A set whose pictures are named ``PERSON/PICTURE``: ``LABEL/KEY`` in records, else a path below the folder.

    Parameters
    ----------
    path : path-like
        A folder with ``train.rec``, or with one folder of pictures per person.

    Raises
    ------
    InputError
        If it is neither.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._open = contextlib.ExitStack()
        self.records = None
        if (self.path / "train.rec").is_file():
            self.records = self._open.enter_context(FaceRecords(self.path))
            self._names = [
                f"{label}/{key}" for label, keys in enumerate(self.records.keys_by_identity()) for key in keys.tolist()
            ]
        else:
            people, _ = find_people(self.path)
            self._names = [file for person in people for file in person.files]

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

    def is_duplicate(self, one: str, other: str) -> bool:
        """Whether two pictures are nearly the same, pixel by pixel, as one that was encoded again is."""
        return float(np.abs(self._small(one) - self._small(other)).mean()) <= _MOST_DIFFERENCE

    def write_without(self, dropped: Mapping[str, tuple[str, str]], out: str | Path) -> int:
        """Write the other pictures, byte for byte, and ``dropped.csv``; return their number.

        Parameters
        ----------
        dropped : mapping of str to (probability, reason)
            By the names of pictures.
        out : path-like
            The folder to make. It may exist if it is empty.

        Raises
        ------
        InputError
            If no picture is left, or ``out`` cannot be made.
        """
        if self.records is not None:
            keys = {int(os.path.basename(name)): said for name, said in dropped.items()}
            return write_without(self.records, keys, out, "probability").num_images
        kept = [name for name in self._names if name not in dropped]
        if not kept:
            raise InputError(f"{self.path}: no picture would be left; drop fewer")
        with fresh_folder(out) as folder:
            for name in kept:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._file(name), folder / name)
            with replacing_csv(folder / "dropped.csv", ("file", "probability", "reason")) as table:
                table.writerows((name, *said) for name, said in dropped.items())
        return len(kept)

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - a set lives as long as its audit
    def _small(self, name: str) -> np.ndarray:
        gray = Image.fromarray(decode(self.load(name))).convert("L")
        return np.asarray(gray.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)

    def _file(self, name: str) -> Path:
        return self.path / ("train.rec" if self.records is not None else name)
