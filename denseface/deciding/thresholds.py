"""The metrics of a model, in a JSON file beside it or within an ONNX file, and the thresholds that follow from them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing
from denseface.core.lock import locked
from denseface.core.text import counted
from denseface.embedding.embedder import Embedder
from denseface.evaluation.calibration import Calibration
from denseface.evaluation.intervals import Interval
from denseface.evaluation.metrics import FARS
from denseface.verification.verify import VerificationReport

DEFAULT_FAR = 1e-3

_PATIENCE = 60.0  # seconds to wait for another process that saves its metrics


def save_metrics(embedder: Embedder, reports: Mapping[str, VerificationReport]) -> None:
    """Add the metrics of some sets to the file.

    What was measured of a set before and is not measured now stays: other sets, and of the same set the metrics with or
    without mirror images. A set of the same name in another folder gets a longer name.

    Parameters
    ----------
    embedder : Embedder
        It computed them.
    reports : mapping of str to VerificationReport
        By the path of the set.

    Raises
    ------
    InputError
        If the file cannot be read or written, or another process keeps it locked.
    """
    path = embedder.model.metrics_path
    with _waiting(path):
        sets = read_metrics(embedder.model)
        for file, report in reports.items():
            metrics = report.to_dict()
            metrics["file"] = _digest(file)
            name = _name_for(metrics.pop("name"), file, metrics["file"], sets)
            before = sets.get(name, {})
            if before.get("pairs") == metrics["pairs"]:
                metrics = {**before, **{key: value for key, value in metrics.items() if value is not None}}
            sets[name] = metrics
        with replacing(path) as written:
            written.write(json.dumps({"model": embedder.fingerprint, "sets": sets}, indent=1).encode())


@contextlib.contextmanager
def _waiting(path: Path) -> Iterator[None]:
    """Keep other processes from the file; wait for one that is at it."""
    with contextlib.ExitStack() as held:
        patience = time.monotonic() + _PATIENCE
        while True:
            try:
                held.enter_context(locked(path))
                break
            except InputError as error:
                if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > patience:
                    raise
                time.sleep(0.05)
        yield


def _digest(file: str) -> str:
    """Tell sets in different folders apart without telling where they were."""
    return hashlib.sha256(str(Path(file).absolute()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _name_for(name: str, file: str, digest: str, sets: Mapping[str, Any]) -> str:
    """Return the name that a set has in the file: its own, or with folders before it if another set has that."""
    parts = Path(file).absolute().parts[:-1]
    for count in range(len(parts) + 1):
        longer = "/".join([*parts[len(parts) - count :], name])
        if longer not in sets or sets[longer].get("file", digest) == digest:
            break
    return longer


class Threshold(NamedTuple):
    """From which score on two pictures are taken for the same person.

    Attributes
    ----------
    value : float
    name : str or None
        The verification set that it was chosen on; None for a threshold that was stated.
    far : float or None
        The false accept rate that it was chosen for.
    fmr : float or None
        Its false match rate on that set.
    fmr_interval : Interval or None
        The 95 % interval of the false match rate that it has on other pairs of such people.
    probability : Calibration or None
        What makes probabilities of scores.
    """

    value: float
    name: str | None = None
    far: float | None = None
    fmr: float | None = None
    fmr_interval: Interval | None = None
    probability: Calibration | None = None


def find_threshold(embedder: Embedder, name: str | None = None, far: float | None = None) -> Threshold:
    """Find the score from which on two pictures are taken for the same person.

    Parameters
    ----------
    embedder : Embedder
        Its model has been measured, with or without `flip` as it is set here.
    name : str, optional
        The verification set; by default the one with the most pairs.
    far : float, optional
        The false accept rate, one of ``FARS``. By default ``DEFAULT_FAR``, or where the set has too few impostor pairs
        for that, the lowest rate that it has enough for.

    Returns
    -------
    Threshold

    Raises
    ------
    InputError
        If the model has not been measured on such a set, or the set has too few pairs for the rate.
    """
    return choose_threshold(embedder.model, "flip" if embedder.flip else "plain", name, far)


def find_threshold_of_search(embedder: Embedder, size: int, fpir: float, name: str | None = None) -> Threshold:
    """Find the score that at most a fraction of the searches for strangers in a gallery reach.

    A search reaches it if one of N comparisons does, so its chance is at most N times that of one (Boole's inequality),
    however the comparisons depend on each other. The threshold is that of the highest measured false accept rate which
    is at most `fpir` / N. What :func:`denseface.verification.identification.identify` measures is sharper.

    Parameters
    ----------
    embedder, name
        See :func:`find_threshold`.
    size : int
        Pictures in the gallery.
    fpir : float, above 0 and at most 1

    Raises
    ------
    InputError
        As from :func:`find_threshold`, or if that rate is below all of ``FARS``.
    """
    wanted = fpir / max(size, 1)
    far = max((rate for rate in FARS if rate <= wanted * (1 + 1e-9)), default=None)
    if far is None:
        raise InputError(
            f"{fpir:g} among {size:,} pictures needs a false accept rate of {wanted:.1g}, below {min(FARS):g}, "
            "the least that is measured; state a threshold, such as one that denseface identify has measured",
            option="fpir",
        )
    try:
        return find_threshold(embedder, name, far)
    except InputError as error:
        if error.option != "far":
            raise
        raise InputError(
            f"{fpir:g} among {size:,} pictures needs a false accept rate of {error.args[0]}", option="fpir"
        ) from error


def choose_threshold(model: Any, way: str, name: str | None = None, far: float | None = None) -> Threshold:
    """Find a threshold as :func:`find_threshold` does.

    Parameters
    ----------
    model : Model or OnnxModel
    way : {"flip", "plain"}
    name, far
        See :func:`find_threshold`.
    """
    if far is not None and far not in FARS:
        raise InputError(f"must be one of {', '.join(f'{rate:g}' for rate in FARS)}, not {far:g}", option="far")
    sets = _measured(model, way)
    if name is None and sets:
        name = max(sets, key=lambda key: (sets[key].n_genuine + sets[key].n_impostor, key))
    if name is None or name not in sets:
        of_set = f" of the set {name}" if name else ""
        raise InputError(
            f"no threshold{of_set} for this model; measure it first (denseface verify), or state a threshold",
            path=model.metrics_path,
        )
    found = sets[name]
    if found.points is None:
        raise InputError(
            f"no thresholds at false accept rates of the set {name}; measure the model again "
            "(denseface verify), or state a threshold",
            path=model.metrics_path,
        )
    if far is None:
        far = min((rate for rate in found.points if rate >= DEFAULT_FAR), default=max(FARS))
    if far not in found.points:
        raise InputError(_too_few(name, found.n_impostor, far), option="far")
    value, fmr, interval = found.points[far]
    return Threshold(value, name, far, fmr, interval, found.probability)


def _too_few(name: str, count: int, far: float) -> str:
    needed = math.ceil(1 / far - 1e-9)
    people = math.ceil((1 + math.sqrt(1 + 8 * needed)) / 2)  # which have as many pairs of single pictures
    return (
        f"{far:g} needs {counted(needed, 'impostor pair')}, and {name} has {count}; a picture of each of "
        f"{people} people gives as many"
    )


class _Point(NamedTuple):
    threshold: float
    fmr: float
    fmr_interval: Interval


class _Saved(NamedTuple):
    """What this module needs of the metrics of a set."""

    n_genuine: int
    n_impostor: int
    points: dict[float, _Point] | None  # None where an older program measured it
    probability: Calibration | None


def _measured(model: Any, way: str) -> dict[str, _Saved]:
    path = model.metrics_path
    sets = read_metrics(model)
    try:
        return {name: _saved(metrics[way]) for name, metrics in sets.items() if metrics[way]}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if not path.exists():
            raise InputError(f"{model.name}: its metrics are damaged; export the model again") from error
        raise _not_ours(path) from error


def _saved(metrics: Any) -> _Saved:
    line, points = None, None
    if "probability" in metrics:
        line = Calibration(float(metrics["probability"]["slope"]), float(metrics["probability"]["offset"]))
        _require_finite(line)
    if "operating_points" in metrics:
        points = {float(far): _point(point) for far, point in metrics["operating_points"].items()}
    _require_finite([float(metrics["threshold"]), metrics["n_genuine"], metrics["n_impostor"]])
    return _Saved(metrics["n_genuine"], metrics["n_impostor"], points, line)


def _point(point: Any) -> _Point:
    low, high = map(float, point["fmr_interval"])
    _require_finite([float(point["threshold"]), float(point["fmr"]), low, high])
    return _Point(float(point["threshold"]), float(point["fmr"]), Interval(low, high))


def _require_finite(numbers: Iterable[float]) -> None:
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
        sets = {**model.metrics, **(saved["sets"] if same_model else {})}
        if not all(isinstance(metrics, dict) for metrics in sets.values()):
            raise TypeError
        return sets
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_ours(path) from error


def _not_ours(path: Path) -> InputError:
    return InputError("not a file that denseface verify has written; remove it and measure the model again", path=path)
