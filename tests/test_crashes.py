"""Nothing is lost when a process is killed, at whatever moment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILL_RUNS = Path(__file__).with_name("kill_runs.py")


def counts(kind, count, folder):
    environment = {**os.environ, "PYTHONPATH": str(KILL_RUNS.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(KILL_RUNS), kind, str(count), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(kind, done.stdout.splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.torture)])
def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_if_it_had_not_been(tmp_path, kills):
    found = counts("runs", kills, tmp_path)
    assert found["kills"] == kills and found["runs_compared"] >= 1


def test_a_checkpoint_killed_at_each_of_its_steps_leaves_a_whole_one(tmp_path):
    found = counts("writes", 1000, tmp_path)
    assert found["moments"] > 40
    assert found["old_left"] > 0 and found["new_left"] > 0
