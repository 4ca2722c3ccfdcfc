"""Kill training runs and checkpoints in the making, and see what is left.

    python tests/support/kill_runs.py runs|sampled|adaface|writes COUNT FOLDER

It is a program of its own because it forks: that is safe only where MXNet has not computed yet.  The last line that it
prints is what it has counted, as JSON; any loss is an error.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import train
from denseface.core import files
from denseface.data.pairs import write_pairs
from denseface.data.records import FaceRecords, write_face_records
from denseface.models import checkpoint
from denseface.models.checkpoint import TrainingState
from denseface.training.schedule import Schedule
from support.tiny_checkpoints import assert_equal_arrays, embedding_symbol, make_state
from support.tiny_models import as_model, encode, pictures, tiny_symbol
from support.tiny_runs import CLASSES, SIZE, make_run

STEPS = 30
# Options of train.py that add to a checkpoint, or to what a step depends on.
FINE_TUNED = (
    "--network", "pretrained", "--pretrained", "../start,1", "--warm-centers",
    "--freeze", "conv0_*", "--freeze", "fc1_moving_*", "--lr-mult", "fc7_*=2", "--lr-schedule", "cosine",
    "--warmup-epochs", "0.4", "--clip-norm", "1", "--ema", "0.9", "--teacher", "../teacher,1", "--teacher-weight", "4",
)  # fmt: skip
SAMPLED = (*FINE_TUNED, "--loss", "arcface", "--sample-rate", "0.1")
ADAFACE = (*FINE_TUNED, "--loss", "adaface", "--lr-schedule", "poly")
OLD, NEW = 4, 12
SYMBOL = embedding_symbol()  # once, because MXNet counts the names that it makes up
KILLED_HERE = 70


def kill_runs(count: int, folder: Path, take: Callable[[Path, Path], None], prefix: str = "model") -> dict:
    """Kill runs at random moments, resume them, and compare them with one that was left alone."""
    records = folder / "records"
    started = time.monotonic()
    assert _wait(_start(take, records, folder / "whole")) == 0
    seconds = time.monotonic() - started
    expected = _content(folder / "whole")
    counts = {"kills": 0, "before_the_first_checkpoint": 0, "steps_seen": 0, "runs_compared": 0}
    steps = set()
    moments = random.Random(count)
    while counts["kills"] < count:
        place = folder / f"run{counts['runs_compared']}"
        newest, finished = None, False
        while not finished:
            process = _start(take, records, place)
            if counts["kills"] < count:
                time.sleep(moments.uniform(0, seconds / 2))
                os.kill(process, signal.SIGKILL)
            finished = _wait(process) == 0
            if not finished:
                counts["kills"] += 1
                before, newest = newest, max(checkpoint.complete_steps(place / prefix), default=None)
                assert before is None or newest >= before, f"step {before} is lost, {newest} is left"
                counts["before_the_first_checkpoint"] += newest is None
                steps.add(newest)
        assert _content(place) == expected, f"{place} differs from {folder / 'whole'}"
        counts["runs_compared"] += 1
        shutil.rmtree(place)
    return {**counts, "steps_seen": len(steps - {None})}


def kill_tiny(count: int, folder: Path) -> dict:
    """Kill runs of a few layers that save at every step."""
    faces = pictures(6 * CLASSES, (SIZE, SIZE, 3))
    write_face_records(folder / "records", [(i // 6, encode(face)) for i, face in enumerate(faces)], (SIZE, SIZE))
    return kill_runs(count, folder, train_tiny)


def kill_fine_tuned(options: Sequence[str], count: int, folder: Path) -> dict:
    """Kill runs of train.py, from the reading of its options on."""
    prepare(folder)
    loss = options[options.index("--loss") + 1]
    return kill_runs(count, folder, partial(fine_tune, options), f"pretrained-{loss}-orl/model")


def prepare(folder: Path) -> None:
    """Write a set of 12 people, a model to start from, and a teacher."""
    images = [encode(picture) for picture in pictures(24, (32, 32, 3))]
    write_face_records(folder / "records", [(i // 2, image) for i, image in enumerate(images)], (32, 32))
    write_pairs(folder / "records" / "orl.bin", images[:20] * 2, [True, False] * 10)
    for name, width in (("start", 8), ("teacher", 6)):
        model = as_model(tiny_symbol(width), (1, 3, 32, 32))
        state = TrainingState(1, model.arguments, model.auxiliary, {}, {})
        checkpoint.save(folder / name, model.symbol, state)


def fine_tune(options: Sequence[str], records: Path, place: Path) -> None:
    """Begin or resume a run of train.py, with a checkpoint at every step."""
    place.mkdir(exist_ok=True)
    os.chdir(place)
    np.seterr(under="ignore")  # the least number above 0 is one
    flags = [
        "--dataset", "orl", "--resume", "--models-root", ".", "--set", "dataset_path=../records", "--set",
        "image_shape=32,32,3", "--per-batch-size", "4", "--lr", "0.01", "--max-steps", "20", "--verbose", "1", *options,
    ]  # fmt: skip
    assert train.main(flags) == 0


def train_tiny(records: Path, place: Path) -> None:
    """Train from wherever the run stands to its end, with a checkpoint at every step."""
    place.mkdir(exist_ok=True)
    prefix = place / "model"
    with FaceRecords(records) as faces:
        schedule = Schedule("cosine", 0.1, STEPS, 2)
        run = make_run(
            faces, prefix, steps=STEPS, verbose=1, frequent=1, schedule=schedule, clip_norm=1, ema=0.9,
            freeze={"conv_weight", "bn_moving_mean"}, options={"ema": 0.9},
        )  # fmt: skip
        run.resume()
        run.fit()


def kill_writes(count: int, folder: Path) -> dict:
    """End a process before each write (and amid it), sync, rename and removal of a checkpoint, up to ``count``."""
    checkpoint._LARGE = 100
    checkpoint.save(_fresh(folder, "old"), SYMBOL, make_state(OLD))
    shutil.copytree(folder / "old", folder / "new")
    save_new(folder / "new")
    expected = _content(folder / "new")
    counts = {"moments": 0, "old_left": 0, "new_left": 0}
    assert len(list((folder / "new").glob("*.states-*"))) == 2
    for moment in range(count):
        place = folder / "run"
        shutil.copytree(folder / "old", place)
        code = _wait(_start(save_new, place, moment))
        if code == 0:
            return counts
        assert code == KILLED_HERE, f"moment {moment} ended with {code}"
        counts["moments"] += 1
        found = checkpoint.Checkpoint.newest(place / "model").load()
        written = make_state(found.step)
        counts["old_left" if found.step == OLD else "new_left"] += 1
        for kind in ("arguments", "auxiliary", "momenta"):
            assert_equal_arrays(getattr(found, kind), getattr(written, kind))
        for one, other in zip(found.averages, written.averages):
            assert_equal_arrays(one, other)
        checkpoint.load_model(place / "model")
        save_new(place)
        assert _content(place) == expected, f"moment {moment} left something behind"
        shutil.rmtree(place)
    return counts


def save_new(place: Path, moment: int | None = None) -> None:
    """Save the new checkpoint, one array in two pieces, and remove the old one; end at a moment."""
    if moment is not None:
        _end_at(moment)
    checkpoint.save(place / "model", SYMBOL, make_state(NEW))
    checkpoint.keep_only(place / "model", models=[], states=[NEW])


def _end_at(moment):
    """Let the process end at what it does to files for the time of this number, from 0."""
    left = iter(range(moment, -1, -1))

    def before(function):
        def call(*args, **kwargs):
            if next(left) == 0:
                os._exit(KILLED_HERE)
            return function(*args, **kwargs)

        return call

    class Torn(io.BufferedWriter):
        def write(self, data):
            if next(left) == 0:
                data = memoryview(data).cast("B")
                super().write(data[: len(data) // 2])
                self.flush()
                os._exit(KILLED_HERE)
            return super().write(data)

    os.fsync, os.replace, Path.unlink = before(os.fsync), before(os.replace), before(Path.unlink)
    read, files._open = (
        files._open,
        lambda path, mode, *others: Torn(io.FileIO(path, mode)) if mode == "xb" else read(path, mode, *others),
    )


def _fresh(folder, name):
    (folder / name).mkdir(parents=True)
    return folder / name / "model"


def _start(function, *args) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        function(*args)
        code = 0
    except BaseException as error:
        print(f"{args}: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _wait(process) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _content(folder) -> dict[str, bytes]:
    """Every file of a run with what is in it, but for figures that hold speeds."""
    return {
        path.name: b"" if path.suffix == ".csv" else path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


if __name__ == "__main__":
    kind, count, folder = sys.argv[1:]
    np.seterr(all="raise")
    kinds = {
        "runs": kill_tiny,
        "sampled": partial(kill_fine_tuned, SAMPLED),
        "adaface": partial(kill_fine_tuned, ADAFACE),
        "writes": kill_writes,
    }
    print(json.dumps(kinds[kind](int(count), Path(folder).resolve())))
