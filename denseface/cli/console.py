"""What commands say and how they end."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from denseface.core.errors import describe
from denseface.core.text import printable

OK, FAILED = 0, 1


def report_error(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print("denseface: error:", describe(error), file=sys.stderr)


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells in aligned columns, names from files escaped; a shorter line leaves the last ones empty."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*lines, fillvalue="")]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
