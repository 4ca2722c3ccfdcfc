"""Confidence intervals of error rates over pairs that share people.

Two pairs with a person in common are not independent: whoever is hard to recognize is so in all of their pairs. The
variance of a mean over pairs is therefore estimated from the products of all contributions of two pairs that share a
person, and decides how many independent pairs the set is worth. Wilson's interval is taken for that number.

References
----------
Fogliato, Patil and Perona, "Confidence Intervals for Error Rates in 1:1 Matching Tasks: Critical Statistical Analysis
and Recommendations", International Journal of Computer Vision, 2024 (arXiv 2306.01198).
Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", 1946.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95

_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_NORMAL = 1e6  # degrees of freedom from which on Student's t is normal
_PRECISION = 1e-12
_TERMS = 10_000


class Interval(NamedTuple):
    """A 95 % confidence interval.

    Attributes
    ----------
    low, high : float
    """

    low: float
    high: float


class Spread(NamedTuple):
    """How certain a sum of contributions is.

    Attributes
    ----------
    variance : float
    freedom : float
        Degrees of freedom of that variance, at least 1: few if few people contribute most of it.
    people : int
        Number of people who contribute.
    """

    variance: float
    freedom: float
    people: int


class SharedPeople:
    """Which pairs share people.

    Parameters
    ----------
    people : ndarray of shape (m, 2), int
        The two people of each pair, as any numbers; the same number twice for a genuine pair.
    """

    def __init__(self, people: np.ndarray):
        names, numbers = np.unique(np.asarray(people), return_inverse=True)
        self.count = len(names)
        self._first, self._second = numbers.reshape(-1, 2).T
        self._apart = np.flatnonzero(self._first != self._second)
        couples = np.sort(np.stack([self._first, self._second], axis=1)[self._apart], axis=1)
        _, self._couple = np.unique(couples @ [self.count, 1], return_inverse=True)

    def spread(self, contributions: np.ndarray) -> Spread:
        """Estimate the variance of a sum over pairs.

        With c the contributions, S(a) their sum over the pairs of person a, and S(a, b) that over the pairs of two
        people a and b, the sum over all ordered pairs of pairs that share a person is

            sum of c(k) c(l) = sum of S(a)**2 - sum of S(a, b)**2,

        since pairs of the same two people are in the first term twice. It is multiplied by n / (n - k) for n people and
        up to k in a pair, as a variance is by n / (n - 1), and is never below the variance for independent pairs.

        Parameters
        ----------
        contributions : ndarray of shape (m,)
            Deviations of an estimate that each pair causes; their mean is 0.
        """
        of_person = np.bincount(self._first, contributions, self.count)
        of_person += np.bincount(self._second[self._apart], contributions[self._apart], self.count)
        of_couple = np.bincount(self._couple, contributions[self._apart])
        touched = contributions != 0
        involved = np.zeros(self.count, bool)
        involved[self._first[touched]] = involved[self._second[touched]] = True
        people = int(np.count_nonzero(involved))
        per_pair = 2 if touched[self._apart].any() else 1
        squares = of_person**2
        shared = max(float(squares.sum() - np.sum(of_couple**2)), 0.0)
        variance = max(shared * people / max(people - per_pair, 1), float(np.sum(contributions**2)))
        # Satterthwaite, with the fourth moment of what was seen instead of a normal distribution's.
        excess = float(np.sum(squares**2) - squares.sum() ** 2 / max(people, 1))
        freedom = 2 * float(squares.sum()) ** 2 / excess - 1 if excess > 0 else math.inf
        return Spread(variance, min(max(freedom, 1.0), max(people - 1, 1)), people)


def rate_interval(value: float, contributions: np.ndarray, scores: np.ndarray, shared: SharedPeople) -> Interval:
    """Compute the interval of a rate, or of another number from 0 to 1 that pairs contribute to.

    Parameters
    ----------
    value : float, 0 to 1
        The estimate.
    contributions : ndarray of shape (m,)
        How much each pair moves it; see :mod:`denseface.evaluation.influence`.
    scores : ndarray of shape (m,)
        The same of the pairs' standardized scores, weighted as the pairs are. They bound the dependence where there are
        few errors or none, which alone cannot show it: errors at a threshold depend on each other less than the scores.
    shared : SharedPeople
        Of the m pairs.

    Returns
    -------
    Interval
        Within 0 to 1.
    """
    return wilson(value, _independent(value, contributions, scores, shared))


def chosen_interval(value: float, contributions: np.ndarray, scores: np.ndarray, shared: SharedPeople) -> Interval:
    """Compute the interval of the rate that a threshold really has which was chosen for its rate on the same pairs.

    With n independent cases, the rate beyond the k-th highest score has the distribution Beta(k, n - k + 1), whatever
    the distribution of the scores. A threshold that accepts k is between that score and the next, so the interval goes
    from the lower quantile of Beta(k, n - k + 1) to the upper one of Beta(k + 1, n - k).

    Parameters
    ----------
    value, contributions, scores, shared
        As for :func:`rate_interval`; the rate, of the pairs that the threshold was chosen on.

    References
    ----------
    David and Nagaraja, "Order Statistics", 2003, section 7.1; Clopper and Pearson, "The Use of Confidence or Fiducial
    Limits Illustrated in the Case of the Binomial", 1934, have the same limits for a fixed threshold.
    """
    return clopper_pearson(value, _independent(value, contributions, scores, shared))


def _independent(value: float, contributions: np.ndarray, scores: np.ndarray, shared: SharedPeople) -> float:
    """Return how many independent cases the pairs are worth, fewer where few people show it (Student's t)."""
    seen, spread = shared.spread(scores), shared.spread(contributions)
    # Scores that are all equal say nothing of their dependence.
    from_scores = _shrunk(1 / seen.variance, seen.people - 1) if seen.variance else 1.0
    if not (0 < value < 1 and spread.variance):
        return from_scores
    size = value * (1 - value) / spread.variance
    return min(max(from_scores, _shrunk(size, spread.freedom)), _shrunk(size, spread.people - 1))


def _shrunk(size: float, freedom: float) -> float:
    """Return the number of cases whose normal interval is as wide as Student's of `size` cases."""
    return size * (_Z / t_quantile(max(freedom, 1))) ** 2


def difference_interval(
    value: float, contributions: np.ndarray, shared: SharedPeople, confidence: float = CONFIDENCE
) -> Interval:
    """Compute the interval of a difference of two numbers that the same pairs contribute to.

    Parameters
    ----------
    value : float
        The estimate.
    contributions : ndarray of shape (m,)
        How much each pair moves it.
    shared : SharedPeople
        Of the m pairs.
    confidence : float
        More than 95 % where several differences are looked at together.

    Returns
    -------
    Interval
        Student's, symmetric about the value.
    """
    spread = shared.spread(contributions)
    margin = t_quantile(spread.freedom, confidence) * math.sqrt(spread.variance)
    return Interval(value - margin, value + margin)


def wilson(rate: float, size: float) -> Interval:
    """Compute Wilson's interval of a rate among `size` independent cases, a number above 0 that need not be whole.

    Examples
    --------
    >>> low, high = wilson(0.0, 100)
    >>> low, round(high, 3)
    (0.0, 0.037)
    """
    ratio = _Z**2 / size
    center, margin = rate + ratio / 2, math.sqrt(ratio * (rate * (1 - rate) + ratio / 4))
    low, high = (center - margin) / (1 + ratio), (center + margin) / (1 + ratio)
    return Interval(0.0 if rate == 0 else max(low, 0.0), 1.0 if rate == 1 else min(high, 1.0))


def clopper_pearson(rate: float, size: float) -> Interval:
    """Compute the interval of Clopper and Pearson among `size` independent cases, above 0, that need not be whole.

    Examples
    --------
    >>> low, high = clopper_pearson(0.1, 100)
    >>> round(low, 3), round(high, 3)
    (0.049, 0.176)
    """
    tail, count = (1 - CONFIDENCE) / 2, rate * size
    low = 0.0 if rate == 0 else _beta_quantile(tail, count, size - count + 1)
    high = 1.0 if rate == 1 else _beta_quantile(1 - tail, count + 1, size - count)
    return Interval(min(low, rate), max(high, rate))


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return the quantile of Student's t distribution for a two-sided interval; `freedom` need not be whole."""
    if freedom > _NORMAL:
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    share = _beta_quantile(confidence, 0.5, freedom / 2)  # t**2 / (freedom + t**2) has this distribution
    return math.sqrt(freedom * share / (1 - share))


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Invert the distribution function of Beta(a, b) by bisection."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        if _incomplete_beta(a, b, middle) < probability:
            low = middle
        else:
            high = middle
        if high - low <= _PRECISION * high:
            break
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function by its continued fraction (Abramowitz and Stegun, 26.5.8)."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below this
        return 1 - _incomplete_beta(b, a, 1 - x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Lentz's evaluation: numerator and denominator as ratios of successive convergents.
    ratio, inverse = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = inverse
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            inverse = 1 / (1 + term * inverse)
            ratio = 1 + term / ratio
            fraction *= ratio * inverse
        if abs(ratio * inverse - 1) < _PRECISION:
            break
    return math.exp(logarithm) * fraction / a
