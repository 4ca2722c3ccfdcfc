"""Dense blocks as one operator each, that of :mod:`denseface.native`."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from denseface.rewrite import Node, nodes_of, output_shapes, rewrite

import mxnet as mx

_BLOCK = 16  # divides the numbers of channels that the operator takes


def with_dense_blocks(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Replace every dense block of ReLU or PReLU by one operator; same function and parameters.

    A dense block is a chain of layers BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, each
    appended to its own input.  MXNet must know the operator.
    """
    shapes = output_shapes(symbol, data_shape)
    ends = _ends(symbol, shapes)
    inference = _inference()

    def change(node: Node) -> Node:
        return _operator(node, ends[node.name], shapes, inference) if node.name in ends else node

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
    channels = shapes.get(parameters[-1].name, ()), shapes.get(parameters[len(parameters) // 2 - 1].name, ())
    if any(len(shape) != 4 or shape[0] % _BLOCK or shape[1] % _BLOCK or shape[1] == 0 for shape in channels):
        return None
    settings["growth"] = str(channels[0][0])
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


def _operator(end, count, shapes, inference):
    """The operator in the place of the layers that end here, whose nodes are already those of the new graph."""
    layers, node = [], end
    for _ in range(count):
        layers.insert(0, _layer(node, shapes))
        node = layers[0].data
    inputs = [(inference, 0), layers[0].entry]
    for layer in layers:
        half = len(layer.parameters) // 2
        for place, parameter in enumerate(layer.parameters):
            parameter.attrs["__shape__"] = str(shapes[parameter.name])  # MXNet lets such an operator infer outputs only
            is_moving = place % half in (2, 3)
            inputs.append((parameter if is_moving else _handed_over(parameter), 0))
    attrs = {"layers": str(count), **{name: layers[0].settings[name] for name in ("slopes", "eps", "momentum")}}
    return Node("denseface_dense_block", end.name, attrs, inputs)


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
