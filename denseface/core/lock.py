"""Keep a second process away from the files of a run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from denseface.core.errors import InputError
from denseface.core.files import open_own
from denseface.core.system_lock import hold


@contextlib.contextmanager
def locked(prefix: str | Path) -> Iterator[None]:
    """Keep every other process away from a run for as long as the block lasts.

    The file ``PREFIX.lock`` names the process, and is removed at the end. The lock itself ends with the process,
    however that ends, so a file left by a dead process keeps nobody away. Where the file system has no locks, nobody
    is kept away, which is warned of.

    Parameters
    ----------
    prefix : path-like
        Prefix of the run's files; the folder exists.

    Raises
    ------
    InputError
        If another process has the lock, which the message names, or the file cannot be written.
    """
    path = Path(f"{prefix}.lock")
    with _acquire(path) as file:
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"))
            file.flush()
            yield
        finally:
            with contextlib.suppress(OSError):  # a remaining file does not lock
                path.unlink()


def _acquire(path: Path) -> BinaryIO:
    while True:
        file = open_own(path)
        try:
            hold(file, path)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                owner = " ".join(file.read(200).decode("ascii", "replace").split())
            raise InputError(f"locked by {owner or 'another process'}; wait for it to finish", path=path) from error
        if _is_still_at(path, file):
            return file
        file.close()  # its last owner has removed it since it was opened


def _is_still_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
