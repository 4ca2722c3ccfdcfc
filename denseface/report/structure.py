"""The parts of a network that a picture of it shows: stem, blocks, transitions and head, found in its graph."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from denseface.report.summary import HEAD, Figures, Layer, Summary, figures_of

STEM, DENSE, RESIDUAL, TRANSITION, STAGE = "stem", "dense block", "residual block", "transition", "stage"

ARROW = " \N{RIGHTWARDS ARROW} "

_ADDITIONS = ("elemwise_add", "broadcast_add", "add_n")
_SHAPELESS = ("Activation", "BatchNorm", "Dropout", "LeakyReLU")
_SHAPING = ("Convolution", "Deconvolution", "FullyConnected", "Pooling")
_UNSPOKEN = ("Flatten", "Reshape", "_minus_scalar", "_mul_scalar", "_copy")


@dataclass(frozen=True)
class Part:
    """Neighbouring layers that one box of a diagram stands for.

    Attributes
    ----------
    kind : str
        "stem", "dense block", "residual block", "transition", "stage" (of a network without blocks) or "head".
    title : str
        The kind, numbered where there are several.
    lines : list of str
        What it consists of.
    input, output : tuple of int
        Shapes, without the batch.
    widths : list of int
        Channels behind each unit of a block, elsewhere behind each layer that can change them.
    figures : Figures
        Sums over its layers.
    """

    kind: str
    title: str
    lines: list[str]
    input: tuple[int, ...]
    output: tuple[int, ...]
    widths: list[int]
    figures: Figures


class _Step(NamedTuple):
    """Layers between two that every path passes, and the kind of block that they are a unit of, if they are one."""

    layers: list[Layer]
    unit: str | None


class _Group(NamedTuple):
    """A part in the making."""

    kind: str
    steps: list[_Step]

    @property
    def layers(self):
        return [layer for step in self.steps for layer in step.layers]

    @property
    def units(self):
        return [step for step in self.steps if step.unit]


def parts_of(summary: Summary, input_shape: tuple[int, int, int]) -> list[Part]:
    """Find the parts of a network.

    Every path from the pictures to the embedding passes some layers; these cut the network into steps.  A step of
    several layers whose last one appends to what the step was given is a dense layer, and one whose last one adds is a
    residual unit.  Such units of one size of picture make a block.  A network that has none is cut by size.

    Parameters
    ----------
    summary : Summary
        Of the network.
    input_shape : tuple (C, H, W)
        Of one picture.

    Returns
    -------
    list of Part
        In the order of computation; each takes what the one before gives.
    """
    groups = _grouped(_steps(summary.layers))
    if not any(group.units for group in groups):
        groups = _by_size(summary.layers)
    kinds = [group.kind for group in groups]
    parts, given = [], input_shape
    for place, group in enumerate(groups):
        number = f" {kinds[: place + 1].count(group.kind)}" if kinds.count(group.kind) > 1 else ""
        output = group.layers[-1].output
        parts.append(
            Part(
                kind=group.kind,
                title=group.kind.capitalize() + number,
                lines=_lines(group, given),
                input=given,
                output=output,
                widths=_widths(group),
                figures=figures_of(group.layers),
            )
        )
        given = output
    return parts


def _steps(layers) -> Iterator[_Step]:
    """Cut behind every layer that all paths from the pictures to the last layer pass: behind its dominators."""
    dominators: dict[int, int] = {}

    def common(one, other):
        while one != other:
            one, other = min(one, other), dominators[max(one, other)]
        return one

    for place, layer in enumerate(layers):
        dominators[place] = functools.reduce(common, layer.inputs or (-1,))
    ends = [len(layers) - 1]
    while ends[-1] >= 0:
        ends.append(dominators[ends[-1]])
    ends.reverse()
    for start, end in zip(ends, ends[1:]):
        inside = layers[start + 1 : end + 1]
        yield _Step(inside, _unit(inside, start))


def _unit(layers, start):
    """The kind of block that these layers behind the one at ``start`` are a unit of."""
    last = layers[-1]
    if len(layers) > 1 and len(last.output) == 3:
        if last.op == "Concat" and start in last.inputs:
            return DENSE
        if last.op in _ADDITIONS:
            return RESIDUAL
    return None


def _grouped(steps):
    """Units of one kind and size as blocks, and what is before, between and behind them."""
    groups: list[_Group] = []
    between: list[_Step] = []
    for step in steps:
        between.append(step)
        if not step.unit:
            continue
        glue = between[:-1]
        if glue and not (groups and all(layer.op in _SHAPELESS for part in glue for layer in part.layers)):
            groups.append(_Group(TRANSITION if groups else STEM, glue))
            between = [step]
        if groups and groups[-1].kind == step.unit and _size(groups[-1].layers) == _size(step.layers):
            groups[-1].steps.extend(between)
        else:
            groups.append(_Group(step.unit, between))
        between = []
    return [*groups, _Group(HEAD, between)] if between else groups


def _by_size(layers):
    stages = itertools.groupby(layers, key=lambda layer: layer.stage)
    return [
        _Group(HEAD if stage == HEAD else STAGE, [_Step([layer], None) for layer in inside]) for stage, inside in stages
    ]


def _size(layers):
    return layers[-1].output[1:]


def _lines(group, given):
    """Say what a part consists of."""
    if not group.units:
        return [ARROW.join(layer.kind for layer in group.layers if layer.op not in _UNSPOKEN)]
    counts = len(group.units)
    widths = _widths(group)
    if group.kind == DENSE:
        growths = {after - before for before, after in zip([given[0], *widths], widths)}
        growth = f"growth {growths.pop()}, " if len(growths) == 1 else ""
        first = f"{counts} layers, {growth}{given[0]} to {widths[-1]} channels"
    else:
        first = f"{counts} unit{'s' * (counts > 1)}, {widths[-1]} channels"
        if _size(group.units[0].layers) != given[1:]:
            first += ", the first with a stride"
    told = [layer.kind for layer in group.units[-1].layers if layer.op in _SHAPING]
    return [first, f"each: {ARROW.join(told)}"]


def _widths(group):
    lasts = [step.layers[-1] for step in group.units] or [layer for layer in group.layers if layer.op in _SHAPING]
    return [layer.output[0] for layer in lasts]
