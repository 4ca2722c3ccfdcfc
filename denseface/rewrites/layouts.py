"""oneDNN's layouts of pictures, and the places where two of them meet."""

from __future__ import annotations

from denseface.rewrites.graph import Node, nodes_of, output_shapes, rewrite

import mxnet as mx

_BLOCK = 16  # channels in a block of oneDNN's widest layout


def without_mixed_layouts(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Put a reshape before every batch normalisation that lies between two layouts; same function and parameters."""
    mixed = _mixed_layouts(symbol, output_shapes(symbol, data_shape))

    def change(node: Node) -> Node:
        return _in_plain_layout(node) if node.name in mixed else node

    return rewrite(symbol, change)


def _mixed_layouts(symbol, shapes):
    """Names of the batch normalisations beside a convolution whose channels fill half a block of oneDNN's.

    oneDNN keeps such a convolution's pictures in blocks of 8 channels and its neighbours' in blocks of 16.  A batch
    normalisation between the two goes backward through oneDNN's reference code, a hundred times slower.
    """
    mixed = set()
    for node in nodes_of(symbol):
        if node.op == "BatchNorm" and _is_narrow(node.inputs[0][0], shapes):
            mixed.add(node.name)
        elif _is_narrow(node, shapes):
            source = node.inputs[0][0]
            while source.op in ("Activation", "LeakyReLU", "Dropout"):
                source = source.inputs[0][0]
            if source.op == "BatchNorm":
                mixed.add(source.name)
    return mixed


def _is_narrow(node, shapes):
    """Whether this is a convolution that takes or gives a number of channels divisible by 8 and not by 16."""
    if node.op != "Convolution":
        return False
    source = node.inputs[0][0]
    channels = [shapes[f"{name}_output"][1] for name in (source.name, node.name) if f"{name}_output" in shapes]
    return any(count % _BLOCK == _BLOCK // 2 for count in channels)


def _in_plain_layout(batch_norm):
    """A reshape to the same shape leaves oneDNN's layouts behind, forward and backward."""
    plain = Node("Reshape", f"{batch_norm.name}_plain", {"shape": "(0, 0, 0, 0)"}, batch_norm.inputs[:1])
    batch_norm.inputs[0] = (plain, 0)
    return batch_norm
