"""Templates: several pictures of a person as one entry of a gallery, in memory that does not grow with the gallery.

A picture belongs to the person whose folder it is in, see :class:`PeopleFolders`. The pictures of a person stand
together in a gallery that was made of folders, so that templates are fused block by block, each time they are needed.

Templates are fused in one of two ways: ``mean`` compares the mean of their embeddings, each scaled to length 1, and
``max`` takes the highest score of all their pictures.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize, similarity
from denseface.galleries.gallery import Gallery, Match, matches
from denseface.galleries.nearest import Found, nearest

FUSIONS = ("mean", "max")

_NAMES = 1 << 16  # names read at a time
_CELLS = 1 << 22  # numbers in a block of embeddings
_IN_ONE_FILE = re.compile(r"\.(rec|bin):\d+$")  # the name of a picture in a record file or a verification set


class PeopleFolders:
    """Tells which folder is that of a picture's person, by the picture's name.

    It is the first folder below the one that was searched for pictures, ``people/anna`` for ``people/anna/2011/1.jpg``.
    Where several folders were searched, and their pictures are not in folders, each is that of a person. Where nothing
    is known of a search, it is the folder that the picture is in.

    Parameters
    ----------
    roots : sequence of str
        The folders that were searched, as :attr:`denseface.galleries.gallery.Gallery.roots`.

    Examples
    --------
    >>> people = PeopleFolders(["people"])
    >>> people("people/anna/2011/1.jpg"), people.person("people/anna/photo.jpg#1")
    ('people/anna', 'anna')
    """

    def __init__(self, roots: Sequence[str]):
        prefixes = ("" if root == os.curdir else os.path.join(root, "") for root in roots)  # as names begin
        self._prefixes = sorted(prefixes, key=len, reverse=True)
        self._has_folders: dict[str, bool] = {}

    def __call__(self, name: str) -> str:
        """Return the folder of a picture's person.

        Raises
        ------
        InputError
            If the picture is in no folder, or beside folders of people, or in a file of many people.
        """
        if _IN_ONE_FILE.search(name):
            raise InputError(
                f"{name}: in a file, which has no folder per person; make folders of it (denseface dataset unpack)"
            )
        for prefix in self._prefixes:
            first, below, _ = name[len(prefix) :].partition("/")
            if name.startswith(prefix) and (prefix or below):
                if self._has_folders.setdefault(prefix, bool(below)) != bool(below) or not (
                    below or self._prefixes[1:]
                ):
                    raise InputError(
                        f"{name}: not in a person's folder, so nobody says whose picture it is; make one folder per "
                        f"person in {prefix[:-1]}"
                    )
                return prefix + first if below else prefix[:-1]
        folder = os.path.dirname(name)
        if os.path.basename(folder) in ("", ".", ".."):
            raise InputError(f"{name}: in no folder, so nobody says whose picture it is; make one folder per person")
        return folder

    def person(self, name: str) -> str:
        """Return the person of a picture: the name of the folder.

        Raises
        ------
        InputError
            As for a call.
        """
        return os.path.basename(self(name))


class Templates:
    """The templates of a gallery, one per person.

    Parameters
    ----------
    gallery : Gallery
        Its pictures are in one folder per person.
    fusion : {"mean", "max"}
        How the score of a probe is computed for several pictures: of the mean of their embeddings, each scaled to
        length 1, or the highest of all.
    folder : callable, optional
        Returns the folder of a picture's person by its name; the person is called as the folder. By default
        :class:`PeopleFolders` of the gallery.

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
        If a picture is in no folder or shows several people, or the pictures of a person are apart or in two folders.

    Examples
    --------
    >>> people = Templates(Gallery("people.npz"), "max")  # doctest: +SKIP
    >>> people.search(embedder.embed("anna.jpg"), 1)  # doctest: +SKIP
    [[Match(name='anna', score=0.87)]]
    """

    def __init__(self, gallery: Gallery, fusion: str = "mean", folder: Callable[[str], str] | None = None):
        _check_fusion(fusion)
        folder = folder or PeopleFolders(gallery.roots)
        self._gallery, self._folder, self._is_mean = gallery, folder, fusion == "mean"
        self.num_pictures = len(gallery)
        starts, digests = array("q"), array("Q")
        last, all_faces = None, gallery.crop.get("face") == "all"
        for row, name in _names(gallery):
            if all_faces and name.endswith("#2"):
                raise InputError(
                    f"{name} is one of several faces, and its folder names one person; embed the "
                    "pictures again without --face all",
                    path=gallery.path,
                )
            if (own := folder(name)) != last:
                starts.append(row)
                digests.append(_digest(os.path.basename(own)))
                last = own
        self.starts, self._digests = np.array([*starts, len(gallery)], np.int64), np.array(digests, np.uint64)
        self._order = np.argsort(self._digests, kind="stable")
        self.count = len(starts)
        again = np.flatnonzero(np.diff(self._digests[self._order]) == 0)
        if len(again):
            one, other = (self._folder_at(number) for number in self._order[again[0] : again[0] + 2])
            if one == other:
                raise InputError(f"the pictures of {one} are apart; embed one folder per person", path=gallery.path)
            raise InputError(
                f"{one} and {other} have one name, and a person has one folder; rename one of them, or "
                "make one of both",
                path=gallery.path,
            )

    def _folder_at(self, number: int) -> str:
        row = int(self.starts[number])
        return self._folder(self._gallery.names([row])[row])

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
        step = max(1, _CELLS // max(self._gallery.shape[1], len(queries)))
        if self._is_mean:
            for first, means in self._means(step):
                yield first, queries @ means.T
        else:
            for first, starts, rows in self.blocks(step):
                yield first, np.maximum.reduceat(queries @ normalize(rows).astype(np.float32).T, starts, axis=1)

    def search(self, embeddings: np.ndarray, count: int = 5) -> list[list[Match]]:
        """Find the people who are most similar to pictures, exactly, in memory that does not grow with the gallery.

        Parameters
        ----------
        embeddings : ndarray of shape (q, emb_size) or (emb_size,)
            Of any length.
        count : int
            How many people to find for each.

        Returns
        -------
        list of list of Match
            For each embedding up to `count` people by their names, most similar first.

        Raises
        ------
        InputError
            As from :meth:`denseface.galleries.gallery.Gallery.nearest`.
        """
        found = self.nearest(np.atleast_2d(embeddings), count)
        names = {number: os.path.basename(self._folder_at(number)) for number in np.unique(found.numbers).tolist()}
        return matches(names, found)

    def nearest(self, queries: np.ndarray, count: int) -> Found:
        """Find the templates that are most similar to queries, by their numbers.

        Parameters
        ----------
        queries : ndarray of shape (q, emb_size)
            Of any length.
        count : int
            How many to find for each, if there are as many.

        Raises
        ------
        InputError
            As from :meth:`denseface.galleries.gallery.Gallery.nearest`.
        """
        self._gallery.require_fitting(queries)
        step = max(1, _CELLS // self._gallery.shape[1])
        return nearest(queries, self._numbered_means(step) if self._is_mean else self._numbered_rows(step), count)

    def _numbered_means(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, means in self._means(step):
            yield np.arange(first, first + len(means)), means

    def _numbered_rows(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, rows in self._gallery.blocks(step):
            yield np.searchsorted(self.starts, np.arange(start, start + len(rows)), side="right") - 1, rows

    def _means(self, step: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of the first person, and the means of some people, float32, of length 1."""
        first, begun = 0, None  # the person of the next row, and the sum of those pictures that were in earlier blocks
        for start, rows in self._gallery.blocks(step):
            stop = start + len(rows)
            end = int(np.searchsorted(self.starts[:-1], stop))
            sums = _sums(normalize(rows), np.maximum(self.starts[first:end] - start, 0), begun)
            whole = end if self.starts[end] == stop else end - 1  # the last person may go on in the next block
            if whole > first:
                yield first, normalize(sums[: whole - first]).astype(np.float32)
            first, begun = whole, None if whole == end else sums[-1]

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


def compare(one: np.ndarray, other: np.ndarray, fusion: str = "mean") -> float:
    """Compare two templates.

    Parameters
    ----------
    one, other : ndarray of shape (n, emb_size) and (m, emb_size)
        The embeddings of their pictures, of any length.
    fusion : {"mean", "max"}
        As for :class:`Templates`; ``max`` takes the highest score of all pairs of pictures.

    Returns
    -------
    float
        The cosine similarity of their means, or the highest of their pictures, -1 to 1.

    Raises
    ------
    InputError
        If the fusion is unknown, or a template is empty.
    """
    _check_fusion(fusion)
    if not len(one) or not len(other):
        raise InputError("a template has no picture")
    if fusion == "max":
        return float(similarity(one, other).max())
    return float(similarity(*(_sums(normalize(rows), np.zeros(1, np.int64)) for rows in (one, other)))[0, 0])


def _check_fusion(fusion: str) -> None:
    if fusion not in FUSIONS:
        raise InputError(f"must be one of {', '.join(FUSIONS)}, not {fusion}", option="fuse")


def _sums(rows: np.ndarray, starts: np.ndarray, begun: np.ndarray = None) -> np.ndarray:
    """Add up the rows from each start to the next, those of the first to what was begun.

    One after the other, so that a sum does not depend on where blocks end.
    """
    sums, sizes = np.zeros((len(starts), rows.shape[1])), np.diff(starts, append=len(rows))
    if begun is not None:
        sums[0] = begun
    for index in range(sizes.max()):
        more = np.flatnonzero(sizes > index)
        sums[more] += rows[starts[more] + index]
    return sums


def _names(gallery: Gallery) -> Iterator[tuple[int, str]]:
    for start in range(0, len(gallery), _NAMES):
        yield from sorted(gallery.names(range(start, min(start + _NAMES, len(gallery)))).items())


def _digest(person: str) -> int:
    return int.from_bytes(hashlib.blake2b(person.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
