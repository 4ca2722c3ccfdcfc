"""Rewrites of a training symbol that keep its function and its parameters, and make it faster on the CPU."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

from denseface.rewrites.dense_blocks import TRAINING_OPERATOR, with_dense_blocks
from denseface.rewrites.graph import nodes_of
from denseface.rewrites.half_convolutions import CONVOLUTION_OPERATOR, with_half_convolutions
from denseface.rewrites.layouts import without_mixed_layouts
from denseface.rewrites.native import bfloat16_instructions, load_operators
from denseface.rewrites.norms import with_compiled_norms
from denseface.rewrites.prelu import with_compiled_slopes, with_fast_slopes

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
        Let dense blocks and convolutions compute in bfloat16, as `with_dense_blocks` and `with_half_convolutions`
        describe. A line in the log says how, or why they do not.

    Returns
    -------
    Symbol
        Has the same parameters under the same names, and the same outputs and gradients up to rounding.
    """
    changes = [partial(with_dense_blocks, bfloat16=bfloat16)] if load_operators() else []
    if bfloat16 and bfloat16_instructions():
        changes += [with_half_convolutions, _with_norms_between_half_convolutions, with_compiled_slopes]
    for change in (*changes, without_mixed_layouts, with_fast_slopes):
        symbol = change(symbol, data_shape)
    if bfloat16:
        operators = Counter(node.op for node in nodes_of(symbol))
        _report(operators[TRAINING_OPERATOR], operators[CONVOLUTION_OPERATOR])
    return symbol


def _with_norms_between_half_convolutions(symbol, data_shape):
    """Replace normalizations if there are half convolutions, which write the layout that the operators compute in."""
    is_half = any(node.op == CONVOLUTION_OPERATOR for node in nodes_of(symbol))
    return with_compiled_norms(symbol, data_shape) if is_half else symbol


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
