"""Identification: who of the people in a gallery is in a picture, if anybody?

The terms are those of NIST's Face Recognition Technology Evaluation, 1:N. A search is mated if the person is enrolled.
Its rank is 1 + the number of other people whose score is at least that of the mate. At a threshold T and a rank R,

    FNIR = mated searches whose mate is not within rank R with a score of at least T, of all mated searches;
    FPIR = other searches in which anybody has a score of at least T, of all other searches.

References
----------
Grother, Ngan and Hanaoka, "Face Recognition Vendor Test (FRVT) Part 2: Identification", NIST IR 8271, 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.evaluation.influence import measure_error, order_people, tar_intervals
from denseface.evaluation.intervals import Interval, SharedPeople
from denseface.evaluation.metrics import VerificationResult, score_pairs
from denseface.galleries.gallery import Gallery
from denseface.galleries.people import Templates, person_of

FPIRS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10, 20)

_PROBES = 1024  # searched at a time


@dataclass(frozen=True)
class Searches:
    """The outcome of searches.

    Attributes
    ----------
    mate_scores : ndarray of shape (m,), float32
        The score of the mate in each mated search.
    ranks : ndarray of shape (m,), int64
        The rank of the mate.
    top_scores : ndarray of shape (n,), float32
        The highest score in each other search.
    people : tuple of two ndarray of int, of shape (m,) and (n,)
        The person in each mated, and in each other search.
    num_people, num_pictures : int
        Those enrolled.
    """

    mate_scores: np.ndarray
    ranks: np.ndarray
    top_scores: np.ndarray
    people: tuple[np.ndarray, np.ndarray]
    num_people: int
    num_pictures: int

    def cmc(self) -> np.ndarray:
        """Return the cumulative match characteristic: the fraction of mated searches within each rank, from 1 on."""
        counts = np.bincount(self.ranks, minlength=self.num_people + 1)[1:]
        return np.cumsum(counts) / max(len(self.ranks), 1)

    def hit_rate(self, rank: int) -> tuple[float, Interval] | None:
        """Return the fraction of mated searches within a rank, with its 95 % interval; None if there are none."""
        return measure_error(self.ranks <= rank, self.mate_scores, _each(self.people[0]))

    def open_set(self, rank: int = 1) -> OpenSet | None:
        """Return what depends on a threshold; None without searches of both kinds."""
        if not len(self.mate_scores) or not len(self.top_scores):
            return None
        return OpenSet(self, rank)


class OpenSet:
    """FNIR and FPIR at every threshold, which are the error rates of a verification.

    A mated search is accepted if its mate is found, another search if anybody is. So one is a genuine pair with the
    score of the mate, or with the lowest score of all where the mate is beyond the rank, the other an impostor pair
    with the highest score.

    Attributes
    ----------
    result : VerificationResult
    """

    def __init__(self, searches: Searches, rank: int):
        lowest = float(min(searches.mate_scores.min(), searches.top_scores.min())) - 1
        scores = np.where(searches.ranks <= rank, searches.mate_scores, lowest)
        issame = np.repeat([True, False], [len(scores), len(searches.top_scores)])
        self.result: VerificationResult = score_pairs(np.append(scores, searches.top_scores), issame, 2, FPIRS)
        people = np.concatenate(searches.people)
        self._shared = order_people(np.stack([people, people], axis=1), issame)

    @cached_property
    def rates(self) -> dict[float, tuple[float, float, Interval] | None]:
        """Threshold, FNIR and its 95 % interval by FPIR; None where there are too few searches to measure it."""
        found: dict[float, tuple[float, float, Interval] | None] = {}
        for fpir, interval in tar_intervals(self.result, FPIRS, self._shared).items():
            threshold, tar = self.result.threshold_at(fpir), self.result.tar_at(fpir)
            if threshold is None or tar is None or interval is None:
                found[fpir] = None
            else:
                found[fpir] = threshold, 1 - tar, Interval(1 - interval.high, 1 - interval.low)
        return found


def identify(
    gallery: Gallery,
    probes: Gallery,
    unknown: Gallery | None = None,
    *,
    fusion: str = "mean",
    on_progress: Callable[[int], object] = lambda done: None,
) -> Searches:
    """Search for every probe in a gallery.

    Memory does not grow with the embeddings of the gallery, only with 24 bytes for each person in it.

    Parameters
    ----------
    gallery, probes : Gallery
        Of pictures in one folder per person. A probe of a person who is in the gallery is a mated search.
    unknown : Gallery, optional
        More probes, of people who are not in the gallery.
    fusion : {"mean", "max"}
        How several pictures of a person in the gallery are compared with a probe; see
        :class:`denseface.galleries.people.Templates`.
    on_progress : callable
        Called with the number of probes searched since the last call.

    Returns
    -------
    Searches

    Raises
    ------
    InputError
        If embeddings were computed in different ways, a file is broken, somebody in `unknown` is enrolled, or nobody's
        folder is known.
    """
    for other in filter(None, (probes, unknown)):
        gallery.require_same(other.model)
    templates = Templates(gallery, fusion)
    mated, others = [], []
    numbers: dict[str, int] = {}
    for source in filter(None, (probes, unknown)):
        for start, rows in source.blocks(_PROBES):
            names = source.names(range(start, start + len(rows)))
            people = [person_of(names[row]) for row in sorted(names)]
            mates = templates.find(people)
            if source is unknown and (mates >= 0).any():
                person = people[int(np.argmax(mates >= 0))]
                raise InputError(
                    f"{person} is in {gallery.path}, so not unknown; remove the folder from one", option="unknown"
                )
            who = np.array([numbers.setdefault(person, len(numbers)) for person in people])
            scores, ranks, top = _search(templates, normalize(rows), mates)
            known = mates >= 0
            mated.append((scores[known], ranks[known], who[known]))
            others.append((top[~known], who[~known]))
            on_progress(len(rows))
    mate_scores, all_ranks, mated_people = map(np.concatenate, zip(*mated))
    top_scores, other_people = map(np.concatenate, zip(*others))
    return Searches(
        mate_scores=mate_scores,
        ranks=all_ranks,
        top_scores=top_scores,
        people=(mated_people, other_people),
        num_people=templates.count,
        num_pictures=templates.num_pictures,
    )


def _search(templates, queries, mates):
    """Return for each query the score and the rank of its mate (-1: none), and the highest score."""
    own = np.full(len(queries), np.inf, np.float32)
    for first, scores in templates.scores(queries):
        here = np.flatnonzero((first <= mates) & (mates < first + scores.shape[1]))
        own[here] = scores[here, mates[here] - first]
    ahead, top = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    for _, scores in templates.scores(queries):  # the same numbers again, of which one is the mate's own
        ahead += np.count_nonzero(scores >= own[:, None], axis=1)
        np.maximum(top, scores.max(axis=1), out=top)
    return own, np.where(mates >= 0, ahead, 0), top


def _each(people):
    return SharedPeople(np.stack([people, people], axis=1))
