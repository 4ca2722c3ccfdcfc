"""PReLU from operators that oneDNN has.

MXNet's own sums the gradient of the slopes in a general reduction, which takes ten times as long as the rest of the
layer; and where the gradient of the input takes the place of the output's, which its memory planner decides, the sum
comes after that, and is wrong by the slope as a factor.  Here prelu(x) = (1 - a) relu(x) + a x, where both products are
batch normalisations with constant statistics.
"""

from __future__ import annotations

from denseface.rewrites.graph import Node, output_shapes, rewrite

import mxnet as mx

_EPS = 2**-10  # a power of two, so that nothing is rounded


def with_fast_slopes(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Replace every PReLU on pictures; same function, and the same slopes, (1,) or (C,), under the same names."""
    shapes = output_shapes(symbol, data_shape)

    def change(node: Node) -> Node:
        shape = shapes.get(f"{node.name}_output", ())
        if node.op != "LeakyReLU" or node.attrs.get("act_type") != "prelu" or len(shape) != 4 or 0 in shape:
            return node
        slope = node.inputs[1][0]
        if slope.op == "null":
            slope.attrs["__shape__"] = str(shapes[slope.name])  # a PReLU knows it, other operators have to be told
        return _fast_prelu(node, shape[1])

    return rewrite(symbol, change)


def _fast_prelu(node, channels):
    name = node.name
    data, slope = node.inputs
    negative = Node("broadcast_to", f"{name}_slopes", {"shape": f"({channels},)"}, [slope])
    positive = Node("_rminus_scalar", f"{name}_rests", {"scalar": "1"}, [(negative, 0)])
    relu = Node("Activation", f"{name}_relu", {"act_type": "relu"}, [data])
    parts = [
        _product(f"{name}_{which}", source, weight, channels)
        for which, source, weight in (("positive", (relu, 0), positive), ("all", data, negative))
    ]
    return Node("add_n", name, {"num_args": "2"}, [(part, 0) for part in parts])


def _product(name, data, factors, channels):
    """Every channel times its factor: a batch normalisation whose mean is 0, and whose variance and eps add up to 1."""
    shift, mean, variance = (
        Node("_full", f"{name}_{which}", {"shape": f"({channels},)", "value": str(value), "dtype": "float32"})
        for which, value in (("shift", 0), ("mean", 0), ("variance", 1 - _EPS))
    )
    attrs = {"eps": str(_EPS), "fix_gamma": "False", "use_global_stats": "True"}
    return Node("BatchNorm", name, attrs, [data, (factors, 0), (shift, 0), (mean, 0), (variance, 0)])
