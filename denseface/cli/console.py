"""What commands say and how they end."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence

from denseface.core.errors import InputError, describe
from denseface.core.text import printable

OK, FAILED = 0, 1

_SHORTEST = 12  # characters of a name that is cut


def report_error(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print("denseface: error:", describe(error), file=sys.stderr)


def report_interrupt(error: BaseException) -> None:
    """Print which signal ended the command, on stderr."""
    print("denseface:", error, file=sys.stderr)


def report_warning(message: str) -> None:
    """Print a warning as one line on stderr."""
    print("denseface: warning:", printable(message), file=sys.stderr)


def report_unreadable(folders: Mapping[str, str]) -> bool:
    """Print the folders that could not be read, with the reasons, as errors; return whether there are any."""
    for folder, reason in folders.items():
        report_error(InputError(f"{reason}; the folder is left out", path=folder))
    return bool(folders)


def print_line(text: str = "") -> None:
    """Print one line, names from files escaped."""
    print(printable(text))


def print_json(content: object) -> None:
    """Print a JSON value."""
    print(json.dumps(content, indent=2))


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells in aligned columns, names from files escaped; a shorter line leaves the last ones empty.

    On a terminal that is too narrow the first column is cut at its start, since the end of a name tells more.
    """
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*lines, fillvalue="")]
    if sys.stdout.isatty():
        excess = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        widths[0] = max(widths[0] - max(excess, 0), _SHORTEST)
        lines = [[_end_of(line[0], widths[0]), *line[1:]] for line in lines]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _end_of(name: str, length: int) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"
