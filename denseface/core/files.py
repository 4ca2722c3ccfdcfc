"""Open files with errors of one line, and write them so that a reader never finds half of one.

Names in a shared folder are not trusted: no file is written through a link that somebody has put there, and nothing is
read that may never end.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import hashlib
import io
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from denseface.core.errors import InputError
from denseface.core.signals import postponed
from denseface.core.system_lock import hold

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
# Of file systems without it, such as those of virtual machines and network shares.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
_CANNOT_OPEN = (*_CANNOT_SYNC, errno.EACCES, errno.EPERM)  # Windows opens no folder
_NOFOLLOW, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)  # Windows has neither
_MOST_WRITERS = 8  # of one file at a time
_ABANDONED = 24 * 3600  # seconds without a write, on file systems without locks
_LONGEST_LINE = 1 << 16
_logger = logging.getLogger("denseface")


def open_input(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes, up to where it ends now.

    Raises
    ------
    InputError
        If it is missing, may not be read, is a folder, or a pipe or a device, which may never end; later, if reading
        from the file fails.
    """
    file = _open(path, "rb", _NONBLOCK)  # else a pipe blocks until somebody writes
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError("is a pipe or a device; save it to a regular file first", path=path)


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
            raise InputError(f"{size:,} bytes are too many for such a file, which has at most {limit:,}", path=path)
        return file.read()


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; errors as of `open_input`."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


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
            raise InputError("the text is UTF-16; save it as UTF-8", path=path)
        file.seek(len(codecs.BOM_UTF8) if start == codecs.BOM_UTF8 else 0)
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), 1):
            if len(line) > _LONGEST_LINE:
                raise InputError(f"line {number}: longer than {_LONGEST_LINE:,} bytes; is it a text file?", path=path)
            yield number, line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def open_own(path: str | Path) -> BinaryIO:
    """Open a file of this program for reading and appending; create it if necessary.

    Raises
    ------
    InputError
        If it cannot be written, or is not a file of its own: a link, a file of several names, a pipe or a device.
    """
    if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
        file = _open(path, "a+b", _NOFOLLOW | _NONBLOCK)
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return file
        file.close()
    raise _in_the_way(path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` for writing, which replaces ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        The file to write or to replace. The content goes to ``path`` + ``.tmp`` (``.2.tmp`` and so on while other
        processes write the same file), which is made new, synced to disk and renamed; if the block raises, that file is
        removed and ``path`` stays as it was. Remains of killed processes there are removed.

    Yields
    ------
    binary file, open for writing

    Raises
    ------
    InputError
        If ``path`` cannot be written, for example because the disk fills up meanwhile, or is not a regular file.
    """
    with replacing_together(path) as (file,):
        yield file


@contextlib.contextmanager
def replacing_together(*paths: str | Path, last_completes: bool = False) -> Iterator[tuple[BinaryIO, ...]]:
    """Open files for writing that belong together; none is replaced before all are complete and on disk.

    Parameters
    ----------
    *paths : path-like
        The files, as for `replacing`, in the order in which they are renamed.
    last_completes : bool
        The last one says that the others are complete: the old one is removed before the first is renamed.

    Yields
    ------
    tuple of binary files, open for writing

    Raises
    ------
    InputError
        As `replacing` does.
    """
    with contextlib.ExitStack() as opened:
        written = [opened.enter_context(_aside(Path(path))) for path in paths]
        yield tuple(each.file for each in written)
        for each in written:
            each.complete()
        with postponed():
            if last_completes and len(written) > 1:
                with naming_errors(written[-1].path):
                    written[-1].path.unlink(missing_ok=True)
                    sync_folder(written[-1].path.parent)
            for each in written:
                each.rename()


class _Aside:
    """An open, locked file beside the one that it is to replace."""

    def __init__(self, path: Path, name: Path, file: BinaryIO):
        self.path = path
        self.name = name
        self.file = file

    def is_there(self) -> bool:
        """Whether no other process has removed or replaced it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.file.fileno()), os.lstat(self.name))
        return False

    def complete(self) -> None:
        self.file.flush()
        with naming_errors(self.path):
            sync(self.file.fileno())
        if not self.is_there():
            raise InputError("another process writes it at the same time; let one of them finish first", path=self.path)

    def rename(self) -> None:
        self._close_on_windows()
        try:
            os.replace(self.name, self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        sync_folder(self.path.parent)

    def remove(self) -> None:
        """Remove it, if it was not renamed."""
        if not self.file.closed and self.is_there():
            self._close_on_windows()
            self.name.unlink(missing_ok=True)

    def _close_on_windows(self) -> None:
        if os.name == "nt":  # where an open file can be neither renamed nor removed
            self.file.close()


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[_Aside]:
    """Open a file beside ``path``, and remove it if it has not been renamed at the end."""
    aside = _new_aside(path)
    try:
        yield aside
    except BaseException:
        aside.remove()
        with contextlib.suppress(OSError, InputError):  # unwritten content is discarded
            aside.file.close()
        raise
    aside.file.close()


def _new_aside(path: Path) -> _Aside:
    """Open the first free name beside a file, and remove what killed processes have left under the others."""
    made = None
    for number in range(1, _MOST_WRITERS + 1):
        name = beside(path, ".tmp" if number == 1 else f".{number}.tmp")
        if _freed(name, path) and made is None:
            made = _made_aside(path, name)
    if made is None:
        raise InputError(f"{_MOST_WRITERS} other processes write it; wait for them to finish", path=path)
    return made


def _made_aside(path: Path, name: Path) -> _Aside | None:
    """Make a file and lock it; None if another process was faster."""
    try:
        file = _open(name, "xb", _NOFOLLOW, path)
    except InputError as error:
        if isinstance(error.__cause__, FileExistsError):
            return None
        raise
    aside = _Aside(path, name, file)
    with contextlib.suppress(BlockingIOError):
        hold(file, name)
        if aside.is_there():
            return aside
    file.close()
    return None


def _freed(name: Path, path: Path) -> bool:
    """Remove what a killed process has left under a name; return whether the name is free."""
    try:
        is_file = stat.S_ISREG(os.lstat(name).st_mode)
    except (OSError, ValueError):  # there is none, or opening reports why
        return True
    if not is_file:
        raise _in_the_way(name)
    try:
        file = _open(name, "r+b", _NOFOLLOW | _NONBLOCK)
    except InputError as error:
        return isinstance(error.__cause__, FileNotFoundError)
    with file:
        found = os.fstat(file.fileno())
        try:
            # A time in the future is one of before the clock was set back.
            if not hold(file, name) and abs(time.time() - found.st_mtime) < _ABANDONED:
                return False
            if os.path.samestat(found, os.lstat(name)):  # else another process has removed it, and made its own
                os.unlink(name)
        except (BlockingIOError, FileNotFoundError) as error:
            return isinstance(error, FileNotFoundError)
        except OSError as error:
            raise _unwritable(path, error) from error
    return True


def beside(path: Path, suffix: str) -> Path:
    """Return the path beside a file for its unfinished version.

    Raises
    ------
    InputError
        If ``path`` exists and is not a regular file, which nothing may replace.
    """
    if not path.name or path.is_dir():
        raise InputError("it cannot be written (Is a directory); name a file", path=path)
    try:
        is_file = stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):  # there is none, or opening reports why
        is_file = True
    if not is_file:
        raise InputError("a link, a pipe or a device is never replaced; name a regular file", path=path)
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def naming_errors(path: str | Path) -> Iterator[None]:
    """Name the file in errors of the system that do not know its name.

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


def sync(descriptor: int) -> None:
    """Make written data survive a power cut, as far as the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def sync_folder(folder: str | Path) -> None:
    """Make renames and removals in ``folder`` survive a power cut, as far as the file system can.

    They are done already. So a failure is a warning at most.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_OPEN:
            _logger.warning("%s: it is not known to be on disk (%s)", folder, error.strerror)


def _unwritable(path: str | Path, error: OSError) -> InputError:
    advice = "; make room, then do the same again" if error.errno in _FULL else ""
    return InputError(f"it cannot be written ({error.strerror}){advice}", path=path)


def _unreadable(path: str | Path, error: OSError) -> InputError:
    return InputError(f"it cannot be read ({error.strerror or error})", path=path)


def _in_the_way(path: str | Path) -> InputError:
    return InputError("a link, a folder, a pipe or a device is in the way; remove it", path=path)


def _naming(method: Callable, failure: Callable[[str | Path, OSError], InputError]) -> Callable:
    @functools.wraps(method)
    def call(self: _Raw, *arguments: object) -> object:
        try:
            return method(self, *arguments)
        except OSError as error:
            raise failure(self.blamed, error) from error

    return call


class _Raw(io.FileIO):
    """A file whose errors name it, or the one that it is to replace.

    One that is only read ends where it ended when it was opened: what is appended meanwhile is not of one piece with
    it, and may never end.
    """

    blamed: str | Path
    size: int | None = None

    def _readall(self) -> bytes:
        if self.size is None:
            return super().readall()
        return b"".join(iter(lambda: io.FileIO.read(self, self._left()), b""))

    def _readinto(self, buffer: bytearray) -> int:
        return super().readinto(buffer if self.size is None else memoryview(buffer)[: self._left()])

    def _left(self) -> int:
        return max(0, (self.size or 0) - self.tell())

    read, readall, readinto = (  # type: ignore[assignment]
        _naming(method, _unreadable) for method in (io.FileIO.read, _readall, _readinto)
    )
    write, truncate = (  # type: ignore[assignment]
        _naming(method, _unwritable) for method in (io.FileIO.write, io.FileIO.truncate)
    )


def _open(path: str | Path, mode: str, more_flags: int, blamed: str | Path | None = None) -> BinaryIO:
    """Open a file; errors, also later ones, name ``blamed``, or the file itself."""
    blamed = path if blamed is None else blamed
    failure = _unreadable if mode == "rb" else _unwritable
    try:
        raw = _Raw(os.fspath(path), mode, opener=lambda name, flags: os.open(name, flags | more_flags, 0o666))
    except OSError as error:
        raise failure(blamed, error) from error
    except ValueError as error:  # a null character in the name
        raise failure(blamed, OSError(errno.EINVAL, str(error))) from error
    raw.blamed = blamed
    if mode == "rb":
        raw.size = os.fstat(raw.fileno()).st_size
    buffered = {"rb": io.BufferedReader, "xb": io.BufferedWriter}.get(mode, io.BufferedRandom)
    return cast(BinaryIO, buffered(raw))
