"""Rewrites of a training symbol that keep its function and its parameters, and make it faster on the CPU."""

from __future__ import annotations

import logging
from functools import partial

from denseface.rewrites.dense_blocks import TRAINING_OPERATOR, with_dense_blocks
from denseface.rewrites.graph import nodes_of
from denseface.rewrites.layouts import without_mixed_layouts
from denseface.rewrites.native import bfloat16_instructions, load_operators
from denseface.rewrites.prelu import with_fast_slopes

import mxnet as mx

logger = logging.getLogger(__name__)


def accelerate(
    symbol: mx.sym.Symbol, data_shape: tuple[int, int, int, int], *, bfloat16: bool = False
) -> mx.sym.Symbol:
    """Make a symbol faster to train on the CPU.

    Parameters
    ----------
    symbol : Symbol
        A network with its loss; its input is ``data``.
    data_shape : tuple of int
        (N, C, H, W).
    bfloat16 : bool
        Let dense blocks compute in bfloat16, as `with_dense_blocks` describes. A line in the log says how, or why they
        do not.

    Returns
    -------
    Symbol
        Has the same parameters under the same names, and the same outputs and gradients up to rounding.
    """
    compiled = (partial(with_dense_blocks, bfloat16=bfloat16),) if load_operators() else ()
    for change in (*compiled, without_mixed_layouts, with_fast_slopes):
        symbol = change(symbol, data_shape)
    if bfloat16:
        _report(sum(node.op == TRAINING_OPERATOR for node in nodes_of(symbol)))
    return symbol


def _report(blocks: int) -> None:
    instructions = bfloat16_instructions()
    if not load_operators():
        logger.warning("training in float32: bfloat16 needs a C++ compiler")
    elif not instructions:
        logger.warning("training in float32: this processor has no instructions for bfloat16")
    elif not blocks:
        logger.warning("training in float32: this network has no dense blocks, which bfloat16 is for")
    else:
        logger.info("%d dense blocks compute in bfloat16 (%s)", blocks, instructions)
