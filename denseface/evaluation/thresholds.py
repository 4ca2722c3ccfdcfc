"""The metrics of a model in a JSON file beside it, from which ``denseface match`` takes its threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

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
    sets = _read_sets(embedder)
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
            for key, metrics in _read_sets(embedder).items()
            if metrics[way]
        }
        if not all(math.isfinite(number) for numbers in thresholds.values() for number in numbers):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _not_ours(path) from error
    if name is None and thresholds:
        name = max(thresholds, key=lambda key: thresholds[key])
    if name is None or name not in thresholds:
        of_set = f" of the set {name}" if name else ""
        raise InputError(
            f"{path}: no threshold{of_set} for this model; measure it first (denseface verify){_or_copy(embedder)}, or "
            "state a threshold"
        )
    return thresholds[name][1], name


def _or_copy(embedder):
    """Say where an exported model finds the metrics of the model that it was made of."""
    path, origin = embedder.model.metrics_path, embedder.fingerprint
    original = f"{origin['prefix']}-{origin['epoch']:04d}.verification.json"
    return "" if str(path) == original or embedder.precision != "float32" else f", copy {original} there"


def _read_sets(embedder):
    """Return the saved metrics of this very model by the name of their set."""
    path = embedder.model.metrics_path
    if not path.exists():
        return {}
    with open_input(path) as file:
        content = file.read()
    try:
        saved = json.loads(content)
        same_model = saved["model"]["sha256"] == embedder.fingerprint["sha256"]
        return dict(saved["sets"]) if same_model else {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_ours(path) from error


def _not_ours(path):
    return InputError(f"{path}: not a file that denseface verify has written; remove it and measure the model again")
