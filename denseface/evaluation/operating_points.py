"""Thresholds at wanted error rates, with what they are worth.

A threshold that is to accept a fraction f of impostor pairs is read off the impostor pairs of a set, the most lenient
that accepts no more. On other pairs it has another rate, whose 95 % interval is that of
:func:`denseface.evaluation.intervals.chosen_interval`: few people decide which pairs score highest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from denseface.evaluation.influence import (
    Measured,
    Rate,
    interval_of,
    measure_accuracy_at,
    measure_balanced_accuracy_at,
    measure_matches,
    measure_misses,
    tar_intervals,
)
from denseface.evaluation.intervals import Interval, SharedPeople, chosen_interval
from denseface.evaluation.metrics import VerificationResult


class OperatingPoint(NamedTuple):
    """A threshold at a wanted false match rate.

    Attributes
    ----------
    threshold : float
        The most lenient score threshold whose false match rate on the set does not exceed the wanted one.
    fmr : float
        Its false match rate on the set, at most the wanted one.
    fmr_interval : Interval
        The 95 % interval of the false match rate that it has on other pairs of such people.
    tar : float
        The true accept rate at the threshold.
    tar_interval : Interval
        Its 95 % interval.
    """

    threshold: float
    fmr: float
    fmr_interval: Interval
    tar: float
    tar_interval: Interval


def operating_points(
    result: VerificationResult, shared: SharedPeople, fars: Iterable[float]
) -> dict[float, OperatingPoint]:
    """Find the thresholds at false match rates; rates that the set has too few impostor pairs for are left out.

    Parameters
    ----------
    result : VerificationResult
    shared : SharedPeople
        Who shares whom among its pairs, from :func:`denseface.evaluation.influence.order_people`.
    fars : iterable of float, each above 0 and at most 1

    Examples
    --------
    >>> import numpy as np
    >>> from denseface.evaluation.influence import order_people
    >>> from denseface.evaluation.metrics import score_pairs
    >>> people = np.array([[0, 0], [1, 1], [0, 1], [1, 2]])
    >>> issame = people[:, 0] == people[:, 1]
    >>> result = score_pairs([0.9, 0.7, 0.5, 0.1], issame, folds=2)
    >>> points = operating_points(result, order_people(people, issame), (0.5, 0.1))
    >>> {far: (point.threshold, point.fmr, point.tar) for far, point in points.items()}
    {0.5: (0.5, 0.5, 1.0)}
    """
    found = {}
    for far, tar_interval in tar_intervals(result, fars, shared).items():
        threshold, tar = result.threshold_at(far), result.tar_at(far)
        if threshold is not None and tar is not None and tar_interval is not None:
            fmr, contributions, scores = measure_matches(result, threshold)
            fmr_interval = chosen_interval(fmr, contributions, scores, shared)
            found[far] = OperatingPoint(threshold, fmr, fmr_interval, tar, tar_interval)
    return found


class AtThreshold(NamedTuple):
    """What a threshold is worth on a set that it was not chosen on.

    Attributes
    ----------
    threshold : float
    accuracy, balanced_accuracy, fmr, fnmr : Rate
    """

    threshold: float
    accuracy: Rate
    balanced_accuracy: Rate
    fmr: Rate
    fnmr: Rate


def measure_at(result: VerificationResult, shared: SharedPeople, threshold: float) -> AtThreshold:
    """Measure a threshold that was chosen elsewhere.

    Parameters
    ----------
    result : VerificationResult
    shared : SharedPeople
        Who shares whom among its pairs.
    threshold : float
    """

    def rate(measured: Measured) -> Rate:
        return Rate(measured.value, interval_of(measured, shared))

    return AtThreshold(
        threshold=threshold,
        accuracy=rate(measure_accuracy_at(result, threshold)),
        balanced_accuracy=rate(measure_balanced_accuracy_at(result, threshold)),
        fmr=rate(measure_matches(result, threshold)),
        fnmr=rate(measure_misses(result, threshold)),
    )
