"""A symbol as linked nodes, to be changed and made into a symbol again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import mxnet as mx


@dataclass(eq=False)
class Node:
    """One operator or variable of a graph.

    Attributes
    ----------
    op : str
        The operator; "null" for a variable.
    name : str
        Unique in its graph.
    attrs : dict of str to str
        As in MXNet's JSON.
    inputs : list of (Node, int)
        Nodes, and which of their outputs.
    """

    op: str
    name: str
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[tuple[Node, int]] = field(default_factory=list)


def nodes_of(symbol: mx.sym.Symbol) -> list[Node]:
    """Every node of a symbol, inputs before those that use them."""
    return _read(symbol)[0]


def output_shapes(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of every node's outputs, by the name that MXNet gives them; of those that ``data`` determines."""
    internals = symbol.get_internals()
    return dict(zip(internals.list_outputs(), internals.infer_shape_partial(data=data_shape)[1]))


def rewrite(symbol: mx.sym.Symbol, change: Callable[[Node], Node]) -> mx.sym.Symbol:
    """Replace the nodes of a symbol.

    Parameters
    ----------
    symbol : Symbol
        It is left as it is.
    change : callable
        Called with a copy of every node, inputs before those that use them, its own inputs already replaced.  Gives
        the node to stand in its place: the same, changed or not, or another whose outputs mean the same.

    Returns
    -------
    Symbol
        With the outputs of `symbol`.
    """
    nodes, heads = _read(symbol)
    replaced: dict[Node, Node] = {}
    for node in nodes:
        node.inputs = [(replaced[source], output) for source, output in node.inputs]
        replaced[node] = change(node)
    return _symbol([(replaced[node], output) for node, output in heads])


def _read(symbol):
    """The nodes of a symbol, and its outputs as (node, output) pairs."""
    graph = json.loads(symbol.tojson())
    nodes: list[Node] = []
    for entry in graph["nodes"]:
        inputs = [(nodes[index], output) for index, output, *_ in entry["inputs"]]
        nodes.append(Node(entry["op"], entry["name"], dict(entry.get("attrs", {})), inputs))
    return nodes, [(nodes[index], output) for index, output, *_ in graph["heads"]]


def _symbol(heads):
    """Write the nodes that the heads need as MXNet's JSON, and read that."""
    order: dict[Node, int] = {}
    stack = [(node, False) for node, _ in reversed(heads)]
    while stack:
        node, seen = stack.pop()
        if node in order:
            continue
        if seen:
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
        "arg_nodes": [place for node, place in order.items() if node.op == "null"],
        "node_row_ptr": list(range(len(nodes) + 1)),
        "heads": [[order[node], output, 0] for node, output in heads],
        "attrs": {"mxnet_version": ["int", 10901]},
    }
    return mx.sym.load_json(json.dumps(graph))
