"""Embeddings of any number of pictures, in constant memory, written as they are computed.

During a run, and after it was killed, the folder ``OUT.partial`` contains

``rows``
    The embeddings one after the other, little-endian float32.
``log``
    A first line that says how they are computed; then one line of JSON per picture: its name, the size and modification
    time of its file, and the CRC-32 of its embedding (null if the picture could not be read).

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

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import beside, naming_errors, open_own
from denseface.core.parallel import ordered_map
from denseface.data.pictures import load_picture
from denseface.data.sources import Source
from denseface.embedding.embedder import Crop, Embedder, PictureError, as_batch
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
        Pictures in the file of embeddings.
    skipped : int
        Pictures that could not be read.
    taken_over : int
        How many of these an earlier run had already processed.
    """

    embedded: int = 0
    skipped: int = 0
    taken_over: int = 0


class _Decoded(NamedTuple):
    """A source with its picture, or with the reason why it has none."""

    source: Source
    stamp: tuple[int, int]
    picture: np.ndarray | None
    reason: str | None


def embed_all(
    embedder: Embedder,
    sources: Iterable[Source],
    out: str | Path,
    *,
    crop: Crop | None = None,
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
    crop : callable, optional
        Cuts the faces out; without it, the pictures show aligned faces. A picture that it refuses counts as broken.
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
    with _Work(folder, embedder, crop, strict) as work:
        remaining = work.take_over(iter(sources), on_progress)
        decode = partial(_decode, image_shape=embedder.image_shape, crop=crop)
        decoded = ordered_map(decode, remaining, _THREADS, ahead=2 * embedder.batch_size)
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

    def __init__(self, folder: Path, embedder: Embedder, crop: Crop | None, strict: bool):
        self.counts = Counts()
        self._embedder = embedder
        self._strict = strict
        self._name_width = 1
        self._model = embedder.describe(crop)
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
        rows = self._embed([item for item in batch if item.picture is not None])
        with naming_errors(self._rows.name):
            self._rows.write(rows.tobytes())
            self._rows.flush()
        waiting = iter(rows)
        with naming_errors(self._log.name):
            for item in batch:
                if item.picture is None:
                    self._skip(item.reason)
                crc = None if item.picture is None else zlib.crc32(next(waiting).tobytes())
                self._log.write(_line([item.source.name, *item.stamp, crc]))
                self._count(item.source.name, crc)
            self._log.flush()

    def _embed(self, items):
        pictures = as_batch([item.picture for item in items], self._embedder.image_shape)
        try:
            return self._embedder.combine(*self._embedder.compute(pictures)).astype("<f4")
        except PictureError as error:
            raise InputError(f"{items[error.position].source.name}: {error.reason}") from error

    def write(self, out: Path) -> None:
        """Write the file of embeddings."""
        self._rows.seek(0)
        shape = (self.counts.embedded, self._embedder.emb_size)
        write_gallery(out, self._rows, shape, self._names(), self._name_width, self._model)

    def _is_true(self, line, source):
        """Whether a line of the log agrees with a source and with the next row."""
        try:
            *key, crc = json.loads(line)
        except (ValueError, TypeError):
            return False
        if key != [source.name, *_stamp(source)]:
            return False
        if crc is None:
            self._skip(f"{source.name}: the earlier run could not read it")
        else:
            row = self._rows.read(4 * self._embedder.emb_size)
            if len(row) != 4 * self._embedder.emb_size or zlib.crc32(row) != crc:
                return False
        self._count(source.name, crc)
        return True

    def _count(self, name, crc):
        if crc is not None:
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
            name, *_, crc = json.loads(line)
            if crc is not None:
                yield name


def _decode(source, image_shape, crop):
    stamp = _stamp(source)
    try:
        payload = source.load()
    except InputError as error:
        return _Decoded(source, stamp, None, str(error))
    try:
        picture = payload if crop is None else crop(source.name, payload)
        return _Decoded(source, stamp, load_picture(picture, image_shape), None)
    except InputError as error:
        return _Decoded(source, stamp, None, f"{source.name}: {error}")


def _stamp(source):
    """Return size and modification time of the source's file, by which a changed file is noticed."""
    try:
        found = source.file.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _line(value):
    return json.dumps(value).encode() + b"\n"
