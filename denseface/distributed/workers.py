"""The workers of a distributed run: which of them this is, and what they agree on through MXNet's parameter server."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from denseface.core.errors import InputError
from denseface.core.signals import SIGNALS
from denseface.distributed import heartbeats

import mxnet as mx

VARIABLES = ("DMLC_ROLE", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
_KEY = 200_000  # in the key-value store; beyond those of parameters, and ps-lite multiplies keys by 9973 in 32 bits
_BUFFER = 4096
_CLOSING_SECONDS = 20


class Workers:
    """The processes that train one network together, of which this is one.

    With a kvstore that is not ``dist`` there is one worker, and everything here is free.  All workers have to call
    the methods in the same order.  As a context manager it takes leave of the others at the end; after an exception
    it does not wait for them, and the process ends with code 1.

    Parameters
    ----------
    kvstore : str
        Type of MXNet's key-value store; ``dist_sync`` or ``dist_device_sync`` for several workers.

    Attributes
    ----------
    rank, size : int
        Which worker this is, from 0, and how many there are.
    kvstore : KVStore or None
        What connects them; None with one worker.

    Raises
    ------
    InputError
        If the kvstore and the ``DMLC_*`` variables do not go together.
    """

    def __init__(self, kvstore: str = "device"):
        self.rank, self.size, self.kvstore = 0, 1, None
        if "dist" in kvstore:
            self._meet(kvstore)
        elif "DMLC_ROLE" in os.environ:
            raise InputError(
                f"--kvstore {kvstore}: DMLC_ROLE says that this process is one of several; give --kvstore dist_sync"
            )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.kvstore is None:
            return
        if kind is not None:  # freeing the store waits for the others, who may never come
            atexit.register(_end, self.kvstore)
            return
        deadline = _deadline(_CLOSING_SECONDS, "all is done, but the other processes have not come to their end")
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
        if self.kvstore is None:
            return values
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
        """Raise on every worker where one of them has an error: its own there, a word of it on the others."""
        failed = np.zeros(self.size)
        failed[self.rank] = error is not None
        failed = self.sum(failed)
        if error:
            raise error
        if failed.any():
            raise InputError(f"worker {failed.argmax()} cannot go on; its log says why")

    def from_first(self, function: Callable[[], Any]) -> Any:
        """Give to all workers what the function gives on the first, which alone calls it.

        Parameters
        ----------
        function : callable
            Gives plain values, which pass through JSON.

        Raises
        ------
        InputError
            On every worker, if the function raises one or an OSError.
        """
        if self.kvstore is None:
            return function()
        answer = {}
        if self.is_first:
            try:
                answer = {"value": function()}
            except (InputError, OSError) as error:
                answer = {"error": str(error)}
        text = json.dumps(answer).encode()
        size = int(self.sum([len(text) if self.is_first else 0])[0])
        codes = np.frombuffer(text, np.uint8) if self.is_first else np.zeros(size)
        answer = json.loads(self.sum(codes).astype(np.uint8).tobytes())
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["value"]

    def _meet(self, kvstore):
        if "async" in kvstore:
            raise InputError(
                f"--kvstore {kvstore}: its servers keep the momentum, which MXNet does not give back, so that a run "
                "could not be resumed; take dist_sync"
            )
        missing = [name for name in VARIABLES if not os.environ.get(name)]
        if missing:
            raise InputError(
                f"--kvstore {kvstore}: {missing[0]} is not set; start the run with denseface launch, or set "
                f"{', '.join(VARIABLES)} in every process"
            )
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


def _deadline(seconds, message):
    """End the process after so many seconds, unless the timer is cancelled."""
    timer = threading.Timer(seconds, heartbeats.leave, [message])
    timer.daemon = True
    timer.start()
    return timer


@contextlib.contextmanager
def _ended_by_signals():
    """Let signals end the process at once: Python does not hear of them while MXNet waits."""
    before = {number: signal.getsignal(number) for number in SIGNALS if callable(signal.getsignal(number))}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(_):
    """Leave without freeing the key-value store, which is kept until here."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)
