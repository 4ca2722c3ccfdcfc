"""The metrics of a model, in a JSON file beside it or within an ONNX file, and the threshold of ``denseface match``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing
from denseface.embedding.embedder import Embedder
from denseface.evaluation.calibration import Calibration
from denseface.evaluation.intervals import Interval
from denseface.verification.verify import VerificationReport


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


class Threshold(NamedTuple):
    """From which score on two pictures are taken for the same person.

    Attributes
    ----------
    value : float
        The threshold with the highest accuracy on a verification set.
    name : str or None
        The set; None for a threshold that was stated.
    fmr : float or None
        Its false match rate there; None where it is not known.
    fmr_interval : Interval or None
        The 95 % interval of that.
    probability : Calibration or None
        What makes probabilities of scores; None as above.
    """

    value: float
    name: str | None
    fmr: float | None
    fmr_interval: Interval | None
    probability: Calibration | None


def find_threshold(embedder: Embedder, name: str | None = None) -> Threshold:
    """Find the score from which on two pictures are taken for the same person.

    Parameters
    ----------
    embedder : Embedder
        Its model has been measured, with or without `flip` as it is set here.
    name : str, optional
        The verification set; by default the one with the most pairs.

    Returns
    -------
    Threshold

    Raises
    ------
    InputError
        If the model has not been measured on such a set.
    """
    way = "flip" if embedder.flip else "plain"
    path = embedder.model.metrics_path
    try:
        measured = {key: metrics[way] for key, metrics in read_metrics(embedder.model).items() if metrics[way]}
        thresholds = {key: _threshold(key, metrics) for key, metrics in measured.items()}
        sizes = {key: (metrics["n_genuine"] + metrics["n_impostor"]) for key, metrics in measured.items()}
        _require_finite(sizes.values())
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if not path.exists():
            raise InputError(f"{embedder.model.name}: its metrics are damaged; export the model again") from error
        raise _not_ours(path) from error
    if name is None and thresholds:
        name = max(thresholds, key=lambda key: (sizes[key], thresholds[key].value))
    if name is None or name not in thresholds:
        of_set = f" of the set {name}" if name else ""
        raise InputError(
            f"{path}: no threshold{of_set} for this model; measure it first (denseface verify), or state a threshold"
        )
    return thresholds[name]


def _threshold(name, metrics):
    """Take one from saved metrics; those of an earlier version have neither rates nor probabilities."""
    value, fmr, interval, line = float(metrics["threshold"]), None, None, None
    if "probability" in metrics:
        line = Calibration(float(metrics["probability"]["slope"]), float(metrics["probability"]["offset"]))
        fmr, interval = float(metrics["fmr"]), Interval(*map(float, metrics["intervals"]["fmr"]))
        _require_finite([fmr, *interval, *line])
    _require_finite([value])
    return Threshold(value, name, fmr, interval, line)


def _require_finite(numbers):
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError


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
