"""What the compiled operators have in common: the convolutions that they take over, and how they read parameters."""

from __future__ import annotations

from denseface.rewrites.graph import Node

BLOCK = 16  # must divide the numbers of channels that they compute


def is_plain_convolution(node: Node, kernel: int) -> bool:
    """Test for a square convolution that keeps the size of pictures."""
    return (
        node.op == "Convolution"
        and node.ints("kernel") == (kernel, kernel)
        and node.ints("pad", (0, 0)) == (kernel // 2, kernel // 2)
        and node.ints("stride", (1, 1)) == (1, 1)
        and node.ints("dilate", (1, 1)) == (1, 1)
        and node.integer("num_group", 1) == 1
        and node.flag("no_bias")
        and node.text("layout", "NCHW") == "NCHW"
    )


def copied(parameter: Node) -> Node:
    """Copy a parameter for an operator.

    MXNet does not tell the operator whether to write or to add gradients. The copy knows, and passes them on.
    """
    return Node("_copy", f"{parameter.name}_copy", {}, [(parameter, 0)])
