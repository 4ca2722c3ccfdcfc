"""Who is in the pairs of a verification set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError


class PairPeople(NamedTuple):
    """The people of the pairs of a set.

    Attributes
    ----------
    numbers : ndarray of shape (m, 2), int
        The two people of each pair, as numbers from 0.
    names : list of str or None
        The name of each number; None where people are only told apart.
    """

    numbers: np.ndarray
    names: list[str] | None

    @property
    def source(self) -> str:
        """How the people are known."""
        return "named beside the set" if self.names else "told apart by genuine pairs and equal pictures"


def find_people(pairs: np.ndarray, issame: np.ndarray, names: list[str] | None = None) -> PairPeople:
    """Find the people of pairs.

    Without names, pictures that genuine pairs connect, over any number of steps, are of one person, and every other
    picture of a person of its own. Two people found in this way may be one, if no genuine pair connects their pictures.

    Parameters
    ----------
    pairs : ndarray of shape (m, 2), int
        For each pair the indices of its two pictures.
    issame : ndarray of shape (m,), bool
        Whether a pair is genuine.
    names : list of str, optional
        The person of each picture.

    Returns
    -------
    PairPeople

    Raises
    ------
    InputError
        If the names contradict a pair.

    Examples
    --------
    >>> find_people(np.array([[0, 1], [1, 2], [2, 3]]), np.array([True, True, False])).numbers.tolist()
    [[0, 0], [0, 0], [0, 3]]
    """
    if names is None:
        return PairPeople(_connected(pairs[issame], int(pairs.max(initial=-1)) + 1)[pairs], None)
    distinct, numbers = np.unique(np.array(names, object), return_inverse=True)
    people = numbers[pairs]
    wrong = np.flatnonzero((people[:, 0] == people[:, 1]) != issame)
    if len(wrong):
        first, second = (names[index] for index in pairs[wrong[0]])
        kind = "one person" if issame[wrong[0]] else "two people"
        raise InputError(f"pair {wrong[0]} is said to show {kind}, but its pictures are of {first} and {second}")
    return PairPeople(people, distinct.tolist())


def _connected(edges, count):
    """Return for each of `count` pictures the smallest one that edges connect it with."""
    smallest = np.arange(count)
    while True:
        before = smallest.copy()
        for one, other in (edges.T, edges.T[::-1]):
            np.minimum.at(smallest, one, smallest[other])
        smallest = smallest[smallest]
        if (smallest == before).all():
            return smallest
