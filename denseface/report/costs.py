"""What MXNet's operators compute in inference, counted.

A multiply-accumulate (MAC) is one product added to a sum: what convolutions, fully connected layers and products of
matrices are made of.  Papers often call their number "FLOPs".  Here FLOPs are floating-point operations: two a MAC, one
for each bias that is added, and for the other operators

- 2 a value for a batch normalisation, which is one product and one sum once its parameters are constant;
- 1 a value for an activation, a root, a sum, or any other function of one or two values;
- 1 for each value that a pooling window or a reduction goes over;
- 3 a value for a softmax (exponential, sum, division) and an L2 normalisation (square, sum, division);
- none for what only moves values, such as a concatenation or, in inference, dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from denseface.rewrites.graph import Node

Shape = tuple[int, ...]


class Cost(NamedTuple):
    """Multiply-accumulates, and floating-point operations, in which these are counted as two."""

    macs: int
    flops: int


_ONE_A_VALUE = """
    Activation LeakyReLU _div _div_scalar _equal _equal_scalar _greater _greater_equal _greater_equal_scalar
    _greater_scalar _hypot _hypot_scalar _lesser _lesser_equal _lesser_equal_scalar _lesser_scalar _maximum
    _maximum_scalar _minimum _minimum_scalar _minus_scalar _mod _mod_scalar _mul _mul_scalar _not_equal
    _not_equal_scalar _plus_scalar _power _power_scalar _rdiv_scalar _rminus_scalar _rmod_scalar _rpower_scalar _sub abs
    arccos arcsin arctan broadcast_add broadcast_div broadcast_equal broadcast_greater broadcast_greater_equal
    broadcast_hypot broadcast_lesser broadcast_lesser_equal broadcast_maximum broadcast_minimum broadcast_mod
    broadcast_mul broadcast_not_equal broadcast_power broadcast_sub cbrt ceil clip cos cosh elemwise_add elemwise_div
    elemwise_mul elemwise_sub erf exp expm1 fix floor hard_sigmoid log log10 log1p log2 negative rcbrt reciprocal relu
    rint round rsqrt sigmoid sign sin sinh softsign sqrt square tan tanh trunc
"""
# What gives on the values it takes, in the same memory.
VIEWS = frozenset(["BlockGrad", "Dropout", "Flatten", "Reshape", "_copy", "expand_dims", "squeeze"])
_MOVING = """
    Cast Concat Crop Pad SliceChannel SwapAxis amp_cast broadcast_axis broadcast_like broadcast_to depth_to_space
    ones_like repeat reverse slice slice_axis slice_like space_to_depth stack tile transpose where zeros_like
"""

_PER_OUTPUT = {
    **dict.fromkeys(_ONE_A_VALUE.split(), 1),
    **dict.fromkeys((*VIEWS, *_MOVING.split()), 0),
    **dict.fromkeys(("L2Normalization", "SoftmaxActivation", "log_softmax", "softmax"), 3),
    "BatchNorm": 2,
}
_REDUCTIONS = frozenset(["max", "mean", "min", "norm", "prod", "sum"])


def cost_of(node: Node, inputs: Sequence[Shape], output: Shape) -> Cost | None:
    """Count what one operator computes.

    Parameters
    ----------
    node : Node
        The operator with its attributes.
    inputs : sequence of tuple of int
        Shapes of what it takes, parameters included, in its order.
    output : tuple of int
        Shape of its first output; costs are for the whole batch.

    Returns
    -------
    Cost or None
        None for an operator that is not known here.
    """
    size = math.prod(output)
    if node.op in ("Convolution", "FullyConnected"):
        return _products(size * math.prod(inputs[1][1:]), bias=size if len(inputs) > 2 else 0)
    if node.op == "Deconvolution":
        return _products(math.prod(inputs[0]) * math.prod(inputs[1][1:]), bias=size if len(inputs) > 2 else 0)
    if node.op in ("dot", "batch_dot"):
        return _products(size * inputs[0][-2 if node.flag("transpose_a") else -1])
    if node.op == "Pooling":
        everything = node.flag("global_pool")
        return Cost(0, math.prod(inputs[0]) if everything else size * math.prod(node.ints("kernel")))
    if node.op in _REDUCTIONS:
        return Cost(0, math.prod(inputs[0]))
    if node.op == "add_n":
        return Cost(0, size * (len(inputs) - 1))
    if node.op in _PER_OUTPUT:
        return Cost(0, size * _PER_OUTPUT[node.op])
    return None


def _products(macs, bias=0):
    return Cost(macs, 2 * macs + bias)
