"""What the steps of a run change: parameters, moving averages and momenta."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Union

import numpy as np

from denseface.core.errors import InputError
from denseface.models.distillation import INPUTS
from denseface.training.exchange import Exchange
from denseface.training.partial_fc import Centers

import mxnet as mx

_Array = Union[mx.nd.NDArray, np.ndarray]  # on a device, or in main memory


class Adopted(NamedTuple):
    """What became of another model's parameters.

    Attributes
    ----------
    loaded, fresh, left_over : list of str
        Names copied, names here that stay as they are, and names of the other model that are not used.
    """

    loaded: list[str]
    fresh: list[str]
    left_over: list[str]


class State:
    """Parameters, moving averages and momenta: the same on every device, and read and set as one.

    Parameters
    ----------
    symbol : Symbol
        The training symbol.
    executors : sequence of Executor
        The symbol on each device.
    exchange : Exchange
        Copies between devices and workers.
    with_momentum : collection of str
        Parameters that have a momentum.
    centers : Centers, optional
        With Partial FC, the classifier's parameters of all classes; devices have those of a sample.

    Attributes
    ----------
    centers : Centers or None
        As given.
    momentum_on : list of dict of str to NDArray
        The momenta on each device, by parameter, but those of the centers.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        executors: Sequence[mx.executor.Executor],
        exchange: Exchange,
        with_momentum: Collection[str],
        centers: Centers | None = None,
    ):
        self.centers = centers
        self._attributes = symbol.attr_dict()
        self._names = [name for name in symbol.list_arguments() if name not in INPUTS]
        self._executors = executors
        self._exchange = exchange
        self.momentum_on = [
            {
                name: mx.nd.zeros_like(executor.arg_dict[name])
                for name in self._names
                if name in with_momentum and not self.is_sampled(name)
            }
            for executor in executors
        ]

    def is_sampled(self, name: str) -> bool:
        """Return whether a parameter is one of the centers, of which devices have a sample."""
        return self.centers is not None and name in self.centers.weights

    def initialize(self, initializer: mx.init.Initializer, seed: int) -> None:
        """Draw every parameter; a variable's own ``init`` attribute takes precedence over ``initializer``."""
        mx.random.seed(seed)
        np.random.seed(seed % 2**32)  # some of MXNet's initializers draw from NumPy
        arguments, auxiliary = self.bound()
        for name, array in {**arguments, **auxiliary}.items():
            draw = partial(initializer, mx.init.InitDesc(name, self._attributes.get(name, {})))
            if self.centers and self.is_sampled(name):
                self.centers.initialize(name, draw)
            else:
                draw(array)
        self._exchange.copy_to_devices()

    def bound(self) -> tuple[dict[str, mx.nd.NDArray], dict[str, mx.nd.NDArray]]:
        """Return the arrays of the first device that steps change: parameters and moving averages, by name."""
        first = self._executors[0]
        return {name: first.arg_dict[name] for name in self._names}, dict(first.aux_dict)

    def parameters(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return arguments and auxiliary states by name: copies, except ``centers.weights``, which steps change."""
        arguments = {name: _read(array) for name, array in self._arguments().items()}
        return arguments, {name: array.asnumpy() for name, array in self.bound()[1].items()}

    def set_parameters(self, arguments: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]) -> None:
        """Set parameters and moving averages on every device; those not named stay as they are.

        Raises
        ------
        InputError
            If one is unknown here, or of another shape.
        """
        for given, own in ((arguments, self._arguments()), (auxiliary, self.bound()[1])):
            for name, array in given.items():
                _assign(name, own, array)
        self._exchange.copy_to_devices()

    def adopt(self, arguments: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]) -> Adopted:
        """Copy those parameters of another model that have the same name and shape here."""
        own = {**self._arguments(), **self.bound()[1]}
        given = {**arguments, **auxiliary}
        fits = {name for name, array in own.items() if name in given and given[name].shape == array.shape}
        self.set_parameters(*({name: kind[name] for name in kind if name in fits} for kind in (arguments, auxiliary)))
        return Adopted(
            [name for name in own if name in fits],
            [name for name in own if name not in fits],
            [name for name in given if name not in fits],
        )

    def momenta(self) -> dict[str, np.ndarray]:
        """Return the momenta by parameter: copies, except ``centers.momenta``; empty without momentum."""
        return {name: _read(array) for name, array in self._all_momenta(self.momentum_on[0]).items()}

    def set_momenta(self, momenta: Mapping[str, np.ndarray]) -> None:
        """Set momenta; raises InputError as :meth:`set_parameters` does."""
        for bound in self.momentum_on:
            own = self._all_momenta(bound)
            for name, array in momenta.items():
                _assign(name, own, array)

    def broadcast(self) -> None:
        """Send parameters, moving averages and momenta of the first worker to all others."""
        if not self._exchange.has_others:
            return
        arguments, auxiliary = self.bound()
        first, *others = self.momentum_on
        for name, array in {**arguments, **auxiliary}.items():
            self._exchange.broadcast(name, array)
        for name, array in first.items():
            self._exchange.broadcast(name, array)
            for momenta in others:
                array.copyto(momenta[name])
        self._exchange.copy_to_devices()
        if self.centers:
            self._broadcast_centers(self.centers)

    def _broadcast_centers(self, centers: Centers) -> None:
        for name in centers.weights:
            for tables in (centers.weights, centers.momenta):
                for block in centers.blocks(tables.get(name)):
                    array = mx.nd.zeros(self._executors[0].arg_dict[name].shape)  # the shape of that key
                    array[: len(block)] = block
                    self._exchange.broadcast(name, array)
                    block[:] = array[: len(block)].asnumpy()

    def _arguments(self) -> dict[str, _Array]:
        """Parameters by name: on the first device, or among the centers."""
        return {**self.bound()[0], **(self.centers.weights if self.centers else {})}

    def _all_momenta(self, bound: Mapping[str, mx.nd.NDArray]) -> dict[str, _Array]:
        """Momenta by name: on a device, or among the centers."""
        return {**bound, **(self.centers.momenta if self.centers else {})}


def _read(array: _Array) -> np.ndarray:
    """Copy an array from its device; return an ndarray as a view that cannot be written."""
    if isinstance(array, mx.nd.NDArray):
        return array.asnumpy()
    array = array.view()
    array.flags.writeable = False
    return array


def _assign(name: str, own: Mapping[str, _Array], array: np.ndarray) -> None:
    """Copy a NumPy array into the array of the same name."""
    if name not in own:
        raise InputError(f"{name}: this network has no such parameter")
    if own[name].shape != array.shape:
        raise InputError(f"{name}: its shape is {array.shape}, but this network needs {own[name].shape}")
    if own[name] is not array:  # it is, if a checkpoint was read straight into this array
        own[name][:] = array
