"""Batch normalizations with their activations as one operator each, which `denseface.rewrites.native` compiles.

It keeps pictures in MXNet's plain layout, as the other compiled operators do. Between convolutions of oneDNN, which
have a layout of their own, MXNet's normalizations are faster.
"""

from __future__ import annotations

from denseface.models.graph import Edge, Graph, Node
from denseface.rewrites.compiled import declare, inference_marker, is_plain_normalization

NORM_OPERATOR = "denseface_norm"


def compile_norms(graph: Graph) -> None:
    """Replace batch normalizations of pictures, with a ReLU or PReLU after them, by an operator for training.

    The graph's shapes are inferred, and MXNet has loaded the operators.
    """
    uses = graph.uses()
    norms = {
        node
        for node in graph.nodes
        if is_plain_normalization(node) and _has_variables(node) and len(graph.shapes.get((node, 0), ())) == 4
    }
    activations = {
        node: kind
        for node in graph.nodes
        if (kind := _activation(node)) and node.source() in norms and uses[node.inputs[0]] == 1
    }
    activated = {node.source() for node in activations}
    inference = inference_marker()

    def operator(name: str, norm: Node, activation: str, slope: list[Edge]) -> Node:
        for edge in (*norm.inputs[1:], *slope):
            declare(edge[0], graph.shapes[edge])
        eps, momentum = norm.number("eps", 1e-3), norm.number("momentum", 0.9)
        attrs = {"activation": activation, "eps": repr(eps), "momentum": repr(momentum)}
        return Node(NORM_OPERATOR, name, attrs, [(inference, 0), *norm.inputs, *slope])

    def change(node: Node) -> Node:
        if node in activations:
            return operator(node.name, node.source(), activations[node], node.inputs[1:])
        if node in norms and node not in activated:
            return operator(node.name, node, "none", [])
        return node

    graph.rewrite(change)


def _has_variables(node: Node) -> bool:
    """Test whether all parameters are variables, which can be described."""
    return all(source.op == "null" for source, _ in node.inputs[1:])


def _activation(node: Node) -> str | None:
    """Return the name of the activation that a node is, if the operator knows it."""
    name = node.text("act_type") if node.op in ("Activation", "LeakyReLU") else None
    return name if name in ("relu", "prelu") and _has_variables(node) else None
