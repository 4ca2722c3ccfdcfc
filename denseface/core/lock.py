"""One process at a time at the place of a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from denseface.core.errors import InputError
from denseface.core.files import naming_errors


@contextlib.contextmanager
def locked(prefix: str | Path) -> Iterator[None]:
    """Keep every other process away from a run for as long as the block lasts.

    The file ``PREFIX.lock`` says who is there, and is removed at the end.  The lock itself ends with its process,
    however that ends, so a file that a dead one has left keeps nobody away.

    Parameters
    ----------
    prefix : path-like
        Prefix of the run's files; the folder exists.

    Raises
    ------
    InputError
        If another process is there, which the message names, or the file cannot be written.
    """
    path = Path(f"{prefix}.lock")
    with _acquire(path) as file:
        try:
            with naming_errors(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> IO[str]:
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                holder = " ".join(file.read(200).split())
            raise InputError(f"{path}: {holder or 'another process'} is at work there; let it end first") from error
        if _is_still_at(path, file):
            return file
        file.close()  # whoever held it has removed it since it was opened


def _open(path: Path) -> IO[str]:
    try:
        return open(path, "a+", encoding="ascii", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: it cannot be written ({error.strerror})") from error


def _is_still_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
