"""Open files with errors of one line, and write them so that a reader never finds half of one.

Names in a shared folder are not trusted: no file is written through a link that somebody has put there, and nothing is
read that may never end.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from denseface.core.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_LINE = 1 << 16


def open_input(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises
    ------
    InputError
        If it is missing, may not be read, is a folder, or a pipe or a device, which may never end.
    """
    file = _open(path, "rb", os.O_NONBLOCK, f"{path}: it cannot be read")  # else a pipe blocks until somebody writes
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path}: is a pipe or a device; save it to a regular file first")


def read_input(path: str | Path, limit: int) -> bytes:
    """Read a whole file of at most ``limit`` bytes.

    Raises
    ------
    InputError
        As `open_input` does, or if the file is larger, or the disk fails.
    """
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise InputError(f"{path}: {size:,} bytes are too many for such a file, which has at most {limit:,}")
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"{path}: it cannot be read ({error.strerror})") from error


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Read a text file line by line.

    Yields
    ------
    number, line : int, str
        The number counts from 1. The line has neither its end nor the byte order mark that editors on Windows put at
        the start of a file. Bytes that are not UTF-8 become surrogates, as in names of files.

    Raises
    ------
    InputError
        As `open_input` does, or if the file is not text: it is UTF-16, or a line is longer than 65,536 bytes.
    """
    with open_input(path) as file:
        start = file.read(len(codecs.BOM_UTF8))
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(f"{path}: the text is UTF-16; save it as UTF-8")
        file.seek(len(codecs.BOM_UTF8) if start == codecs.BOM_UTF8 else 0)
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), 1):
            if len(line) > _LONGEST_LINE:
                raise InputError(f"{path}: line {number}: longer than {_LONGEST_LINE:,} bytes; is it a text file?")
            yield number, line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def open_own(path: str | Path) -> BinaryIO:
    """Open a file that this program keeps, for reading and for writing at its end; it is made if need be.

    Raises
    ------
    InputError
        If it cannot be written, or is not a file of its own: a link, a file of several names, a pipe or a device.
    """
    if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
        file = _open(path, "a+b", os.O_NOFOLLOW | os.O_NONBLOCK, f"{path}: it cannot be written")
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return file
        file.close()
    raise InputError(f"{path}: a link, a folder, a pipe or a device is in the way; remove it")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` for writing, which replaces ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        The file to write or to replace. The content goes to ``path`` + ``.tmp``, which is made new, synced to disk and
        renamed; if the block raises, that file is removed and ``path`` stays as it was.

    Yields
    ------
    binary file, open for writing

    Raises
    ------
    InputError
        If ``path`` cannot be written, be it that the disk fills up meanwhile, or something other than a file that an
        earlier run has left is in the way.
    """
    path = Path(path)
    aside = beside(path, ".tmp")
    _remove_leftover(aside, path)
    file = _open(aside, "xb", os.O_NOFOLLOW, f"{path}: it cannot be written")
    try:
        with naming_errors(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _check_same(file, aside, path)
        try:
            os.replace(aside, path)
            sync_folder(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def beside(path: Path, suffix: str) -> Path:
    """Return the path beside a file for its unfinished version.

    Raises
    ------
    InputError
        If ``path`` is a folder, which a file cannot replace.
    """
    if not path.name or path.is_dir():
        raise InputError(f"{path}: it cannot be written (Is a directory); name a file")
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def naming_errors(path: str | Path) -> Iterator[None]:
    """Name the file in the errors of an open file, which do not know its name.

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


def _remove_leftover(aside: Path, path: Path) -> None:
    """Remove the unfinished file of a killed run."""
    try:
        is_file = stat.S_ISREG(os.lstat(aside).st_mode)
        if is_file:
            os.unlink(aside)
    except (FileNotFoundError, ValueError):  # a null character in the name, which opening reports
        return
    except OSError as error:
        raise _unwritable(path, error) from error
    if not is_file:
        raise InputError(f"{aside}: a link, a folder, a pipe or a device is in the way; remove it")


def _check_same(file: BinaryIO, aside: Path, path: Path) -> None:
    """Make sure that no other process has put its own unfinished file there."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), os.lstat(aside)):
            return
    raise InputError(f"{path}: another process writes it at the same time; let one of them finish first")


def _open(path: str | Path, mode: str, more_flags: int, failure: str) -> BinaryIO:
    try:
        return cast(BinaryIO, open(path, mode, opener=lambda name, flags: os.open(name, flags | more_flags, 0o666)))
    except OSError as error:
        raise InputError(f"{failure} ({error.strerror or error})") from error
    except ValueError as error:  # a null character in the name
        raise InputError(f"{failure} ({error})") from error
