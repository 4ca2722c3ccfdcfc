"""Dense blocks as one operator each, that of :mod:`denseface.rewrites.native`."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from denseface.rewrites.graph import Node, nodes_of, output_shapes, rewrite

import mxnet as mx

_BLOCK = 16  # divides the numbers of channels that layers compute; their input may have any


def with_dense_blocks(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Replace every dense block of ReLU or PReLU by one operator; same function and parameters.

    A dense block is a chain of layers BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, each
    appended to its own input.  MXNet must know the operator.
    """
    inference = _inference()

    def operator(end: Node, layers: list[_Layer]) -> Node:
        inputs = [(inference, 0), layers[0].entry]
        for layer in layers:
            for place, parameter in enumerate(layer.parameters):
                is_moving = place % (len(layer.parameters) // 2) in (2, 3)
                inputs.append((parameter if is_moving else _handed_over(parameter), 0))
        attrs = {"layers": str(len(layers)), **layers[0].attrs("slopes", "eps", "momentum")}
        return Node("denseface_dense_block", end.name, attrs, inputs)

    return _replaced(symbol, data_shape, operator)


def with_inference_blocks(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """The same for inference alone, and faster.

    The parameters are those that the operator finds at its first call; moving averages become arguments.
    """

    def operator(end: Node, layers: list[_Layer]) -> Node:
        inputs = [layers[0].entry, *((parameter, 0) for layer in layers for parameter in layer.parameters)]
        attrs = {"layers": str(len(layers)), **layers[0].attrs("slopes", "eps")}
        return Node("denseface_dense_block_inference", end.name, attrs, inputs)

    return _replaced(symbol, data_shape, operator)


def _replaced(symbol, data_shape, operator):
    """Put what the function makes of it in the place of every dense block."""
    shapes = output_shapes(symbol, data_shape)
    ends = _ends(symbol, shapes)

    def change(node: Node) -> Node:
        if node.name not in ends:
            return node
        layers = _layers(node, ends[node.name], shapes)
        for layer in layers:
            for parameter in layer.parameters:
                parameter.attrs["__shape__"] = str(shapes[parameter.name])  # such an operator infers outputs only
        return operator(node, layers)

    return rewrite(symbol, change)


class _Layer(NamedTuple):
    """A layer, found at the concatenation that ends it."""

    entry: tuple[Node, int]  # its input
    parameters: list[Node]  # those of the first normalisation, activation and convolution, and of the second
    settings: dict[str, str]  # what all layers of a block have in common
    inner: list[Node]  # nodes that have no other use

    @property
    def data(self) -> Node:
        return self.entry[0]

    def attrs(self, *names: str) -> dict[str, str]:
        return {name: self.settings[name] for name in names}


def _ends(symbol, shapes):
    """The number of layers of every block, by the name of the concatenation at its end."""
    nodes = nodes_of(symbol)
    uses = Counter(source for node in nodes for source, _ in node.inputs)
    outputs = {name.rpartition("_")[0] for name in symbol.list_outputs()}
    counts: dict[str, int] = {}
    settings: dict[Node, dict[str, str]] = {}
    for node in nodes:
        layer = _layer(node, shapes)
        # MXNet does not tell such an operator to add to a gradient that others have given.
        if layer is None or uses[layer.data] != 2 or any(uses[inner] != 1 for inner in layer.inner):
            continue
        if outputs & {inner.name for inner in (layer.data, *layer.inner)}:
            continue
        settings[node] = layer.settings
        goes_on = settings.get(layer.data) == layer.settings
        counts[node.name] = 1 + (counts.pop(layer.data.name) if goes_on else 0)
    return counts


def _layer(node, shapes):
    """The layer that ends in this node; None if none does."""
    if node.op != "Concat" or node.attrs.get("dim", "1") != "1" or len(node.inputs) != 2:
        return None
    (data, output), (source, _) = node.inputs
    parameters, inner, settings = [], [], {}
    for kernel, pad in (("(3, 3)", "(1, 1)"), ("(1, 1)", "(0, 0)")):
        convolution = source
        if not _is_convolution(convolution, kernel, pad):
            return None
        activation, weight = (entry[0] for entry in convolution.inputs)
        if activation.op == "Activation":
            kind, slopes = activation.attrs["act_type"], []
        elif activation.op == "LeakyReLU":
            kind, slopes = activation.attrs.get("act_type", "leaky"), [entry[0] for entry in activation.inputs[1:]]
        else:
            return None
        norm, norm_output = activation.inputs[0]
        if kind not in ("relu", "prelu") or norm_output != 0 or not _is_plain_normalisation(norm):
            return None
        attrs = norm.attrs
        found = {"slopes": str(len(slopes)), "eps": attrs.get("eps", "1e-3"), "momentum": attrs.get("momentum", "0.9")}
        if settings and found.items() - settings.items():
            return None
        settings.update(found)
        parameters[:0] = [*(entry[0] for entry in norm.inputs[1:]), *slopes, weight]
        inner += [convolution, activation, norm]
        source, source_output = norm.inputs[0]
    if source is not data or source_output != output or any(parameter.op != "null" for parameter in parameters):
        return None
    growth, bottleneck = (shapes.get(parameters[-1].name, ()) + (0, 0))[:2]
    if not growth or growth % _BLOCK or bottleneck % _BLOCK:
        return None
    settings.update(growth=str(growth), bottleneck=str(bottleneck))
    return _Layer((data, output), parameters, settings, inner)


def _is_convolution(node, kernel, pad):
    plain = {"num_group": "1", "dilate": "(1, 1)", "stride": "(1, 1)", "pad": "(0, 0)", "no_bias": "False"}
    wanted = {"kernel": kernel, "pad": pad, "stride": "(1, 1)", "dilate": "(1, 1)", "num_group": "1", "no_bias": "True"}
    return (
        node.op == "Convolution"
        and node.attrs.get("layout", "None") in ("None", "NCHW")
        and {**plain, **node.attrs}.items() >= wanted.items()
    )


def _is_plain_normalisation(node):
    wanted = {"fix_gamma": "False", "use_global_stats": "False", "output_mean_var": "False", "axis": "1"}
    given = {"fix_gamma": "True", "use_global_stats": "False", "output_mean_var": "False", "axis": "1", **node.attrs}
    return node.op == "BatchNorm" and given.items() >= wanted.items()


def _layers(end, count, shapes):
    """The layers that end here, first to last; their nodes are already those of the new graph."""
    layers, node = [], end
    for _ in range(count):
        layers.insert(0, _layer(node, shapes))
        node = layers[0].data
    return layers


def _handed_over(parameter):
    """A copy, whose gradient is added to the parameter's own where MXNet is told to; the operator is not told."""
    return Node("_copy", f"{parameter.name}_copy", {}, [(parameter, 0)])


def _inference():
    """A node that is near 1 in inference and 0 in training, of which the operator is not told either.

    It is a normalised constant: its mean is itself in training, and 0 in inference.
    """
    one, gamma, beta, mean, variance = (
        Node(op, f"inference_{name}", {"shape": shape, "dtype": "float32"})
        for name, op, shape in (
            ("one", "_ones", "(1, 1, 1, 1)"),
            ("gamma", "_ones", "(1,)"),
            ("beta", "_zeros", "(1,)"),
            ("mean", "_zeros", "(1,)"),
            ("variance", "_ones", "(1,)"),
        )
    )
    norm = Node("BatchNorm", "inference_norm", {}, [(source, 0) for source in (one, gamma, beta, mean, variance)])
    return Node("BlockGrad", "inference", {}, [(norm, 0)])
