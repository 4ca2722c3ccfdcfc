"""A network for inference in bfloat16: half the memory, and twice the arithmetic where the processor supports it."""

from __future__ import annotations

from denseface.rewrites.graph import Edge, Graph, Node, Shape

import mxnet as mx

_LAYERS = ("Convolution", "FullyConnected")
# What oneDNN computes in bfloat16, except for some activations (by ``act_type``). All else stays in float32.
_OPERATORS = (*_LAYERS, "BatchNorm", "Activation", "LeakyReLU", "Pooling", "Concat", "Flatten", "elemwise_add")
_IN_FLOAT32 = ("prelu", "selu", "softsign")


def in_bfloat16(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Let a network compute in bfloat16 after its first layer.

    Parameters
    ----------
    symbol : Symbol
        A network in float32 with one output.
    data_shape : tuple of int
        (N, C, H, W) of its input ``data``.

    Returns
    -------
    Symbol
        Has the same float32 input and output. The weights and biases of layers are bfloat16 variables.

    Notes
    -----
    The first layer, whose input has three channels, stays in float32: oneDNN's bfloat16 convolution of so few channels
    is slow.
    """
    graph = Graph(symbol)
    return mx.sym.amp_cast(graph.rewrite(_Conversion(graph.shapes(data_shape)).change), dtype="float32")


class _Conversion:
    """Decides which nodes compute in bfloat16, and adds casts where the type changes."""

    def __init__(self, shapes: dict[Edge, Shape]):
        self._shapes = shapes
        self._after_layer: set[Node] = set()
        self._half: set[Node] = set()
        self._casts: dict[tuple[Edge, bool], Node] = {}

    def change(self, node: Node) -> Node:
        if node.op == "null":
            return node
        sources = {source for source, _ in node.inputs}
        half = _is_supported(node) and not sources.isdisjoint(self._after_layer if node.op in _LAYERS else self._half)
        if node.op in _LAYERS or not sources.isdisjoint(self._after_layer):
            self._after_layer.add(node)
        if half:
            self._half.add(node)
        if half and node.op in _LAYERS:
            for source in sources:
                source.attrs.pop("__dtype__", None)  # Gluon declares its variables as float32
        node.inputs = [self._cast(edge, node) for edge in node.inputs]
        return node

    def _cast(self, edge: Edge, user: Node) -> Edge:
        """Return an output in the type of the node that reads it."""
        source, output = edge
        half = user in self._half
        if source.op == "null" or (source in self._half) == half:
            return edge
        shape = self._shapes.get(edge, ())
        in_blocks = half and user.op not in _LAYERS and len(shape) == 4
        if (edge, in_blocks) not in self._casts:
            attrs = {"dtype": "bfloat16" if half else "float32"}
            cast = Node("amp_cast", f"{source.name}_{output}_cast", attrs, [edge])
            self._casts[edge, in_blocks] = _in_blocks(cast, shape[1]) if in_blocks else cast
        return self._casts[edge, in_blocks], 0


def _is_supported(node: Node) -> bool:
    return node.op in _OPERATORS and node.text("act_type") not in _IN_FLOAT32


def _in_blocks(node: Node, channels: int) -> Node:
    """Change the layout to oneDNN's blocks of channels, by a convolution with the identity.

    A cast returns the plain layout. All later concatenations would keep it, and normalisations of the plain layout run
    oneDNN's reference code.
    """
    identity = Node("_eye", f"{node.name}_eye", {"N": str(channels)})
    kernels = Node("Reshape", f"{node.name}_kernels", {"shape": f"({channels}, {channels}, 1, 1)"}, [(identity, 0)])
    weight = Node("amp_cast", f"{node.name}_weight", {"dtype": "bfloat16"}, [(kernels, 0)])
    attrs = {"kernel": "(1, 1)", "num_filter": str(channels), "no_bias": "True"}
    return Node("Convolution", f"{node.name}_in_blocks", attrs, [(node, 0), (weight, 0)])
