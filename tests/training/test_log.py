"""What a run shows on the way, beside what test_training.py asks of its tables."""

import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from denseface.core.errors import InputError
from denseface.training.log import RunLog


def test_tensorboard_reads_the_figures(tmp_path):
    log = RunLog(tmp_path / "model", 0)
    for step in (1, 2):
        log.training(step, 0.5, 0.1, 3.0 / step, 0.25, 100.0)
    log.training(3, 0.5, 0.1, 1.0, None, 100.0)
    log.close()
    found = EventAccumulator(str(tmp_path / "model-tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("training/loss")] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert [event.step for event in found.Scalars("training/accuracy")] == [1, 2]


@pytest.mark.parametrize("which", range(2))
def test_a_full_disk_is_named(tmp_path, which):
    log = RunLog(tmp_path / "model", 0)
    file = (log._training, log._board._file)[which]
    os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
    with pytest.raises(InputError, match=r"model-.*: it cannot be written \(No space left on device\); make room"):
        log.training(1, 0.5, 0.1, 3.0, 0.25, 100.0)
    log.close()
