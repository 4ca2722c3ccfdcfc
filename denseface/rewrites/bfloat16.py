"""A network for inference in bfloat16: half of the memory, and twice the arithmetic where the processor has it."""

from __future__ import annotations

from denseface.rewrites.graph import Node, rewrite

import mxnet as mx

_LAYERS = ("Convolution", "FullyConnected")
# What oneDNN computes in bfloat16, with the exceptions by ``act_type``; the rest stays in float32.
_OPERATORS = (*_LAYERS, "BatchNorm", "Activation", "LeakyReLU", "Pooling", "Concat", "Flatten", "elemwise_add")
_IN_FLOAT32 = ("prelu", "selu", "softsign")


def in_bfloat16(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Let a network compute in bfloat16, behind its first layer.

    Parameters
    ----------
    symbol : Symbol
        A network in float32 with one output.
    data_shape : tuple of int
        (N, C, H, W) of its input ``data``.

    Returns
    -------
    Symbol
        With the same float32 input and output.  The weights and biases of layers are bfloat16 variables.

    Notes
    -----
    The first layer, which has pixels of three channels for its input, stays in float32: oneDNN's bfloat16 convolution
    of so few channels is slow.
    """
    internals = symbol.get_internals()
    shapes = dict(zip(internals.list_outputs(), internals.infer_shape(data=data_shape)[1]))
    return mx.sym.amp_cast(rewrite(symbol, _Conversion(shapes).change), dtype="float32")


class _Conversion:
    """Knows which nodes compute in bfloat16, and casts where the type changes."""

    def __init__(self, shapes):
        self._shapes = shapes
        self._behind_layer = set()
        self._half = set()
        self._casts = {}

    def change(self, node):
        if node.op == "null":
            return node
        sources = {source for source, _ in node.inputs}
        half = _is_known(node) and not sources.isdisjoint(self._behind_layer if node.op in _LAYERS else self._half)
        if node.op in _LAYERS or not sources.isdisjoint(self._behind_layer):
            self._behind_layer.add(node)
        if half:
            self._half.add(node)
        if half and node.op in _LAYERS:
            for source in sources:
                source.attrs.pop("__dtype__", None)  # Gluon's variables say float32
        node.inputs = [self._cast(edge, node) for edge in node.inputs]
        return node

    def _cast(self, edge, user):
        """Give the user an input of its own type."""
        source, output = edge
        half = user in self._half
        if source.op == "null" or (source in self._half) == half:
            return edge
        shape = self._shapes.get(f"{source.name}_output", ())
        in_blocks = half and user.op not in _LAYERS and len(shape) == 4
        if (source, output, in_blocks) not in self._casts:
            cast = Node(
                "amp_cast", f"{source.name}_{output}_cast", {"dtype": "bfloat16" if half else "float32"}, [edge]
            )
            self._casts[source, output, in_blocks] = _in_blocks(cast, shape[1]) if in_blocks else cast
        return self._casts[source, output, in_blocks], 0


def _is_known(node):
    return node.op in _OPERATORS and node.attrs.get("act_type") not in _IN_FLOAT32


def _in_blocks(node, channels):
    """A convolution that changes nothing but the layout.

    A cast leaves pictures in the plain layout, every concatenation behind it keeps to that, and normalisations go
    through oneDNN's reference code then.
    """
    eye = Node("_eye", f"{node.name}_eye", {"N": str(channels)})
    kernels = Node("Reshape", f"{node.name}_kernels", {"shape": f"({channels}, {channels}, 1, 1)"}, [(eye, 0)])
    weight = Node("amp_cast", f"{node.name}_weight", {"dtype": "bfloat16"}, [(kernels, 0)])
    options = {"kernel": "(1, 1)", "num_filter": str(channels), "no_bias": "True"}
    return Node("Convolution", f"{node.name}_in_blocks", options, [(node, 0), (weight, 0)])
