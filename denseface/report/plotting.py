"""Make and save figures with matplotlib, an optional package, without a screen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.core.packages import require
from denseface.core.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")

# Distinct for most kinds of color blindness, after Okabe and Ito, "Color Universal Design", 2008.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MUTED = "#666666"

_DOTS = 150  # per inch, in PNG


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure; width and height in inches.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    return require("matplotlib.figure", "matplotlib").Figure(figsize=(width, height), facecolor="white")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file; the ending of its name chooses the format, one of ``FORMATS``.

    Raises
    ------
    InputError
        For another ending, or if the file cannot be written.
    """
    ending = check_format(path)
    with replacing(path) as file:
        file.write(rendered(figure, ending[1:]))


def rendered(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of a file.

    Parameters
    ----------
    figure : Figure
        Its texts are written as they are: a name such as ``a$b$`` is not a formula, and characters that steer a display
        are escaped.
    kind : {"png", "pdf", "svg"}
    """
    labels: list[Any] = figure.findobj(require("matplotlib.text", "matplotlib").Text)
    for label in labels:
        label.set_parse_math(False)
        label.set_text("\n".join(map(printable, label.get_text().split("\n"))))
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=_DOTS)
    return content.getvalue()


def check_drawable(path: str | Path) -> None:
    """Raise InputError, before a long measurement, if its figure could not be drawn.

    The ending of the file's name may be wrong, or matplotlib not installed.
    """
    check_format(path)
    new_figure(1, 1)


def check_format(path: str | Path) -> str:
    """Return the ending of a file's name; raise InputError if it is not one of ``FORMATS``."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"the name must end in {', '.join(FORMATS)}", path=path)
    return ending


def shortened(name: str, length: int = 42) -> str:
    """Return the end of a long name, which distinguishes models, escaped and on one line."""
    name = printable(name)
    return name if len(name) <= length else f"...{name[3 - length :]}"
