"""Find stem, blocks, transitions and head of a network in its graph: the parts that a diagram shows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from denseface.report.summary import HEAD, Costs, Layer, Summary, sum_of

STEM, DENSE, RESIDUAL, TRANSITION, STAGE = "stem", "dense block", "residual block", "transition", "stage"

ARROW = " \N{RIGHTWARDS ARROW} "

_ADDITIONS = ("elemwise_add", "broadcast_add", "add_n")
_SHAPELESS = ("Activation", "BatchNorm", "Dropout", "LeakyReLU")
_SHAPING = ("Convolution", "Deconvolution", "FullyConnected", "Pooling")
_UNSPOKEN = ("Flatten", "Reshape", "_minus_scalar", "_mul_scalar", "_copy")


@dataclass(frozen=True)
class Part:
    """Neighboring layers that form one box of a diagram.

    Attributes
    ----------
    kind : str
        "stem", "dense block", "residual block", "transition", "stage" (of a network without blocks) or "head".
    title : str
        The kind, numbered where there are several.
    lines : list of str
        Description of its content.
    input, output : tuple of int
        Shapes, without the batch.
    widths : list of int
        Channels after each unit of a block; elsewhere after each layer that can change them.
    costs : Costs
        Sums over its layers.
    """

    kind: str
    title: str
    lines: list[str]
    input: tuple[int, ...]
    output: tuple[int, ...]
    widths: list[int]
    costs: Costs


class _Step(NamedTuple):
    """Layers between two that every path passes; `unit` is the kind of block that they are a unit of, if any."""

    layers: list[Layer]
    unit: str | None


class _Group(NamedTuple):
    """A part while it is being put together."""

    kind: str
    steps: list[_Step]

    @property
    def layers(self) -> list[Layer]:
        return [layer for step in self.steps for layer in step.layers]

    @property
    def units(self) -> list[_Step]:
        return [step for step in self.steps if step.unit]


def parts_of(summary: Summary, input_shape: tuple[int, int, int]) -> list[Part]:
    """Find the parts of a network.

    Layers that every path from the picture to the embedding passes split the network into steps. A step of several
    layers is a dense layer if its last layer concatenates to the input of the step, and a residual unit if its last
    layer adds. Consecutive units at one picture size form a block. A network without such units is split by size.

    Parameters
    ----------
    summary : Summary
        Of the network.
    input_shape : tuple (C, H, W)
        Of one picture.

    Returns
    -------
    list of Part
        In the order of computation; the output of each is the input of the next.
    """
    groups = _grouped(_steps(summary.layers))
    if not any(group.units for group in groups):
        groups = _by_size(summary.layers)
    kinds = [group.kind for group in groups]
    parts: list[Part] = []
    taken: tuple[int, ...] = input_shape
    for index, group in enumerate(groups):
        number = f" {kinds[: index + 1].count(group.kind)}" if kinds.count(group.kind) > 1 else ""
        output = group.layers[-1].output
        parts.append(
            Part(
                kind=group.kind,
                title=group.kind.capitalize() + number,
                lines=_lines(group, taken),
                input=taken,
                output=output,
                widths=_widths(group),
                costs=sum_of(group.layers),
            )
        )
        taken = output
    return parts


def _steps(layers: Sequence[Layer]) -> Iterator[_Step]:
    """Split after every layer that all paths from the picture to the last layer pass (its dominators)."""
    dominators: dict[int, int] = {}

    def common(one: int, other: int) -> int:
        while one != other:
            one, other = min(one, other), dominators[max(one, other)]
        return one

    for index, layer in enumerate(layers):
        dominators[index] = functools.reduce(common, layer.inputs or (-1,))
    ends = [len(layers) - 1]
    while ends[-1] >= 0:
        ends.append(dominators[ends[-1]])
    ends.reverse()
    for start, end in zip(ends, ends[1:]):
        inside = layers[start + 1 : end + 1]
        yield _Step(list(inside), _unit(inside, start))


def _unit(layers: Sequence[Layer], start: int) -> str | None:
    """Return the kind of block that these layers, which follow the one at ``start``, are a unit of."""
    last = layers[-1]
    if len(layers) > 1 and len(last.output) == 3:
        if last.op == "Concat" and start in last.inputs:
            return DENSE
        if last.op in _ADDITIONS:
            return RESIDUAL
    return None


def _grouped(steps: Iterable[_Step]) -> list[_Group]:
    """Group units of one kind and size into blocks, and the layers before, between and after them."""
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


def _by_size(layers: Sequence[Layer]) -> list[_Group]:
    stages = itertools.groupby(layers, key=lambda layer: layer.stage)
    return [
        _Group(HEAD if stage == HEAD else STAGE, [_Step([layer], None) for layer in inside]) for stage, inside in stages
    ]


def _size(layers: Sequence[Layer]) -> tuple[int, ...]:
    return layers[-1].output[1:]


def _lines(group: _Group, taken: Sequence[int]) -> list[str]:
    """Describe the content of a part."""
    if not group.units:
        return [ARROW.join(layer.kind for layer in group.layers if layer.op not in _UNSPOKEN)]
    counts = len(group.units)
    widths = _widths(group)
    if group.kind == DENSE:
        growths = {after - before for before, after in zip([taken[0], *widths], widths)}
        growth = f"growth {growths.pop()}, " if len(growths) == 1 else ""
        first = f"{counts} layers, {growth}{taken[0]} to {widths[-1]} channels"
    else:
        first = f"{counts} unit{'s' * (counts > 1)}, {widths[-1]} channels"
        if _size(group.units[0].layers) != taken[1:]:
            first += ", the first with a stride"
    told = [layer.kind for layer in group.units[-1].layers if layer.op in _SHAPING]
    return [first, f"each: {ARROW.join(told)}"]


def _widths(group: _Group) -> list[int]:
    lasts = [step.layers[-1] for step in group.units] or [layer for layer in group.layers if layer.op in _SHAPING]
    return [layer.output[0] for layer in lasts]
