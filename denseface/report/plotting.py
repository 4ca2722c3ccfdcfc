"""Figures without a screen: matplotlib, which is an optional package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.core.packages import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")

# Distinct for most kinds of colour blindness, after Okabe and Ito, "Color Universal Design", 2008.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MUTED = "#666666"

_DOTS = 150  # an inch, in PNG


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure; sizes in inches.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    return require("matplotlib.figure", "matplotlib").Figure(figsize=(width, height), facecolor="white")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as the picture that the ending of its name asks for, one of ``FORMATS``.

    Raises
    ------
    InputError
        For another ending, or if there is no writing at the path.
    """
    ending = check_format(path)
    with replacing(path) as file:
        figure.savefig(file, format=ending[1:], dpi=_DOTS)


def check_format(path: str | Path) -> str:
    """Give the ending of a picture's name; raises InputError if it is none of ``FORMATS``."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{path}: the name of a picture ends in {', '.join(FORMATS)}")
    return ending
