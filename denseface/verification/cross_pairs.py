"""All pairs of the pictures of a verification set, instead of those that the set lists."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from denseface.core.errors import InputError
from denseface.data.pairs import PairSet
from denseface.evaluation.people import all_pairs


class CrossPairs:
    """A verification set of all pairs of the distinct pictures of another, for :func:`denseface.verify`.

    Parameters
    ----------
    pair_set : PairSet
        The table of its people says who is in its pictures.

    Attributes
    ----------
    name : str
        That of the set with ``-all-pairs`` after it.
    issame : ndarray of shape (m,), bool
        Whether a pair shows one person. The pairs are in a random order, so that folds have pairs of both kinds.
    failed : ndarray of shape (m,), bool
        Whether a picture of each pair is a failure to enroll.

    Raises
    ------
    InputError
        If nobody says who is in the pictures: pairs that no list has judged could then be of one person.
    """

    def __init__(self, pair_set: PairSet):
        self.name = f"{pair_set.name}-all-pairs"
        self._set = pair_set
        pictures, _ = pair_set.unique()
        names = pair_set.people_of(pictures)
        if names is None:
            raise InputError(
                f"nobody says who is in {pair_set.name}, so its pictures cannot be paired again; a table "
                f"{pair_set.name}.people.csv does, which denseface dataset writes",
                option="all_pairs",
            )
        pairs, issame = all_pairs(names)
        order = np.random.default_rng(0).permutation(len(pairs))
        used, pairs = np.unique(pairs[order], return_inverse=True)  # of a drawn part of very many pairs
        self._pictures = [pictures[index] for index in used]
        self._pairs, self.issame = pairs.reshape(-1, 2), issame[order]
        alone = PairSet([picture for picture in self._pictures for _ in range(2)], np.empty(0, bool), self.name)
        self.failed = alone.failed[self._pairs].any(axis=1)

    def unique(self) -> tuple[list[bytes], np.ndarray]:
        """Return the distinct pictures, and the two of each pair; see :meth:`denseface.data.pairs.PairSet.unique`."""
        return self._pictures, self._pairs

    def people_of(self, images: Iterable[bytes]) -> list[str] | None:
        """Return the person in each picture."""
        return self._set.people_of(images)
