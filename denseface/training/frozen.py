"""Which parameters of a network learn, and how fast, by patterns of their names."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Sequence

from denseface.core.errors import InputError
from denseface.models.distillation import INPUTS
from denseface.models.graph import Graph

import mxnet as mx


def matching(pattern: str, names: Iterable[str], option: str) -> set[str]:
    """Return the names that a pattern matches.

    Parameters
    ----------
    pattern : str
        A name in which ``*`` stands for any characters, ``?`` for one, and ``[ab]`` for one of these.
    names : iterable of str
        What there is.
    option : str
        Where the pattern comes from, for the error.

    Raises
    ------
    InputError
        If nothing has this name; the message has the nearest ones.
    """
    names = list(names)
    found = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    if not found:
        plain = pattern.strip("*")
        near = difflib.get_close_matches(plain, names, n=3, cutoff=0.3) or names[:3]
        raise InputError(f"{pattern}: no parameter has such a name; nearest: {', '.join(near)}", option=option)
    return found


def frozen_names(patterns: Sequence[str], embedding: mx.sym.Symbol) -> set[str]:
    """Return the parameters and batch statistics of an embedding network that patterns match."""
    names = [name for name in embedding.list_inputs() if name != "data"]
    return set().union(*(matching(pattern, names, "freeze") for pattern in patterns))


def fix_statistics(graph: Graph, names: Collection[str]) -> None:
    """Let batch normalizations use and keep their moving statistics in training (``use_global_stats``).

    Parameters
    ----------
    graph : Graph
        That of a training symbol, before operators are replaced by faster ones.
    names : collection of str
        A normalization is fixed if its moving mean or variance is among them.
    """
    for node in graph.nodes:
        if node.op == "BatchNorm" and {node.source(3).name, node.source(4).name} & {*names}:
            node.attrs["use_global_stats"] = "True"


def set_rates(graph: Graph, rates: Sequence[tuple[str, float]]) -> None:
    """Multiply the learning rate of parameters, with the attribute ``__lr_mult__``.

    Parameters
    ----------
    graph : Graph
        That of a training symbol, before operators are replaced by faster ones.
    rates : sequence of (str, float)
        A pattern of names, and a factor on the rate; where several patterns match, the last one counts.

    Raises
    ------
    InputError
        If a pattern matches no parameter.
    """
    parameters = [name for name in graph.arguments if name not in INPUTS]
    variables = graph.variables
    for pattern, factor in rates:
        for name in matching(pattern, parameters, "lr_mult"):
            variables[name].attrs["__lr_mult__"] = str(factor)
