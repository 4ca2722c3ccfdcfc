"""Feature reuse: how strongly each layer of a dense block reads each of the layers before it.

Huang et al., "Densely Connected Convolutional Networks", 2017, Figure 5. The absolute value of a weight says how much a
convolution depends on the channel that it multiplies, because batch normalization has brought channels to one scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.models.graph import Graph, Node
from denseface.report.plotting import new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from denseface.models.checkpoint import Model

_FROM_CHANNEL_TO_CHANNEL = ("Activation", "BatchNorm", "Dropout", "Flatten", "LeakyReLU", "Pooling", "_copy")
_READERS = ("Convolution", "FullyConnected")
_NARROWEST = 0.1  # color scale to either side of the mean, so that noise does not look like structure
_NUMBERED = 8  # readers, up to which cells have room for their numbers


class Block(NamedTuple):
    """The reads of the layers behind one transition.

    Attributes
    ----------
    readers : list of str
        Convolutions, by name, in order: those of the block's layers, then the one that reads the whole block, in the
        transition or in the head.
    weights : ndarray of shape (len(readers), len(readers))
        In row s and column l, the mean absolute weight of reader l on the block's input (s = 0) or on the output of the
        block's layer s, divided by the mean over everything that reader l reads. NaN where it does not read it.
    """

    readers: list[str]
    weights: np.ndarray


class _Segment(NamedTuple):
    """Neighboring channels that one layer has made."""

    maker: Node
    channels: int


def reuse(model: Model) -> list[Block]:
    """Measure the feature reuse of a trained DenseNet.

    Raises
    ------
    InputError
        If no layer of the model reads the concatenated outputs of others.
    """
    made: dict[Node, list[_Segment]] = {}
    blocks: dict[Node, list[tuple[str, list[float]]]] = {}
    for node in Graph(model.symbol).nodes:
        if node.op == "Concat":
            made[node] = [segment for source, _ in node.inputs for segment in made.get(source, [])]
        elif node.op in _FROM_CHANNEL_TO_CHANNEL:
            made[node] = made.get(node.source(), [])
        elif node.op in _READERS:
            weight = np.asarray(model.arguments[node.source(1).name])
            segments = made.get(node.source(), [])
            if segments and weight.shape[1] % sum(segment.channels for segment in segments) == 0:
                read = _mean_weights(weight, segments)
                blocks.setdefault(segments[0].maker, []).append((node.name, read))
            made[node] = [_Segment(node, len(weight))]
    dense = [_block(readers) for readers in blocks.values() if len(readers[-1][1]) > 1]
    if not dense:
        raise InputError(f"{model.name}: not a DenseNet: none of its layers reads the concatenated outputs of others")
    return dense


def _mean_weights(weight: np.ndarray, segments: list[_Segment]) -> list[float]:
    """Return the mean absolute weight on each segment, relative to the mean on all of them."""
    channels = np.abs(weight).reshape(len(weight), sum(segment.channels for segment in segments), -1).mean(axis=(0, 2))
    ends = np.cumsum([segment.channels for segment in segments])
    return [float(part.mean() / channels.mean()) for part in np.split(channels, ends[:-1])]


def _block(readers: list[tuple[str, list[float]]]) -> Block:
    weights = np.full((len(readers), len(readers)), np.nan)
    for column, (_, read) in enumerate(readers):
        weights[: len(read), column] = read
    return Block([name for name, _ in readers], weights)


def draw_reuse(blocks: list[Block], name: str) -> Figure:
    """Draw a panel for each dense block, as Figure 5 of the paper.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    columns = min(len(blocks), 2)
    rows = math.ceil(len(blocks) / columns)
    figure = new_figure(9, 1 + 3.8 * rows)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    reach = max(_NARROWEST, *(float(np.nanmax(np.abs(block.weights - 1))) for block in blocks))
    for number, (axes, block) in enumerate(zip(panels, blocks), start=1):
        colors = {"cmap": "coolwarm", "vmin": 1 - reach, "vmax": 1 + reach}
        picture = axes.imshow(block.weights, **colors, interpolation="nearest")
        count = len(block.readers)
        step = max(1, count // 6)
        down, across = range(0, count - 1, step), range(0, count - 1 - step, step)  # the last one's word needs room
        last = "transition" if number < len(blocks) else "head"
        axes.set_xticks([*across, count - 1], [*(str(layer + 1) for layer in across), last], fontsize=9)
        axes.set_yticks([*down, count - 1], ["input", *(str(layer) for layer in down[1:]), str(count - 1)], fontsize=9)
        axes.set(xlabel="layer that reads", ylabel="layer that is read")
        axes.set_title(f"Dense block {number}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if count <= _NUMBERED:
            for (row, column), value in np.ndenumerate(block.weights):
                if np.isfinite(value):
                    axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9)
    for axes in panels[len(blocks) :]:
        axes.axis("off")
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.7)
    bar.set_label("mean absolute weight, 1 for the mean over all\nthat the layer reads", fontsize=9)
    figure.suptitle(shortened(name, 80), fontsize=11)
    return figure
