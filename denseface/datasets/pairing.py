"""Draw the pairs of a verification set."""

from __future__ import annotations

import random

import numpy as np

from denseface.core.errors import InputError

FOLDS = 10
_MOST_PAIRS = 5_000_000


def draw_pairs(owners: np.ndarray, max_pairs: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw genuine and impostor pairs, each pair at most once, spread evenly over ten folds.

    InsightFace's verification, and `denseface.evaluation.metrics.score_pairs`, cut the pairs in their order into ten
    folds. InsightFace divides by the numbers of genuine and of impostor pairs of each fold, so each fold has a tenth of
    both, one pair more or less, as in LFW.

    Parameters
    ----------
    owners : ndarray of shape (n,), int
        The person of each picture, as a number; sorted.
    max_pairs : int, optional
        The largest number of pairs of each kind; by default all pairs are drawn.
    seed : int
        Decides which pairs are drawn, and their order.

    Returns
    -------
    pairs : ndarray of shape (m, 2), int64
        The indices of two pictures, the smaller one first.
    issame : ndarray of shape (m,), bool
        Whether a pair is genuine.

    Raises
    ------
    InputError
        If there is no genuine or no impostor pair, or there are more than 5 million pairs in all.
    """
    indices = np.arange(len(owners))
    # Each picture is paired with earlier ones: those from `starts` on show the same person, those before do not.
    starts = np.searchsorted(owners, owners)
    num_genuine, num_impostor = int((indices - starts).sum()), int(starts.sum())
    if not num_genuine or not num_impostor:
        raise InputError("pairs need pictures of two people, and two pictures of one of them", option="holdout")
    counts = [num if max_pairs is None else min(num, max_pairs) for num in (num_genuine, num_impostor)]
    if sum(counts) > _MOST_PAIRS:
        raise InputError(f"{sum(counts):,} are more than {_MOST_PAIRS:,}; ask for fewer", option="pairs")
    # random.Random draws the same numbers in every version of Python; NumPy's generators may not.
    chance = random.Random(seed)
    genuine = _draw(indices - starts, starts, counts[0], chance)
    impostor = _draw(starts, np.zeros_like(starts), counts[1], chance)
    issame = spread(*counts)
    pairs = np.empty((len(issame), 2), np.int64)
    pairs[issame], pairs[~issame] = genuine, impostor
    return pairs, issame


def spread(num_genuine: int, num_impostor: int) -> np.ndarray:
    """Return which of all pairs are to be genuine, so that each of ten folds has its share of both kinds."""
    sizes, genuine = _fold_sizes(num_genuine + num_impostor), _fold_sizes(num_genuine)
    # Within a fold genuine pairs are evenly spaced, so that other numbers of folds work too.
    steps = [np.arange(size + 1) * count // max(size, 1) for size, count in zip(sizes, genuine)]
    return np.concatenate([np.diff(step) for step in steps]) > 0


def _fold_sizes(count: int) -> list[int]:
    """Return the sizes of the folds; the first ones are larger by one if need be, as in scikit-learn's KFold."""
    return [len(fold) for fold in np.array_split(np.arange(count), FOLDS)]


def _draw(num_partners: np.ndarray, first_partners: np.ndarray, count: int, chance: np.random.Generator) -> np.ndarray:
    """Draw pairs by their numbers: all partners of the first picture, then all of the second, and so on."""
    ends = np.cumsum(num_partners)
    numbers = np.array(chance.sample(range(int(ends[-1])), count), np.int64)
    indices = np.searchsorted(ends, numbers, side="right")
    partners = first_partners[indices] + numbers - (ends - num_partners)[indices]
    return np.stack([partners, indices], axis=1)
