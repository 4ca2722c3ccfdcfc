"""Who is in the pairs of a verification set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError

MOST_PAIRS = 2_000_000  # which take some hundred megabytes


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


def _connected(edges: np.ndarray, count: int) -> np.ndarray:
    """Return for each of `count` pictures the smallest one that edges connect it with."""
    smallest = np.arange(count)
    while True:
        before = smallest.copy()
        for one, other in (edges.T, edges.T[::-1]):
            np.minimum.at(smallest, one, smallest[other])
        smallest = smallest[smallest]
        if (smallest == before).all():
            return smallest


class AllPairs(NamedTuple):
    """Pairs of pictures of known people.

    Attributes
    ----------
    pairs : ndarray of shape (m, 2), int64
        For each pair the indices of its two pictures.
    issame : ndarray of shape (m,), bool
        Whether both are of one person.
    """

    pairs: np.ndarray
    issame: np.ndarray


def all_pairs(people: np.ndarray | list[str], most: int = MOST_PAIRS, seed: int = 0) -> AllPairs:
    """Pair every picture with every other one.

    Of n pictures there are n (n - 1) / 2 pairs. Rates over them are U-statistics of the pictures (Hoeffding, "A Class
    of Statistics with Asymptotically Normal Distribution", 1948): the mean over all pairs has no larger variance than
    that over a part of them, but far from that of as many independent pairs, which
    :class:`denseface.evaluation.intervals.SharedPeople` accounts for.

    Parameters
    ----------
    people : sequence of length n
        The person in each picture: numbers or text.
    most : int
        Of more pairs about as many are drawn, with all genuine ones among them if these are less than half.
    seed : int
        Of the draw.

    Examples
    --------
    >>> pairs, issame = all_pairs(["anna", "anna", "bert"])
    >>> pairs.tolist(), issame.tolist()
    ([[0, 1], [0, 2], [1, 2]], [True, False, False])
    """
    _, numbers = np.unique(np.asarray(people), return_inverse=True)
    count = len(numbers)
    total = count * (count - 1) // 2
    if total <= most:
        pairs = np.stack(np.triu_indices(count, 1), axis=1).astype(np.int64)
        return AllPairs(pairs, numbers[pairs[:, 0]] == numbers[pairs[:, 1]])
    random = np.random.default_rng(seed)
    order = np.argsort(numbers, kind="stable")
    sizes = np.bincount(numbers)
    genuine = np.concatenate(
        [
            np.stack(np.triu_indices(size, 1), axis=1) + start
            for size, start in zip(sizes, np.cumsum(sizes) - sizes)
            if size > 1
        ]
        or [np.empty((0, 2), np.int64)]
    )
    if len(genuine) > most // 2:
        genuine = genuine[np.sort(random.choice(len(genuine), most // 2, replace=False))]
    one, other = random.integers(0, count, (2, 4 * most))
    apart = numbers[one] != numbers[other]
    codes = np.unique(np.minimum(one, other)[apart] * count + np.maximum(one, other)[apart])
    wanted = min(most - len(genuine), len(codes))
    codes = np.sort(random.choice(codes, wanted, replace=False))
    impostor = np.stack(np.divmod(codes, count), axis=1)
    pairs = np.concatenate([np.sort(order[genuine], axis=1), impostor]).astype(np.int64)
    return AllPairs(pairs, np.arange(len(pairs)) < len(genuine))
