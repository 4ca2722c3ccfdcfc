"""Open files with errors of one line, and write them so that a reader never finds half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from denseface.core.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_input(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises
    ------
    InputError
        If it is missing, may not be read, or is a pipe or a device, which may never end.
    """
    kind = stat.S_IFREG
    with contextlib.suppress(OSError, ValueError):  # of which opening it tells more
        kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path}: it cannot be read (a pipe or a device); save it to a file")
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
        If there is no writing at ``path``, be it that the disk fills up meanwhile.
    """
    path = Path(path)
    aside = beside(path, ".tmp")
    file = _open(aside, "wb", f"{path}: it cannot be written")
    try:
        with naming_errors(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(aside, path)
            sync_folder(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def beside(path: Path, suffix: str) -> Path:
    """Give the place beside a file for what is not finished.

    Raises
    ------
    InputError
        If ``path`` is a folder, which no file can take the place of.
    """
    if not path.name or path.is_dir():
        raise InputError(f"{path}: it cannot be written (Is a directory); name a file")
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def naming_errors(path: str | Path) -> Iterator[None]:
    """Say which file it is that an open file's errors are about: they do not know its name.

    Raises
    ------
    InputError
        For an OSError in the block that names no file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise _unwritable(path, error) from error


def sync_folder(folder: str | Path) -> None:
    """Make the renames and removals in ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: str | Path, error: OSError) -> InputError:
    advice = "; make room, then do the same again" if error.errno in _FULL else ""
    return InputError(f"{path}: it cannot be written ({error.strerror}){advice}")


def _open(path: str | Path, mode: str, failure: str) -> BinaryIO:
    try:
        return cast(BinaryIO, open(path, mode))
    except OSError as error:
        raise InputError(f"{failure} ({error.strerror})") from error
    except ValueError as error:  # a null character in the name
        raise InputError(f"{failure} ({error})") from error
