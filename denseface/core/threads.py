"""Threads in libraries written in C++: that they can be started, and that they end before the process does."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Iterator

from denseface.core.errors import InputError

_LONGEST_WAIT = 10.0  # seconds for calls that are running when the process ends


def require_threads(count: int) -> None:
    """Check that this process can start this many more threads: otherwise a library in C++ may end the process.

    Raises
    ------
    InputError
        If the system refuses.
    """
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise InputError(
            f"only {len(started)} of {count} threads could be started; raise the limit of processes (ulimit -u, or a "
            "container's limit of pids)"
        ) from error
    finally:
        end.set()
        for thread in started:
            thread.join()


class _Calls:
    """Count running calls. At the end of the process no new ones start."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._is_over = False
        atexit.register(self._end)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._changed:
            # Only threads that Python ends with the process come here so late.
            self._changed.wait_for(lambda: not self._is_over)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.wait_for(lambda: not self._running, _LONGEST_WAIT)


_calls = _Calls()


def finished_before_exit() -> contextlib.AbstractContextManager[None]:
    """Let the process end only after this block, on whatever thread it runs.

    Python ends threads of daemons in the middle of what they do. Within C++ that ends the process with SIGABRT.
    """
    return _calls.counted()
