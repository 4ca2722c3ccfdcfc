"""A training symbol bound on devices, as a whole or for its head alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from denseface.core.errors import InputError, is_out_of_memory, mxnet_reason

import mxnet as mx


class Head(NamedTuple):
    """What learns while the network below it stays as it is.

    Attributes
    ----------
    symbol : Symbol
        The training symbol, in which the network uses its moving averages.
    parameters : collection of str
        Those that learn.
    kept : collection of str
        The network's moving averages.
    """

    symbol: mx.sym.Symbol
    parameters: Collection[str]
    kept: Collection[str]


class Part(NamedTuple):
    """What some steps train.

    Attributes
    ----------
    executors : list of Executor
        The symbol on each device.
    learning : list of str
        Parameters that these steps change; only they have gradients.
    kept : collection of str
        Moving averages that these steps do not change.
    """

    executors: list[mx.executor.Executor]
    learning: list[str]
    kept: Collection[str]


def bind(
    symbol: mx.sym.Symbol,
    contexts: Sequence[mx.Context],
    shapes: Mapping[str, tuple[int, ...]],
    frozen: Collection[str],
    grad_req: str,
) -> Part:
    """Bind a symbol on new arrays.

    Parameters
    ----------
    symbol : Symbol
        Of :mod:`denseface.models.losses`.
    contexts : sequence of Context
        The devices.
    shapes : mapping of str to tuple of int
        Of the inputs on each device; all other variables are parameters.
    frozen : collection of str
        Parameters and moving averages that never change.
    grad_req : str
        ``write``, or ``add`` if the gradients of several batches add up.

    Raises
    ------
    InputError
        If there is not enough memory for such batches.
    """
    learning = [name for name in symbol.list_arguments() if name not in shapes and name not in frozen]
    requests = _requests(symbol, learning, grad_req)
    try:
        executors = [symbol.simple_bind(context, grad_req=requests, **shapes) for context in contexts]
    except RuntimeError as error:  # simple_bind makes one of every MXNetError
        advice = "; try a smaller one" if is_out_of_memory(error) else ""
        batch = (shapes["data"][0] * len(contexts), *shapes["data"][1:])
        raise InputError(
            f"MXNet cannot train on a batch of {batch} ({mxnet_reason(error)}){advice}", option="per_batch_size"
        ) from error
    return Part(executors, learning, frozen)


def bind_head(head: Head, whole: Part, contexts: Sequence[mx.Context], grad_req: str) -> Part:
    """Bind a head's symbol on the arrays of the whole, without gradients for the network below."""
    learning = [name for name in whole.learning if name in head.parameters]
    requests = _requests(head.symbol, learning, grad_req)
    executors = [
        head.symbol.bind(
            context,
            args=executor.arg_dict,
            args_grad={name: executor.grad_dict[name] for name in learning},
            grad_req=requests,
            aux_states=executor.aux_dict,
        )
        for context, executor in zip(contexts, whole.executors)
    ]
    return Part(executors, learning, {*head.kept, *whole.kept})


def _requests(symbol, learning, grad_req):
    return {**dict.fromkeys(symbol.list_arguments(), "null"), **dict.fromkeys(learning, grad_req)}
