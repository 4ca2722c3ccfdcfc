"""What a run remembers beside the learner's arrays: the unfinished row of its log, and its best steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from denseface.training.learner import StepResult


@dataclass
class Window:
    """Sums over the steps since the last row of the log.

    They belong to a checkpoint, so that the first row after a resume averages the same steps as without interruption.

    Attributes
    ----------
    steps : int
        Number of steps.
    loss, accuracy, gradient_norm : float
        Sums over the steps; accuracy stays 0 for triplets, which have none.
    """

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    gradient_norm: float = 0.0

    def add(self, result: StepResult) -> None:
        """Add a step."""
        self.steps += 1
        self.loss += result.loss
        self.accuracy += result.accuracy or 0
        self.gradient_norm += result.gradient_norm

    @classmethod
    def restored(cls, saved: dict) -> Window:
        """Make a window of the values that a checkpoint contains; errors as of :meth:`Progress.restored`."""
        sums = [float(saved[name]) for name in ("loss", "accuracy", "gradient_norm")]
        if not all(map(math.isfinite, sums)):
            raise ValueError("a sum is not finite")
        return cls(_step(saved["steps"]), *sums)


@dataclass
class Progress:
    """The part of a run's checkpoint that is neither an array nor the loader's.

    Attributes
    ----------
    window : Window
        The steps since the last row of the log.
    verified_step : int
        The last step whose verification is done, and in the log; 0 before any.
    best_step : int or None
        Step of the best verification.
    best_score : float
        Its score.
    bests : list of int
        Steps that were the best when they were verified.
    reference : float
        The last score that was better than the one before it by more than noise.
    stale : int
        Verifications since then.
    """

    window: Window = field(default_factory=Window)
    verified_step: int = 0
    best_step: int | None = None
    best_score: float = -math.inf
    bests: list[int] = field(default_factory=list)
    reference: float = -math.inf
    stale: int = 0

    def verified(self, step: int, score: float, noise: float) -> None:
        """Remember a verification if it is the best so far, and count those that show nothing beyond noise."""
        if score > self.best_score:
            self.best_step, self.best_score = step, score
            self.bests.append(step)
        if score > self.reference + noise:
            self.reference, self.stale = score, 0
        else:
            self.stale += 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        best = {"step": self.best_step, "score": self.best_score}
        patience = {"reference": self.reference, "stale": self.stale}
        return {
            "best": best,
            "bests": self.bests,
            "patience": patience,
            "verified": self.verified_step,
            "window": asdict(self.window),
        }

    @classmethod
    def restored(cls, saved: dict, at_step: int) -> Progress:
        """Make progress of the values that the checkpoint of a step contains.

        Raises
        ------
        KeyError, TypeError, ValueError, OverflowError
            If no run has written them.
        """
        bests = [_step(best) for best in saved["bests"]]
        step, score = saved["best"]["step"], float(saved["best"]["score"])
        if step != (bests[-1] if bests else None) or not (score <= 1 if bests else score == -math.inf):
            raise ValueError("the best step is none of those that were the best")
        # Older checkpoints have neither of these two.
        verified = _step(saved.get("verified", at_step))
        patience = saved.get("patience", {"reference": score, "stale": 0})
        if verified > at_step:
            raise ValueError("a later step is verified")
        reference = float(patience["reference"])
        if not reference <= score:
            raise ValueError("the reference is better than the best")
        return cls(Window.restored(saved["window"]), verified, step, score, bests, reference, _step(patience["stale"]))


def _step(value: object) -> int:
    """Return a number of steps; TypeError or ValueError if it is none."""
    if type(value) is not int:
        raise TypeError("a number of steps is a whole number")
    if value < 0:
        raise ValueError("a number of steps is 0 or more")
    return value
