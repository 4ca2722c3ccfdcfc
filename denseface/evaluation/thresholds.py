"""The verification figures of a model, in a JSON file beside it, from which ``denseface match`` takes its threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines.onnx_model import OnnxModel
from denseface.evaluation.verify import VerificationReport


def figures_path(embedder: Embedder) -> Path:
    """``PREFIX-NNNN.verification.json``; of an ONNX file, its name with this ending."""
    model = embedder.model
    if isinstance(model, OnnxModel):
        return Path(model.name).with_suffix(".verification.json")
    return Path(f"{model.prefix}-{model.step:04d}.verification.json")


def keep_figures(embedder: Embedder, reports: Iterable[VerificationReport]) -> None:
    """Add the figures of some sets to those that are kept; a set that is there is replaced.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    sets = _read_sets(embedder)
    for report in reports:
        figures = report.to_dict()
        sets[figures.pop("name")] = figures
    with replacing(figures_path(embedder)) as file:
        file.write(json.dumps({"model": embedder.fingerprint, "sets": sets}, indent=1).encode())


def find_threshold(embedder: Embedder, name: str | None = None) -> tuple[float, str]:
    """Find the score at and above which two pictures show the same person.

    Parameters
    ----------
    embedder : Embedder
        Whose model was measured, with or without flip as it is set.
    name : str, optional
        The verification set; by default the one with the most pairs.

    Returns
    -------
    threshold : float
        That of the highest accuracy on this set.
    name : str
        The set.

    Raises
    ------
    InputError
        If there are no such figures.
    """
    way = "flip" if embedder.flip else "plain"
    path = figures_path(embedder)
    try:
        thresholds = {
            key: (figures[way]["n_genuine"] + figures[way]["n_impostor"], float(figures[way]["threshold"]))
            for key, figures in _read_sets(embedder).items()
            if figures[way]
        }
        if not all(math.isfinite(number) for numbers in thresholds.values() for number in numbers):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: denseface verify did not write it so; remove it and measure again") from error
    if name is None and thresholds:
        name = max(thresholds, key=lambda key: thresholds[key])
    if name is None or name not in thresholds:
        raise InputError(
            f"{path}: no threshold{f' of the set {name}' if name else ''}; measure the model with denseface verify, or "
            "give --threshold"
        )
    return thresholds[name][1], name


def _read_sets(embedder):
    """The figures that are kept of this very model, by the name of their set."""
    path = figures_path(embedder)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        same_model = content["model"]["sha256"] == embedder.fingerprint["sha256"]
        return dict(content["sets"]) if same_model else {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: denseface verify did not write it so; remove it and measure again") from error
