"""A training symbol bound on devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from denseface.core.errors import InputError, is_out_of_memory, reason_of

import mxnet as mx


def bind(
    symbol: mx.sym.Symbol,
    contexts: Sequence[mx.Context],
    shapes: Mapping[str, tuple[int, ...]],
    learning: Sequence[str],
    grad_req: str,
) -> list[mx.executor.Executor]:
    """Bind a symbol on new arrays, on each device.

    Parameters
    ----------
    symbol : Symbol
        Of :mod:`denseface.models.losses`.
    contexts : sequence of Context
        The devices.
    shapes : mapping of str to tuple of int
        Of the inputs on each device; all other variables are parameters.
    learning : sequence of str
        Parameters that learn; only they have gradients.
    grad_req : str
        ``write``, or ``add`` if the gradients of several batches add up.

    Raises
    ------
    InputError
        If there is not enough memory for such batches.
    """
    requests = {**dict.fromkeys(symbol.list_arguments(), "null"), **dict.fromkeys(learning, grad_req)}
    try:
        return [symbol.simple_bind(context, grad_req=requests, **shapes) for context in contexts]
    except RuntimeError as error:  # simple_bind makes one of every MXNetError
        advice = "; try a smaller one" if is_out_of_memory(error) else ""
        batch = (shapes["data"][0] * len(contexts), *shapes["data"][1:])
        raise InputError(
            f"MXNet cannot train on a batch of {batch} ({reason_of(error)}){advice}", option="per_batch_size"
        ) from error
