"""Walk through a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: str | Path) -> Iterator[tuple[str, os.DirEntry[str], OSError | None]]:
    """Yield the files and folders below a folder, sorted by name.

    Hidden files and folders are left out, links are not followed, and deep folders do not exhaust the recursion limit.

    Yields
    ------
    path : str
        The path below ``folder``; that of a folder ends in a slash.
    entry : os.DirEntry
    error : OSError or None
        Why a folder cannot be read.

    Raises
    ------
    OSError
        If ``folder`` itself cannot be read.
    """
    waiting = _entries(folder, "")
    while waiting:
        path, entry = waiting.pop()
        error = None
        if entry.is_dir(follow_symlinks=False):
            path += "/"
            try:
                waiting += _entries(entry.path, path)
            except OSError as caught:
                error = caught
        yield path, entry, error


def _entries(folder, prefix):
    """Return the entries that are not hidden, the last name first."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    return [(prefix + entry.name, entry) for entry in reversed(found)]
