"""Numbers for people."""

from __future__ import annotations


def abbreviated(number: float) -> str:
    """Return three digits and a unit.

    Examples
    --------
    >>> abbreviated(7_474_048), abbreviated(912), abbreviated(0)
    ('7.47 M', '912', '0')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:
            return f"{number / limit:#.3g}".rstrip(".") + f" {unit}"
    return str(number)
