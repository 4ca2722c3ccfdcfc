"""The log of a run: CSV files beside the model, written as the run goes, and read for its curves."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from denseface.core.errors import InputError
from denseface.core.files import naming_errors, open_input, replacing
from denseface.core.text import printable

VERIFICATION_COLUMNS = ("step", "set", "accuracy", "balanced_accuracy", "auc", "tar_1e-1", "tar_1e-2", "tar_1e-3")


class TrainingRow(NamedTuple):
    """Columns of ``PREFIX-training.csv``: means over the steps since the row before, up to this step.

    ``accuracy`` is None for triplets, and ``gradient_norm`` is that before clipping.
    """

    step: int
    epoch: float
    learning_rate: float
    loss: float
    accuracy: float | None
    images_per_second: float
    gradient_norm: float


TRAINING_COLUMNS = TrainingRow._fields


class RunLog:
    """Appends rows to ``PREFIX-training.csv`` and ``PREFIX-verification.csv``.

    Parameters
    ----------
    prefix : path-like
        Prefix of the model.
    start_step : int
        Rows beyond this step, left by a run that went further than its last checkpoint, are removed.
    verified_step : int
        So are verifications beyond this step, the last one that has all of them.
    """

    def __init__(self, prefix: str | Path, start_step: int, verified_step: int):
        files = (("training", TRAINING_COLUMNS, start_step), ("verification", VERIFICATION_COLUMNS, verified_step))
        self._files = []
        try:
            for name, columns, last_step in files:
                self._files.append(_open_csv(Path(f"{prefix}-{name}.csv"), columns, last_step))
            self._training, self._verification = self._files
        except BaseException:
            self.close()
            raise

    def training(self, row: TrainingRow) -> None:
        """Add a row; InputError if the file cannot be written."""
        self._add(self._training, row)

    def verification(self, step: int, name: str, metrics: dict) -> None:
        """Add the metrics of one verification set, as ``VerificationResult.to_dict`` returns them.

        A line is a row: line ends in the name of a set, from a file's, are escaped.
        """
        tar = {f"tar_1e-{k}": metrics["tar"].get(f"{10**-k:g}") for k in (1, 2, 3)}
        row = {"step": step, "set": printable(name), **metrics, **tar}
        self._add(self._verification, [row[column] for column in VERIFICATION_COLUMNS])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            with contextlib.suppress(OSError):  # what cannot be written now has failed before
                file.close()

    def _add(self, file: IO[str], row: Sequence[object]) -> None:
        with naming_errors(file.name):
            csv.writer(file).writerow([f"{value:.7g}" if isinstance(value, float) else value for value in row])
            file.flush()


def read_rows(path: str | Path, columns: Sequence[str]) -> list[dict[str, float | str]]:
    """Read a file of the log.

    Parameters
    ----------
    path : path-like
        Written by :class:`RunLog`.
    columns : sequence of str
        ``TRAINING_COLUMNS`` or ``VERIFICATION_COLUMNS``.

    Returns
    -------
    list of dict
        Rows by column; NaN where a field is empty. The name of a set is text.

    Raises
    ------
    InputError
        If the file cannot be read, or a row is not one of the log.
    """
    try:
        with io.TextIOWrapper(open_input(path), "utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", path=path) from error
    for number, row in enumerate(rows, start=2):
        try:
            if {*row} != {*columns} or None in row.values():
                raise ValueError("columns")
            for column in {*columns} - {"set"}:
                row[column] = float(row[column] or "nan")
        except (ValueError, TypeError) as error:
            raise InputError(
                f"line {number} was not written by a training run; repair or remove it", path=path
            ) from error
    return rows


def _open_csv(path: Path, columns: Sequence[str], last_step: int) -> IO[str]:
    """Open for appending, with a header and no row that is torn or beyond the step."""
    kept = []
    if path.exists():
        with open_input(path) as file:
            kept = [line for line in file if _step(line) <= last_step and line.endswith(b"\n")]
    with replacing(path) as file:
        file.writelines([",".join(columns).encode() + b"\r\n", *kept])
    return open(path, "a", encoding="utf-8", newline="")


def _step(line: bytes) -> float:
    found = re.match(rb"(\d{1,15}),", line)
    return int(found[1]) if found else math.inf
