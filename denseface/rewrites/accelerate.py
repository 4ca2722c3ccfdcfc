"""Changes of a training graph that keep its function and its parameters, and make it faster on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from denseface.models.graph import Graph
from denseface.rewrites.bfloat16_convolutions import CONVOLUTION_OPERATOR, convolve_in_bfloat16, keep_in_bfloat16
from denseface.rewrites.compiled import copy_where_gradients_are_added
from denseface.rewrites.dense_blocks import TRAINING_OPERATOR, fuse_dense_blocks
from denseface.rewrites.layouts import separate_layouts
from denseface.rewrites.native import bfloat16_instructions, load_operators
from denseface.rewrites.norms import compile_norms
from denseface.rewrites.prelu import compile_slopes, compose_slopes

logger = logging.getLogger(__name__)


def accelerate(
    graph: Graph, data_shape: tuple[int, int, int, int], *, bfloat16: bool = False, accumulates: bool = True
) -> None:
    """Make a network faster to train on the CPU.

    Parameters
    ----------
    graph : Graph
        A network with its loss; its input is ``data``. Afterwards it has the same parameters under the same names, and
        the same outputs and gradients up to rounding.
    data_shape : tuple of int
        (N, C, H, W).
    bfloat16 : bool
        Let dense blocks and convolutions compute in bfloat16, as `fuse_dense_blocks` and `convolve_in_bfloat16`
        describe. A line in the log says how, or why they do not.
    accumulates : bool
        Whether gradients of parameters are added to those of earlier batches, as with ``grad_req="add"``. If they are
        only written, some copies are spared.
    """
    changes: list[Callable[[Graph], None]] = []
    if load_operators():
        changes.append(partial(fuse_dense_blocks, bfloat16=bfloat16))
    if bfloat16 and bfloat16_instructions():
        changes += [convolve_in_bfloat16, _compile_norms_between_convolutions, keep_in_bfloat16, compile_slopes]
    graph.infer_shapes(data=data_shape)
    for change in (*changes, separate_layouts, compose_slopes):
        change(graph)
    copy_where_gradients_are_added(graph, accumulates=accumulates)
    if bfloat16:
        _report(graph.count(TRAINING_OPERATOR), graph.count(CONVOLUTION_OPERATOR))


def _compile_norms_between_convolutions(graph: Graph) -> None:
    """Compile normalizations where convolutions of ours write the layout that they compute in."""
    if graph.count(CONVOLUTION_OPERATOR):
        compile_norms(graph)


def _report(blocks: int, convolutions: int) -> None:
    instructions = bfloat16_instructions()
    if not load_operators():
        logger.warning("training in float32: bfloat16 needs a C++ compiler")
    elif not instructions:
        logger.warning("training in float32: this processor has no instructions for bfloat16")
    elif not blocks and not convolutions:
        logger.warning("training in float32: this network has no dense blocks and no convolutions for bfloat16")
    else:
        counts = {"dense blocks": blocks, "convolutions": convolutions}
        told = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        logger.info("%s compute in bfloat16 (%s)", told, instructions)
