"""Embeddings of any number of pictures, in constant memory, written as they are computed.

During a run, and after it was killed, the folder ``OUT.partial`` contains

``rows``
    The embeddings one after the other, little-endian float32.
``log``
    A first line that says how they are computed; then one line of JSON per picture: its name, the size and modification
    time of its file, its faces, and the number of other faces in it. A face is a name and the CRC-32 of its embedding,
    or the reason why there is none; a picture that could not be read has one of these.

A run that finds such a folder resumes it. It takes over complete lines that agree with its own pictures, in the same
order, and with their rows, as far as they make up whole batches.

A part of the pictures, for one machine of many, begins and ends between two batches as well. Parts are therefore
computed as one machine would compute them; :func:`denseface.galleries.parts.merge` writes the file that it would write.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError, warn_of_many
from denseface.core.files import beside, open_own
from denseface.core.journal import Journal
from denseface.data.faces import CutPicture, compute_batches, cut_ahead, cut_source, require_landmarks
from denseface.data.sources import Source
from denseface.embedding.embedder import Embedder
from denseface.galleries.gallery import write_gallery
from denseface.galleries.parts import ChosenPart

_BLOCK = 1 << 18  # numbers copied at a time

logger = logging.getLogger("denseface")


@dataclass
class Counts:
    """Numbers of pictures.

    Attributes
    ----------
    embedded : int
        Faces in the file of embeddings.
    skipped : int
        Pictures that could not be read or have no face, and faces that could not be cut out.
    taken_over : int
        How many of these an earlier run had already processed.
    several : int
        Pictures with other faces than the one that was embedded.
    """

    embedded: int = 0
    skipped: int = 0
    taken_over: int = 0
    several: int = 0


class _Stamped(NamedTuple):
    """A source, and the size and time of its file before it was read."""

    source: Source
    stamp: tuple[int, int]


def embed_all(
    embedder: Embedder,
    sources: Iterable[Source],
    out: str | Path,
    *,
    part: ChosenPart | None = None,
    strict: bool = False,
    on_progress: Callable[[int], object] = lambda done: None,
) -> Counts:
    """Embed pictures and write the embeddings to a file; resume an interrupted run.

    Parameters
    ----------
    embedder : Embedder
    sources : iterable of Source
        The pictures. A broken one is named in a warning (the first 20; then they are counted) and left out.
    out : path-like
        The file to write; see :mod:`denseface.galleries.gallery`.
    part : ChosenPart, optional
        Embed only this part of the pictures; its file may be empty.
    strict : bool
        Stop at a broken picture instead.
    on_progress : callable
        Called with the number of pictures processed since the last call.

    Returns
    -------
    Counts

    Raises
    ------
    InputError
        If no picture can be read, the file of landmarks knows none, an embedding is not finite, another run writes the
        same file, or it cannot be written; with `strict`, if a picture is broken. Computed embeddings are kept for the
        next run.
    """
    out = Path(out)
    folder = beside(out, ".partial")
    sources = sources if isinstance(sources, Sized) else list(sources)  # what is iterated twice
    require_landmarks(embedder.crop, sources)
    with _Work(folder, embedder, strict, part) as work:
        remaining = work.take_over(iter(sources) if part is None else part.sources(sources), on_progress)
        size = embedder.batch_size
        try:
            with cut_ahead(partial(_cut, embedder), remaining, ahead=2 * size) as pictures:
                for batch, computed in compute_batches(embedder.compute, pictures, size, embedder.image_shape):
                    work.add(batch, computed.rows.astype("<f4", copy=False))
                    on_progress(len(batch))
        except KeyboardInterrupt:
            done = work.counts.embedded + work.counts.skipped
            logger.warning("%s: interrupted; the same command resumes after %d pictures", out, done)
            raise
        if not work.counts.embedded and part is None:
            raise InputError("not written, because no picture could be read", path=out)
        work.write(out, getattr(sources, "roots", []))
    shutil.rmtree(folder)
    return work.counts


class _Work:
    """The open, locked folder of a run."""

    def __init__(self, folder: Path, embedder: Embedder, strict: bool, part: ChosenPart | None):
        self.counts = Counts()
        self._embedder = embedder
        self._strict = strict
        self._name_width = 1
        self._model = embedder.describe() if part is None else {**embedder.describe(), "part": part.description}
        if folder.is_symlink():
            raise InputError("a link is in the way; remove it", path=folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._log = Journal(folder / "log", self._model)
        try:
            self._rows = open_own(folder / "rows")
        except InputError:
            self._log.__exit__()
            raise

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *exception: object) -> None:
        self._log.__exit__()
        with contextlib.suppress(OSError, InputError):  # the write that failed has been reported
            self._rows.close()

    def take_over(self, sources: Iterator[Source], on_progress: Callable[[int], object]) -> Iterator[Source]:
        """Keep what an earlier run has done and still holds; return the remaining sources.

        Whole batches are kept, so that every picture is in the batch in which an uninterrupted run has it.
        """
        end = 0
        pending: list[tuple[list, int]] = []
        self._rows.seek(0)

        def holds(values: list, source: Source) -> bool:
            results = self._results_of(values, source)
            if results is not None:
                pending.append(results)
            return results is not None

        def keep() -> None:
            nonlocal end
            for results, others in pending:
                self._count(results, others)
                end += 4 * self._embedder.emb_size * sum(not isinstance(result, str) for _, result in results)
            self.counts.taken_over += len(pending)
            on_progress(len(pending))
            pending.clear()

        remaining = self._log.resume(sources, holds, keep, self._embedder.batch_size)
        self._rows.seek(end)
        self._rows.truncate(end)
        return remaining

    def add(self, batch: list[CutPicture[_Stamped]], rows: np.ndarray) -> None:
        """Write a batch: first the rows of its faces, then the lines of the log that make them count."""
        self._rows.write(rows.tobytes())
        self._rows.flush()
        waiting = (zlib.crc32(row.tobytes()) for row in rows)
        entries = []
        for picture in batch:
            source, stamp = picture.key
            results = [(face.name, face.message if face.pixels is None else next(waiting)) for face in picture.faces]
            others = picture.faces[0].others
            self._count(results, others)
            entries.append([source.name, *stamp, results, others])
        self._log.append(entries)

    def write(self, out: Path, roots: list[str]) -> None:
        """Write the file of embeddings, with the folders that say whose pictures they are."""
        model = {**self._model, "roots": roots} if roots else self._model
        shape = (self.counts.embedded, self._embedder.emb_size)
        write_gallery(out, self._blocks(), shape, self._names(), self._name_width, model)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows written so far, some at a time."""
        width = self._embedder.emb_size
        self._rows.seek(0)
        while block := self._rows.read(4 * width * max(1, _BLOCK // width)):
            yield np.frombuffer(block, "<f4").reshape(-1, width)

    def _results_of(self, values, source):
        """Faces and number of other faces of a line of the log, if it agrees with a source and with the next rows."""
        if len(values) < 2:
            return None
        *key, results, others = values
        if key != [source.name, *source.stamp()] or not _are_results(results, source) or type(others) is not int:
            return None
        size = 4 * self._embedder.emb_size
        for crc in (result for _, result in results if not isinstance(result, str)):
            row = self._rows.read(size)
            if len(row) != size or zlib.crc32(row) != crc:
                return None
        return results, others

    def _count(self, results, others):
        self.counts.several += bool(others)
        for name, result in results:
            if isinstance(result, str):
                self._skip(result)
            else:
                self.counts.embedded += 1
                self._name_width = max(self._name_width, len(name))

    def _skip(self, reason: str) -> None:
        if self._strict:
            raise InputError(reason)
        self.counts.skipped += 1
        warn_of_many(self.counts.skipped, f"skipped: {reason}", "pictures skipped")

    def _names(self) -> Iterator[str]:
        for *_, results, _ in self._log:
            yield from (name for name, result in results if not isinstance(result, str))


def _are_results(results: object, source: Source) -> bool:
    """Whether a log, which somebody may have edited, has the faces of a source: names, each with a CRC or a reason."""
    return isinstance(results, list) and all(
        isinstance(result, list)
        and len(result) == 2
        and isinstance(result[0], str)
        and result[0].startswith(source.name)
        and type(result[1]) in (int, str)
        for result in results
    )


def _cut(embedder: Embedder, source: Source) -> CutPicture[_Stamped]:
    stamped = _Stamped(source, source.stamp())
    return CutPicture(stamped, cut_source(source, embedder.crop, embedder.image_shape).faces)
