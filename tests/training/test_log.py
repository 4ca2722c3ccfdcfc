"""The log of a run, beside what test_run.py asks of it."""

import errno
import os

from denseface.training.log import RunLog, TrainingRow
from support.refusals import refused


def test_a_full_disk_is_named(tmp_path):
    log = RunLog(tmp_path / "model", 0)
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._training.fileno())
    with refused(os.strerror(errno.ENOSPC), path=tmp_path / "model-training.csv"):
        log.training(TrainingRow(1, 0.5, 0.1, 3.0, 0.25, 100.0, 1.0))
    log.close()
