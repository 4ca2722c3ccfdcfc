"""Error rates of groups of people, at thresholds of all people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.evaluation.influence import Difference, Rate, measure_error
from denseface.evaluation.intervals import CONFIDENCE, SharedPeople, difference_interval
from denseface.evaluation.metrics import VerificationResult
from denseface.evaluation.people import PairPeople


class GroupRates(NamedTuple):
    """The error rates of a group at a threshold.

    Attributes
    ----------
    fmr, fnmr : Rate or None
        The false match rate and the false non-match rate; None without such pairs.
    fmr_excess, fnmr_excess : Difference or None
        How much higher they are than those of pairs of people who are not in the group. The intervals allow for all
        comparisons of groups: with a probability of 95 % all of them contain the true difference (Bonferroni). None
        without such pairs on either side.
    """

    fmr: Rate | None
    fnmr: Rate | None
    fmr_excess: Difference | None
    fnmr_excess: Difference | None


class Group(NamedTuple):
    """The pairs within a group of people.

    Attributes
    ----------
    people, n_genuine, n_impostor : int
        Numbers of people and of their pairs; both people of a pair belong to the group.
    rates : dict of str to GroupRates
        By the name of the threshold.
    """

    people: int
    n_genuine: int
    n_impostor: int
    rates: dict[str, GroupRates]


def measure_groups(
    result: VerificationResult,
    people: PairPeople,
    issame: np.ndarray,
    groups: Mapping[str, str],
    thresholds: Mapping[str, float],
) -> dict[str, Group]:
    """Measure groups of people.

    Parameters
    ----------
    result : VerificationResult
    people : PairPeople
        Who is in the pairs; they have names.
    issame : ndarray of shape (m,), bool
        Which pairs are genuine.
    groups : mapping of str to str
        The group of each person; others are in none.
    thresholds : mapping of str to float
        Score thresholds by the names that `Group.rates` has.

    Returns
    -------
    dict of str to Group
        By group, in the order of their names.

    Raises
    ------
    InputError
        If nobody is named, or none of the people is in a group.
    """
    if people.names is None:
        raise InputError("nobody says who is in the pairs, so they cannot be grouped", option="groups")
    names = sorted({groups[name] for name in people.names if name in groups})
    confidence = 1 - (1 - CONFIDENCE) / max(2 * len(names) * len(thresholds), 1)
    found = {}
    for group in names:
        members = np.array([groups.get(name) == group for name in people.names])
        inside, outside = members[people.numbers].all(axis=1), ~members[people.numbers].any(axis=1)
        genuine, impostor = result.scores.genuine[inside[issame]], result.scores.impostor[inside[~issame]]
        one, two = (SharedPeople(people.numbers[kind & inside]) for kind in (issame, ~issame))
        rates = {}
        for name, threshold in thresholds.items():
            excess = [
                _excess(errors, people.numbers[kind], inside[kind], outside[kind], confidence)
                for errors, kind in (
                    (result.scores.impostor >= threshold, ~issame),
                    (result.scores.genuine < threshold, issame),
                )
            ]
            rates[name] = GroupRates(
                measure_error(impostor >= threshold, impostor, two),
                measure_error(genuine < threshold, genuine, one),
                *excess,
            )
        found[group] = Group(int(members.sum()), len(genuine), len(impostor), rates)
    if not found:
        raise InputError(f"none of the people is in a group, such as {people.names[0]}", option="groups")
    return found


def _excess(
    errors: np.ndarray, numbers: np.ndarray, inside: np.ndarray, outside: np.ndarray, confidence: float
) -> Difference | None:
    """Return how much more often pairs inside a group have an error than pairs outside."""
    if not inside.any() or not outside.any():
        return None
    value = float(errors[inside].mean() - errors[outside].mean())
    moved = np.where(inside, (errors - errors[inside].mean()) / inside.sum(), 0.0)
    moved -= np.where(outside, (errors - errors[outside].mean()) / outside.sum(), 0.0)
    return Difference(value, difference_interval(value, moved, SharedPeople(numbers), confidence))
