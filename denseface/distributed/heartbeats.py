"""Find out whether the other processes of a distributed run have arrived, and still live.

MXNet's parameter server waits for ever, for processes that never arrive and for those that have died. But its processes
can send heartbeats: the scheduler receives those of all workers and servers, and they receive its answers. A thread in
each process checks them once a second and ends the process when one is missing. If a process dies, the scheduler stops
and names it, and all others end because the scheduler has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from denseface.core.errors import InputError
from denseface.core.signals import SIGNALS

ARRIVAL_VARIABLE, ARRIVAL_SECONDS = "DENSEFACE_ARRIVAL_TIMEOUT", 300
_SILENCE_VARIABLE, _SILENCE_SECONDS = "PS_HEARTBEAT_TIMEOUT", 10
_SCHEDULER, _SERVERS, _WORKERS = 1, 2, 4  # groups of ps-lite
VARIABLES = ("DMLC_ROLE", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
ROLES = ("scheduler", "server", "worker")
_RANGES = {"DMLC_PS_ROOT_PORT": (1, 65535), "DMLC_NUM_WORKER": (1, 10_000), "DMLC_NUM_SERVER": (1, 10_000)}
_IDS = {"server": 8, "worker": 9}  # of the first; the next one's is larger by 2


def start_heartbeats() -> None:
    """Ask MXNet for one heartbeat per second, unless another rate is set; before it looks for the others."""
    os.environ.setdefault("PS_HEARTBEAT_INTERVAL", "1")


def check_variables() -> None:
    """Check the ``DMLC_*`` variables, which MXNet would wait for ever on.

    Raises
    ------
    InputError
        If one is not set, or is out of its range.
    """
    for name in VARIABLES:
        text = os.environ.get(name)
        if not text:
            raise InputError(
                f"{name} is not set; start the run with denseface launch, or set {', '.join(VARIABLES)} everywhere"
            )
        if name in _RANGES:
            low, high = _RANGES[name]
            if not (text.isdecimal() and low <= int(text[:9]) <= high):
                raise InputError(f"{name}={text}: give a whole number from {low} to {high}")
    role = os.environ["DMLC_ROLE"]
    if role not in ROLES:
        raise InputError(f"DMLC_ROLE={role}: it is one of {', '.join(ROLES)}")


def arrival_seconds() -> int:
    """Return how long to wait until all processes have arrived; InputError if the variable is not a number."""
    return _seconds(ARRIVAL_VARIABLE, ARRIVAL_SECONDS)


def silence_seconds() -> int:
    """Return how long a process may be silent before it counts as dead; InputError if the variable is not a number."""
    return _seconds(_SILENCE_VARIABLE, _SILENCE_SECONDS)


def leave(message: str) -> None:
    """End this process at once: its other threads may be waiting for a dead process."""
    with contextlib.suppress(OSError):  # the reader may be dead too
        os.write(2, f"denseface: error: {message}\n".encode())
    os._exit(1)


def nobody_came(seconds: int) -> str:
    """Return the message for the case that not all processes have arrived."""
    workers, servers = (os.environ.get(f"DMLC_NUM_{role}", "?") for role in ("WORKER", "SERVER"))
    return (
        f"after {seconds} s the {_scheduler()}, {workers} workers and {servers} servers have not all found each other; "
        f"one has not started, or cannot reach that address ({ARRIVAL_VARIABLE} is how long to wait)"
    )


def watch_as_server() -> None:
    """Watch this scheduler or server, which ``import mxnet`` is about to turn this process into.

    Signals end it while it waits for the others to arrive, and not after that: if a whole run is asked to stop, the
    workers need it until they have saved, and it ends with them.

    Raises
    ------
    InputError
        If a variable is not set or out of its range.
    """
    check_variables()
    start_heartbeats()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in all threads, so that the watching one receives them
    threading.Thread(target=_watch_server, args=(arrival_seconds(), silence_seconds()), daemon=True).start()


def watch_as_worker(library: ctypes.CDLL, handle: ctypes.c_void_p, over: threading.Event) -> threading.Thread:
    """Watch a worker that has found the others, until ``over``; return the thread that does."""
    arguments = library, handle, silence_seconds(), lambda: over.wait(1)
    thread = threading.Thread(target=_watch, args=arguments, daemon=True)
    thread.start()
    return thread


def _watch_server(arrival: int, silence: int) -> None:
    until = time.monotonic() + arrival
    asked = None
    while not hasattr(sys.modules.get("mxnet.base"), "_LIB"):  # the import is under way, in the main thread
        asked = asked or signal.sigtimedwait(SIGNALS, 0.1)
    library, handle = sys.modules["mxnet.base"]._LIB, ctypes.c_void_p()
    library.MXKVStoreCreate(b"dist_sync", ctypes.byref(handle))
    while not _all_have_come(library, handle):
        if asked:
            os._exit(128 + asked.si_signo)
        if time.monotonic() > until:
            leave(nobody_came(arrival))
        asked = signal.sigtimedwait(SIGNALS, 0.5)
    _watch(library, handle, silence, lambda: signal.sigtimedwait(SIGNALS, 1) and False)


def _watch(library: ctypes.CDLL, handle: ctypes.c_void_p, silence: int, is_over: Callable[[], object]) -> None:
    # The scheduler knows of all others, and they know of the scheduler only.
    while not is_over():
        if _silent(library, handle, _SCHEDULER, silence):
            leave(
                f"the {_scheduler()} has been silent for {silence} s; it has died, or ended because another process "
                "had, which its log names; resume the run"
            )
        if _silent(library, handle, _SERVERS | _WORKERS, silence):
            leave(f"{_names(library, handle, silence)} silent for {silence} s; the run is over; resume it")


def _names(library: ctypes.CDLL, handle: ctypes.c_void_p, silence: int) -> str:
    """Names of the silent processes, as the beginning of a sentence."""
    names = [
        f"{role} {rank}"
        for role, first in _IDS.items()
        for rank in range(int(os.environ[f"DMLC_NUM_{role.upper()}"]))
        if _silent(library, handle, first + 2 * rank, silence)
    ]
    return f"{', '.join(names)} {'have' if len(names) > 1 else 'has'} been"


def _all_have_come(library: ctypes.CDLL, handle: ctypes.c_void_p) -> bool:
    # Silent for longer than -1 s is every process that MXNet knows, which it does once all have arrived.
    size = ctypes.c_int()
    library.MXKVStoreGetGroupSize(handle, ctypes.byref(size))  # 0 until MXNet has started
    return bool(size.value) and any(_silent(library, handle, group, -1) for group in (_SCHEDULER, _WORKERS))


def _silent(library: ctypes.CDLL, handle: ctypes.c_void_p, node: int, seconds: int) -> int:
    """Number of nodes of this group that have been silent for so long; 0 if MXNet cannot say."""
    size, count = ctypes.c_int(), ctypes.c_int()
    library.MXKVStoreGetGroupSize(handle, ctypes.byref(size))
    if not size.value or library.MXKVStoreGetNumDeadNode(handle, node, ctypes.byref(count), seconds):
        return 0
    return count.value


def _scheduler() -> str:
    return f"scheduler at {os.environ.get('DMLC_PS_ROOT_URI')}:{os.environ.get('DMLC_PS_ROOT_PORT')}"


def _seconds(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 10**6:
        raise InputError(f"{variable}={text}: give seconds, as a whole number above 0")
    return int(text)
