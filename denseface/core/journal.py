"""Keep the finished items of an interrupted run, to resume it."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from denseface.core.errors import InputError
from denseface.core.files import open_own
from denseface.core.system_lock import hold

Item = TypeVar("Item")


class Journal:
    """A file of JSON: a heading, then one line for each finished item. It is locked while it is open.

    Parameters
    ----------
    path : path-like
        The file. What an earlier run has left in it is kept if its heading is the same.
    heading : JSON value
        Everything that decides about the results; a run with another heading starts again.

    Raises
    ------
    InputError
        If another run has locked the file, or it cannot be written.
    """

    def __init__(self, path: str | Path, heading: object):
        self._file = open_own(path)
        self._heading = _line(heading)
        try:
            hold(self._file, path)
        except BlockingIOError as error:
            self._file.close()
            message = "another run is writing there; wait for it to finish, or write elsewhere"
            raise InputError(message, path=path) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError, InputError):  # the write that failed has been reported
            self._file.close()

    def resume(
        self,
        items: Iterator[Item],
        holds: Callable[[list, Item], bool],
        keep: Callable[[], object] = lambda: None,
        group: int = 1,
    ) -> Iterator[Item]:
        """Keep the leading lines that still hold, drop the others, and return the items that remain.

        Parameters
        ----------
        items : iterator
            All items of the run, in order.
        holds : callable
            Called with the values of a line and its item; whether what the line says is still true.
        keep : callable
            Called when a group of such lines is kept.
        group : int
            Lines that are kept or dropped together, for items that are worked on together. Only the last group, behind
            which no item follows, may be shorter.
        """
        end = position = 0
        pending: list[Item] = []
        following: list[Item] = []
        self._file.seek(0)
        if self._file.readline() == self._heading:
            end = position = len(self._heading)
            for line in iter(self._file.readline, b""):
                following = list(itertools.islice(items, 1))
                values = _values(line)
                if not following or values is None or not holds(values, following[0]):
                    break
                pending += following
                position += len(line)
                following = []
                if len(pending) == group:
                    end, pending = position, []
                    keep()
            following = following or list(itertools.islice(items, 1))
            if pending and not following:
                end, pending = position, []
                keep()
        self._file.truncate(end)
        if not end:
            self._file.write(self._heading)
        return itertools.chain(pending, following, items)

    def append(self, entries: Iterable[list]) -> None:
        """Write the lines of finished items."""
        self._file.writelines(map(_line, entries))
        self._file.flush()

    def __iter__(self) -> Iterator[list]:
        """Read all lines after the heading."""
        self._file.seek(len(self._heading))
        for line in self._file:
            yield json.loads(line)


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _values(line: bytes) -> list | None:
    """Return the values of a line; None if it was cut short, or edited."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None
