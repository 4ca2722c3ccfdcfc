"""The exception for unusable input, and the text of errors."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path

from denseface.core.text import printable

_NAMED, _EVERY = 20, 100
_logger = logging.getLogger("denseface")

_MEMORY = re.compile(
    r"bad.?alloc|out of memory|memory exhausted|not enough memory|(cannot|could not|failed to|unable to) allocate", re.I
)


class InputError(ValueError):
    """A file, an option or a value from outside cannot be used.

    The message is one line: what is wrong, where, and what to do. Commands print it as it is and exit with code 1.

    Parameters
    ----------
    reason : str
        What is wrong and what to do, without a flag of a command line.
    path : path-like, optional
        The file or folder at fault. It precedes the reason.
    option : str, optional
        The parameter at fault, as Python spells it: ``image_shape``. It precedes all else; a command writes it as its
        flag, ``--image-shape``.

    Attributes
    ----------
    reason : str
    path, option : str or None
    """

    def __init__(self, reason: str, *, path: str | os.PathLike[str] | None = None, option: str | None = None):
        super().__init__(reason)
        self.reason = reason
        self.path = None if path is None else os.fspath(path)
        self.option = option

    def __str__(self) -> str:
        return self.told(self.option)

    def told(self, option: str | None) -> str:
        """Return the message after a name of the option, if there is one."""
        return printable(": ".join(filter(None, (option, self.path, self.args[0]))))

    def without(self, place: object) -> str:
        """Return the message without a file or another place that it names first, for who names it already."""
        return str(self).removeprefix(f"{place}: ")


def describe(error: Exception) -> str:
    """Return any error as one printable line, as a command shows it: an option is written as its flag."""
    if isinstance(error, InputError) and error.option:
        return error.told(f"--{error.option.replace('_', '-')}")
    text = str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split()))


def reason_of(error: Exception) -> str:
    """Find the line of an error of MXNet or another library that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("MXNetError: ")] or lines[-1:] or [type(error).__name__]
    return re.sub(r"^MXNetError: |\[[0-9:]+\] \S+:\d+: ", "", told[0])[:300]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or of a library means lack of memory."""
    return isinstance(error, MemoryError) or _MEMORY.search(str(error)) is not None


def is_lack(error: BaseException | None) -> bool:
    """Whether an error means that the system lacks file descriptors or memory, which says nothing about the file."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def check_resources(error: Exception, path: str | Path) -> None:
    """Raise an InputError if the system lacked something, before an error while a file was read is taken for damage."""
    if isinstance(error, OSError) and error.errno is not None:
        raise InputError(f"it cannot be read ({error.strerror})", path=path) from error
    if is_out_of_memory(error):
        raise InputError("there is not enough memory to read it", path=path) from error


def warn_of_many(count: int, one: str, so_far: str) -> None:
    """Warn of the latest of many faults of a kind: the first 20 one by one, then of each hundredth.

    Parameters
    ----------
    count : int
        How many there are with this one.
    one : str
        What this one is.
    so_far : str
        What follows the number of all, as in "200 pictures skipped so far".
    """
    if count <= _NAMED:
        _logger.warning("%s", one)
    elif count % _EVERY == 0:
        _logger.warning("%d %s so far", count, so_far)
