"""What a run does, when, and which of its checkpoints are kept."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from denseface.training.schedule import Schedule


class Keep(enum.Enum):
    """Which checkpoints are kept: the newest, with what resuming needs, and of some others the model."""

    NOTHING = 0  # not even the newest
    EVERY_BEST = 1  # each that was the best when it was saved
    ALL = 2
    BEST = 3


@dataclass(frozen=True)
class Plan:
    """What a run does, when, and where its files are.

    Attributes
    ----------
    prefix : str
        Prefix of the run's files; the folder exists.
    steps : int
        Steps of the whole run, whether resumed or not.
    schedule : Schedule
        The learning rate of each step.
    frequent : int
        Steps between two rows of the log.
    verbose : int
        Steps between two verifications, each with a checkpoint.
    keep : Keep
        Which checkpoints are kept.
    accumulate : int
        Batches per step.
    seed : int
        Seed of the run.
    stop_after : int
        Verifications in a row without an improvement beyond noise, after which the run ends; 0 for none.
    options : mapping of str to plain value
        What a resumed run has to repeat, by name.
    """

    prefix: str
    steps: int
    schedule: Schedule
    frequent: int
    verbose: int
    keep: Keep
    accumulate: int
    seed: int
    stop_after: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
