"""What a run takes, it takes once: memory, files and threads do not grow with its steps."""

import gc
import os
import resource
import threading

import pytest

from support.tiny_runs import make_run
from support.tiny_triplets import make_run as make_triplet_run

CHECKPOINTS = 20


def taken():
    """Memory in MiB, open files, threads."""
    gc.collect()  # closes files that earlier tests left in cycles
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * resource.getpagesize() >> 20, len(os.listdir("/proc/self/fd")), threading.active_count()


def mined_triplets(faces, prefix, **changes):
    """Learn so little that every bag has triplets."""
    return make_triplet_run(faces, prefix, learning_rate=1e-6, **changes)


@pytest.mark.parametrize(
    ("make", "data", "steps"),
    [
        (make_run, "records", 100),
        (mined_triplets, "faces", 40),
        pytest.param(make_run, "records", 3_000, marks=pytest.mark.torture),
        pytest.param(mined_triplets, "faces", 1_000, marks=pytest.mark.torture),
    ],
)
def test_memory_files_and_threads_stay_as_they_are(request, tmp_path, make, data, steps):
    data = request.getfixturevalue(data)
    make(data, tmp_path / "first", steps=20, verbose=5).fit()  # what is taken once
    before = taken()
    run = make(data, tmp_path / "model", steps=steps, verbose=steps // CHECKPOINTS, frequent=steps // 20)
    at_half = []
    run.verify = lambda arguments, auxiliary: at_half.append(taken()) or {}
    run.fit()
    after = taken()
    print(f"{steps} steps, {len(at_half)} checkpoints: memory {before[0]}, then "
          f"{', '.join(str(memory) for memory, *_ in at_half[::5])}, {after[0]} MiB; "
          f"files {before[1]} and {after[1]}; threads {before[2]} and {after[2]}")  # fmt: skip
    assert len(at_half) == CHECKPOINTS
    assert after[0] - before[0] < 30 and after[0] - at_half[CHECKPOINTS // 2][0] < 10
    assert after[1:] == before[1:]
