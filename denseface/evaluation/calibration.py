"""The probability that two pictures show one person, given their score.

A score is turned into the logarithm of the odds by a line, slope * score + offset, fitted by logistic regression in
which genuine and impostor pairs weigh the same. The probability is then that of a case in which both answers are
equally likely before the pictures are seen; any other prior adds its own log odds.

References
----------
Platt, "Probabilistic Outputs for Support Vector Machines", 1999; its targets below 1 and above 0 keep the slope finite
where scores do not overlap.
Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78, 1950.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from denseface.evaluation.metrics import Pairs

_STEPS = 100
_PRECISION = 1e-10
_BINS = 10


class Calibration(NamedTuple):
    """The line from a score to the log odds of a genuine pair, where both kinds are equally likely beforehand.

    Attributes
    ----------
    slope, offset : float

    Examples
    --------
    >>> line = Calibration(slope=10.0, offset=-5.0)
    >>> float(line.probability(0.5)), round(float(line.probability(0.8)), 3)
    (0.5, 0.953)
    >>> round(float(line.probability(0.8, prior=0.01)), 3)
    0.169
    """

    slope: float
    offset: float

    def probability(self, scores: np.ndarray | float, prior: float = 0.5) -> np.ndarray:
        """Return the probability, 0 to 1, that pairs with these scores are genuine.

        Parameters
        ----------
        scores : ndarray or float
        prior : float above 0 and below 1
            The probability before the pictures are seen.
        """
        return _logistic(self.slope * np.asarray(scores, np.float64) + self.offset + math.log(prior / (1 - prior)))


class Check(NamedTuple):
    """How true probabilities are, on pairs that they were not fitted on.

    Attributes
    ----------
    brier : float
        Mean squared difference of probability and truth, genuine and impostor pairs weighing the same: 0 is best, and
        0.25 is what always saying 0.5 has.
    predicted, observed : ndarray of shape (n,)
        The reliability curve: mean probability of the pairs in a tenth of the range, and the fraction of them that is
        genuine, weighted as above; tenths without a pair are left out.
    """

    brier: float
    predicted: np.ndarray
    observed: np.ndarray


def fit(genuine: np.ndarray, impostor: np.ndarray) -> Calibration:
    """Fit the line to the scores of genuine and of impostor pairs; neither may be empty."""
    scores, weights, issame = _joined(genuine, impostor)
    targets = np.where(issame, (len(genuine) + 1) / (len(genuine) + 2), 1 / (len(impostor) + 2))
    center, scale = scores.mean(), scores.std() or 1.0
    inputs = np.stack([(scores - center) / scale, np.ones_like(scores)], axis=1)
    line = np.zeros(2)
    for _ in range(_STEPS):
        probabilities = _logistic(inputs @ line)
        gradient = inputs.T @ (weights * (probabilities - targets))
        curvature = (inputs.T * (weights * probabilities * (1 - probabilities))) @ inputs + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        line -= step / max(1.0, float(np.abs(step).max()))  # at most 1, so that it cannot overshoot for ever
        if np.abs(step).max() < _PRECISION:
            break
    return Calibration(float(line[0] / scale), float(line[1] - line[0] * center / scale))


def check(calibration: Calibration, genuine: np.ndarray, impostor: np.ndarray) -> Check:
    """Check the probabilities of pairs that are known to be genuine or impostor."""
    scores, weights, issame = _joined(genuine, impostor)
    return _check(calibration.probability(scores), weights, issame)


def check_on_others(scores: Pairs, people: Pairs) -> Check | None:
    """Fit on one half of the people and check on the other, both ways; pairs of people of both halves are left out.

    Parameters
    ----------
    scores : Pairs
    people : Pairs
        The two people of each pair, as numbers: arrays of shape (n, 2) and (m, 2), int.

    Returns
    -------
    Check or None
        None if a half has no pair of a kind.
    """
    numbers = np.unique(np.concatenate(people))
    halves = [np.isin(numbers, numbers[start::2]) for start in (0, 1)]
    within = [[half[np.searchsorted(numbers, each)].all(axis=1) for each in people] for half in halves]
    parts = [[values[chosen] for values, chosen in zip(scores, half)] for half in within]
    if not all(len(values) for part in parts for values in part):
        return None
    checked = []
    for (genuine, impostor), (fitted_genuine, fitted_impostor) in zip(parts, parts[::-1]):
        found, weights, issame = _joined(genuine, impostor)
        checked.append((fit(fitted_genuine, fitted_impostor).probability(found), weights / 2, issame))
    return _check(*map(np.concatenate, zip(*checked)))


def _joined(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = [len(genuine), len(impostor)]
    weights = np.repeat([0.5 / count for count in counts], counts)
    return np.concatenate([genuine, impostor]).astype(np.float64), weights, np.repeat([True, False], counts)


def _check(probabilities: np.ndarray, weights: np.ndarray, issame: np.ndarray) -> Check:
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    total, predicted, observed = (
        np.bincount(bins, weights * values, _BINS) for values in (np.ones(len(weights)), probabilities, issame)
    )
    filled = total > 0
    brier = float(np.sum(weights * (probabilities - issame) ** 2))
    return Check(brier, predicted[filled] / total[filled], observed[filled] / total[filled])


def _logistic(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * values))
