"""Text for people: counts in correct English, and names that a terminal can print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_IRREGULAR = {"person": "people"}


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 person``, ``2 people``, ``0 pictures``."""
    return f"{number} {noun if number == 1 else _IRREGULAR.get(noun, noun + 's')}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, escaped as `printable` does, and three dots if there are more: ``anna, boris, ...``."""
    return ", ".join([*map(printable, names[:most]), *["..."][: len(names) > most]])


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """Return the names of files without their endings, with as many folders before them as they need to differ.

    Examples
    --------
    >>> distinct_names(["sets/lfw.bin", "a/holdout.bin", "b/holdout.bin"])
    ['lfw', 'a/holdout', 'b/holdout']
    """
    parts = [(*path.absolute().parts[:-1], path.stem) for path in map(Path, paths)]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names.append("/".join(own[-count:]))
    return names


def printable(text: str) -> str:
    r"""Escape what must not reach a terminal from a file: control characters, line ends, bytes that are not UTF-8.

    Examples
    --------
    >>> printable("anna\x1b[2J\udcff.jpg")
    'anna\\x1b[2J\\udcff.jpg'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
