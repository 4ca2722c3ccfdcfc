"""Averages of a network's weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from denseface.core.errors import InputError

import mxnet as mx

Bound = Mapping[str, mx.nd.NDArray]


class Averages:
    """Exponential moving averages of weights and batch statistics (Tarvainen and Valpola 2017, "Mean teachers").

    After step t, from 1, average = d average + (1 - d) value with d = min(decay, (1 + t) / (10 + t)), so that the first
    steps, whose values are far from the last ones, are soon forgotten. A value that never changes is its own average,
    bit for bit.

    Parameters
    ----------
    decay : float
        From 0 to below 1. The averages reach back over about 1 / (1 - decay) steps.
    arguments, auxiliary : mapping of str to NDArray
        The arrays that training changes; the averages begin with their present values.
    """

    def __init__(self, decay: float, arguments: Bound, auxiliary: Bound):
        self._decay = decay
        self._values = arguments, auxiliary
        self._averages = [{name: array.copy() for name, array in arrays.items()} for arrays in self._values]

    def reset(self) -> None:
        """Begin again with the present values."""
        self.restore(*self._values)

    def update(self, step: int) -> None:
        """Add the values after this step, counted from 1."""
        mx.nd.waitall()  # MXNet does not declare that the backward pass changes batch statistics
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for averages, values in zip(self._averages, self._values):
            for name, average in averages.items():
                average += share * (values[name] - average)

    def values(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return copies of the averages of parameters and of batch statistics, by name."""
        arguments, auxiliary = ({name: array.asnumpy() for name, array in kind.items()} for kind in self._averages)
        return arguments, auxiliary

    def restore(self, arguments: Mapping, auxiliary: Mapping) -> None:
        """Continue with other averages, as :meth:`values` returned them.

        Raises
        ------
        InputError
            If they belong to another network.
        """
        for averages, values in zip(self._averages, (arguments, auxiliary)):
            if {n: array.shape for n, array in averages.items()} != {n: array.shape for n, array in values.items()}:
                raise InputError("the averaged weights are not those of this network")
            for name, array in values.items():
                averages[name][:] = array
