"""What devices and workers exchange, so that all of them train with the same values."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from denseface.distributed.workers import Workers

import mxnet as mx


class Exchange:
    """Sums, averages and copies over the devices of this process and the workers of its run.

    Every parameter and every moving average has a key in MXNet's key-value store, the same on all workers, which have
    to call the methods in the same order. A single device of a single worker needs no store.

    Parameters
    ----------
    executors : sequence of Executor
        The training symbol on each device.
    parameters : sequence of str
        Names of the parameters.
    workers : OneWorker or ServerWorkers
        The processes that train together.
    kvstore : str
        Type of the store for several devices; several workers have their own.

    Attributes
    ----------
    shares : int
        How many devices there are, over all workers.
    """

    def __init__(
        self, executors: Sequence[mx.executor.Executor], parameters: Sequence[str], workers: Workers, kvstore: str
    ):
        self._executors = executors
        self._parameters = parameters
        self._workers = workers
        self.shares = len(executors) * workers.size
        self._store = workers.kvstore or (mx.kv.create(kvstore) if len(executors) > 1 else None)
        first = executors[0]
        arrays = {**{name: first.arg_dict[name] for name in parameters}, **first.aux_dict}
        self._keys = {name: key for key, name in enumerate(arrays)}
        if self._store:
            self._store.init([*self._keys.values()], [*arrays.values()])

    @property
    def has_others(self) -> bool:
        """Whether there are other workers."""
        return self._workers.size > 1

    def sum_gradients(self, names: Sequence[str]) -> None:
        """Replace the gradients of these parameters by their sums over all devices."""
        self._sum(names, [executor.grad_dict for executor in self._executors])

    def average_statistics(self, kept: Collection[str]) -> None:
        """Replace moving averages, but for those that are kept, by their means over all devices."""
        statistics = [executor.aux_dict for executor in self._executors]
        names = [name for name in statistics[0] if name not in kept]  # a mean of equal numbers may be rounded
        if not self._store or not names:
            return
        mx.nd.waitall()  # MXNet does not declare that the backward pass changes them, so nothing else waits for it
        self._sum(names, statistics)
        for arrays in statistics:
            for name in names:
                arrays[name] *= 1 / self.shares
        mx.nd.waitall()

    def _sum(self, names: Sequence[str], devices: Sequence[dict[str, mx.nd.NDArray]]) -> None:
        """Replace the arrays of these names by their sums over all devices, with one call for all."""
        if self._store:
            keys = [self._keys[name] for name in names]
            self._store.pushpull(keys, [[arrays[name] for arrays in devices] for name in names])

    def copy_to_devices(self) -> None:
        """Copy parameters and moving averages of this process's first device to its others."""
        first = self._executors[0]
        for executor in self._executors[1:]:
            for name in self._parameters:
                first.arg_dict[name].copyto(executor.arg_dict[name])
            for name, array in first.aux_dict.items():
                array.copyto(executor.aux_dict[name])
        mx.nd.waitall()

    def broadcast(self, name: str, array: mx.nd.NDArray) -> None:
        """Overwrite an array of the shape of this parameter or moving average with that of the first worker."""
        self._workers.broadcast(self._keys[name], array)
