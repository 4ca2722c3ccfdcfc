"""The tables of options in docs/training.md, made of the list of options.

    python -m denseface.options.page docs/training.md

writes them between their marks.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from denseface.core.files import replacing
from denseface.core.option import Option, Resume
from denseface.options.spec import GROUPS, OPTIONS

_LARGE = 1 << 24  # a limit that nobody meets


def options_table() -> str:
    """List all options: flag, key, default, values and what they do."""
    rows = ["| flag | key | default | values | |", "|---|---|---|---|---|"]
    for group, options in GROUPS.items():
        rows.append(f"| **{group}** | | | | |")
        for each in options:
            cells = _flag(each), _code(each.key), _code(each.example(each.default)), _values(each), each.help
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def resuming_table() -> str:
    """Say of all options what a resumed run does about them."""
    rows = ["| option | a resumed run |", "|---|---|"]
    for rule in Resume:
        names = ", ".join(_flag(each) or _code(each.key) for each in OPTIONS if each.resume is rule)
        rows.append(f"| {names} | {rule.value} |")
    return "\n".join(rows)


def updated(page: str) -> str:
    """Return the page with the tables as they have to be, between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""
    for name, table in (("options", options_table()), ("resuming", resuming_table())):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, after = page.partition(begin)
        page = f"{before}{begin}\n{table}\n{end}{after.partition(end)[2]}"
    return page


def _flag(each: Option) -> str:
    return _code(f"--{each.field.replace('_', '-')}") if each.flag else ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _values(each: Option) -> str:
    if each.choices:
        return ", ".join(map(str, each.choices))
    low, high = each.bounds
    limits = f"{low:.6g} to {high:.6g}" if high < _LARGE else f"from {low:.6g}" if math.isfinite(low) else ""
    return " ".join(filter(None, (limits, each.unit)))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    text = updated(path.read_text(encoding="utf-8"))
    with replacing(path) as file:
        file.write(text.encode())
