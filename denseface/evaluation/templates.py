"""Templates: several pictures of a person as one entry of a gallery, in memory that does not grow with the gallery.

A picture belongs to the person whose folder it is in. The pictures of a person stand together in a gallery that was
made of folders, so that templates are fused block by block, each time they are needed.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.embedding.gallery import Gallery

FUSIONS = ("mean", "max")

_NAMES = 1 << 16  # names read at a time
_CELLS = 1 << 22  # numbers in a block of embeddings


def person_of(name: str) -> str:
    """Return the person of a picture: the name of its folder.

    Raises
    ------
    InputError
        If the picture is in no folder.

    Examples
    --------
    >>> person_of("people/anna/1.jpg"), person_of("people/anna/photo.jpg#2")
    ('anna', 'anna')
    """
    person = os.path.basename(os.path.dirname(name))
    if not person:
        raise InputError(f"{name}: in no folder, so nobody says whose picture it is; make one folder per person")
    return person


class Templates:
    """The templates of a gallery, one per person.

    Parameters
    ----------
    gallery : Gallery
        Its pictures are in one folder per person.
    fusion : {"mean", "max"}
        How the score of a probe is computed for several pictures: of the mean of their embeddings, each scaled to
        length 1, or the highest of all.
    person : callable
        Returns the person of a picture by its name.

    Attributes
    ----------
    count : int
        Number of people.
    starts : ndarray of shape (count + 1,), int64
        The row of each person's first picture, and the number of pictures.
    num_pictures : int

    Raises
    ------
    InputError
        If a picture is in no folder, or the pictures of a person are apart.
    """

    def __init__(self, gallery: Gallery, fusion: str = "mean", person: Callable[[str], str] = person_of):
        if fusion not in FUSIONS:
            raise InputError(f"must be one of {', '.join(FUSIONS)}, not {fusion}", option="fuse")
        self._gallery, self._is_mean = gallery, fusion == "mean"
        self.num_pictures = len(gallery)
        starts, digests = array("q"), array("Q")
        last = None
        for row, name in _names(gallery):
            owner = person(name)
            if owner != last:
                starts.append(row)
                digests.append(_digest(owner))
                last = owner
        self.starts, self._digests = np.array([*starts, len(gallery)], np.int64), np.array(digests, np.uint64)
        self._order = np.argsort(self._digests, kind="stable")
        self.count = len(starts)
        if len(np.unique(self._digests)) != self.count:
            raise InputError(f"{gallery.path}: the pictures of a person are apart; embed one folder per person")

    def find(self, people: Iterable[str]) -> np.ndarray:
        """Return the number of each person's template; -1 for people who are not enrolled."""
        digests = np.array([_digest(person) for person in people], np.uint64)
        at = np.searchsorted(self._digests, digests, sorter=self._order)
        numbers = self._order[np.minimum(at, self.count - 1)]
        return np.where(self._digests[numbers] == digests, numbers, -1)

    def scores(self, queries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Compare queries with all templates, block by block.

        Parameters
        ----------
        queries : ndarray of shape (q, emb_size)
            Of length 1.

        Yields
        ------
        first, scores : int, ndarray of shape (q, n), float32
            The number of the block's first template; cosine similarities.
        """
        queries = queries.astype(np.float32)
        for first, starts, rows in self.blocks(max(1, _CELLS // max(self._gallery.shape[1], len(queries)))):
            rows = normalize(rows)
            if self._is_mean:
                yield first, queries @ normalize(np.add.reduceat(rows, starts)).astype(np.float32).T
            else:
                yield first, np.maximum.reduceat(queries @ rows.astype(np.float32).T, starts, axis=1)

    def blocks(self, step: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Read the embeddings of whole people, about `step` rows at a time.

        Yields
        ------
        first, starts, rows : int, ndarray of int64, ndarray of shape (n, emb_size)
            The number of the first person, where each person's rows start among these, and the rows.
        """
        kept, first = np.empty((0, self._gallery.shape[1]), np.float32), 0
        for start, block in self._gallery.blocks(step):
            rows, begin, stop = np.concatenate([kept, block]), start - len(kept), start + len(block)
            # The last person of a block may go on in the next one.
            end = int(np.searchsorted(self.starts[:-1], stop)) - 1 if stop < self.num_pictures else self.count
            if end > first:
                size = int(self.starts[end]) - begin
                yield first, self.starts[first:end] - begin, rows[:size]
                rows, first = rows[size:], end
            kept = rows


def _names(gallery):
    for start in range(0, len(gallery), _NAMES):
        yield from sorted(gallery.names(range(start, min(start + _NAMES, len(gallery)))).items())


def _digest(person):
    return int.from_bytes(hashlib.blake2b(person.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
