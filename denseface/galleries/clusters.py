"""Group faces of unknown people: those whose embeddings are alike enough, on average.

Groups are merged as long as the mean similarity between the pictures of two of them is at least a threshold, the most
similar two first (average linkage). A chain of similar pictures does not join two people, as it does with single
linkage, and no number of groups or density is assumed. Pictures that are nearly equal weigh as much as one of them.

Only pictures that a chain of similarities of at least the threshold connects can end in one group. So chains are found
first, by one product of all embeddings with all, and each is grouped by itself along chains of nearest neighbors, whose
result is that of always merging the two most similar.

References
----------
Sokal and Michener, "A Statistical Method for Evaluating Systematic Relationships", 1958 (average linkage).
Murtagh, "A Survey of Recent Advances in Hierarchical Clustering Algorithms", 1983 (chains of nearest neighbors).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.galleries.gallery import Gallery

MOST = 200_000  # embeddings; their time grows with the square of their number
THRESHOLD = 0.5

_BLOCK = 1 << 14  # embeddings read at a time
_SCORES = 1 << 22  # compared at a time
_COPY = 0.98  # similarity from which on two pictures are nearly equal, as one and its copy in lower quality
_TIE = 1e-9
_FACE = re.compile(r"(.+)#\d+")  # one of several faces of a photograph


def cluster(
    gallery: Gallery, threshold: float = THRESHOLD, smallest: int = 3, *, same_picture: bool = False
) -> np.ndarray:
    """Group the embeddings of a gallery.

    Parameters
    ----------
    gallery : Gallery
        Up to ``MOST`` embeddings, which are read into memory.
    threshold : float, -1 to 1
        Least mean cosine similarity of the pictures of two groups that become one.
    smallest : int, at least 2
        Fewer pictures are not a group; copies count here.
    same_picture : bool
        Whether two faces of one photograph, ``photo.jpg#1`` and ``photo.jpg#2``, may be of one person, as in a collage.

    Returns
    -------
    ndarray of shape (n,), int64
        The group of each embedding, from 0, the largest first; -1 for those in none.

    Raises
    ------
    InputError
        If the gallery is too large or broken, or `threshold` or `smallest` is out of range.
    """
    if smallest < 2:
        raise InputError(f"must be at least 2, not {smallest}", option="smallest")
    if not -1 <= threshold <= 1:
        raise InputError(f"must be from -1 to 1, not {threshold}", option="threshold")
    if len(gallery) > MOST:
        raise InputError(f"{len(gallery):,} embeddings are more than {MOST:,}; cluster parts of it", path=gallery.path)
    if not len(gallery):
        return np.empty(0, np.int64)
    rows = np.concatenate([normalize(block).astype(np.float32) for _, block in gallery.blocks(_BLOCK)])
    photographs = {} if same_picture else _photographs(gallery)
    groups, copies = _chains(rows, threshold)
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(members) > 1:
            groups[members] = members[_linked(rows[members], 1 / copies[members], threshold, members, photographs)]
    sizes = np.bincount(groups, minlength=len(rows))
    firsts = np.argsort(-sizes, kind="stable")
    numbers = np.full(len(rows), -1, np.int64)
    large = firsts[sizes[firsts] >= smallest]
    numbers[large] = np.arange(len(large))
    return numbers[groups]


def _photographs(gallery: Gallery) -> dict[int, list[int]]:
    """Return for each face of a photograph with several the rows of all of them."""
    faces: dict[str, list[int]] = {}
    for row, name in gallery.names(range(len(gallery))).items():
        if match := _FACE.fullmatch(name):
            faces.setdefault(match[1], []).append(row)
    return {row: rows for rows in faces.values() if len(rows) > 1 for row in rows}


def _chains(rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Find what similarities of at least the threshold connect, and count the copies of each picture with itself.

    Returns
    -------
    labels : ndarray of shape (n,), int64
        The first row of those that are connected.
    copies : ndarray of shape (n,), int64
    """
    labels, copies = np.arange(len(rows)), np.empty(len(rows), np.int64)
    step = max(1, _SCORES // len(rows))
    for start in range(0, len(rows), step):
        scores = rows[start : start + step] @ rows.T
        copies[start : start + step] = np.count_nonzero(scores >= max(_COPY, threshold), axis=1)
        one, other = np.divmod(np.flatnonzero(scores >= threshold - _TIE), len(rows))
        labels = _join(labels, one + start, other)
    return labels, np.maximum(copies, 1)


def _join(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Give all rows that pairs connect the smallest label among them."""
    while (apart := labels[one] != labels[other]).any():
        one, other = one[apart], other[apart]
        low, high = np.minimum(labels[one], labels[other]), np.maximum(labels[one], labels[other])
        np.minimum.at(labels, high, low)
        while (labels != (labels := labels[labels])).any():
            pass
    return labels


def _linked(
    rows: np.ndarray,
    weights: np.ndarray,
    threshold: float,
    members: np.ndarray,
    photographs: Mapping[int, Iterable[int]],
) -> np.ndarray:
    """Group some rows by average linkage, and return the index of a representative for each.

    The mean similarity of two groups is the product of their sums over that of their weights, so that only sums are
    kept. `members` are the numbers that `photographs` has for the rows.
    """
    count = len(rows)
    sums, weights = rows * weights[:, None].astype(np.float64), weights.astype(np.float64)
    group = np.arange(count)  # of each row
    at, ids = np.arange(count), np.arange(count)  # where the sum of a group is, and whose sum is there
    index = {row: number for number, row in enumerate(members.tolist())}
    rivals = {
        number: [index[other] for other in photographs[row] if other in index and other != row]
        for row, number in index.items()
        if row in photographs
    }
    insides = {number: [number] for number in range(count)}  # rows of each group
    chain: list[int] = []

    def remove(identity: int) -> None:
        nonlocal count
        count -= 1
        place, last = at[identity], ids[count]
        sums[place], weights[place], ids[place], at[last] = sums[count], weights[count], last, place

    while count:
        chain = chain or [int(ids[0])]
        own = chain[-1]
        here = at[own]
        scores = (sums[:count] @ sums[here]) / (weights[:count] * weights[here])
        scores[here] = -np.inf
        for row in insides[own]:
            for rival in rivals.get(row, ()):
                if (place := at[group[rival]]) < count and ids[place] == group[rival]:
                    scores[place] = -np.inf
        best = int(ids[np.argmax(scores)])
        if len(chain) > 1 and scores[at[chain[-2]]] >= scores[at[best]] - _TIE:
            best = chain[-2]
        if scores[at[best]] < threshold - _TIE:
            remove(chain.pop())
        elif len(chain) > 1 and best == chain[-2]:
            del chain[-2:]
            place = at[best]
            sums[place] += sums[here]
            weights[place] += weights[here]
            insides[best] += insides.pop(own)
            group[insides[best]] = best
            remove(own)
        else:
            chain.append(best)
    return group
