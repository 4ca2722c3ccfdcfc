"""How much each pair moves a metric, from which follow its interval and that of a difference of two models.

A metric that is not a mean over pairs is one to first order: the contribution of a pair is its influence function over
the number of pairs of its kind (Hampel, "The Influence Curve and Its Role in Robust Estimation", 1974). For the area
under the ROC curve these are the placements of DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or
More Correlated Receiver Operating Characteristic Curves", 1988. A rate at a threshold that itself depends on the pairs,
as the true accept rate at a false accept rate does, also moves with what moves the threshold, times the slope of the
ROC curve. Where a threshold maximizes the metric, that slope does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from denseface.evaluation.intervals import Interval, SharedPeople, difference_interval, rate_interval
from denseface.evaluation.metrics import VerificationResult

METRICS = ("accuracy", "balanced_accuracy", "auc", "eer")
RATES = ("fmr", "fnmr")


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


def order_people(people: np.ndarray, issame: np.ndarray) -> SharedPeople:
    """Return who shares whom among pairs in the order of this module.

    Parameters
    ----------
    people : ndarray of shape (m, 2), int
        The people of each pair, in the order of the pairs.
    issame : ndarray of shape (m,), bool
    """
    return SharedPeople(np.concatenate([people[issame], people[~issame]]))


def measure_intervals(result: VerificationResult, shared: SharedPeople) -> dict:
    """Compute the 95 % intervals of a model's metrics.

    Returns
    -------
    dict
        Interval by the names in ``METRICS`` and ``RATES``, and under ``tar`` a dict of false accept rate to Interval,
        or None where that rate cannot be measured.
    """
    found = {name: _interval(measure(result, name, shared), shared) for name in (*METRICS, *RATES)}
    return {**found, "tar": tar_intervals(result, result.tar, shared)}


def tar_intervals(
    result: VerificationResult, fars: Iterable[float], shared: SharedPeople
) -> dict[float, Interval | None]:
    """Compute the intervals of the true accept rates at false accept rates; None where one cannot be measured.

    The true accept rate never falls as more is accepted, so neither do the lower bounds.
    """
    found: dict[float, Interval | None] = dict.fromkeys(fars)
    lowest = 0.0
    for far in sorted(found):
        measured = _measure_tar(result, far, shared)
        if measured:
            interval = _interval(measured, shared)
            lowest = max(lowest, interval.low)
            found[far] = interval._replace(low=lowest)
    return found


def compare(ours: VerificationResult, theirs: VerificationResult, shared: SharedPeople) -> dict:
    """Compare two models on the same pairs.

    Returns
    -------
    dict
        For each metric, as from :func:`measure_intervals`, the difference, ours minus theirs, and its Interval.
    """

    def difference(one, other):
        if one is None or other is None:
            return None
        value = one.value - other.value
        return value, difference_interval(value, one.contributions - other.contributions, shared)

    found = {name: difference(*(measure(result, name, shared) for result in (ours, theirs))) for name in METRICS}
    tar = {far: difference(*(_measure_tar(result, far, shared) for result in (ours, theirs))) for far in ours.tar}
    return {**found, "tar": tar}


def measure(result: VerificationResult, metric: str, shared: SharedPeople) -> Measured:
    """Return one of ``METRICS`` or ``RATES`` with the contributions of the pairs."""
    n_genuine, n_impostor = result.n_genuine, result.n_impostor
    genuine, impostor = result.scores
    if metric in RATES:
        false = metric == "fmr"
        value, *parts = (
            _measured_error(impostor >= result.threshold, impostor)
            if false
            else _measured_error(genuine < result.threshold, genuine)
        )
        zeros = np.zeros(n_genuine if false else n_impostor)
        return Measured(value, *(np.concatenate([zeros, part] if false else [part, zeros]) for part in parts))
    halves = np.repeat([0.5 / n_genuine, 0.5 / n_impostor], [n_genuine, n_impostor])
    if metric == "accuracy":
        right = np.concatenate(result.right)
        weights = np.full(len(right), 1 / len(right))
        return Measured(result.accuracy, weights * (right - right.mean()), weights * _standardized(result))
    if metric == "balanced_accuracy":
        threshold = result.balanced_threshold
        moved = np.concatenate([_centered(genuine >= threshold), _centered(impostor < threshold)])
        return Measured(result.balanced_accuracy, halves * moved, halves * _standardized(result))
    if metric == "auc":
        moved = np.concatenate([_centered(_placements(genuine, impostor)), -_centered(_placements(impostor, genuine))])
        return Measured(result.auc, 2 * halves * moved, halves * _standardized(result))
    threshold = result.eer_threshold
    misses, false = _centered(genuine < threshold) / n_genuine, _centered(impostor >= threshold) / n_impostor
    slope = _slope(result, result.eer, false, shared)
    # FMR(t) = FNMR(t) keeps holding as the pairs change, so that t moves, and with it both along the curve.
    return Measured(result.eer, np.concatenate([misses, slope * false]) / (1 + slope), halves * _standardized(result))


def measure_error(errors: np.ndarray, scores: np.ndarray, shared: SharedPeople) -> tuple[float, Interval] | None:
    """Return the fraction of errors among pairs of one kind, at a threshold that does not depend on them.

    Parameters
    ----------
    errors : ndarray of shape (m,), bool
    scores : ndarray of shape (m,)
    shared : SharedPeople
        Of these pairs.

    Returns
    -------
    rate, interval
        None if there is no pair.
    """
    if not len(errors):
        return None
    return float(np.mean(errors)), _interval(_measured_error(errors, scores), shared)


def _measure_tar(result, far, shared):
    value = result.tar_at(far)
    if value is None:
        return None
    threshold = result.threshold_at(far)
    genuine, impostor = result.scores
    accepts = _centered(genuine >= threshold) / result.n_genuine
    false = _centered(impostor >= threshold) / result.n_impostor
    moved = np.concatenate([accepts, -_slope(result, far, false, shared) * false])
    _, _, scores = _measured_error(genuine < threshold, genuine)
    return Measured(value, moved, np.concatenate([scores, np.zeros(len(impostor))]))


def _measured_error(errors, scores):
    n = len(scores)
    return Measured(float(np.mean(errors)), _centered(errors) / n, _centered(scores) / (_deviation(scores) * n))


def _interval(measured, shared):
    return rate_interval(measured.value, measured.contributions, measured.scores, shared)


def _slope(result, far, false, shared):
    """Return the slope of the ROC curve at a false accept rate, over one standard deviation of that rate each way."""
    moved = np.concatenate([np.zeros(result.n_genuine), false])
    reach = max(shared.spread(moved).variance ** 0.5, 1 / result.n_impostor)
    low, high = max(far - reach, 0.0), min(far + reach, 1.0)
    rates = np.interp([low, high], *result.roc)
    return float(rates[1] - rates[0]) / (high - low)


def _placements(scores, others):
    """Return the fraction of other scores below each score, equal ones counting half."""
    others = np.sort(others)
    return sum(np.searchsorted(others, scores, side) for side in ("left", "right")) / (2 * len(others))


def _standardized(result):
    return np.concatenate([_centered(scores) / _deviation(scores) for scores in result.scores])


def _centered(values):
    return values - np.mean(values)


def _deviation(scores):
    """The standard deviation; 1 for scores that are all equal, whose deviations are 0 anyhow."""
    return float(np.std(scores)) or 1.0
