"""PReLU in training, by a compiled operator, or composed of operators that oneDNN has.

MXNet's own PReLU sums the slopes' gradient in a general reduction, which takes ten times as long as the rest of the
layer. Where MXNet's memory planner lets the input's gradient overwrite the output's, that sum is computed too late, and
is too small by a factor of the slope. Composed, prelu(x) = (1 - a) relu(x) + a x, and both products are batch
normalizations with constant statistics. That is as fast as the compiled operator, and takes less memory, next to
convolutions of oneDNN, whose layout the compiled operator does not know.
"""

from __future__ import annotations

from collections.abc import Callable

from denseface.models.graph import Edge, Graph, Node
from denseface.rewrites.compiled import declare

_EPS = 2**-10  # a power of two, so that nothing is rounded


def compile_slopes(graph: Graph) -> None:
    """Replace every PReLU of pictures by the operator of `denseface.rewrites.native`.

    The graph's shapes are inferred, and MXNet has loaded the operators. The slopes, of shape (1,) or (C,), keep their
    names.
    """
    _replace(graph, lambda node, _: Node("denseface_prelu", node.name, {}, node.inputs))


def compose_slopes(graph: Graph) -> None:
    """Replace every PReLU of pictures by other operators of MXNet; the graph's shapes are inferred."""
    _replace(graph, _composed)


def _replace(graph: Graph, operator: Callable[[Node, int], Node]) -> None:
    """Replace every PReLU of pictures by the operator of its node and number of channels."""

    def change(node: Node) -> Node:
        shape = graph.shapes.get((node, 0), ())
        if node.op != "LeakyReLU" or node.text("act_type") != "prelu" or len(shape) != 4:
            return node
        slope = node.source(1)
        if slope.op == "null":
            declare(slope, graph.shapes[slope, 0])
        return operator(node, shape[1])

    graph.rewrite(change)


def _composed(node: Node, channels: int) -> Node:
    name = node.name
    data, slope = node.inputs
    slopes = Node("broadcast_to", f"{name}_slopes", {"shape": f"({channels},)"}, [slope])
    remainders = Node("_rminus_scalar", f"{name}_rests", {"scalar": "1"}, [(slopes, 0)])
    relu = Node("Activation", f"{name}_relu", {"act_type": "relu"}, [data])
    positive = _product(f"{name}_positive", (relu, 0), remainders, channels)
    all_values = _product(f"{name}_all", data, slopes, channels)
    return Node("add_n", name, {"num_args": "2"}, [(positive, 0), (all_values, 0)])


def _product(name: str, data: Edge, factors: Node, channels: int) -> Node:
    """Multiply every channel by its factor: a batch normalization with mean 0, whose variance and eps sum to 1."""
    constants = {"shift": 0, "mean": 0, "variance": 1 - _EPS}
    shift, mean, variance = (
        (Node("_full", f"{name}_{kind}", {"shape": f"({channels},)", "value": str(value), "dtype": "float32"}), 0)
        for kind, value in constants.items()
    )
    attrs = {"eps": str(_EPS), "fix_gamma": "False", "use_global_stats": "True"}
    return Node("BatchNorm", name, attrs, [data, (factors, 0), shift, mean, variance])
