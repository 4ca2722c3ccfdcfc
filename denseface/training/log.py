"""The log of a run: CSV files beside the model, written as the run goes."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from pathlib import Path

from denseface.core.files import naming_errors, open_input, replacing

TRAINING_COLUMNS = ("step", "epoch", "learning_rate", "loss", "accuracy", "images_per_second", "gradient_norm")
VERIFICATION_COLUMNS = ("step", "set", "accuracy", "balanced_accuracy", "auc", "tar_1e-1", "tar_1e-2", "tar_1e-3")


class RunLog:
    """Appends rows to ``PREFIX-training.csv`` and ``PREFIX-verification.csv``.

    Parameters
    ----------
    prefix : path-like
        Prefix of the model.
    start_step : int
        Rows beyond this step, left by a run that went further than its last checkpoint, are removed.
    """

    def __init__(self, prefix: str | Path, start_step: int):
        self._files = []
        try:
            for name, columns in (("training", TRAINING_COLUMNS), ("verification", VERIFICATION_COLUMNS)):
                self._files.append(_open_csv(Path(f"{prefix}-{name}.csv"), columns, start_step))
            self._training, self._verification = self._files
        except BaseException:
            self.close()
            raise

    def training(self, *row: float) -> None:
        """Add a row of ``TRAINING_COLUMNS``; InputError if the file cannot be written."""
        self._add(self._training, row)

    def verification(self, step: int, name: str, metrics: dict) -> None:
        """Add the metrics of one verification set, as ``VerificationResult.to_dict`` returns them."""
        tar = {f"tar_1e-{k}": metrics["tar"].get(f"{10**-k:g}") for k in (1, 2, 3)}
        row = {"step": step, "set": name, **metrics, **tar}
        self._add(self._verification, [row[column] for column in VERIFICATION_COLUMNS])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            with contextlib.suppress(OSError):  # what cannot be written now has failed before
                file.close()

    def _add(self, file, row):
        with naming_errors(file.name):
            csv.writer(file).writerow([f"{value:.7g}" if isinstance(value, float) else value for value in row])
            file.flush()


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
