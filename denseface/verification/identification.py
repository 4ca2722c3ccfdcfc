"""Identification with galleries: who of the people in one is in the pictures of another?

The terms are those of :mod:`denseface.evaluation.identification`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.evaluation.identification import Ranked, Searches, collect, rank_mates
from denseface.galleries.gallery import Gallery
from denseface.galleries.people import PeopleFolders, Templates

_PROBES = 1024  # searched at a time
_ROWS = 1 << 13  # hashed at a time


def identify(
    gallery: Gallery,
    probes: Gallery,
    unknown: Gallery | None = None,
    *,
    fusion: str = "mean",
    on_progress: Callable[[int], object] = lambda done: None,
) -> Searches:
    """Search for every probe in a gallery.

    A probe whose embedding is in the gallery, bit for bit, is the same picture. It would find itself, so it is left out
    and counted. Memory does not grow with the length of the embeddings, only with 24 bytes for each person in the
    gallery and 8 for each picture.

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
        folder is known, or all probes are enrolled.
    """
    sources = [probes, unknown] if unknown else [probes]
    for source in sources:
        gallery.require_same(source.model)
    templates, enrolled = Templates(gallery, fusion), _digests_of(gallery)
    ranked: list[Ranked] = []
    who: list[np.ndarray] = []
    numbers: dict[str, int] = {}
    num_enrolled = 0
    for source in sources:
        for rows, people in _people_of(source):
            mates = templates.find(people)
            if source is unknown:
                _require_unknown(people, mates, gallery)
            new = ~np.isin(_digests(rows), enrolled)
            num_enrolled += int(np.count_nonzero(~new))
            ranked.append(rank_mates(partial(templates.scores, normalize(rows[new])), mates[new]))
            searched = compress(people, new)
            who.append(np.array([numbers.setdefault(person, len(numbers)) for person in searched], np.int64))
            on_progress(len(rows))
    if not numbers:
        reason = f"all pictures of {probes.path} are enrolled in {gallery.path}, where each would find itself"
        raise InputError(f"{reason}; search for other pictures", option="probes")
    return collect(ranked, who, templates.count, templates.num_pictures, num_enrolled)


def _people_of(source: Gallery) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield the embeddings of a gallery, some at a time, each with its person."""
    person_of = PeopleFolders(source.roots).person
    for start, rows in source.blocks(_PROBES):
        names = source.names(range(start, start + len(rows)))
        yield rows, [person_of(names[row]) for row in sorted(names)]


def _require_unknown(people: list[str], mates: np.ndarray, gallery: Gallery) -> None:
    """Raise InputError if one of these people has a mate in the gallery."""
    for person in compress(people, mates >= 0):
        raise InputError(f"{person} is in {gallery.path}, so not unknown; remove the folder from one", option="unknown")


def _digests_of(gallery: Gallery) -> np.ndarray:
    """Return the digests of all embeddings of a gallery."""
    return np.concatenate([np.empty(0, np.uint64), *(_digests(rows) for _, rows in gallery.blocks(_ROWS))])


def _digests(rows: np.ndarray) -> np.ndarray:
    """Hash embeddings by their bits: the sum of their words, each times a random odd number, modulo 2**64."""
    words = np.ascontiguousarray(rows, "<f4").view("<u4").astype(np.uint64)
    factors = np.random.default_rng(0).integers(0, 1 << 63, words.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    return (words * factors).sum(axis=1, dtype=np.uint64)
