"""Avoid a slow path of oneDNN where two of its memory layouts meet."""

from __future__ import annotations

from denseface.models.graph import Edge, Graph, Node, Shape

_BLOCK = 16  # channels per block in oneDNN's widest layout


def separate_layouts(graph: Graph) -> None:
    """Put a reshape before every batch normalization that lies between two layouts; the graph's shapes are inferred."""
    mixed = _mixed_layouts(graph.nodes, graph.shapes)
    graph.rewrite(lambda node: _in_plain_layout(node) if node in mixed else node)


def _mixed_layouts(nodes: list[Node], shapes: dict[Edge, Shape]) -> set[Node]:
    """Find the batch normalizations next to a convolution whose channels fill half of oneDNN's widest block.

    oneDNN stores the output of such a convolution in blocks of 8 channels and that of its neighbors in blocks of 16.
    The backward pass of a batch normalization between the two runs oneDNN's reference code, a hundred times slower.
    """
    mixed = set()
    for node in nodes:
        if node.op == "BatchNorm" and _is_narrow(node.source(), shapes):
            mixed.add(node)
        elif _is_narrow(node, shapes):
            source = node.source()
            while source.op in ("Activation", "LeakyReLU", "Dropout"):
                source = source.source()
            if source.op == "BatchNorm":
                mixed.add(source)
    return mixed


def _is_narrow(node: Node, shapes: dict[Edge, Shape]) -> bool:
    """Test for a convolution with a number of input or output channels that 8 divides and 16 does not."""
    if node.op != "Convolution":
        return False
    ends = [shapes.get(edge, ()) for edge in (node.inputs[0], (node, 0))]
    return any(len(shape) > 1 and shape[1] % _BLOCK == _BLOCK // 2 for shape in ends)


def _in_plain_layout(batch_norm: Node) -> Node:
    """Leave oneDNN's layouts by a reshape to the same shape, in the forward and the backward pass."""
    plain = Node("Reshape", f"{batch_norm.name}_plain", {"shape": "(0, 0, 0, 0)"}, batch_norm.inputs[:1])
    batch_norm.inputs[0] = (plain, 0)
    return batch_norm
