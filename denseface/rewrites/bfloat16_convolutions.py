"""1x1 and 3x3 convolutions in bfloat16, which `denseface.rewrites.native` compiles."""

from __future__ import annotations

from denseface.models.graph import Graph, Node
from denseface.rewrites.compiled import declare, has_whole_blocks, is_plain_convolution
from denseface.rewrites.norms import NORM_OPERATOR

CONVOLUTION_OPERATOR = "denseface_convolution"
_PICTURES = {CONVOLUTION_OPERATOR: 0, NORM_OPERATOR: 1}  # the input that pictures are


def convolve_in_bfloat16(graph: Graph) -> None:
    """Replace 1x1 and 3x3 convolutions by an operator for training that multiplies in bfloat16 and adds in float32.

    Parameters
    ----------
    graph : Graph
        A network whose shapes are inferred. Afterwards it computes the same function of the same float32 parameters,
        but for the rounding of products. MXNet must have loaded the operators, and the processor must have instructions
        for bfloat16.
    """
    chosen = {
        node
        for node in graph.nodes
        if any(is_plain_convolution(node, kernel, stride) for kernel in (1, 3) for stride in (1, 2))
        and node.source(1).op == "null"
        and has_whole_blocks(graph.shapes.get((node.source(1), 0), ()))
    }

    def change(node: Node) -> Node:
        if node not in chosen:
            return node
        declare(node.source(1), graph.shapes[node.source(1), 0])
        attrs = {"stride": str(node.ints("stride", (1, 1))[0])}
        return Node(CONVOLUTION_OPERATOR, node.name, attrs, node.inputs)

    graph.rewrite(change)


def keep_in_bfloat16(graph: Graph) -> None:
    """Let what compiled convolutions and normalizations pass to each other alone, and its gradients, be of bfloat16.

    MXNet takes these arrays for float16, of the same size. It never computes with them: an array that two operators
    read stays in float32, as MXNet adds its gradients.
    """
    uses = graph.uses()
    for node in graph.nodes:
        if node.op in _PICTURES:
            edge = node.inputs[_PICTURES[node.op]]
            if edge[0].op in _PICTURES and uses[edge] == 1:
                edge[0].attrs["bfloat16_output"] = node.attrs["bfloat16_input"] = "1"
