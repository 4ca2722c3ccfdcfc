"""Write and read ``manifest.csv``: the person and the file of each record of a training set."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from denseface.core.files import open_input
from denseface.datasets.output import replacing_csv

_NAME = "manifest.csv"


class Entry(NamedTuple):
    """What the manifest says of one record.

    Attributes
    ----------
    label : str
        The label, which a reader compares with that of the record: the manifest may belong to other records.
    person, file : str
        The person's name, and the picture's path below the folder of all people.
    """

    label: str
    person: str
    file: str


def write_manifest(folder: str | Path) -> contextlib.AbstractContextManager[Any]:
    """Yield a csv.writer for rows of key, label, person and file."""
    return replacing_csv(Path(folder) / _NAME, ("key", "label", "person", "file"))


def read_manifest(folder: str | Path, keys: Iterable[int]) -> dict[int, Entry]:
    """Read the entries of some records; none if there is no manifest, or another table by this name.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    path = Path(folder) / _NAME
    wanted = {str(key) for key in keys}
    entries: dict[int, Entry] = {}
    if wanted and path.exists():
        text = io.TextIOWrapper(open_input(path), "utf-8", "surrogateescape", newline="")
        with text, contextlib.suppress(csv.Error):
            for row in csv.reader(text):
                if len(row) == len(Entry._fields) + 1 and row[0] in wanted:
                    entries[int(row[0])] = Entry(*row[1:])
    return entries
