"""The log of a run, beside what test_run.py asks of it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from denseface.core.text import printable
from denseface.training.log import VERIFICATION_COLUMNS, RunLog, TrainingRow, read_rows
from support.refusals import refused

ROOT = Path(__file__).parents[2]


def test_a_full_disk_is_named(tmp_path):
    log = RunLog(tmp_path / "model", 0, 0)
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._training.fileno())
    with refused(os.strerror(errno.ENOSPC), path=tmp_path / "model-training.csv"):
        log.training(TrainingRow(1, 0.5, 0.1, 3.0, 0.25, 100.0, 1.0))
    log.close()


@pytest.mark.parametrize(
    "name", ["a\nb", "a\r\nb", "a\x1b[2J", "\udcff", "\N{LATIN SMALL LETTER U WITH DIAERESIS}", 'a,"b']
)
def test_any_name_of_a_set_is_one_row_that_a_resumed_run_keeps(tmp_path, name):
    """The names of files may contain line ends, control characters and bytes that are no text."""
    figures = {"accuracy": 0.6, "balanced_accuracy": 0.5, "auc": 0.7, "tar": {"0.1": 0.2}}
    log = RunLog(tmp_path / "model", 0, 0)
    log.verification(1, name, figures)
    log.close()
    RunLog(tmp_path / "model", 1, 1).close()
    (row,) = read_rows(tmp_path / "model-verification.csv", VERIFICATION_COLUMNS)
    assert row["set"] == printable(name)
    assert row["auc"] == 0.7


def test_the_log_is_utf_8_in_any_locale(tmp_path):
    program = (
        "from denseface.training.log import RunLog; log = RunLog('model', 0, 0); "
        "log.verification(1, chr(252), {'accuracy': 1, 'balanced_accuracy': 1, 'auc': 1, 'tar': {}})"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    (row,) = read_rows(tmp_path / "model-verification.csv", VERIFICATION_COLUMNS)
    assert row["set"] == chr(252)
