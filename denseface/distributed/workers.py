"""The workers of a distributed run: the rank of this one, and agreement through MXNet's parameter server."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Union

import numpy as np

from denseface.core.errors import InputError, describe
from denseface.core.signals import SIGNALS
from denseface.core.streams import leave
from denseface.distributed import heartbeats

import mxnet as mx

_KEY = 200_000  # in the key-value store; beyond those of parameters, and ps-lite multiplies keys by 9973 in 32 bits
_BUFFER = 4096
_CLOSING_SECONDS = 20


class OneWorker:
    """The only worker of a run in a single process: it agrees with itself, at no cost.

    Attributes
    ----------
    rank, size : int
        0 and 1.
    kvstore : None
        Nothing connects it to anybody.
    """

    rank, size, kvstore = 0, 1, None
    is_first = True

    def __enter__(self) -> OneWorker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sum(self, values: np.ndarray | Sequence[float]) -> np.ndarray:
        """Return the values as float64."""
        return np.asarray(values, np.float64)

    def check(self, error: InputError | None) -> None:
        """Raise the error, if there is one."""
        if error:
            raise error

    def from_first(self, function: Callable[[], Any]) -> Any:
        """Return what the function returns."""
        return function()

    def broadcast(self, key: int, array: mx.nd.NDArray) -> None:
        """Leave the array as it is."""


class ServerWorkers:
    """The workers of a distributed run, seen from one of them, which MXNet's parameter server connects.

    All workers have to call the methods in the same order. As a context manager it waits for the others at the end;
    after an exception it does not wait, and the process ends with code 1.

    Parameters
    ----------
    kvstore : str
        Type of MXNet's key-value store: ``dist_sync`` or ``dist_device_sync``. The ``DMLC_*`` variables, which
        :func:`connect` checks, say where the others are.

    Attributes
    ----------
    rank, size : int
        Which worker this is, from 0, and how many there are.
    kvstore : KVStore
        Connects them.
    """

    def __init__(self, kvstore: str):
        heartbeats.start_heartbeats()
        seconds, _ = heartbeats.arrival_seconds(), heartbeats.silence_seconds()
        deadline = _deadline(seconds, heartbeats.nobody_came(seconds))
        with _ended_by_signals():
            self.kvstore = mx.kv.create(kvstore)
        deadline.cancel()
        self.rank, self.size = self.kvstore.rank, self.kvstore.num_workers
        self._over = threading.Event()
        self._watch = heartbeats.watch_as_worker(mx.base._LIB, self.kvstore.handle, self._over)
        self.kvstore.init(_KEY, mx.nd.zeros((_BUFFER,), dtype="float64"))

    def __enter__(self) -> ServerWorkers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # freeing the store waits for the others, who may never come
            atexit.register(_end, self.kvstore)
            return
        deadline = _deadline(_CLOSING_SECONDS, "this worker is done, but the other processes have not ended")
        self._over.set()
        self._watch.join()
        handle, self.kvstore.handle = self.kvstore.handle, None
        mx.base.check_call(mx.base._LIB.MXKVStoreFree(handle))
        deadline.cancel()

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that saves, verifies and reports."""
        return self.rank == 0

    def sum(self, values: np.ndarray | Sequence[float]) -> np.ndarray:
        """Sum an array over the workers.

        Parameters
        ----------
        values : array-like
            Of the same shape on every worker.

        Returns
        -------
        ndarray of that shape, float64
            The same on every worker, bit for bit.
        """
        values = np.asarray(values, np.float64)
        flat = values.ravel()
        total = np.empty_like(flat)
        buffer = mx.nd.zeros((_BUFFER,), dtype="float64")
        for start in range(0, len(flat), _BUFFER):
            part = flat[start : start + _BUFFER]
            buffer[: len(part)] = part
            self.kvstore.pushpull(_KEY, [buffer])
            total[start : start + len(part)] = buffer.asnumpy()[: len(part)]
        return total.reshape(values.shape)

    def check(self, error: InputError | None) -> None:
        """Raise on every worker if one of them has an error: its own there, a pointer to it on the others."""
        failed = np.zeros(self.size)
        failed[self.rank] = error is not None
        failed = self.sum(failed)
        if error:
            raise error
        if failed.any():
            raise InputError(f"worker {failed.argmax()} cannot continue; its log says why")

    def from_first(self, function: Callable[[], Any]) -> Any:
        """Call a function on the first worker alone, and return its value on all.

        Parameters
        ----------
        function : callable
            Returns plain values, which pass through JSON.

        Raises
        ------
        InputError
            On every worker, if the function raises one or an OSError.
        """
        answer = {}
        if self.is_first:
            try:
                answer = {"value": function()}
            except InputError as error:
                answer = {"error": error.args[0], "path": error.path, "option": error.option}
            except OSError as error:
                answer = {"error": describe(error), "path": None, "option": None}
        text = json.dumps(answer).encode()
        size = int(self.sum([len(text) if self.is_first else 0])[0])
        codes = np.frombuffer(text, np.uint8) if self.is_first else np.zeros(size)
        answer = json.loads(self.sum(codes).astype(np.uint8).tobytes())
        if "error" in answer:
            raise InputError(answer["error"], path=answer["path"], option=answer["option"])
        return answer["value"]

    def broadcast(self, key: int, array: mx.nd.NDArray) -> None:
        """Overwrite an array with that of the first worker.

        Parameters
        ----------
        key : int
            Key of an array of this shape in the key-value store.
        array : NDArray
            Changed in place.
        """
        if not self.is_first:
            array[:] = 0
        self.kvstore.pushpull(key, [array])  # adding zeros changes nothing
        array.wait_to_read()  # two arrays of one key must not be under way at once


Workers = Union[OneWorker, ServerWorkers]


def connect(kvstore: str = "device") -> Workers:
    """Connect this process to the other workers of its run, if there are any.

    Parameters
    ----------
    kvstore : str
        Type of MXNet's key-value store; ``dist_sync`` or ``dist_device_sync`` for several workers.

    Returns
    -------
    OneWorker or ServerWorkers
        A context manager.

    Raises
    ------
    InputError
        If the kvstore and the ``DMLC_*`` variables do not go together.
    """
    if "dist" not in kvstore:
        if "DMLC_ROLE" in os.environ:
            raise InputError(
                f"{kvstore} trains alone, but DMLC_ROLE says that this process is one of several; take dist_sync",
                option="kvstore",
            )
        return OneWorker()
    try:
        heartbeats.check_variables()
    except InputError as error:
        raise InputError(f"{kvstore} needs other workers, but {error}", option="kvstore") from error
    return ServerWorkers(kvstore)


def _deadline(seconds: float, message: str) -> threading.Timer:
    """End the process after so many seconds, unless the timer is canceled."""
    timer = threading.Timer(seconds, heartbeats.leave, [message])
    timer.daemon = True
    timer.start()
    return timer


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the process at once: Python cannot handle them while MXNet waits."""
    before = {number: signal.getsignal(number) for number in SIGNALS if callable(signal.getsignal(number))}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(_: object) -> None:
    """End the process without freeing the key-value store, which would wait for the others."""
    leave(1)
