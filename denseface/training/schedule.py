"""The learning rate of each step, as a function of the step's number alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from denseface.core.errors import InputError


def _steps(schedule: Schedule, step: int) -> float:
    return 0.1 ** sum(step >= drop for drop in schedule.drops)


def _cosine(schedule: Schedule, step: int) -> float:
    return (1 + math.cos(math.pi * schedule.progress(step))) / 2


def _poly(schedule: Schedule, step: int) -> float:
    return (1 - schedule.progress(step)) ** 2


SCHEDULES = {"step": _steps, "cosine": _cosine, "poly": _poly}


@dataclass(frozen=True)
class Schedule:
    """A warm-up, and what follows it.

    The rate rises linearly to its peak over the warm-up (Goyal et al. 2017, "Accurate, Large Minibatch SGD", section
    2.2). Let t rise from 0 at the end of the warm-up to 1 at the end of the run. Then the rate

    - of ``step`` falls to a tenth at each drop;
    - of ``cosine`` is peak (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, "SGDR", eq. 5, without restarts);
    - of ``poly`` is peak (1 - t)^2 (Liu et al. 2015, "ParseNet", with the power of InsightFace's PyTorch trainer).

    Attributes
    ----------
    kind : str
        ``step``, ``cosine`` or ``poly``.
    peak : float
        Rate after the warm-up.
    steps : int
        Steps of the whole run.
    warmup_steps : int
        Steps of the warm-up.
    drops : sequence of int
        Steps at which the rate of ``step`` falls to a tenth.

    Raises
    ------
    InputError
        For another kind.
    """

    kind: str
    peak: float
    steps: int
    warmup_steps: int = 0
    drops: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise InputError(f"there is no {self.kind!r}; there are {', '.join(SCHEDULES)}", option="lr_schedule")

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.peak * warmup * SCHEDULES[self.kind](self, step)

    def progress(self, step: int) -> float:
        """Fraction of the steps after the warm-up that precede this one, 0 to 1."""
        return min(max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps), 1.0)
