"""Identification: who of the people enrolled is in a picture, if anybody?

The terms are those of NIST's Face Recognition Technology Evaluation, 1:N. A search is mated if the person is enrolled.
Its rank is 1 + the number of other people whose score is at least that of the mate. At a threshold T and a rank R,

    FNIR = mated searches whose mate is not within rank R with a score of at least T, of all mated searches;
    FPIR = other searches in which anybody has a score of at least T, of all other searches.

References
----------
Grother, Ngan and Hanaoka, "Face Recognition Vendor Test (FRVT) Part 2: Identification", NIST IR 8271, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.evaluation.influence import Rate, measure_error, order_people
from denseface.evaluation.intervals import SharedPeople
from denseface.evaluation.metrics import VerificationResult, score_pairs
from denseface.evaluation.operating_points import OperatingPoint, operating_points

FPIRS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10, 20)


class Ranked(NamedTuple):
    """The outcome of some searches.

    Attributes
    ----------
    mate_scores : ndarray of shape (q,), float32
        The score of the mate; infinite where nobody enrolled is the mate.
    ranks : ndarray of shape (q,), int64
        The rank of the mate; 0 where there is none.
    top_scores : ndarray of shape (q,), float32
        The highest score of all.
    """

    mate_scores: np.ndarray
    ranks: np.ndarray
    top_scores: np.ndarray


class SearchPeople(NamedTuple):
    """The person in each search, as any numbers.

    Attributes
    ----------
    mated : ndarray of shape (m,), int64
    others : ndarray of shape (n,), int64
    """

    mated: np.ndarray
    others: np.ndarray


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
    people : SearchPeople
    num_people, num_pictures : int
        Those enrolled.
    num_enrolled : int
        Probes that were left out because they are enrolled themselves.
    """

    mate_scores: np.ndarray
    ranks: np.ndarray
    top_scores: np.ndarray
    people: SearchPeople
    num_people: int
    num_pictures: int
    num_enrolled: int = 0

    def cmc(self) -> np.ndarray:
        """Return the cumulative match characteristic: the fraction of mated searches within each rank, from 1 on."""
        counts = np.bincount(self.ranks, minlength=self.num_people + 1)[1:]
        return np.cumsum(counts) / max(len(self.ranks), 1)

    def hit_rate(self, rank: int) -> Rate | None:
        """Return the fraction of mated searches within a rank; None if there are none."""
        return measure_error(self.ranks <= rank, self.mate_scores, _each(self.people.mated))

    def open_set(self, rank: int = 1) -> OpenSet | None:
        """Return what depends on a threshold; None without searches of both kinds."""
        if not len(self.mate_scores) or not len(self.top_scores):
            return None
        return OpenSet(self, rank)

    def rates_at(self, threshold: float, rank: int = 1) -> ErrorRates:
        """Return the error rates at a threshold that was not chosen on these searches."""
        missed = (self.ranks > rank) | (self.mate_scores < threshold)
        return ErrorRates(
            fnir=measure_error(missed, self.mate_scores, _each(self.people.mated)),
            fpir=measure_error(self.top_scores >= threshold, self.top_scores, _each(self.people.others)),
        )


class ErrorRates(NamedTuple):
    """The error rates of identification at a threshold.

    Attributes
    ----------
    fnir, fpir : Rate or None
        None without such searches.
    """

    fnir: Rate | None
    fpir: Rate | None


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
    def points(self) -> dict[float, OperatingPoint]:
        """The thresholds by FPIR, which is their `fmr`; FNIR is 1 - `tar`. Without rates of too few searches."""
        return self.points_at(FPIRS)

    def points_at(self, fpirs: Iterable[float]) -> dict[float, OperatingPoint]:
        """Return the thresholds at other rates."""
        return operating_points(self.result, self._shared, fpirs)


def rank_mates(blocks: Callable[[], Iterable[tuple[int, np.ndarray]]], mates: np.ndarray) -> Ranked:
    """Rank the mates of searches among all people enrolled.

    Parameters
    ----------
    blocks : callable
        Returns the scores of all people, block by block: the number of the block's first person, and an array of shape
        (q, n), float32. It is called twice, since ranks need the mate's score first, which may be in the last block.
    mates : ndarray of shape (q,), int64
        The number of each search's mate; -1 if nobody is.
    """
    own = np.full(len(mates), np.inf, np.float32)
    for first, scores in blocks():
        here = np.flatnonzero((first <= mates) & (mates < first + scores.shape[1]))
        own[here] = scores[here, mates[here] - first]
    ahead, top = np.zeros(len(mates), np.int64), np.full(len(mates), -np.inf, np.float32)
    for _, scores in blocks():
        ahead += np.count_nonzero(scores >= own[:, None], axis=1)
        np.maximum(top, scores.max(axis=1), out=top)
    return Ranked(own, np.where(mates >= 0, ahead, 0), top)


def identify_embeddings(
    enrolled: np.ndarray, enrolled_people: np.ndarray, probes: np.ndarray, probe_people: np.ndarray
) -> Searches:
    """Search for every probe among people, each by the mean of their embeddings scaled to length 1.

    Parameters
    ----------
    enrolled : ndarray of shape (n, d)
        Embeddings of the pictures enrolled.
    enrolled_people : ndarray of shape (n,)
        The person of each: numbers or text.
    probes : ndarray of shape (q, d)
        Embeddings to search for.
    probe_people : ndarray of shape (q,)
        The person of each. A probe of a person who is not enrolled is a search for FPIR.

    Raises
    ------
    InputError
        If shapes do not fit, nobody is enrolled, there is no probe, or an embedding is not finite.
    """
    enrolled, probes = np.asarray(enrolled), np.asarray(probes)
    for rows, people, name in ((enrolled, enrolled_people, "enrolled"), (probes, probe_people, "probes")):
        if rows.ndim != 2 or not len(rows) or len(people) != len(rows) or rows.shape[1] != enrolled.shape[1]:
            raise InputError(
                f"must have the shape (n, d), with one person per row, not {rows.shape} with {len(people)}", option=name
            )
        if not np.isfinite(rows).all():
            raise InputError("contains NaN or infinity; check the model that computed it", option=name)
    names, numbers = np.unique(np.asarray(enrolled_people), return_inverse=True)
    sums = np.zeros((len(names), enrolled.shape[1]))
    np.add.at(sums, numbers, normalize(enrolled))
    scores = (normalize(probes) @ normalize(sums).T).astype(np.float32)
    everybody, who = np.unique(np.asarray(probe_people), return_inverse=True)
    at = np.minimum(np.searchsorted(names, everybody), len(names) - 1)
    mates = np.where(names[at] == everybody, at, -1)[who]
    return collect([rank_mates(lambda: [(0, scores)], mates)], [who], len(names), len(enrolled))


def collect(
    ranked: list[Ranked], who: list[np.ndarray], num_people: int, num_pictures: int, num_enrolled: int = 0
) -> Searches:
    """Join the outcome of blocks of searches.

    Parameters
    ----------
    ranked : list of Ranked
    who : list of ndarray of shape (q,)
        The person in each search.
    num_people, num_pictures, num_enrolled
        See :class:`Searches`.
    """
    outcome = Ranked(*map(np.concatenate, zip(*ranked)))
    known, people = outcome.ranks > 0, np.concatenate(who)
    return Searches(
        mate_scores=outcome.mate_scores[known],
        ranks=outcome.ranks[known],
        top_scores=outcome.top_scores[~known],
        people=SearchPeople(people[known], people[~known]),
        num_people=num_people,
        num_pictures=num_pictures,
        num_enrolled=num_enrolled,
    )


def _each(people: np.ndarray) -> SharedPeople:
    return SharedPeople(np.stack([people, people], axis=1))
