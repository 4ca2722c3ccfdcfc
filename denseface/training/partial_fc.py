"""Partial FC: a step trains on the classes of its batch and on a sample of the others.

After An et al. 2021, "Partial FC: Training 10 Million Identities on a Single Machine", and An et al. 2022, "Killing
Two Birds with One Stone". The classifier's parameters have one row per class, its center. Those of all classes are
here, in main memory; the devices have the rows of the sample only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from denseface.core.errors import InputError
from denseface.models.losses import CLASS_CENTERS

import mxnet as mx

CLASS_PARAMETERS = (CLASS_CENTERS, "fc7_bias")  # axis 0 is the class

_BLOCK = 1 << 16  # rows that are drawn at a time
_ELEMENTS = 1 << 31  # an array of MXNet's wheel has fewer


def sample_size(num_classes: int, rate: float, images: int) -> int:
    """Number of classes that a step trains on: ceil(rate * num_classes), at least one per image, at most all.

    Parameters
    ----------
    num_classes : int
        All classes.
    rate : float
        Above 0, up to 1.
    images : int
        Images per step, over all devices, batches and workers.
    """
    return min(num_classes, max(math.ceil(rate * num_classes), images))


def draw_sample(labels: np.ndarray, num_classes: int, size: int, seed: int) -> np.ndarray:
    """Draw the classes that a step trains on (An et al. 2021: all positives, and negatives at random).

    Parameters
    ----------
    labels : ndarray, any shape and type
        Classes of the step's images, 0 to ``num_classes`` - 1; all of them are in the sample.
    num_classes, size : int
        How many classes there are, and how many to draw, not fewer than there are different labels.
    seed : int
        0 or more; decides the others, each subset of them with equal probability.

    Returns
    -------
    ndarray of shape (size,), int64
        In ascending order; the position of class c is ``searchsorted(sample, c)``.
    """
    positives = np.unique(labels).astype(np.int64)
    rng = np.random.Generator(np.random.Philox(seed))
    others = rng.choice(num_classes - len(positives), size - len(positives), replace=False, shuffle=False)
    # The n-th class that is not a positive: n, plus one for every positive before it.
    others += np.searchsorted(positives - np.arange(len(positives)), others, side="right")
    return np.sort(np.concatenate([positives, others]))


class Centers:
    """The rows of all classes, and the momentum of each.

    A row outside a step's sample stays as it is, and so does its momentum: neither changes nor decays until the row is
    sampled next.

    Parameters
    ----------
    num_classes : int
        Rows of each table.
    shapes : mapping of str to tuple of int
        Shape of each classifier parameter as it is bound, (size of the sample, ...).
    momentum : bool
        Whether the optimizer has momentum.

    Attributes
    ----------
    num_classes, size : int
        How many classes there are, and how many are bound.
    weights, momenta : dict of str to ndarray of shape (num_classes, ...), float32
        By parameter; ``momenta`` is empty without momentum.

    Raises
    ------
    InputError
        If there is not enough memory for so many classes, or they are more than MXNet's arrays can have.
    """

    def __init__(self, num_classes: int, shapes: Mapping[str, tuple[int, ...]], momentum: bool):
        self.num_classes = num_classes
        self.size = next(iter(shapes.values()))[0]
        self.weights, self.momenta = {}, {}
        self._arrays, kinds = {}, (self.weights, self.momenta)[: 1 + momentum]
        for name, (_, *row) in shapes.items():
            largest = (_ELEMENTS - 1) // math.prod(row)
            if num_classes > largest:
                raise InputError(f"MXNet's arrays have room for the centers of {largest} classes, not of {num_classes}")
            try:
                for tables in kinds:
                    tables[name] = np.empty((num_classes, *row), np.float32)
                    tables[name].fill(0)  # takes the memory now, not in the middle of a run
            except MemoryError as error:
                raise InputError(f"there is not enough memory for the centers of {num_classes} classes") from error
            # MXNet shares this memory, and makes the view that it is given read-only: hence one of its own.
            self._arrays[name] = [mx.nd.from_numpy(tables[name].view()) for tables in kinds]

    @classmethod
    def of(cls, executor: mx.executor.Executor, num_classes: int, momentum: bool) -> Centers:
        """Make the tables of the classifier that an executor has a sample of."""
        bound = executor.arg_dict
        return cls(num_classes, {name: bound[name].shape for name in CLASS_PARAMETERS if name in bound}, momentum)

    def blocks(self, table: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yield a table, if there is one, in blocks of as many rows as are bound."""
        if table is not None:
            for start in range(0, self.num_classes, self.size):
                yield table[start : start + self.size]

    def initialize(self, name: str, draw: Callable[[mx.nd.NDArray], None]) -> None:
        """Fill a table block by block; ``draw`` fills one block."""
        table = self.weights[name]
        for start in range(0, self.num_classes, _BLOCK):
            block = mx.nd.zeros(table[start : start + _BLOCK].shape)
            draw(block)
            table[start : start + _BLOCK] = block.asnumpy()

    def load(self, classes: np.ndarray, bound: Mapping[str, mx.nd.NDArray]) -> None:
        """Copy the weights of ``classes``, int64 (size,) in ascending order, to the bound arrays of a device."""
        rows = mx.nd.array(classes, dtype="int64")
        for name, (weights, *_) in self._arrays.items():
            mx.nd.take(weights, rows).copyto(bound[name])

    def update(self, name: str, classes: np.ndarray, gradient: mx.nd.NDArray, step: Callable[..., None]) -> None:
        """Update weights and momenta of ``classes``.

        Parameters
        ----------
        name : str
            The parameter.
        classes : ndarray of shape (size,), int64
            As for :meth:`load`.
        gradient : NDArray of shape (size, ...)
            One row per class.
        step : callable
            Takes weights, a row_sparse gradient and momenta (or None) of all classes: a lazy update of an optimizer.
        """
        weights, *momenta = self._arrays[name]
        rows = (gradient.as_in_context(weights.context), mx.nd.array(classes, dtype="int64"))
        step(weights, mx.nd.sparse.row_sparse_array(rows, shape=weights.shape), *(momenta or [None]))
        for array in self._arrays[name]:
            array.wait_to_read()  # NumPy reads the same memory without waiting for MXNet
