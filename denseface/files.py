"""Open files with errors of one line, and write them so that a reader never finds half of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from denseface.errors import InputError


def open_input(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises
    ------
    InputError
        If it is missing or may not be read.
    """
    return _open(path, "rb", f"{path}: it cannot be read")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` for writing; it takes the place of ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        The file to write or to replace.  What is written goes to ``path`` + ``.tmp``, is synced to disk and renamed;
        if the block raises, that file is removed and ``path`` stays as it was.

    Yields
    ------
    binary file, open for writing

    Raises
    ------
    InputError
        If there is no writing at ``path``.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")
    file = _open(aside, "wb", f"{path}: it cannot be written")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sync_folder(folder: str | Path) -> None:
    """Make the renames and removals in ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: str | Path, mode: str, failure: str) -> BinaryIO:
    try:
        return open(path, mode)
    except OSError as error:
        raise InputError(f"{failure} ({error.strerror})") from error
