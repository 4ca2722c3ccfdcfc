"""Text for people: counts in correct English, and names that a terminal can print."""

from __future__ import annotations

from collections.abc import Sequence

_IRREGULAR = {"person": "people"}


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 person``, ``2 people``, ``0 pictures``."""
    return f"{number} {noun if number == 1 else _IRREGULAR.get(noun, noun + 's')}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, escaped as `printable` does, and three dots if there are more: ``anna, boris, ...``."""
    return ", ".join([*map(printable, names[:most]), *["..."][: len(names) > most]])


def printable(text: str) -> str:
    r"""Escape what must not reach a terminal from a file: control characters, line ends, bytes that are not UTF-8.

    Examples
    --------
    >>> printable("anna\x1b[2J\udcff.jpg")
    'anna\\x1b[2J\\udcff.jpg'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
