"""Distribute work over threads or processes, with the results in order."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from denseface.core.errors import InputError
from denseface.core.signals import postponed

_CHUNK = 16
_logger = logging.getLogger("denseface")
_CHUNKS_AHEAD = 4  # of each process

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Iterator[Result]]:
    """Apply a function on other threads, and iterate over the results in the order of the items.

    Items are taken one by one, on the caller's thread, and never more than ``ahead`` before they are needed. The
    threads end with the block. A generator alone would end them when it is collected, and that may happen within the
    start of another thread, for which it then waits for ever.

    Examples
    --------
    >>> with ordered_map(abs, [1, -2], threads=1, ahead=1) as results:
    ...     list(results)
    [1, 2]
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()

    def results() -> Iterator[Result]:
        for item in items:
            waiting.append(_submitted(pool, function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield results()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown()


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Generator[Result, None, None]:
    """Apply a function in other processes, and yield the results in the order of the items.

    Items are taken as they are needed, so there may be any number of them. The processes end when the generator ends or
    is closed, and when this process is killed.

    Parameters
    ----------
    function : callable
        It can be pickled, as items and results can, and does not depend on what this process has changed.
    items : iterable
    processes : int
        The number of processes; with 1 the function is applied in this process.

    Raises
    ------
    InputError
        If ``processes`` is less than 1, or one of them was killed.
    """
    if processes < 1:
        raise InputError(f"must be at least 1, not {processes}", option="processes")
    if processes == 1:
        yield from map(function, items)
        return
    items = iter(items)
    waiting: deque = deque()
    # A forked process could inherit locked locks; a spawned one starts from nothing.
    try:
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent)
    except (OSError, ImportError, NotImplementedError) as error:  # no semaphores, for which Linux needs /dev/shm
        reason = getattr(error, "strerror", None) or error
        _logger.warning("one process does the work, since %d need a writable /dev/shm (%s)", processes, reason)
        yield from map(function, items)
        return
    try:
        while chunk := list(itertools.islice(items, _CHUNK)):
            with _interrupts_postponed():
                waiting.append(_submitted(pool, _apply, function, chunk))
            if len(waiting) > _CHUNKS_AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        reason = "a process was killed, probably for lack of memory; try fewer"
        raise InputError(reason, option="processes") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: Executor, function: Callable[..., Result], *arguments: object) -> Future[Result]:
    """Submit a call, which may start a thread or a process."""
    try:
        return pool.submit(function, *arguments)
    except (RuntimeError, OSError) as error:
        if isinstance(error, BrokenProcessPool):
            raise
        kind = "thread" if isinstance(pool, ThreadPoolExecutor) else "process"
        raise InputError(f"no further {kind} can be started ({error}); the system limits their number") from error


def _apply(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [function(item) for item in chunk]


@contextlib.contextmanager
def _interrupts_postponed() -> Iterator[None]:
    """Start processes that leave Ctrl-C to this one, and start them whole.

    They inherit which signals are blocked. Those are blocked in one thread only: where another thread receives the
    signal, Python would still interrupt this one, halfway through a start.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    with postponed():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes of the pool call this"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
