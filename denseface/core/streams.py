"""Standard streams that are closed, full, gone, or without an encoding for what is printed."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from denseface.core.text import printable


def prepare_streams(outlive: bool = False) -> None:
    """Make the standard streams of this process safe to print to.

    Closed ones are opened on ``/dev/null``: the next file that is opened would get their number otherwise, and with it
    whatever is printed. Characters that the encoding of a stream lacks are escaped. What fails on standard error is
    dropped, since there is nowhere left to report it.

    Parameters
    ----------
    outlive : bool
        Drop what fails on standard output too, for work that outlives its terminal. Otherwise it raises an OSError that
        names the stream, or BrokenPipeError.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the smallest free number, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    stdout, stderr = (
        stream or open(descriptor, "w", closefd=False)  # noqa: SIM115
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr))
    )
    for stream in (stdout, stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout, sys.stderr = _Stream(stdout, "standard output", outlive), _Stream(stderr, "standard error", True)


def finish_output(code: int) -> int:
    """Flush standard output at the end of a process; return its exit code.

    Raises
    ------
    OSError
        If that fails; the interpreter will not try it again.
    """
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise
    return code


def leave(code: int) -> NoReturn:
    """Flush the standard streams and end the process at once, without freeing anything."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def drop_output() -> None:
    """Discard the buffer of standard output, so that the interpreter does not fail on it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()  # a failure that the stream remembers


@contextlib.contextmanager
def overheard() -> Iterator[list[str]]:
    """Take what libraries print: those in Python on standard output, those in C++ on standard error.

    Yields
    ------
    list of str
        The lines, from the end of the block on.
    """
    lines: list[str] = []
    standard_error = 2
    with tempfile.TemporaryFile("w+", errors="backslashreplace") as file, contextlib.redirect_stdout(file):
        kept = os.dup(standard_error)
        os.dup2(file.fileno(), standard_error)
        try:
            yield lines
        finally:
            os.dup2(kept, standard_error)
            os.close(kept)
            file.seek(0)
            lines += file.read().splitlines()


def log_to(stream: TextIO, form: str) -> None:
    """Print log records, one line each, without control characters that names of files may contain."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_PrintableFormatter(form))
    logging.basicConfig(handlers=[handler])


class _PrintableFormatter(logging.Formatter):
    """Escapes what must not reach a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in logging
        """Format a record as one line."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class _Stream:
    """A text stream whose errors are dropped, or name it."""

    def __init__(self, stream: TextIO, name: str, dropping: bool):
        self._stream = stream
        self._name = name
        self._dropping = dropping
        self._failure: OSError | None = None  # of a write, which argparse drops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        failure, self._failure = self._failure, None
        if failure:
            raise failure
        with self._errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._dropping:
                self._failure = OSError(error.errno, error.strerror, self._name)  # a BrokenPipeError, where it is one
                raise self._failure from None
