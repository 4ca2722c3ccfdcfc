"""Which pairs of pictures make a verification set."""

from __future__ import annotations

import random

import numpy as np

from denseface.core.errors import InputError

_MOST_PAIRS = 5_000_000


def draw_pairs(owners: np.ndarray, max_pairs: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of one person and pairs of two, each pair at most once, in a shuffled order.

    Parameters
    ----------
    owners : ndarray of shape (n,), int
        The person of each picture, sorted.
    max_pairs : int, optional
        At most so many of each kind; by default all there are.
    seed : int
        Decides which, and in what order.

    Returns
    -------
    pairs : ndarray of shape (m, 2), int64
        The places of two pictures, the first the smaller.
    issame : ndarray of shape (m,), bool
        Whether they show one person.

    Raises
    ------
    InputError
        If there is no pair of one kind, or there are more than 5 million in all.
    """
    places = np.arange(len(owners))
    # Pair a picture with the earlier ones: those of its person begin at `starts`, and before these are the others'.
    starts = np.searchsorted(owners, owners)
    num_genuine, num_impostor = int((places - starts).sum()), int(starts.sum())
    if not num_genuine or not num_impostor:
        raise InputError("--holdout: pairs need pictures of two people, and two pictures of one of them")
    counts = [num if max_pairs is None else min(num, max_pairs) for num in (num_genuine, num_impostor)]
    if sum(counts) > _MOST_PAIRS:
        raise InputError(f"--pairs: these would be {sum(counts):,} pairs, more than {_MOST_PAIRS:,}; ask for fewer")
    # The stream of random.Random is the same in every version of Python, NumPy's generators' need not be.
    chance = random.Random(seed)
    genuine = _draw(places - starts, starts, counts[0], chance)
    impostor = _draw(starts, np.zeros_like(starts), counts[1], chance)
    order = chance.sample(range(sum(counts)), sum(counts))
    return np.concatenate([genuine, impostor])[order], np.repeat([True, False], counts)[order]


def _draw(num_partners, first_partners, count, chance):
    """Draw pairs by their numbers, counted picture by picture, partner by partner."""
    ends = np.cumsum(num_partners)
    numbers = np.array(chance.sample(range(int(ends[-1])), count), np.int64)
    places = np.searchsorted(ends, numbers, side="right")
    partners = first_partners[places] + numbers - (ends - num_partners)[places]
    return np.stack([partners, places], axis=1)
