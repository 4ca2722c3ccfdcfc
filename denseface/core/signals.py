"""Ctrl-C and SIGTERM as one exception, so that what was begun is undone or can go on, and the exit code tells."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Attributes
    ----------
    exit_code : int
        128 + the number of the signal: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def use_default_sigint() -> None:
    """Let Ctrl-C end this process as SIGTERM does, without a word.

    For scripts, while they have begun nothing: what they import cannot be interrupted halfway in any other clean way.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell, or nohup, has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise :class:`Interrupted` for as long as the block lasts; those ignored stay ignored."""
    came = []

    def interrupt(number, frame):
        came.append(number)
        raise Interrupted(number)

    with handled_by(interrupt), _coming_again():
        try:
            yield
        except Exception as error:
            if came:  # Python up to 3.11 makes a RuntimeError of it while a class is made, and packages make others
                raise Interrupted(came[0]) from error
            raise


@contextlib.contextmanager
def _coming_again():
    """Send a signal once more where Python drops its exception: in finalizers, and in what imports call back."""
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
    """Let a function handle SIGINT and SIGTERM for as long as the block lasts; those ignored stay ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # the only one that Python interrupts
        before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number, former in before.items() if former not in (signal.SIG_IGN, None)]
    for number in heeded:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
