"""The operating system's lock of an open file, where there is one."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FAR = 1 << 30  # a byte beyond every file here: on Windows locked bytes cannot be read by others

_logger = logging.getLogger("denseface")


def hold(file: BinaryIO, path: str | Path) -> bool:
    """Lock a file until it is closed, however its process ends.

    Parameters
    ----------
    file : binary file
        Open for writing.
    path : path-like
        Its name, for the warning.

    Returns
    -------
    bool
        False if the file system has no locks, which is warned of once.

    Raises
    ------
    BlockingIOError
        If another process, or another open file of this one, has the lock.
    """
    try:
        if fcntl is None:
            _lock_byte(file)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        _warn_once(os.path.dirname(os.path.abspath(path)), error.strerror)
        return False
    return True


def _lock_byte(file: BinaryIO) -> None:
    import msvcrt

    system: Any = msvcrt  # its functions are declared on Windows alone
    descriptor = file.fileno()
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        system.locking(descriptor, system.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(*error.args) from error
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


@functools.cache
def _warn_once(folder: str, reason: str) -> None:
    _logger.warning("%s: files cannot be locked there (%s); let only one process write there", folder, reason)
