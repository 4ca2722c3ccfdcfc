"""A network for inference: the same function as the trained one, in fewer and cheaper operators.

Batch normalisations go into the weights in front of them, an average over pixels comes before the 1x1 convolution that
it commutes with, slopes that are the same for every channel become constants, and dropout goes.  The normalisation in
front of an activation stays: DenseNet's concatenated features pass a different one on the way to every later layer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from denseface.rewrites.graph import Node, nodes_of, rewrite

import mxnet as mx

Arrays = Mapping[str, np.ndarray]


def freeze(symbol: mx.sym.Symbol, arguments: Arrays, auxiliary: Arrays) -> tuple[mx.sym.Symbol, Arrays, Arrays]:
    """Rewrite a trained network for inference.

    Parameters
    ----------
    symbol : Symbol
        With one output.
    arguments, auxiliary : dict of str to ndarray, float32
        Its parameters and moving averages by name; the arrays are left as they are.

    Returns
    -------
    symbol : Symbol
        It computes the same in inference, up to rounding, from inputs of the same names.  A normalised layer has the
        name of its normalisation.
    arguments, auxiliary : dict of str to ndarray, float32
        The values that this symbol needs.
    """
    network = _Network(arguments, auxiliary)
    for change in (network.without_dropout, network.normalized, network.averaged_first, network.with_one_slope):
        symbol = network.rewritten(symbol, change)
    needed = [
        {name: network.values[name] for name in names if name in network.values}
        for names in (symbol.list_arguments(), symbol.list_auxiliary_states())
    ]
    return (symbol, *needed)


class _Network:
    """The values of a network, and changes to its nodes for :func:`denseface.rewrites.graph.rewrite`."""

    def __init__(self, arguments, auxiliary):
        self.values = {**arguments, **auxiliary}
        self._uses = Counter()

    def rewritten(self, symbol, change):
        # The uses of nodes that share a name add up, and what is used more than once stays as it is.
        self._uses = Counter(source.name for node in nodes_of(symbol) for source, _ in node.inputs)
        return rewrite(symbol, change)

    def without_dropout(self, node):
        if node.op != "Dropout" or node.attrs.get("mode", "training") != "training":
            return node
        source, output = node.inputs[0]
        return source if output == 0 else node

    def normalized(self, node):
        """Put a batch normalisation into the weights and the bias of the layer in front of it.

        (W x + b) s + t = (s W) x + (s b + t), with the scale s = gamma / sqrt(var + eps) and the shift
        t = beta - s mean of each channel.
        """
        if node.op != "BatchNorm" or node.attrs.get("axis", "1") != "1" or not self._is_own_layer(node.inputs[0][0]):
            return node
        layer, *statistics = [source for source, _ in node.inputs]
        weight, *bias = [source.name for source, _ in layer.inputs[1:]]
        channels = self.values[weight].shape[:1]
        new_bias = f"{node.name}_bias"
        if new_bias in self.values or any(self._shape(source.name) != channels for source in statistics):
            return node
        gamma, beta, mean, var = (self.values[source.name].astype(np.float64) for source in statistics)
        scale = (1 if _flag(node, "fix_gamma", True) else gamma) / np.sqrt(var + float(node.attrs.get("eps", "1e-3")))
        old_bias = self.values[bias[0]] if bias else 0
        self.values[weight] = _scaled(self.values[weight], scale)
        self.values[new_bias] = ((old_bias - mean) * scale + beta).astype(np.float32)
        inputs = [*layer.inputs[:2], (Node("null", new_bias), 0)]
        return Node(layer.op, node.name, {**layer.attrs, "no_bias": "False"}, inputs)

    def averaged_first(self, node):
        """Let an average pooling come before a 1x1 convolution, which then has fewer pixels to do.

        Both are linear, and the mean of what every pixel gives is what the mean of the pixels gives.
        """
        layer = node.inputs[0][0] if _is_mean_of_whole_windows(node) else None
        if layer is None or not _is_pointwise(layer) or self._uses[layer.name] != 1:
            return node
        pooling = Node("Pooling", node.name, node.attrs, layer.inputs[:1])
        return Node(layer.op, layer.name, layer.attrs, [(pooling, 0), *layer.inputs[1:]])

    def with_one_slope(self, node):
        """Make a leaky ReLU, which costs MXNet a tenth, of a PReLU whose slopes are all the same."""
        if node.op != "LeakyReLU" or node.attrs.get("act_type") != "prelu":
            return node
        slopes = self.values.get(node.inputs[1][0].name)
        if slopes is None or (slopes != slopes.flat[0]).any():
            return node
        slope = float(slopes.flat[0])
        return Node("LeakyReLU", node.name, {"act_type": "leaky", "slope": repr(slope)}, node.inputs[:1])

    def _is_own_layer(self, node):
        """Whether this is a convolution or fully connected layer whose output and parameters have no other use."""
        if node.op == "Convolution":
            if not _is_channels_first(node):
                return False
        elif node.op != "FullyConnected" or not _flag(node, "flatten", True):
            return False
        parameters = {source.name for source, _ in node.inputs[1:]}
        return all(self._uses[name] == 1 for name in {node.name, *parameters}) and self.values.keys() >= parameters

    def _shape(self, name):
        return self.values[name].shape if name in self.values else None


def _scaled(weight, scale):
    """Scale what every output channel is computed with: axis 0."""
    return (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)


def _is_pointwise(node):
    """Whether this is a convolution that computes every pixel from that pixel alone."""
    return (
        node.op == "Convolution"
        and _is_channels_first(node)
        and set(_numbers(node, "kernel")) == {1}
        and not set(_numbers(node, "stride")) - {1}
        and not any(_numbers(node, "pad"))
    )


def _is_mean_of_whole_windows(node):
    return (
        node.op == "Pooling"
        and _is_channels_first(node)
        and node.attrs.get("pool_type") == "avg"
        and node.attrs.get("pooling_convention", "valid") == "valid"
        and not _flag(node, "global_pool", False)
        and not any(_numbers(node, "pad"))
    )


def _is_channels_first(node):
    return node.attrs.get("layout", "None") in ("None", "NCHW")


def _flag(node, option, default):
    return node.attrs.get(option, str(default)).lower() in ("true", "1")


def _numbers(node, option):
    return [int(digits) for digits in re.findall(r"-?\d+", node.attrs.get(option, ""))]
