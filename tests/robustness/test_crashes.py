"""Nothing is lost when a process is killed, at whatever moment."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denseface.models import checkpoint
from support import kill_runs
from support.launched import children

TRAIN = Path(__file__).parents[2] / "train.py"
KILL_RUNS = Path(kill_runs.__file__)


def counts(kind, count, folder):
    path = f"{TRAIN.parent}{os.pathsep}{TRAIN.parent / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(KILL_RUNS), kind, str(count), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(kind, done.stdout.splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


PLAIN = ("--network", "d63", "--loss", "arcface", "--set", "emb_size=16", "--set", "net_output=GAP")


def start_training(folder, options, workers):
    """Begin or resume a run on the set beside its folder, as a user does: 12 steps, with a checkpoint at each third."""
    command = [
        sys.executable, str(TRAIN), "--dataset", "orl", "--resume", "--models-root", ".", "--set",
        "dataset_path=../records", "--set", "image_shape=32,32,3", "--per-batch-size", str(4 // workers),
        "--lr", "0.01", "--max-steps", "12", "--verbose", "3", *options,
    ]  # fmt: skip
    if workers > 1:
        launch = [sys.executable, "-m", "denseface", "launch", "--workers", str(workers), "--"]
        command = [*launch, *command, "--kvstore", "dist_sync"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TRAIN.parent)}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_all(process):
    """Kill a process and those that it has started."""
    for each in (process.pid, *children(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def wait_for_moment(process, place, moments, seconds):
    """Wait for a random moment of a run: one of all, or as often one soon after its next checkpoint."""
    if moments.random() < 0.5:
        time.sleep(moments.uniform(0, seconds))
        return
    before = steps_left(place)
    while process.poll() is None and steps_left(place) == before:
        time.sleep(0.01)
    time.sleep(moments.uniform(0, seconds / 20))


def steps_left(place):
    """Steps with a complete checkpoint."""
    return checkpoint.complete_steps(next(place.glob("*"), place) / "model")


def run_content(folder):
    """Every file of a run with what is in it, but for speeds."""
    files = [path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name]
    return {path.name: b"" if path.name.endswith("-training.csv") else path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "options, workers, kills",
    [
        pytest.param(kill_runs.SAMPLED, 1, 1, id="sampled"),
        pytest.param(PLAIN, 1, 20, marks=pytest.mark.torture, id="plain torture"),
        pytest.param(kill_runs.SAMPLED, 2, 4, marks=pytest.mark.torture, id="two workers torture"),
    ],
)
def test_train_py_killed_at_random_moments_ends_bit_for_bit_as_if_it_had_not_been(tmp_path, options, workers, kills):
    """From the start of Python over imports, binding, steps, checkpoints and verifications to the end."""
    kill_runs.prepare(tmp_path)
    whole, place = tmp_path / "whole", tmp_path / "place"
    whole.mkdir()
    started = time.monotonic()
    process = start_training(whole, options, workers)
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    assert process.returncode == 0, output.decode()
    moments, counts = random.Random(kills), {"kills": 0, "before the first checkpoint": 0, "runs": 0}
    steps = set()
    while counts["kills"] < kills:
        place.mkdir()
        newest, code = None, None
        while code != 0:
            process = start_training(place, options, workers)
            if counts["kills"] < kills:
                wait_for_moment(process, place, moments, seconds)
                kill_all(process)
            output, _ = process.communicate()
            code = process.returncode
            if code:
                assert code == -9, output.decode()
                before, newest = newest, max(steps_left(place), default=None)
                assert before is None or newest >= before
                counts["kills"] += 1
                counts["before the first checkpoint"] += newest is None
                steps.add(newest)
        assert run_content(place) == run_content(whole)
        counts["runs"] += 1
        shutil.rmtree(place)
    print({**counts, "steps seen": sorted(steps - {None})})


@pytest.mark.parametrize(
    "kind, kills",
    [("runs", 5), *(pytest.param(kind, 40, marks=pytest.mark.torture) for kind in ("runs", "sampled", "adaface"))],
)
def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_if_it_had_not_been(tmp_path, kind, kills):
    found = counts(kind, kills, tmp_path)
    assert found["kills"] == kills and found["runs_compared"] >= 1


def test_a_checkpoint_killed_at_each_of_its_steps_leaves_a_whole_one(tmp_path):
    found = counts("writes", 1000, tmp_path)
    assert found["moments"] > 40
    assert found["old_left"] > 0 and found["new_left"] > 0
