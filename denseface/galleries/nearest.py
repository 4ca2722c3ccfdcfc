"""The rows of an array that are nearest to others, exactly, in memory that does not depend on their number.

Products in float32 decide which rows can be among the nearest; these are few, and their similarities are computed in
float64. So the answer is that of float64: it depends neither on how many queries there are nor on how the rows are cut
into blocks, and equal rows have equal scores. Several rows may count as one, by the nearest of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from denseface.core.vectors import normalize

_GROUP = 256  # queries multiplied at a time
_SCORES = 1 << 18  # scores computed at a time; they are gone through again, and so should stay in the cache
_CELLS = 1 << 20  # numbers in one array of candidates
_UNIT = 1e-4  # how far the square of a length may be from 1
_SQUARES = 2.0**-60, 2.0**60  # squares of lengths that float32 computes without loss


class Found(NamedTuple):
    """What is nearest to some queries.

    Attributes
    ----------
    numbers : ndarray of shape (q, n), int64
        Most similar first.
    scores : ndarray of shape (q, n), float32
        Cosine similarities.
    are_unit : bool
        Whether all rows had the length 1.
    """

    numbers: np.ndarray
    scores: np.ndarray
    are_unit: bool


def nearest(
    queries: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: int, *, are_unit: bool = False
) -> Found:
    """Find the rows that are nearest to queries.

    Parameters
    ----------
    queries : ndarray of shape (q, d)
        Of any length.
    blocks : iterable of (numbers, rows)
        What to search. `rows`, float32 (n, d), of any length; `numbers`, int64 (n,), is what is found, ascending over
        all blocks. Rows of the same number count as one, by the nearest of them.
    count : int
        How many to find for each, if there are as many.
    are_unit : bool
        Whether the rows are known to have the length 1, which saves computing their lengths.

    Raises
    ------
    ValueError
        If a row is not finite.
    """
    best, all_unit = _Nearest(queries, count), True
    for numbers, rows in blocks:
        all_unit &= best.add(numbers, rows, is_unit=are_unit)
    return Found(*best.found(), all_unit)


class _Nearest:
    """The nearest so far, of the rows that were added.

    Parameters
    ----------
    queries : ndarray of shape (q, d)
        Of any length.
    count : int
        How many to find for each.
    """

    def __init__(self, queries: np.ndarray, count: int):
        self._queries = normalize(queries)
        self._fast = self._queries.astype(np.float32)
        self._count = count
        # More than a float32 product of vectors of length about 1 can be wrong (Higham, 2002, equation 3.5).
        self._margin = np.float32(_UNIT + (queries.shape[1] + 8) * 2.0**-23)
        # The best so far: sorted by query, then score, then number.
        self._query = self._number = np.empty(0, np.int64)
        self._score = np.empty(0, np.float32)
        self._floor = np.full(len(queries), -np.inf, np.float32)  # no row with a lower product can be among them

    def add(self, numbers: np.ndarray, rows: np.ndarray, *, is_unit: bool = False) -> bool:
        """Compare all queries with more rows.

        Parameters
        ----------
        numbers : ndarray of shape (n,), int64
            What is found: the number of each row, ascending from those of rows added before. Rows of the same number
            count as one, by the nearest of them.
        rows : ndarray of shape (n, d), float32
            Of any length.
        is_unit : bool
            Whether the rows are known to have the length 1, which saves computing their lengths.

        Returns
        -------
        bool
            Whether they have.

        Raises
        ------
        ValueError
            If a row is not finite.
        """
        near, scales = (rows, None) if is_unit else _scaled(rows)
        for start in range(0, len(self._fast), _GROUP):
            group = slice(start, start + _GROUP)
            row, query = self._candidates(near, scales, numbers, self._fast[group], self._floor[group])
            if len(query):
                self._merge(start + query, numbers, row, rows)
        return near is rows and scales is None

    def _candidates(
        self, rows: np.ndarray, scales: np.ndarray | None, numbers: np.ndarray, queries: np.ndarray, floor: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that can be among the nearest to some of the queries, as two arrays of indices."""
        step = max(1, _SCORES // len(queries))
        scores = np.empty((min(step, len(rows)), len(queries)), np.float32)
        found = []
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            products = np.matmul(rows[part], queries.T, out=scores[: len(rows[part])])
            if scales is not None:
                products *= scales[part, np.newaxis]
            lowest = floor
            if np.isneginf(floor).any():
                # Neither can what is far below the best row of its number.
                firsts = np.flatnonzero(np.diff(numbers[part], prepend=-1))
                tops = np.maximum.reduceat(products, firsts, axis=0)
                if len(tops) > self._count:
                    least = np.partition(tops, -self._count, axis=0)[-self._count]
                    floor = np.maximum(floor, least - 2 * self._margin)
                own = np.repeat(tops - 2 * self._margin, np.diff(firsts, append=len(products)), axis=0)
                lowest = np.maximum(floor, own)
            found.append(np.flatnonzero(products >= lowest) + start * len(queries))
        return np.divmod(np.concatenate(found), len(queries))

    def _merge(self, query: np.ndarray, numbers: np.ndarray, row: np.ndarray, rows: np.ndarray) -> None:
        """Compute some similarities, and keep the best of each number, and the best numbers."""
        score = np.empty(len(query), np.float32)
        step = max(1, _CELLS // rows.shape[1])
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            score[part] = (_finite(rows[row[part]]) * self._queries[query[part]]).sum(axis=1)
        query = np.concatenate([self._query, query])
        number = np.concatenate([self._number, numbers[row]])
        score = np.concatenate([self._score, score])
        order = np.lexsort((-score, number, query))
        is_best = (np.diff(query[order], prepend=-1) != 0) | (np.diff(number[order], prepend=-1) != 0)
        query, number, score = (values[order[is_best]] for values in (query, number, score))
        order = np.lexsort((number, -score, query))
        rank = np.arange(len(order)) - np.searchsorted(query[order], query[order])
        best = order[rank < self._count]
        self._query, self._number, self._score = query[best], number[best], score[best]
        last = order[rank == self._count - 1]
        self._floor[query[last]] = score[last] - self._margin

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers, int64, and scores, float32, both of shape (q, count or as many as there are)."""
        shape = len(self._queries), -1 if len(self._number) else 0
        return self._number.reshape(shape), self._score.reshape(shape)


def _finite(rows: np.ndarray) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise ValueError("a row is not finite")
    return normalize(rows)


def _scaled(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rows to multiply, and what to multiply the products by, or None if the rows have the length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
    if not (squares.min() > _SQUARES[0] and squares.max() < _SQUARES[1]):
        return _finite(rows).astype(np.float32), None
    if np.abs(squares - 1).max() <= _UNIT:
        return rows, None
    return rows, 1 / np.sqrt(squares)
