"""1x1 and 3x3 convolutions whose products are of bfloat16, which `denseface.rewrites.native` compiles."""

from __future__ import annotations

from denseface.rewrites.compiled import copied, describe, has_whole_blocks, is_plain_convolution
from denseface.rewrites.graph import Graph, Node

import mxnet as mx

CONVOLUTION_OPERATOR = "denseface_convolution"


def with_half_convolutions(symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int]) -> mx.sym.Symbol:
    """Replace 1x1 and 3x3 convolutions by an operator for training that multiplies in bfloat16 and adds in float32.

    Parameters
    ----------
    symbol : Symbol
        A network; its input is ``data``.
    data_shape : tuple of int
        (N, C, H, W).

    Returns
    -------
    Symbol
        Computes the same function of the same float32 parameters, but for the rounding of products. MXNet must have
        loaded the operators, and the processor must have instructions for bfloat16.
    """
    graph = Graph(symbol)
    shapes = graph.shapes(data_shape)
    uses = graph.uses()
    chosen = {
        node
        for node in graph.nodes
        if any(is_plain_convolution(node, kernel, stride) for kernel in (1, 3) for stride in (1, 2))
        and node.source(1).op == "null"
        and has_whole_blocks(shapes.get((node.source(1), 0), ()))
    }
    alone = {node for node in chosen if uses[node.inputs[0]] == 1}

    def change(node: Node) -> Node:
        if node not in chosen:
            return node
        data, (weight, _) = node.inputs
        describe(weight, shapes[weight, 0])
        attrs = {"stride": str(node.ints("stride", (1, 1))[0])}
        inputs = [data if node in alone else copied(data, node.name), copied((weight, 0))]
        return Node(CONVOLUTION_OPERATOR, node.name, attrs, inputs)

    return graph.rewrite(change)
