"""Stochastic gradient descent with momentum: the norm of a gradient, clipping, and the update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from denseface.training.state import State

import mxnet as mx

_BLOCK = 1 << 13  # squares that MXNet adds in float32
_AGGREGATED = 16  # arrays in one call of MXNet's kernel, which writes past its end beyond 60; more are slower on CPUs


class Descent(NamedTuple):
    """How parameters follow their gradients.

    Attributes
    ----------
    momentum, wd : float
        Momentum and weight decay. A parameter's attribute ``__wd_mult__`` multiplies the decay; see
        :mod:`denseface.training.decay`.
    clip_norm : float
        Longer gradients are shortened to this norm; 0 leaves them as they are.
    accumulate : int
        Batches per step; their gradients are averaged.
    """

    momentum: float
    wd: float
    clip_norm: float = 0
    accumulate: int = 1


class Optimizer:
    """Updates the parameters of a state by their summed gradients.

    Parameters
    ----------
    symbol : Symbol
        The training symbol, whose attributes multiply rates and decay.
    executors : sequence of Executor
        The symbol on each device.
    state : State
        What changes.
    learning : sequence of str
        Parameters that have gradients.
    descent : Descent
        How they follow these.
    shares : int
        How many devices there are, over all workers, each with the gradient of the mean loss of its share.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        executors: Sequence[mx.executor.Executor],
        state: State,
        learning: Sequence[str],
        descent: Descent,
        shares: int,
    ):
        names = list(state.bound()[0])
        self._numbers = {name: number for number, name in enumerate(names)}
        self._executors = executors
        self._state = state
        self._scale = 1 / (shares * descent.accumulate)  # of the summed gradient, to that of the mean loss
        self._clip_norm = descent.clip_norm
        self._sgd = mx.optimizer.SGD(
            momentum=descent.momentum,
            wd=descent.wd,
            rescale_grad=self._scale,
            sym=symbol,
            param_idx2name=dict(enumerate(names)),
        )
        self._sampled = [name for name in learning if state.is_sampled(name)]
        sizes = {name: executors[0].arg_dict[name].size for name in learning if not state.is_sampled(name)}
        self._groups = _groups(sizes)
        self._blocks = [block for name in learning for block in _blocks(executors[0].grad_dict[name])]

    def squares(self) -> mx.nd.NDArray:
        """Return sums of squares of the gradient on its device, without waiting for it."""
        return mx.nd.multi_sum_sq(*self._blocks, num_arrays=len(self._blocks))

    def norm(self, squares: mx.nd.NDArray) -> float:
        """Return the norm of the mean loss's gradient by what :meth:`squares` returned."""
        return self._scale * math.sqrt(squares.asnumpy().sum(dtype=np.float64))

    def update(self, learning_rate: float, squares: mx.nd.NDArray, sample: np.ndarray | None) -> None:
        """Update all parameters.

        Parameters
        ----------
        learning_rate : float
            Rate of this step.
        squares : NDArray
            Of :meth:`squares`; read only if the gradient may have to be shortened.
        sample : ndarray of shape (size,), int64, or None
            The classes that the devices have the centers of.
        """
        if self._clip_norm:
            norm = self.norm(squares)
            self._sgd.rescale_grad = self._scale * min(1, self._clip_norm / norm if norm else 1)
        self._sgd.lr = learning_rate
        for executor, momenta in zip(self._executors, self._state.momentum_on):
            arrays = self._numbers.get, executor.arg_dict.get, executor.grad_dict.get, momenta.get
            for names in self._groups:
                self._sgd.update(*(list(map(get, names)) for get in arrays))
        if self._state.centers and sample is not None:
            for name in self._sampled:
                gradient = self._executors[0].grad_dict[name]
                step = partial(self._sgd.update, self._numbers[name])
                self._state.centers.update(name, sample, gradient, step)


def _groups(sizes: Mapping[str, int]) -> list[list[str]]:
    """Group arrays of similar sizes: the kernel looks at every array as often as the largest has values."""
    groups: list[list[str]] = []
    for name in sorted(sizes, key=sizes.__getitem__):
        if not groups or len(groups[-1]) == _AGGREGATED or sizes[name] > 2 * sizes[groups[-1][0]]:
            groups.append([])
        groups[-1].append(name)
    return groups


def _blocks(array: mx.nd.NDArray) -> Iterator[mx.nd.NDArray]:
    """Yield views of an array, block by block."""
    flat = array.reshape((-1,))
    for start in range(0, array.size, _BLOCK):
        yield flat[start : min(start + _BLOCK, array.size)]
