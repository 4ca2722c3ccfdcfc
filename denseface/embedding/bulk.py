"""Embeddings of any number of pictures, in constant memory, written as they are computed.

During a run, and after it was killed, the folder ``OUT.partial`` contains

``rows``
    The embeddings one after the other, little-endian float32.
``log``
    A first line that says how they are computed; then one line of JSON per picture: its name, the size and modification
    time of its file, its faces, and the number of other faces in it. A face is a name and the CRC-32 of its embedding,
    or the reason why there is none; a picture that could not be read has one of these.

A run that finds such a folder resumes it. It takes over complete lines that agree with its own pictures, in the same
order, and with their rows.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from denseface.core.errors import InputError
from denseface.core.files import beside, naming_errors, open_own
from denseface.core.parallel import ordered_map
from denseface.data.cropping import Crop
from denseface.data.pictures import decode, load_picture
from denseface.data.sources import Source
from denseface.embedding.embedder import Embedder, PictureError, as_batch
from denseface.embedding.gallery import write_gallery

_THREADS = min(4, os.cpu_count() or 1)
_NAMED = 20

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


class _Decoded(NamedTuple):
    """A source with its faces; the reason of a face without pixels names it."""

    source: Source
    stamp: tuple[int, int]
    crops: list[Crop]


def embed_all(
    embedder: Embedder,
    sources: Iterable[Source],
    out: str | Path,
    *,
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
        The file to write; see :mod:`denseface.embedding.gallery`.
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
        If no picture can be read, an embedding is not finite, another run writes the same file, or it cannot be
        written; with `strict`, if a picture is broken. Computed embeddings are kept for the next run.
    """
    out = Path(out)
    folder = beside(out, ".partial")
    with _Work(folder, embedder, strict) as work:
        remaining = work.take_over(iter(sources), on_progress)
        decoded = ordered_map(partial(_decode, embedder), remaining, _THREADS, ahead=2 * embedder.batch_size)
        try:
            while batch := list(itertools.islice(decoded, embedder.batch_size)):
                work.add(batch)
                on_progress(len(batch))
        except KeyboardInterrupt:
            done = work.counts.embedded + work.counts.skipped
            logger.warning("%s: interrupted; the same command resumes after %d pictures", out, done)
            raise
        if not work.counts.embedded:
            raise InputError(f"{out}: not written, because no picture could be read")
        work.write(out)
    shutil.rmtree(folder)
    return work.counts


class _Work:
    """The open, locked folder of a run."""

    def __init__(self, folder: Path, embedder: Embedder, strict: bool):
        self.counts = Counts()
        self._embedder = embedder
        self._strict = strict
        self._name_width = 1
        self._model = embedder.describe()
        if folder.is_symlink():
            raise InputError(f"{folder}: a link is in the way; remove it")
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            self._rows, self._log = (opened.enter_context(open_own(folder / name)) for name in ("rows", "log"))
            try:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"{folder}: another run is writing there; wait for it to finish, or write elsewhere"
                ) from error
            opened.pop_all()

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in (self._rows, self._log):
            with contextlib.suppress(OSError):  # the write that failed has been reported
                file.close()

    def take_over(self, sources: Iterator[Source], on_progress: Callable[[int], object]) -> Iterator[Source]:
        """Keep what an earlier run has done and still holds; return the remaining sources."""
        heading = _line(self._model)
        self._log.seek(0)
        self._rows.seek(0)
        rows_end, log_end = 0, 0
        next_source = []
        if self._log.readline() == heading:
            log_end = len(heading)
            while line := self._log.readline():
                next_source = list(itertools.islice(sources, 1))
                if not next_source or not self._is_true(line, next_source[0]):
                    break
                next_source = []
                rows_end, log_end = self._rows.tell(), log_end + len(line)
                self.counts.taken_over += 1
                on_progress(1)
        self._rows.truncate(rows_end)
        self._log.truncate(log_end)
        if not log_end:
            self._log.write(heading)
        return itertools.chain(next_source, sources)

    def add(self, batch: list[_Decoded]) -> None:
        """Embed a batch and write it: first the rows, then the lines of the log that make them count."""
        faces = [
            (item.source.name + crop.suffix, crop.pixels)
            for item in batch
            for crop in item.crops
            if crop.pixels is not None
        ]
        rows = self._embed(faces)
        with naming_errors(self._rows.name):
            self._rows.write(rows.tobytes())
            self._rows.flush()
        waiting = (zlib.crc32(row.tobytes()) for row in rows)
        with naming_errors(self._log.name):
            for item in batch:
                results = [
                    (item.source.name + crop.suffix, crop.reason if crop.pixels is None else next(waiting))
                    for crop in item.crops
                ]
                others = item.crops[0].others
                self._count(results, others)
                self._log.write(_line([item.source.name, *item.stamp, results, others]))
            self._log.flush()

    def _embed(self, faces):
        pictures = as_batch([pixels for _, pixels in faces], self._embedder.image_shape)
        try:
            return self._embedder.combine(*self._embedder.compute(pictures)).astype("<f4")
        except PictureError as error:
            raise InputError(f"{faces[error.position][0]}: {error.reason}") from error

    def write(self, out: Path) -> None:
        """Write the file of embeddings."""
        self._rows.seek(0)
        shape = (self.counts.embedded, self._embedder.emb_size)
        write_gallery(out, self._rows, shape, self._names(), self._name_width, self._model)

    def _is_true(self, line, source):
        """Whether a line of the log agrees with a source and with the next rows."""
        try:
            *key, results, others = json.loads(line)
            crcs = [result for _, result in results if not isinstance(result, str)]
        except (ValueError, TypeError):
            return False
        if key != [source.name, *_stamp(source)]:
            return False
        size = 4 * self._embedder.emb_size
        for crc in crcs:
            row = self._rows.read(size)
            if len(row) != size or zlib.crc32(row) != crc:
                return False
        self._count(results, others)
        return True

    def _count(self, results, others):
        self.counts.several += bool(others)
        for name, result in results:
            if isinstance(result, str):
                self._skip(result)
            else:
                self.counts.embedded += 1
                self._name_width = max(self._name_width, len(name))

    def _skip(self, reason):
        if self._strict:
            raise InputError(reason)
        self.counts.skipped += 1
        if self.counts.skipped <= _NAMED:
            logger.warning("skipped: %s", reason)
        elif self.counts.skipped % 100 == 0:
            logger.warning("%d pictures skipped so far", self.counts.skipped)

    def _names(self):
        self._log.seek(0)
        self._log.readline()
        for line in self._log:
            *_, results, _ = json.loads(line)
            yield from (name for name, result in results if not isinstance(result, str))


def _decode(embedder, source):
    stamp = _stamp(source)
    try:
        payload = source.load()
    except InputError as error:
        return _Decoded(source, stamp, [Crop("", None, str(error))])
    try:
        if source.is_aligned:
            crops = [Crop("", load_picture(payload, embedder.image_shape))]
        else:
            crops = embedder.crop(decode(payload), embedder.image_shape, embedder.crop.locate(source.file))
    except InputError as error:
        crops = [Crop("", None, str(error))]
    named = [
        crop if crop.reason is None else crop._replace(reason=f"{source.name}{crop.suffix}: {crop.reason}")
        for crop in crops
    ]
    return _Decoded(source, stamp, named)


def _stamp(source):
    """Return size and modification time of the source's file, by which a changed file is noticed."""
    try:
        found = source.file.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _line(value):
    return json.dumps(value).encode() + b"\n"
