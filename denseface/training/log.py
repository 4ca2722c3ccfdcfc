"""A run's figures, as they come: CSV files beside the model, and TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import socket
import time
from pathlib import Path

from denseface.core.files import naming_errors, open_input, replacing

TRAINING_COLUMNS = ("step", "epoch", "learning_rate", "loss", "accuracy", "images_per_second")
VERIFICATION_COLUMNS = ("step", "set", "accuracy", "balanced_accuracy", "auc", "tar_1e-1", "tar_1e-2", "tar_1e-3")


class RunLog:
    """Appends rows to ``PREFIX-training.csv`` and ``PREFIX-verification.csv``.

    Parameters
    ----------
    prefix : path-like
        The model's prefix; TensorBoard's events go to ``PREFIX-tensorboard``.
    start_step : int
        Rows beyond this step, left by a run that got further than its last checkpoint, are dropped.
    """

    def __init__(self, prefix: str | Path, start_step: int):
        self._files = []
        self._board = None
        try:
            for name, columns in (("training", TRAINING_COLUMNS), ("verification", VERIFICATION_COLUMNS)):
                self._files.append(_open_csv(Path(f"{prefix}-{name}.csv"), columns, start_step))
            self._training, self._verification = self._files
            self._board = _tensorboard(f"{prefix}-tensorboard")
        except BaseException:
            self.close()
            raise

    def training(self, *row: float) -> None:
        """Add a row of ``TRAINING_COLUMNS``; InputError if the file cannot be written."""
        self._add(self._training, row)
        self._show(dict(zip(TRAINING_COLUMNS[2:], row[2:])), "training", row[0])

    def verification(self, step: int, name: str, figures: dict) -> None:
        """Add the figures of one verification set, as ``VerificationResult.to_dict`` gives them."""
        tar = {f"tar_1e-{k}": figures["tar"].get(f"{10**-k:g}") for k in (1, 2, 3)}
        row = {"step": step, "set": name, **figures, **tar}
        self._add(self._verification, [row[column] for column in VERIFICATION_COLUMNS])
        self._show({column: row[column] for column in VERIFICATION_COLUMNS[2:]}, name, step)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            with contextlib.suppress(OSError):  # of what could not be written before either
                file.close()
        if self._board:
            self._board.close()

    def _add(self, file, row):
        with naming_errors(file.name):
            csv.writer(file).writerow([f"{value:.7g}" if isinstance(value, float) else value for value in row])
            file.flush()

    def _show(self, figures, group, step):
        if self._board:
            for name, value in figures.items():
                if value is not None:
                    self._board.add_scalar(f"{group}/{name}", value, step)


def _open_csv(path, columns, start_step):
    """Open for appending, with a header and no row that is torn or beyond the step."""
    kept = []
    if path.exists():
        with open_input(path) as file:
            kept = [line for line in file if _step(line) <= start_step and line.endswith(b"\n")]
    with replacing(path) as file:
        file.writelines([",".join(columns).encode() + b"\r\n", *kept])
    return open(path, "a", newline="")


def _step(line):
    found = re.match(rb"(\d{1,15}),", line)
    return int(found[1]) if found else math.inf


def _tensorboard(folder):
    try:
        return _Board(Path(folder))
    except ImportError:
        return None


class _Board:
    """TensorBoard's events.  Its own writer has a thread, in which a full disk is out of reach."""

    def __init__(self, folder):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._Event, self._Summary = Event, Summary
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "ab")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        try:
            self._add(file_version="brain.Event:2")
        except BaseException:
            self.close()
            raise

    def add_scalar(self, tag, value, step):
        self._add(step=step, summary=self._Summary(value=[self._Summary.Value(tag=tag, simple_value=value)]))

    def close(self):
        with contextlib.suppress(OSError):  # of what could not be written before either
            self._file.close()

    def _add(self, **content):
        with naming_errors(self._file.name):
            self._records.write(self._Event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()
