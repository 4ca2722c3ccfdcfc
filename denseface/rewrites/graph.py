"""A symbol as linked nodes that can be read, changed and turned into a symbol again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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

    def text(self, attribute: str, default: str | None = None) -> str | None:
        """Return an attribute as it is written."""
        text = self.attrs.get(attribute, "None")
        return default if text == "None" else text

    def flag(self, attribute: str, default: bool = False) -> bool:
        """Return an attribute that is true or false."""
        return self.text(attribute, str(default)).lower() in ("true", "1")

    def number(self, attribute: str, default: float | None = None) -> float | None:
        """Return an attribute that is a number."""
        text = self.text(attribute)
        return default if text is None else float(text)

    def ints(self, attribute: str, default: Sequence[int | None] = ()) -> tuple[int | None, ...]:
        """Return an attribute such as ``(3, 3)`` or ``3``, whose members may be None; the default if it is empty."""
        found = re.findall(r"-?\d+|None", self.text(attribute, ""))
        return tuple(None if number == "None" else int(number) for number in found) or tuple(default)

    def integer(self, attribute: str, default: int | None = None) -> int | None:
        """Return an attribute that is a whole number."""
        return self.ints(attribute, [default])[0]


Edge = tuple[Node, int]


class Graph:
    """The nodes of a symbol.

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
    edges : list of (Node, int)
        Every output of every node, in the order of ``symbol.get_internals()``.
    """

    def __init__(self, symbol: mx.sym.Symbol):
        self._internals = symbol.get_internals()
        description = _description(symbol)
        self.nodes: list[Node] = []
        for entry in description["nodes"]:
            inputs = self._edges(entry["inputs"])
            self.nodes.append(Node(entry["op"], entry["name"], dict(entry.get("attrs", {})), inputs))
        self.heads = self._edges(description["heads"])
        self.edges = self._edges(_description(self._internals)["heads"])  # it has the same nodes in the same order

    def _edges(self, entries: list[list[int]]) -> list[Edge]:
        return [(self.nodes[index], output) for index, output, *_ in entries]

    def shapes(self, data_shape: Shape) -> dict[Edge, Shape]:
        """Infer the shapes of outputs from the shape of ``data``; unknown ones are () or contain a 0."""
        return dict(zip(self.edges, self._internals.infer_shape_partial(data=data_shape)[1]))

    def uses(self) -> Counter[Edge]:
        """Count how often every output of a node is read, or is an output of the symbol."""
        return Counter([*(edge for node in self.nodes for edge in node.inputs), *self.heads])

    def rewrite(self, change: Callable[[Node], Node]) -> mx.sym.Symbol:
        """Replace nodes and return the new symbol.

        Parameters
        ----------
        change : callable
            Called with each of `nodes`, whose inputs are already replaced. Returns the node to take its place: the same
            one, which may be changed, or another one with equivalent outputs.

        Returns
        -------
        Symbol
            Without the nodes that its outputs no longer need.
        """
        replaced: dict[Node, Node] = {}
        for node in self.nodes:
            node.inputs = [(replaced[source], output) for source, output in node.inputs]
            replaced[node] = change(node)
        return _symbol([(replaced[node], output) for node, output in self.heads])


def nodes_of(symbol: mx.sym.Symbol) -> list[Node]:
    """Return copies of a symbol's nodes, inputs before the nodes that read them."""
    return Graph(symbol).nodes


def rewrite(symbol: mx.sym.Symbol, change: Callable[[Node], Node]) -> mx.sym.Symbol:
    """Replace nodes of a symbol, as `Graph.rewrite` does."""
    return Graph(symbol).rewrite(change)


def _description(symbol: mx.sym.Symbol) -> dict:
    return json.loads(symbol.tojson(remove_amp_cast=False))


def _symbol(heads: list[Edge]) -> mx.sym.Symbol:
    """Write the nodes that the heads need as MXNet's JSON, and load it."""
    order: dict[Node, int] = {}
    stack = [(node, False) for node, _ in reversed(heads)]
    while stack:
        node, inputs_are_done = stack.pop()
        if node in order:
            continue
        if inputs_are_done:
            order[node] = len(order)
        else:
            stack.append((node, True))
            stack.extend((source, False) for source, _ in reversed(node.inputs))
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
    return mx.sym.load_json(json.dumps(graph))
