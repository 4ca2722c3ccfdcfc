"""Write counts in correct English."""

from __future__ import annotations

_IRREGULAR = {"person": "people"}


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 person``, ``2 people``, ``0 pictures``."""
    return f"{number} {noun if number == 1 else _IRREGULAR.get(noun, noun + 's')}"
