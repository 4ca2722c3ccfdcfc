"""Ctrl-C, SIGTERM and SIGHUP as one exception, so that work is undone or resumable, and the exit code tells which."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# Windows has no SIGHUP.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Attributes
    ----------
    exit_code : int
        128 + the number of the signal: 130 after Ctrl-C, 143 after SIGTERM, 129 after a hangup.
    """

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def use_default_sigint() -> None:
    """Let Ctrl-C end this process without a traceback, as SIGTERM does.

    For scripts, before they start any work: nothing else interrupts an import cleanly.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell, or nohup, has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


_came: list[int] = []  # signals that a block of raise_on_signals has received


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Let :data:`SIGNALS` raise :class:`Interrupted` for as long as the block lasts; those ignored stay ignored."""

    def interrupt(number: int, frame: object) -> None:
        _came.append(number)
        raise Interrupted(number)

    with handled_by(interrupt), _coming_again():
        try:
            yield
        except Exception as error:
            raise_if_interrupted(error)
            raise
        finally:
            _came.clear()


def raise_if_interrupted(error: Exception) -> None:
    """Raise :class:`Interrupted` if a signal came, whose exception may have become this one.

    Python up to 3.11 turns it into a RuntimeError while a class is made, and compiled packages turn it into others
    while they are imported. Whoever goes on after an exception calls this first.
    """
    if _came:
        raise Interrupted(_came[0]) from error


@contextlib.contextmanager
def _coming_again():
    """Send a signal again where Python drops its exception: in finalizers, and in callbacks of imports."""
    former = sys.unraisablehook

    def hook(unraisable):
        if isinstance(unraisable.exc_value, Interrupted):
            number = unraisable.exc_value.exit_code - 128
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
        else:
            former(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = former


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let a function handle :data:`SIGNALS` for as long as the block lasts; those ignored stay ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # the only one that Python interrupts
        before = {number: signal.getsignal(number) for number in SIGNALS}
    watched = [number for number, former in before.items() if former not in (signal.SIG_IGN, None)]
    for number in watched:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in watched:
            signal.signal(number, before[number])


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Handle signals that arrive during the block at its end, so that nothing in it is interrupted halfway."""
    received: list[int] = []
    try:
        with handled_by(lambda number, frame: received.append(number)):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)
