"""Diagrams of a network: its parts as boxes, or every operator as a graph."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.report.numbers import abbreviated
from denseface.report.plotting import MUTED, check_format, new_figure
from denseface.report.structure import ARROW, DENSE, RESIDUAL, TRANSITION, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    import mxnet as mx

_FILL = {DENSE: "#d6e6f4", RESIDUAL: "#d6e6f4", TRANSITION: "#fde3cf"}
_BAR = {DENSE: "#3f82bd", RESIDUAL: "#3f82bd", TRANSITION: "#d97f3e"}
_OTHER_FILL, _OTHER_BAR = "#ececec", "#8a8a8a"

# Inches.
_PAGE, _LEFT, _RIGHT = 8.6, 0.3, 7.0  # width of the page, edges of the boxes
_BARS = (5.4, 6.85)
_TOP, _BOTTOM, _ARROW = 0.85, 0.45, 0.42
_FIXED_SPACE = "\N{NO-BREAK SPACE}"
_LINE, _MARGIN = 0.19, 0.12
_CHARACTERS = 78  # that fit beside the bars
_TITLE_CHARACTERS = 55  # that fit in full size


def draw_parts(parts: Sequence[Part], name: str) -> Figure:
    """Draw the parts of a network as boxes from top to bottom, with shapes on the arrows between them.

    Bars in a box show the number of channels after each of its layers or units, on one scale for the whole network;
    parameters and MACs are written beside it.

    Parameters
    ----------
    parts : sequence of Part
        As from :func:`denseface.report.structure.parts_of`.
    name : str
        Name of the network, for the title.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    texts = [[line for text in part.lines for line in _wrapped(text)] for part in parts]
    heights = [2 * _MARGIN + _LINE * (1 + len(lines)) for lines in texts]
    page = _TOP + sum(heights) + _ARROW * (len(parts) + 1) + _BOTTOM
    figure = new_figure(_PAGE, page)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _PAGE), ylim=(page, 0))
    axes.axis("off")
    _title(axes, parts, name)
    widest = max(width for part in parts for width in part.widths)
    y = _TOP
    for part, lines, height in zip(parts, texts, heights):
        _arrow(axes, y, _size(part.input))
        y += _ARROW
        _box(axes, y, height, part, lines)
        _bars(axes, y, height, part, widest)
        y += height
    _arrow(axes, y, _size(parts[-1].output))
    note = "Bars: channels after each layer that can change their number, or after each unit of a block."
    axes.text(_LEFT, page - 0.15, note, size=7.5, color=MUTED, va="bottom")
    return figure


def _wrapped(text: str) -> list[str]:
    """Break a text into lines; if it lists layers, only between two of them."""
    first, *others = text.split(ARROW)
    pieces = [f"{ARROW.lstrip()}{piece}".replace(" ", _FIXED_SPACE) for piece in others]
    return textwrap.wrap(" ".join([first.replace(" ", _FIXED_SPACE) if others else first, *pieces]), _CHARACTERS)


def _title(axes: Axes, parts: Sequence[Part], name: str) -> None:
    size = 14 * min(1, _TITLE_CHARACTERS / len(name))
    axes.text(_LEFT, 0.3, name, size=size, weight="bold", va="center")
    costs = [part.costs for part in parts]
    parameters, macs = sum(row.parameters for row in costs), sum(row.macs for row in costs)
    memory = sum(row.memory for row in costs) / 2**20
    text = f"{abbreviated(parameters)} parameters; per picture {_macs(macs)} and {memory:.1f} MiB of activations"
    axes.text(_LEFT, 0.6, text, size=9, color=MUTED, va="center")


def _box(axes: Axes, y: float, height: float, part: Part, lines: Sequence[str]) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        (_LEFT, y),
        _RIGHT - _LEFT,
        height,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=_FILL.get(part.kind, _OTHER_FILL),
        edgecolor=MUTED,
        linewidth=0.8,
    )
    axes.add_patch(box)
    y += _MARGIN + _LINE / 2
    axes.text(_LEFT + 0.12, y, part.title, size=9.5, weight="bold", va="center")
    beside = _RIGHT + 0.12
    axes.text(beside, y, f"{abbreviated(part.costs.parameters)} parameters", size=8, va="center")
    axes.text(beside, y + _LINE, _macs(part.costs.macs), size=8, va="center")
    for line in lines:
        y += _LINE
        axes.text(_LEFT + 0.12, y, line, size=8, va="center")


def _bars(axes: Axes, y: float, height: float, part: Part, widest: int) -> None:
    left, right = _BARS
    step = min((right - left) / max(len(part.widths), 1), 0.16)
    for index, width in enumerate(part.widths):
        tall = (height - 2 * _MARGIN) * width / widest
        x = right - step * (len(part.widths) - index)
        color = _BAR.get(part.kind, _OTHER_BAR)
        axes.bar(x, -tall, step * 0.8, bottom=y + height - _MARGIN, align="edge", color=color)


def _arrow(axes: Axes, y: float, label: str) -> None:
    middle = (_LEFT + _RIGHT) / 2
    style = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (middle, y + _ARROW - 0.02), (middle, y + 0.02), arrowprops=style)
    axes.text(middle + 0.12, y + _ARROW / 2, label, size=8, va="center")


def _size(shape: Sequence[int]) -> str:
    """Write a shape as height x width, channels."""
    if len(shape) == 3:
        return f"{shape[1]} x {shape[2]}, {shape[0]} channels"
    return f"{' x '.join(map(str, shape))} values"


def _macs(number: int) -> str:
    """Write a number of MACs with its prefix at the unit, such as "279 MMACs"."""
    digits, _, prefix = abbreviated(number).partition(" ")
    return f"{digits} {prefix}MACs"


def draw_graph(symbol: mx.sym.Symbol, input_shape: tuple[int, int, int], path: str | Path) -> None:
    """Draw every operator of a network and its connections with Graphviz.

    Parameters
    ----------
    symbol : Symbol
        Its input is ``data``.
    input_shape : tuple (C, H, W)
        Of one picture; shapes are written on the edges.
    path : path-like
        Ends in ``.png``, ``.pdf`` or ``.svg``.

    Raises
    ------
    InputError
        If Graphviz's program ``dot`` is not installed, or fails.
    """
    import graphviz

    import mxnet as mx

    ending = check_format(path)
    graph = mx.viz.plot_network(symbol, shape={"data": (1, *input_shape)}, node_attrs={"fixedsize": "false"})
    graph.format = ending[1:]
    try:
        picture = graph.pipe()
    except graphviz.ExecutableNotFound as error:
        raise InputError(
            "the graph of all operators needs Graphviz's program dot (Debian: apt install graphviz)"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"dot failed: {error}", path=path) from error
    with replacing(path) as file:
        file.write(picture)
