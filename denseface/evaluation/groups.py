"""Error rates of groups of people, at thresholds of all people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.evaluation.influence import Rate, measure_error
from denseface.evaluation.intervals import SharedPeople
from denseface.evaluation.metrics import VerificationResult
from denseface.evaluation.people import PairPeople


class GroupRates(NamedTuple):
    """The error rates of a group at a threshold.

    Attributes
    ----------
    fmr, fnmr : Rate or None
        The false match rate and the false non-match rate; None without such pairs.
    """

    fmr: Rate | None
    fnmr: Rate | None


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
    found = {}
    for group in sorted({groups[name] for name in people.names if name in groups}):
        members = np.array([groups.get(name) == group for name in people.names])
        of_pair = members[people.numbers].all(axis=1)
        genuine, impostor = result.scores.genuine[of_pair[issame]], result.scores.impostor[of_pair[~issame]]
        one, two = (SharedPeople(people.numbers[kind & of_pair]) for kind in (issame, ~issame))
        rates = {
            name: GroupRates(
                fmr=measure_error(impostor >= threshold, impostor, two),
                fnmr=measure_error(genuine < threshold, genuine, one),
            )
            for name, threshold in thresholds.items()
        }
        found[group] = Group(int(members.sum()), len(genuine), len(impostor), rates)
    if not found:
        raise InputError(f"none of the people is in a group, such as {people.names[0]}", option="groups")
    return found
