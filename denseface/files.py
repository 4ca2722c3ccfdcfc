"""Write files so that a reader finds the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from denseface.errors import InputError


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
    file = _create(aside)
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


def _create(path: Path) -> BinaryIO:
    try:
        return open(path, "wb")
    except OSError as error:
        raise InputError(f"{path}: it cannot be written ({error.strerror})") from error


def sync_folder(folder: str | Path) -> None:
    """Make the renames and removals in ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
