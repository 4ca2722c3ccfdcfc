"""What a run remembers beside the learner's arrays: the unfinished row of its log, its best steps, its recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from denseface.core.errors import InputError
from denseface.training.learner import StepResult

# Options of the recipe that early checkpoints do not contain, whether they were set or not.
_UNKNOWN_EARLIER = ("dtype", "per_batch_size", "seed", "teacher_weight")


@dataclass
class Window:
    """Sums over the steps since the last row of the log.

    They belong to a checkpoint, so that the first row after a resume averages the same steps as without interruption.

    Attributes
    ----------
    steps : int
        Number of steps.
    loss, accuracy : float
        Sums over the steps; accuracy stays 0 for triplets, which have none.
    gradient_norm : float or None
        As well; None if an earlier version, which did not measure it, took some of the steps.
    """

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    gradient_norm: float | None = 0.0

    def add(self, result: StepResult) -> None:
        """Add a step."""
        self.steps += 1
        self.loss += result.loss
        self.accuracy += result.accuracy or 0
        if self.gradient_norm is not None:
            self.gradient_norm += result.gradient_norm

    @classmethod
    def restored(cls, saved: dict) -> Window:
        """Make a window of the values that a checkpoint contains, perhaps one of an earlier version."""
        steps = int(saved["steps"])
        norm = saved.get("gradient_norm", None if steps else 0.0)
        return cls(steps, float(saved["loss"]), float(saved["accuracy"]), None if norm is None else float(norm))


@dataclass
class Progress:
    """The part of a run's checkpoint that is neither an array nor the loader's.

    Attributes
    ----------
    window : Window
        The steps since the last row of the log.
    best_step : int or None
        Step of the best verification.
    best_score : float
        Its score.
    bests : list of int
        Steps that were the best when they were verified.
    """

    window: Window = field(default_factory=Window)
    best_step: int | None = None
    best_score: float = -math.inf
    bests: list[int] = field(default_factory=list)

    def verified(self, step: int, score: float) -> None:
        """Remember a verification, if it is the best so far."""
        if score > self.best_score:
            self.best_step, self.best_score = step, score
            self.bests.append(step)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        best = {"step": self.best_step, "score": self.best_score}
        return {"best": best, "bests": self.bests, "window": asdict(self.window)}

    @classmethod
    def restored(cls, saved: dict) -> Progress:
        """Make progress of the values that a checkpoint contains.

        Raises
        ------
        KeyError, TypeError, ValueError, OverflowError
            If no run has written them.
        """
        return cls(
            Window.restored(saved.get("window") or asdict(Window())),  # not in early checkpoints
            saved["best"]["step"],
            float(saved["best"]["score"]),
            [int(best) for best in saved["bests"]],
        )


def check_recipe(saved: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Raise InputError if an option that a resumed run has to repeat is another than in its checkpoint."""
    unknown = {*_UNKNOWN_EARLIER} - {*saved}
    for option in sorted({*saved, *recipe} - unknown):
        before, now = saved.get(option, "not set"), recipe.get(option, "not set")
        if before != now:
            raise InputError(f"{now}: the run to resume was started with {before}; repeat that", option=option)
