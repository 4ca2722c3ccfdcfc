"""A cache for files that are slow to make, and that must not be loaded if somebody else wrote them.

A file is used only if nobody but this user and root can have written it, and if its bytes are those that were stored.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_SCRATCH = "compiling-"
_LONGEST_WAIT = 600  # seconds for another process that makes the same


class CacheError(Exception):
    """The cache cannot be used; the message is the reason."""


@contextlib.contextmanager
def cached(name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Find a file in the cache, or make and store it.

    Parameters
    ----------
    name : str
        Of the file; it says what the file was made from.
    make : callable
        Writes the file at the path that it is given. Called if there is no such file or its bytes have changed. Its
        exceptions are passed on.

    Yields
    ------
    Path
        The file: in the user's cache folder; in a folder of this user beside temporary files, if that one is read-only
        or others can write there; or else in a folder that is removed afterwards. A warning says why.

    Raises
    ------
    CacheError
        If others can write to the folder of temporary files, too.
    """
    reasons: list[CacheError] = []

    def make_and_warn(path: Path) -> None:
        for reason in reasons:
            logger.warning("%s is not kept where it should be: %s", name, reason)
        make(path)

    path = _find(name)
    if path is not None:
        yield path
        return
    for folder in _FOLDERS:
        try:
            path = _stored(folder(), name, make_and_warn)
        except CacheError as error:
            reasons.append(error)
        else:
            yield path
            return
    with tempfile.TemporaryDirectory() as scratch:
        path = _made_private(Path(scratch)) / name
        make_and_warn(path)
        yield path


def is_cached(name: str) -> bool:
    """Tell whether a file is in the cache, without making it."""
    return _find(name) is not None


def _find(name: str) -> Path | None:
    for folder in _FOLDERS:
        with contextlib.suppress(CacheError):
            if _is_intact(folder() / name):
                return folder() / name
    return None


def _stored(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    path = folder / name
    if _is_intact(path):
        return path
    with _locked(folder) as is_alone:
        if _is_intact(path):  # made by the process that held the lock
            return path
        if is_alone:
            _remove_leftovers(folder)
        with _as_cache_errors():
            scratch = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder)
        with scratch:
            made = Path(scratch.name, name)
            make(made)
            with _as_cache_errors():
                _store(made, path)
    return path


def _user_folder() -> Path:
    """Return the user's cache folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # a relative path is invalid: https://specifications.freedesktop.org/basedir-spec/
        base = Path(given)
    else:
        home = Path(os.path.expanduser("~"))  # "~" without HOME and an entry in the password file
        if not home.is_absolute() or not home.is_dir():
            raise CacheError("there is no home folder; set XDG_CACHE_HOME to a folder")
        base = home / ".cache"
    return _made_private(base / "denseface")


def _temporary_folder() -> Path:
    """Return a folder of this user's that other processes find, too, until temporary files are removed."""
    return _made_private(Path(tempfile.gettempdir(), f"denseface-{os.geteuid()}"))


# A package may be installed where nobody can write, and so may be the home of a service or in a container.
_FOLDERS = (_user_folder, _temporary_folder)


def _made_private(folder: Path) -> Path:
    """Return the real path of a folder, made if it is missing, if nobody else can write there or replace it."""
    with _as_cache_errors():
        folder = Path(os.path.realpath(folder))
        for parent in (*reversed(folder.parents), folder):
            if not parent.exists():
                with contextlib.suppress(FileExistsError):
                    os.mkdir(parent, 0o700)
            _check_private(parent, os.stat(parent), is_parent=parent != folder)
    return folder


def _check_private(path: Path, status: os.stat_result, is_parent: bool = False) -> None:
    """Raise an error if another user can write a file, or replace a folder's contents."""
    if status.st_uid not in (0, os.geteuid()):
        raise CacheError(f"{path} belongs to another user")
    # In a folder like /tmp, users can replace only what belongs to them.
    is_sticky = is_parent and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
        raise CacheError(f"{path} can be written by others; chmod go-w {path}")


def _is_intact(path: Path) -> bool:
    """Test whether a stored file exists with the bytes that were stored."""
    try:
        return hashlib.sha256(_read(path)).hexdigest().encode() == _read(_digest_of(path))
    except FileNotFoundError:
        return False
    except (OSError, CacheError) as error:
        logger.info("%s is made again (%s)", path, error)
        return False


def _read(path: Path) -> bytes:
    """Read a regular file that nobody else can have written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CacheError("not a regular file")
        _check_private(path, status)
        return file.read()


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _store(made: Path, path: Path) -> None:
    """Move a file into the cache, then its digest, without which the file does not count."""
    digest = _digest_of(made)
    digest.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
    for source, target in ((made, path), (digest, _digest_of(path))):
        source.chmod(0o600)
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        os.replace(source, target)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Let one process at a time store files; False if the file system has no locks."""
    with _as_cache_errors():
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _acquire(descriptor, folder)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path) -> bool:
    end = time.monotonic() + _LONGEST_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                raise CacheError(f"{folder} is locked by another process") from None
            time.sleep(0.1)
        except OSError:
            return False


def _remove_leftovers(folder: Path) -> None:
    """Remove scratch folders of processes that were killed; only the lock's owner calls this."""
    for path in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _as_cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
