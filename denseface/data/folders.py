"""Walk through a folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

# Folders of network storage and desktops beside pictures, with thumbnails and deleted files.
_NOT_PICTURES = {"@eaDir", "@Recycle", "#recycle", "__MACOSX", "Thumbs"}


def walk(folder: str | Path, links: bool = False) -> Iterator[tuple[str, os.DirEntry[str], OSError | None]]:
    """Yield the files and folders below a folder, sorted by name.

    Hidden files and folders are left out, and so are folders of thumbnails. Deep folders do not exhaust the recursion
    limit.

    Parameters
    ----------
    folder : path-like
    links : bool
        Follow links to folders, unless they leave ``folder`` or lead in a circle.

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
        if entry.is_dir(follow_symlinks=False) or (links and entry.is_symlink() and _is_followed(entry, folder)):
            path += "/"
            try:
                waiting += _entries(entry.path, path)
            except OSError as caught:
                error = caught
        yield path, entry, error


def _is_followed(link: os.DirEntry[str], root: str | Path) -> bool:
    """Whether a link leads to a folder inside the root that is not one of those around the link."""
    try:
        target, inside, around = (
            os.path.join(os.path.realpath(path), "") for path in (link.path, root, os.path.dirname(link.path))
        )
        return link.is_dir() and target.startswith(inside) and not around.startswith(target)
    except OSError:
        return False


def _entries(folder: str | Path, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return the entries that are neither hidden nor thumbnails, the last name first."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _NOT_PICTURES]
    return [(prefix + entry.name, entry) for entry in sorted(found, key=lambda entry: entry.name, reverse=True)]


def existing(path: str | Path) -> str:
    """Return the path of a file whose name may be written in another form of Unicode; if there is none, the same path.

    Archives made on macOS have "ë" as two characters (NFD), what is typed elsewhere as one (NFC).
    """
    path = os.fspath(path)
    if path.isascii() or os.path.lexists(path):
        return path
    found = ""
    for part in Path(path).parts:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = (name for name in (os.path.join(found, form) for form in forms) if os.path.lexists(name))
        found = next(there, "")
        if not found:
            return path
    return found
