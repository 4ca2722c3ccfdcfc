"""Count the operations of MXNet's operators in inference.

A multiply-accumulate (MAC) is one product added to a sum; convolutions, fully connected layers and matrix products
consist of them. Papers often call their number "FLOPs". Here FLOPs are floating-point operations: two per MAC, one
per added bias, and for the other operators

- 2 per value for batch normalization: one product and one sum, since its parameters are constant in inference;
- 1 per value for an activation, a root, a sum, or any other function of one or two values;
- 1 per value that a pooling window or a reduction covers;
- 3 per value for softmax (exponential, sum, division) and L2 normalization (square, sum, division);
- none for operators that only move values, such as concatenation or, in inference, dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from denseface.models.graph import Node

Shape = tuple[int, ...]


class Cost(NamedTuple):
    """Multiply-accumulates and floating-point operations; a MAC counts as two of the latter."""

    macs: int
    flops: int


_ONE_PER_VALUE = """
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
# Operators that return their input in the same memory.
VIEWS = frozenset(["BlockGrad", "Dropout", "Flatten", "Reshape", "_copy", "expand_dims", "squeeze"])
_MOVING = """
    Cast Concat Crop Pad SliceChannel SwapAxis amp_cast broadcast_axis broadcast_like broadcast_to depth_to_space
    ones_like repeat reverse slice slice_axis slice_like space_to_depth stack tile transpose where zeros_like
"""

_PER_OUTPUT = {
    **dict.fromkeys(_ONE_PER_VALUE.split(), 1),
    **dict.fromkeys((*VIEWS, *_MOVING.split()), 0),
    **dict.fromkeys(("L2Normalization", "SoftmaxActivation", "log_softmax", "softmax"), 3),
    "BatchNorm": 2,
}
_REDUCTIONS = frozenset(["max", "mean", "min", "norm", "prod", "sum"])


def cost_of(node: Node, inputs: Sequence[Shape], output: Shape) -> Cost | None:
    """Count the operations of one operator.

    Parameters
    ----------
    node : Node
        The operator with its attributes.
    inputs : sequence of tuple of int
        Shapes of its inputs, parameters included.
    output : tuple of int
        Shape of its first output; costs are for the whole batch.

    Returns
    -------
    Cost or None
        None for an unknown operator.
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


def _products(macs: int, bias: int = 0) -> Cost:
    return Cost(macs, 2 * macs + bias)
