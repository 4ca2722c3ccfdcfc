"""Learners of small networks, their settings by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from denseface.distributed.workers import OneWorker
from denseface.training.descent import Descent
from denseface.training.learner import Devices, Learner, Task

import mxnet as mx


def learner_of(
    symbol: mx.sym.Symbol, shape: Sequence[int], contexts: Sequence[mx.Context] = (mx.cpu(),), **settings: Any
) -> Learner:
    """Make a learner; the settings are fields of Task, Descent and Devices."""
    task = {name: settings.pop(name) for name in Task._fields if name in settings}
    devices = Devices(tuple(contexts), settings.pop("kvstore", "device"), settings.pop("workers", OneWorker()))
    return Learner(Task(symbol, **task), tuple(shape), Descent(**{"momentum": 0.9, "wd": 0.0, **settings}), devices)
