"""How much each pair moves a metric, from which follow its interval and that of a difference of two models.

A metric that is not a mean over pairs is one to first order: the contribution of a pair is its influence function over
the number of pairs of its kind (Hampel, "The Influence Curve and Its Role in Robust Estimation", 1974). For the area
under the ROC curve these are the placements of DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or
More Correlated Receiver Operating Characteristic Curves", 1988. A rate at a threshold that itself depends on the pairs,
as the true accept rate at a false accept rate does, also moves with what moves the threshold, times the slope of the
ROC curve. Where a threshold maximizes the metric, that slope does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from denseface.evaluation.intervals import Interval, SharedPeople, difference_interval, rate_interval
from denseface.evaluation.metrics import VerificationResult


class Measured(NamedTuple):
    """A metric with what each pair contributes to it, the genuine pairs first.

    Attributes
    ----------
    value : float
    contributions : ndarray of shape (m,)
        Deviations that the pairs cause.
    scores : ndarray of shape (m,)
        Standardized scores of the pairs, weighted as the pairs are in this metric.
    """

    value: float
    contributions: np.ndarray
    scores: np.ndarray


class Rate(NamedTuple):
    """A measured rate.

    Attributes
    ----------
    value : float
        0 to 1.
    interval : Interval
        Its 95 % interval.
    """

    value: float
    interval: Interval


@dataclass(frozen=True)
class Intervals:
    """The 95 % intervals of a model's metrics; see :class:`denseface.evaluation.metrics.VerificationResult`.

    Attributes
    ----------
    accuracy, balanced_accuracy, auc, eer, fmr, fnmr : Interval
    tar : dict of float to (Interval or None)
        By false accept rate; None where that rate cannot be measured.
    """

    accuracy: Interval
    balanced_accuracy: Interval
    auc: Interval
    eer: Interval
    fmr: Interval
    fnmr: Interval
    tar: dict[float, Interval | None]

    def to_dict(self) -> dict:
        """Return all in types that JSON knows."""
        return {**vars(self), "tar": {f"{far:g}": interval for far, interval in self.tar.items()}}


class Difference(NamedTuple):
    """The difference of a metric of two models.

    Attributes
    ----------
    value : float
    interval : Interval
        Its 95 % interval.
    """

    value: float
    interval: Interval


@dataclass(frozen=True)
class Differences:
    """What two models differ in, ours minus theirs.

    Attributes
    ----------
    accuracy, balanced_accuracy, auc, eer : Difference
    tar : dict of float to (Difference or None)
        By false accept rate; None where that rate cannot be measured.
    """

    accuracy: Difference
    balanced_accuracy: Difference
    auc: Difference
    eer: Difference
    tar: dict[float, Difference | None]

    def to_dict(self) -> dict:
        """Return all in types that JSON knows."""
        return {**vars(self), "tar": {f"{far:g}": difference for far, difference in self.tar.items()}}


def order_people(people: np.ndarray, issame: np.ndarray) -> SharedPeople:
    """Return who shares whom among pairs in the order of this module.

    Parameters
    ----------
    people : ndarray of shape (m, 2), int
        The people of each pair, in the order of the pairs.
    issame : ndarray of shape (m,), bool
    """
    return SharedPeople(np.concatenate([people[issame], people[~issame]]))


def measure_intervals(result: VerificationResult, shared: SharedPeople) -> Intervals:
    """Compute the 95 % intervals of a model's metrics."""
    found = {name: interval_of(measure(result, shared), shared) for name, measure in (METRICS | RATES).items()}
    return Intervals(**found, tar=tar_intervals(result, result.tar, shared))


def tar_intervals(
    result: VerificationResult, fars: Iterable[float], shared: SharedPeople
) -> dict[float, Interval | None]:
    """Compute the intervals of the true accept rates at false accept rates; None where one cannot be measured.

    The true accept rate never falls as more is accepted, so neither do the lower bounds.
    """
    found: dict[float, Interval | None] = dict.fromkeys(fars)
    lowest = 0.0
    for far in sorted(found):
        measured = measure_tar(result, far, shared)
        if measured:
            interval = interval_of(measured, shared)
            lowest = max(lowest, interval.low)
            found[far] = interval._replace(low=lowest)
    return found


def compare(ours: VerificationResult, theirs: VerificationResult, shared: SharedPeople) -> Differences:
    """Compare two models on the same pairs."""

    def difference(one: Measured, other: Measured) -> Difference:
        value = one.value - other.value
        return Difference(value, difference_interval(value, one.contributions - other.contributions, shared))

    tar: dict[float, Difference | None] = {}
    for far in ours.tar:
        one, other = measure_tar(ours, far, shared), measure_tar(theirs, far, shared)
        tar[far] = difference(one, other) if one and other else None
    found = {name: difference(measure(ours, shared), measure(theirs, shared)) for name, measure in METRICS.items()}
    return Differences(**found, tar=tar)


def measure_accuracy(result: VerificationResult, shared: SharedPeople) -> Measured:
    """Measure the accuracy over folds."""
    return _measured_accuracy(result, np.concatenate(result.right))._replace(value=result.accuracy)


def measure_accuracy_at(result: VerificationResult, threshold: float) -> Measured:
    """Measure the accuracy at any threshold."""
    return _measured_accuracy(
        result, np.concatenate([result.scores.genuine >= threshold, result.scores.impostor < threshold])
    )


def measure_balanced_accuracy(result: VerificationResult, shared: SharedPeople) -> Measured:
    """Measure the best balanced accuracy."""
    return measure_balanced_accuracy_at(result, result.balanced_threshold)._replace(value=result.balanced_accuracy)


def measure_balanced_accuracy_at(result: VerificationResult, threshold: float) -> Measured:
    """Measure the balanced accuracy at any threshold."""
    accepted, rejected = result.scores.genuine >= threshold, result.scores.impostor < threshold
    moved, halves = np.concatenate([_centered(accepted), _centered(rejected)]), _halves(result)
    value = float(accepted.mean() + rejected.mean()) / 2
    return Measured(value, halves * moved, halves * _standardized(result))


def measure_auc(result: VerificationResult, shared: SharedPeople) -> Measured:
    """Measure the area under the ROC curve."""
    (genuine, impostor), halves = result.scores, _halves(result)
    moved = np.concatenate([_centered(_placements(genuine, impostor)), -_centered(_placements(impostor, genuine))])
    return Measured(result.auc, 2 * halves * moved, halves * _standardized(result))


def measure_eer(result: VerificationResult, shared: SharedPeople) -> Measured:
    """Measure the equal error rate."""
    missed = _centered(result.scores.genuine < result.eer_threshold) / result.n_genuine
    matched = _centered(result.scores.impostor >= result.eer_threshold) / result.n_impostor
    slope = _slope(result, result.eer, matched, shared)
    # FMR(t) = FNMR(t) keeps holding as the pairs change, so that t moves, and with it both along the curve.
    moved = np.concatenate([missed, slope * matched]) / (1 + slope)
    return Measured(result.eer, moved, _halves(result) * _standardized(result))


def measure_fmr(result: VerificationResult, shared: SharedPeople) -> Measured:
    """Measure the false match rate at the threshold of best accuracy."""
    return measure_matches(result, result.threshold)


def measure_matches(result: VerificationResult, threshold: float) -> Measured:
    """Measure the false match rate at any threshold."""
    impostor = result.scores.impostor
    return _after(result.n_genuine, _measured_error(impostor >= threshold, impostor))


def measure_fnmr(result: VerificationResult, shared: SharedPeople) -> Measured:
    """Measure the false non-match rate at the threshold of best accuracy."""
    return measure_misses(result, result.threshold)


def measure_misses(result: VerificationResult, threshold: float) -> Measured:
    """Measure the false non-match rate at any threshold."""
    genuine = result.scores.genuine
    return _before(result.n_impostor, _measured_error(genuine < threshold, genuine))


METRICS: dict[str, Callable[[VerificationResult, SharedPeople], Measured]] = {
    "accuracy": measure_accuracy,
    "balanced_accuracy": measure_balanced_accuracy,
    "auc": measure_auc,
    "eer": measure_eer,
}
RATES: dict[str, Callable[[VerificationResult, SharedPeople], Measured]] = {"fmr": measure_fmr, "fnmr": measure_fnmr}


def measure_tar(result: VerificationResult, far: float, shared: SharedPeople) -> Measured | None:
    """Measure the true accept rate at a false accept rate; None where that rate cannot be measured."""
    value, threshold = result.tar_at(far), result.threshold_at(far)
    if value is None or threshold is None:
        return None
    accepted = _centered(result.scores.genuine >= threshold) / result.n_genuine
    matched = _centered(result.scores.impostor >= threshold) / result.n_impostor
    moved = np.concatenate([accepted, -_slope(result, far, matched, shared) * matched])
    return Measured(value, moved, measure_misses(result, threshold).scores)


def measure_error(errors: np.ndarray, scores: np.ndarray, shared: SharedPeople) -> Rate | None:
    """Return the fraction of errors among pairs of one kind, at a threshold that does not depend on them.

    Parameters
    ----------
    errors : ndarray of shape (m,), bool
    scores : ndarray of shape (m,)
    shared : SharedPeople
        Of these pairs.

    Returns
    -------
    Rate or None
        None if there is no pair.
    """
    if not len(errors):
        return None
    return Rate(float(np.mean(errors)), interval_of(_measured_error(errors, scores), shared))


def interval_of(measured: Measured, shared: SharedPeople) -> Interval:
    """Compute the 95 % interval of a metric of the pairs of `shared`."""
    return rate_interval(measured.value, measured.contributions, measured.scores, shared)


def _measured_accuracy(result: VerificationResult, right: np.ndarray) -> Measured:
    n = len(right)
    return Measured(float(right.mean()), _centered(right) / n, _standardized(result) / n)


def _measured_error(errors: np.ndarray, scores: np.ndarray) -> Measured:
    n = len(scores)
    return Measured(float(np.mean(errors)), _centered(errors) / n, _centered(scores) / (_deviation(scores) * n))


def _before(count: int, genuine: Measured) -> Measured:
    """Add impostor pairs, which do not contribute."""
    return Measured(genuine.value, *(np.concatenate([part, np.zeros(count)]) for part in genuine[1:]))


def _after(count: int, impostor: Measured) -> Measured:
    """Add genuine pairs, which do not contribute."""
    return Measured(impostor.value, *(np.concatenate([np.zeros(count), part]) for part in impostor[1:]))


def _halves(result: VerificationResult) -> np.ndarray:
    """Return the weight of each pair where both kinds of pairs weigh the same."""
    n_genuine, n_impostor = result.n_genuine, result.n_impostor
    return np.repeat([0.5 / n_genuine, 0.5 / n_impostor], [n_genuine, n_impostor])


def _slope(result: VerificationResult, far: float, matched: np.ndarray, shared: SharedPeople) -> float:
    """Return the slope of the ROC curve at a false accept rate, over one standard deviation of that rate each way."""
    moved = np.concatenate([np.zeros(result.n_genuine), matched])
    reach = max(shared.spread(moved).variance ** 0.5, 1 / result.n_impostor)
    low, high = max(far - reach, 0.0), min(far + reach, 1.0)
    rates = np.interp([low, high], result.roc.far, result.roc.tar)
    return float(rates[1] - rates[0]) / (high - low)


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the fraction of other scores below each score, equal ones counting half."""
    others = np.sort(others)
    return sum(np.searchsorted(others, scores, side) for side in ("left", "right")) / (2 * len(others))


def _standardized(result: VerificationResult) -> np.ndarray:
    return np.concatenate([_centered(scores) / _deviation(scores) for scores in result.scores])


def _centered(values: np.ndarray) -> np.ndarray:
    return values - np.mean(values)


def _deviation(scores: np.ndarray) -> float:
    """The standard deviation; 1 for scores that are all equal, whose deviations are 0 anyhow."""
    return float(np.std(scores)) or 1.0
