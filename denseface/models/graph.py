"""A network as linked nodes that can be read and changed: MXNet's JSON is parsed here and written here only."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import overload

import mxnet as mx

Shape = tuple[int, ...]


@dataclass(eq=False)
class Node:
    """One operator or variable of a graph.

    Attributes
    ----------
    op : str
        The operator; "null" for a variable.
    name : str
        MXNet lets several operators share a name; nodes are therefore told apart by identity.
    attrs : dict of str to str
        Attributes as in MXNet's JSON. For one that is left out or "None", the methods below return their `default`,
        which should be MXNet's.
    inputs : list of (Node, int)
        The nodes whose outputs this one reads, each with the number of the output.
    """

    op: str
    name: str
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[Edge] = field(default_factory=list)

    def source(self, index: int = 0) -> Node:
        """Return the node that an input comes from."""
        return self.inputs[index][0]

    @overload
    def text(self, attribute: str, default: str) -> str: ...

    @overload
    def text(self, attribute: str, default: None = None) -> str | None: ...

    def text(self, attribute: str, default: str | None = None) -> str | None:
        """Return an attribute as it is written."""
        text = self.attrs.get(attribute, "None")
        return default if text == "None" else text

    def flag(self, attribute: str, default: bool = False) -> bool:
        """Return an attribute that is true or false."""
        return self.text(attribute, str(default)).lower() in ("true", "1")

    @overload
    def number(self, attribute: str, default: float) -> float: ...

    @overload
    def number(self, attribute: str, default: None = None) -> float | None: ...

    def number(self, attribute: str, default: float | None = None) -> float | None:
        """Return an attribute that is a number."""
        text = self.text(attribute)
        return default if text is None else float(text)

    def ints(self, attribute: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Return an attribute such as ``(3, 3)`` or ``3``; the default if it is empty."""
        return tuple(map(int, re.findall(r"-?\d+", self.text(attribute, "")))) or tuple(default)

    def bounds(self, attribute: str) -> tuple[int | None, ...]:
        """Return an attribute such as ``(None, -1)``: bounds of a slice."""
        found = re.findall(r"-?\d+|None", self.text(attribute, ""))
        return tuple(None if number == "None" else int(number) for number in found)

    @overload
    def integer(self, attribute: str, default: int) -> int: ...

    @overload
    def integer(self, attribute: str, default: None = None) -> int | None: ...

    def integer(self, attribute: str, default: int | None = None) -> int | None:
        """Return an attribute that is a whole number."""
        found = self.ints(attribute)
        return found[0] if found else default


Edge = tuple[Node, int]


class Graph:
    """The nodes of a symbol, for passes to change: functions of a graph that return nothing.

    Parameters
    ----------
    symbol : Symbol
        Is not changed.

    Attributes
    ----------
    nodes : list of Node
        Inputs before the nodes that read them.
    heads : list of (Node, int)
        The outputs of the symbol.
    arguments : list of str
        Names of the variables that were arguments of the symbol; its other variables are auxiliary states.
    shapes : dict of (Node, int) to tuple of int
        Those of the outputs that are read, as far as :meth:`infer_shapes` found them. A node in the place of another
        one has its shapes.

    Examples
    --------
    >>> graph = Graph(symbol)  # doctest: +SKIP
    >>> graph.infer_shapes(data=(16, 3, 112, 112))  # doctest: +SKIP
    >>> for change in passes: change(graph)  # doctest: +SKIP
    >>> changed = graph.symbol()  # doctest: +SKIP
    """

    def __init__(self, symbol: mx.sym.Symbol):
        description = json.loads(symbol.tojson(remove_amp_cast=False))
        self.nodes: list[Node] = []
        for entry in description["nodes"]:
            inputs = self._edges(entry["inputs"])
            self.nodes.append(Node(entry["op"], entry["name"], dict(entry.get("attrs", {})), inputs))
        self.heads = self._edges(description["heads"])
        self.arguments: list[str] = symbol.list_arguments()
        self.shapes: dict[Edge, Shape] = {}

    def _edges(self, entries: list[list[int]]) -> list[Edge]:
        return [(self.nodes[index], output) for index, output, *_ in entries]

    @property
    def variables(self) -> dict[str, Node]:
        """Variables by name."""
        return {node.name: node for node in self.nodes if node.op == "null"}

    def count(self, op: str) -> int:
        """Count the nodes of an operator."""
        return sum(node.op == op for node in self.nodes)

    def infer_shapes(self, **shapes: Shape) -> None:
        """Infer `shapes` from those of arguments; of an argument that the graph does not have, the shape is ignored.

        Raises
        ------
        MXNetError
            If the shapes do not fit the operators.
        """
        edges = [*dict.fromkeys([*(edge for node in self.nodes for edge in node.inputs), *self.heads])]
        symbol = make_symbol(edges)
        arguments = {*symbol.list_arguments()}
        known = {name: shape for name, shape in shapes.items() if name in arguments}
        _, inferred, _ = symbol.infer_shape_partial(**known)
        self.shapes = {edge: shape for edge, shape in zip(edges, inferred) if shape and all(shape)}

    def uses(self) -> Counter[Edge]:
        """Count how often every output of a node is read, or is an output of the symbol."""
        return Counter([*(edge for node in self.nodes for edge in node.inputs), *self.heads])

    def rewrite(self, change: Callable[[Node], Node]) -> None:
        """Replace nodes, and drop those that the heads no longer need.

        Parameters
        ----------
        change : callable
            Called with each of `nodes`, whose inputs are already replaced. Returns the node to take its place: the same
            one, which may be changed, or another one with equivalent outputs.
        """
        replaced: dict[Node, Node] = {}
        for node in self.nodes:
            node.inputs = [(replaced[source], output) for source, output in node.inputs]
            replaced[node] = change(node)
        self.heads = [(replaced[node], output) for node, output in self.heads]
        shapes = self.shapes.items()
        self.shapes = {(replaced[node], output): shape for (node, output), shape in shapes if node in replaced}
        self.nodes = _sorted(self.heads)

    def symbol(self) -> mx.sym.Symbol:
        """Return the graph as a symbol."""
        return make_symbol(self.heads)


def make_symbol(heads: Sequence[Edge]) -> mx.sym.Symbol:
    """Make a symbol with these outputs."""
    order = {node: number for number, node in enumerate(_sorted(heads))}
    nodes = [
        {
            "op": node.op,
            "name": node.name,
            "attrs": node.attrs,
            "inputs": [[order[source], output, 0] for source, output in node.inputs],
        }
        for node in order
    ]
    graph = {
        "nodes": nodes,
        "arg_nodes": [index for node, index in order.items() if node.op == "null"],
        "node_row_ptr": list(range(len(nodes) + 1)),
        "heads": [[order[node], output, 0] for node, output in heads],
        "attrs": {"mxnet_version": ["int", 10901]},
    }
    return mx.sym.load_json(json.dumps(graph, ensure_ascii=False))


def _sorted(heads: Sequence[Edge]) -> list[Node]:
    """Return the nodes that the heads need, inputs before the nodes that read them."""
    found: dict[Node, None] = {}
    stack = [(node, False) for node, _ in reversed(heads)]
    while stack:
        node, inputs_are_done = stack.pop()
        if node in found:
            continue
        if inputs_are_done:
            found[node] = None
        else:
            stack.append((node, True))
            stack.extend((source, False) for source, _ in reversed(node.inputs))
    return list(found)
