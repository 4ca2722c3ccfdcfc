"""What the compiled operators have in common: the layers that they take over, and what they read beside the data."""

from __future__ import annotations

import os

from denseface.models.graph import Edge, Graph, Node, Shape

BLOCK = 16  # must divide the numbers of channels that they compute
_SUMMED_AT_ONCE = 8  # MXNet writes fewer gradients of one output apart from each other, and then adds them


def is_plain_convolution(node: Node, kernel: int, stride: int = 1) -> bool:
    """Test for a square convolution of a stride that, but for this, keeps the size of pictures."""
    return (
        node.op == "Convolution"
        and node.ints("kernel") == (kernel, kernel)
        and node.ints("pad", (0, 0)) == (kernel // 2, kernel // 2)
        and node.ints("stride", (1, 1)) == (stride, stride)
        and node.ints("dilate", (1, 1)) == (1, 1)
        and node.integer("num_group", 1) == 1
        and node.flag("no_bias")
        and node.text("layout", "NCHW") == "NCHW"
    )


def is_plain_normalization(node: Node) -> bool:
    """Test for a batch normalization of channels with batch statistics and a learned scale."""
    return (
        node.op == "BatchNorm"
        and not node.flag("fix_gamma", True)
        and not node.flag("use_global_stats")
        and not node.flag("output_mean_var")
        and node.integer("axis", 1) == 1
    )


def declare(parameter: Node, shape: Shape) -> None:
    """Write the shape of a parameter on its variable, and that it is dense: our operators do not infer either."""
    parameter.attrs.update({"__shape__": str(shape), "__storage_type__": "0"})


def has_whole_blocks(weight_shape: Shape) -> bool:
    """Test whether a convolution with weights of a shape computes and reads whole blocks of channels."""
    channels = weight_shape[:2]
    return bool(channels) and all(count and count % BLOCK == 0 for count in channels)


def copy_where_gradients_are_added(graph: Graph, *, accumulates: bool) -> None:
    """Copy what compiled operators read, where MXNet adds their gradients to others in place.

    MXNet does not tell an operator whether to write gradients or to add them. The copy knows, and passes them on. It
    bears the name of its reader, because MXNet makes one of equal copies.

    Parameters
    ----------
    graph : Graph
        With all its compiled operators.
    accumulates : bool
        Whether gradients of parameters are added to those of earlier batches.
    """
    uses = graph.uses()
    limit = int(os.environ.get("MXNET_EXEC_INPLACE_GRAD_SUM_CAP", _SUMMED_AT_ONCE))

    def are_added(edge: Edge) -> bool:
        source = edge[0]
        if source.op == "null":
            return source.name in graph.arguments and (accumulates or uses[edge] >= limit)
        return source.op != "BlockGrad" and uses[edge] >= limit

    def change(node: Node) -> Node:
        def copied(edge: Edge) -> Edge:
            return Node("_copy", f"{edge[0].name}_{node.name}_copy", {"__reader__": node.name}, [edge]), 0

        if node.op.startswith("denseface_"):
            node.inputs = [copied(edge) if are_added(edge) else edge for edge in node.inputs]
        return node

    graph.rewrite(change)


def inference_marker() -> Node:
    """Return an input that tells an operator whether it runs in inference, as MXNet does not: near 1 if so, else 0.

    It is a normalized constant 1: its mean is 1 in training, and 0 in inference.
    """
    constants = {
        "one": ("_ones", "(1, 1, 1, 1)"),
        "gamma": ("_ones", "(1,)"),
        "beta": ("_zeros", "(1,)"),
        "mean": ("_zeros", "(1,)"),
        "variance": ("_ones", "(1,)"),
    }
    inputs = [
        (Node(op, f"inference_{name}", {"shape": shape, "dtype": "float32"}), 0)
        for name, (op, shape) in constants.items()
    ]
    return Node("BlockGrad", "inference", {}, [(Node("BatchNorm", "inference_norm", {}, inputs), 0)])
