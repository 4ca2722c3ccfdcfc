"""Contenders, each in a process of its own, that run by turns.

A process of its own gives each its own thread pool and its own peak memory; only one of them computes at a time. Short
work is repeated within a turn, which begins after a rest: some thread pools keep the cores busy for a while after their
work, and others need a while to wake.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from denseface.core.errors import reason_of

_TURN = 0.2  # seconds of a turn, at least
_REST = 0.1  # seconds between turns


@dataclass(frozen=True)
class Contender:
    """A function to measure.

    Attributes
    ----------
    name : str
        Name in the table.
    make : callable
        A function at the top of its module; called with `arguments` in the contender's process, it returns a callable
        that does the work once and returns the output.
    arguments : tuple
    environment : dict of str to str
        Variables set in the contender's process.
    tolerance : float
        Largest difference of its first output from the first contender's, relative to the largest value.
    precision : str
        Of its arithmetic: ``float32``, or ``bfloat16`` for that and for int8.
    """

    name: str
    make: Callable[..., Callable[[], np.ndarray]]
    arguments: tuple = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 1e-3
    precision: str = "float32"


def race(contenders: list[Contender], rounds: int, log: Callable[[str], None]) -> list[dict]:
    """Time contenders in turns, after checking that their outputs agree.

    Parameters
    ----------
    contenders : list of Contender
        The others are compared with the first.
    rounds : int
        How many turns each has.
    log : callable
        Called with a line about each contender that is left out, and why.

    Returns
    -------
    list of dict
        One per contender that could run: its ``name``, ``precision``, ``seconds`` (median), ``fastest``, ``spread``
        (range of the middle half of the times, relative to the median), ``processor_seconds`` (median, over its
        threads; other processes hardly change it), ``difference`` from the first's output and ``cosine`` to it (the
        least of a batch), and ``peak_memory`` in bytes.

    Raises
    ------
    RuntimeError
        If an output is too far from the first contender's.
    """
    with contextlib.ExitStack() as stack:
        running = []
        for contender in contenders:
            try:
                running.append((contender, stack.enter_context(_process(contender))))
            except _UnableError as error:
                log(f"left out: {contender.name}: {error}")
        outputs = [_ask(pipe, "output") for _, pipe in running]
        distances = [_distance(output, outputs[0]) for output in outputs]
        for (contender, _), (difference, _) in zip(running, distances):
            if not difference <= contender.tolerance:
                raise RuntimeError(f"{contender.name} differs from {running[0][0].name} by {difference:.1e}")
        times = [[] for _ in running]
        for _ in range(rounds):
            for (_, pipe), measured in zip(running, times):
                time.sleep(_REST)
                measured.append(_ask(pipe, "time"))
        return [
            {
                "name": contender.name,
                "precision": contender.precision,
                "seconds": float(np.median([seconds for seconds, _ in measured])),
                "spread": _spread([seconds for seconds, _ in measured]),
                "fastest": min(seconds for seconds, _ in measured),
                "processor_seconds": float(np.median([seconds for _, seconds in measured])),
                "difference": difference,
                "cosine": cosine,
                "peak_memory": _ask(pipe, "memory"),
            }
            for (contender, pipe), measured, (difference, cosine) in zip(running, times, distances)
        ]


def _spread(times):
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float((high - low) / middle)


def fastest(contenders: list[Contender], rounds: int, log: Callable[[str], None]) -> list[Contender]:
    """Time contenders one after the other, each alone in memory, and return the fastest in each precision."""
    best = {}
    for contender in contenders:
        for row in race([contender], rounds, log):
            log(f"{contender.name}: {row['seconds'] * 1e3:.1f} ms")
            best[contender.precision] = min(best.get(contender.precision, (row["seconds"], contender)),
                                            (row["seconds"], contender), key=lambda timed: timed[0])  # fmt: skip
    return [contender for _, contender in best.values()]


class _UnableError(Exception):
    """A contender cannot run here; the message says why."""


@contextlib.contextmanager
def _process(contender) -> Iterator:
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, contender), daemon=True)
    with _environment(contender.environment):
        process.start()
    other.close()
    try:
        _answer(pipe)
        yield pipe
    finally:
        pipe.close()
        process.join()


@contextlib.contextmanager
def _environment(variables):
    """Set environment variables for a block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe, contender):
    """Answer, in the contender's process, until the pipe is closed."""
    try:
        run = contender.make(*contender.arguments)
        first = run()
        run()  # some finish their set-up at the second call
        pipe.send((None, None))
    except Exception as error:  # whatever a peer raises, the others continue without it
        pipe.send((f"{type(error).__name__}: {reason_of(error)}", None))
        return
    with contextlib.suppress(EOFError):
        while True:
            question = pipe.recv()
            if question == "time":
                pipe.send((None, _turn(run)))
            else:
                pipe.send((None, first if question == "output" else _peak_memory()))


def _turn(run):
    """Run until the turn is over; return the median of the seconds of a run, and that of the processor's seconds."""
    times = []
    end = time.perf_counter() + _TURN
    while not times or time.perf_counter() < end:
        start, processor_start = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - start, time.process_time() - processor_start))
    return tuple(np.median(times, axis=0).tolist())


def _peak_memory():
    """Peak memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _ask(pipe, question):
    pipe.send(question)
    return _answer(pipe)


def _answer(pipe):
    try:
        error, value = pipe.recv()
    except EOFError:
        raise _UnableError("its process ended") from None
    if error:
        raise _UnableError(error)
    return value


def _distance(output, expected):
    """Largest difference relative to the largest value, and least cosine over the rows."""
    output, expected = np.atleast_2d(output).astype(np.float64), np.atleast_2d(expected).astype(np.float64)
    lengths = np.linalg.norm(output, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (output * expected).sum(axis=1) / lengths
    return float(np.abs(output - expected).max() / np.abs(expected).max()), float(cosine.min())
