"""The metrics of a model, in a JSON file beside it or within an ONNX file, and the threshold of ``denseface match``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing
from denseface.embedding.embedder import Embedder
from denseface.evaluation.verify import VerificationReport


def save_metrics(embedder: Embedder, reports: Iterable[VerificationReport]) -> None:
    """Add the metrics of some sets to the file; those of a set that is already there are replaced.

    Raises
    ------
    InputError
        If the file cannot be read or written.
    """
    sets = read_metrics(embedder.model)
    for report in reports:
        metrics = report.to_dict()
        sets[metrics.pop("name")] = metrics
    with replacing(embedder.model.metrics_path) as file:
        file.write(json.dumps({"model": embedder.fingerprint, "sets": sets}, indent=1).encode())


def find_threshold(embedder: Embedder, name: str | None = None) -> tuple[float, str]:
    """Find the score from which on two pictures are taken for the same person.

    Parameters
    ----------
    embedder : Embedder
        Its model has been measured, with or without `flip` as it is set here.
    name : str, optional
        The verification set; by default the one with the most pairs.

    Returns
    -------
    threshold : float
        The threshold with the highest accuracy on this set.
    name : str
        The set.

    Raises
    ------
    InputError
        If the model has not been measured on such a set.
    """
    way = "flip" if embedder.flip else "plain"
    path = embedder.model.metrics_path
    try:
        thresholds = {
            key: (metrics[way]["n_genuine"] + metrics[way]["n_impostor"], float(metrics[way]["threshold"]))
            for key, metrics in read_metrics(embedder.model).items()
            if metrics[way]
        }
        if not all(math.isfinite(number) for numbers in thresholds.values() for number in numbers):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if not path.exists():
            raise InputError(f"{embedder.model.name}: its metrics are damaged; export the model again") from error
        raise _not_ours(path) from error
    if name is None and thresholds:
        name = max(thresholds, key=lambda key: thresholds[key])
    if name is None or name not in thresholds:
        of_set = f" of the set {name}" if name else ""
        raise InputError(
            f"{path}: no threshold{of_set} for this model; measure it first (denseface verify), or state a threshold"
        )
    return thresholds[name][1], name


def read_metrics(model: Any) -> dict[str, dict]:
    """Return what was measured of a model, by the name of the set.

    An ONNX file carries what its model had when it was exported; what was measured of the file itself goes before it.

    Parameters
    ----------
    model : Model or OnnxModel

    Raises
    ------
    InputError
        If the file beside the model is broken.
    """
    path = model.metrics_path
    if not path.exists():
        return dict(model.metrics)
    with open_input(path) as file:
        content = file.read()
    try:
        saved = json.loads(content)
        same_model = saved["model"]["sha256"] == model.fingerprint["sha256"]
        return {**model.metrics, **(saved["sets"] if same_model else {})}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_ours(path) from error


def _not_ours(path):
    return InputError(f"{path}: not a file that denseface verify has written; remove it and measure the model again")
