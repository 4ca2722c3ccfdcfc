"""Training batches from face records: decoded, augmented, and the same whatever the number of threads.

Everything random is drawn from a counter-based generator keyed by (seed, epoch) and placed by the position in the
epoch, so any step can be computed without the steps before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np

from denseface.core.cpus import decoding_threads
from denseface.core.errors import InputError, warn_of_many
from denseface.data.augment import Augmentation
from denseface.data.faces import CutPicture, Face, cut_ahead
from denseface.data.mixing import mix_faces
from denseface.data.pictures import ImageError, decode
from denseface.data.recordio import Record, RecordError
from denseface.data.records import FaceRecords

_PREFETCH = 2  # batches in the making while one is in use
_MAX_ATTEMPTS = 100


class Batch(NamedTuple):
    """Pictures and their classes.

    Attributes
    ----------
    data : ndarray of shape (N, C, H, W), float32
        RGB or gray, 0 to 255.
    label : ndarray of shape (N,), float32
        Classes, whole numbers from 0.
    """

    data: np.ndarray
    label: np.ndarray


class Loader(Protocol):
    """Where the batches of a run come from.

    Attributes
    ----------
    reader : PictureReader
        Reads the pictures, and knows which were unreadable.
    batch_size : int
        Pictures per batch of this worker.
    batches_per_epoch : int
        Batches per pass through the training set, the same for every worker.
    """

    reader: PictureReader
    batch_size: int
    batches_per_epoch: int

    def batches(self, start_batch: int = 0) -> Generator[Batch, None, None]:
        """Yield batches without end, from this one on."""

    def state(self) -> dict:
        """Return what :meth:`restore` needs beside the number of the next batch, as plain values."""

    def restore(self, state: dict) -> None:
        """Restore what :meth:`state` returned; InputError if it belongs to something else."""


class LabeledKey(NamedTuple):
    """The key of a record, and the class in it; -1 if it cannot be read."""

    key: int
    label: int


class PictureReader:
    """Reads and decodes the pictures of a training set, and keeps account of the unreadable ones.

    Parameters
    ----------
    records : FaceRecords
        The training set.
    image_shape : tuple (height, width, channels)
        Input of the network; channels 1 (gray) or 3 (RGB). Pictures of another kind or size are converted.
    threads : int, optional
        Threads on which a loader reads and augments; by default as many as decode pictures elsewhere, up to 4.
    max_bad : int, optional
        Stop when more pictures than this are unreadable; by default there is no limit.

    Attributes
    ----------
    bad : dict of int to str
        Keys of the unreadable pictures noted so far, each with the reason.

    Raises
    ------
    InputError
        An argument is out of its range.
    """

    def __init__(
        self,
        records: FaceRecords,
        image_shape: tuple[int, int, int],
        threads: int | None = None,
        max_bad: int | None = None,
    ):
        threads = decoding_threads() if threads is None else threads
        _check_range("threads", threads, 1)
        if max_bad is not None:
            _check_range("max_bad", max_bad, 0)
        if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[2] not in (1, 3):
            raise InputError(f"image_shape must be (height, width, 1 or 3), got {image_shape}")
        self.records = records
        self.image_shape = image_shape
        self.threads = threads
        self.max_bad = max_bad
        self.bad: dict[int, str] = {}

    def read(self, key: int) -> tuple[Record, np.ndarray]:
        """Read one picture; any thread may call it.

        Parameters
        ----------
        key : int
            Key of its record.

        Returns
        -------
        record : Record
            Its label is not checked; ``records.label`` does that.
        picture : ndarray of shape ``image_shape``, uint8

        Raises
        ------
        RecordError
            If the record or the picture in it is broken.
        """
        record = self.records.reader.read(key)
        try:
            return record, decode(record.payload, self.image_shape, upright=False)
        except ImageError as error:
            raise RecordError(f"key {key}: {error}", path=self.records.reader.path) from error

    def cut_ahead(self, keys: np.ndarray, ahead: int) -> AbstractContextManager[Iterator[CutPicture[LabeledKey]]]:
        """Iterate over the pictures of some records, read on threads, with their classes.

        Parameters
        ----------
        keys : ndarray of shape (n,), int64
            Keys of the records.
        ahead : int
            Pictures to read before they are needed.

        Returns
        -------
        context manager of iterator of CutPicture
            As :func:`denseface.data.faces.cut_ahead`. An InputError ends it at a label that is not one of the classes.
        """
        return cut_ahead(self._cut, keys.tolist(), ahead, self.threads)

    def _cut(self, key: int) -> CutPicture[LabeledKey]:
        path = self.records.reader.path
        name = f"{path}: key {key}"
        try:
            record, picture = self.read(key)
        except RecordError as error:
            return CutPicture(LabeledKey(key, -1), [Face.failed(name, error, name)])
        return CutPicture(LabeledKey(key, self.records.label(record)), [Face(name, picture)])

    def note(self, key: LabeledKey, face: Face) -> None:
        """Add an unreadable picture to :attr:`bad`, as :meth:`note_bad` does."""
        self.note_bad({key.key: face.message})

    def note_bad(self, bad: Mapping[int, str]) -> None:
        """Add unreadable pictures to :attr:`bad`. The first 20 are named in a warning, later ones counted.

        Parameters
        ----------
        bad : mapping of int to str
            Reasons by key.

        Raises
        ------
        InputError
            If there are more than ``max_bad`` now.
        """
        for key, reason in bad.items():
            if key in self.bad:
                continue
            self.bad[key] = reason
            count = len(self.bad)
            warn_of_many(count, f"broken picture replaced: {reason}", "broken pictures")
            if self.max_bad is not None and count > self.max_bad:
                raise InputError(
                    f"{reason}; with it {count} pictures are broken, more than max_bad = {self.max_bad}; "
                    "check the records (denseface dataset info), or allow more"
                )


class Part(NamedTuple):
    """Which of the workers that share an epoch this is, from 0, and how many there are."""

    rank: int
    size: int


WHOLE = Part(0, 1)


class BatchLoader:
    """Shuffled batches for training, in an order that depends on the seed alone.

    Each epoch is a permutation of all pictures, cut into steps of ``batch_size * part.size``, of which each part takes
    its own ``batch_size``; what is left at the end is dropped. A set too small for one such step is repeated to fill
    it. Two parts with batches of 16 thus see, step by step, what one part with batches of 32 sees.

    An unreadable picture is replaced by another one, drawn at random.

    Parameters
    ----------
    reader : PictureReader
        Reads the training set.
    batch_size : int
        Pictures per batch of this part.
    augmentation : Augmentation
        Random changes to each picture.
    seed : int
        Of the order and the augmentation, 0 or more.
    mix : float
        Probability with which a picture is mixed with another one of the set before it is augmented (``data_mix``); its
        class is then no longer true. See :func:`~denseface.data.mixing.mix_faces`.
    part : Part
        Which of several workers this is; by default it is alone.

    Attributes
    ----------
    batches_per_epoch : int
        The same for every part.

    Raises
    ------
    InputError
        An argument is out of its range.
    """

    def __init__(
        self,
        reader: PictureReader,
        batch_size: int,
        augmentation: Augmentation,
        seed: int = 0,
        mix: float = 0.0,
        part: Part = WHOLE,
    ):
        _check_range("batch_size", batch_size, 1)
        _check_range("data_mix", mix, 0, 1)
        _check_range("seed", seed, 0, 2**64 - 1)
        _check_range("part", part.rank, 0, part.size - 1)
        self.reader = reader
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.mix = mix
        self.part = part
        self.batches_per_epoch = max(1, len(reader.records.keys) // (batch_size * part.size))

    def state(self) -> dict:
        """Return nothing: a batch depends on its number alone."""
        return {}

    def restore(self, state: dict) -> None:
        """Restore nothing."""

    def batches(self, start_batch: int = 0) -> Generator[Batch, None, None]:
        """Yield batches without end; batch b belongs to epoch ``b // batches_per_epoch``.

        The threads run from the first batch until the generator is closed or fails.

        Parameters
        ----------
        start_batch : int
            Where to start, 0 or more. Nothing before it is read; the batches are those of an uninterrupted run.

        Raises
        ------
        InputError
            More than ``max_bad`` pictures are broken, 100 replacements of one picture were broken too, or a label is
            not one of the classes.
        """
        _check_range("start_batch", start_batch, 0)
        pending: deque[tuple[Batch, list[Future]]] = deque()
        executor = ThreadPoolExecutor(self.reader.threads, thread_name_prefix="denseface-batches")
        try:
            for epoch, first, keys in self._numbered(start_batch):
                pending.append(self._start(executor, epoch, first, keys))
                if len(pending) > _PREFETCH:
                    batch, parts = pending.popleft()
                    for part in parts:
                        self.reader.note_bad(part.result())
                    yield batch
        finally:
            executor.shutdown(cancel_futures=True)

    def _numbered(self, start_batch: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the epoch of each batch, its first position in that epoch, and its keys."""
        epoch, first_batch = divmod(start_batch, self.batches_per_epoch)
        while True:
            order = _generator(self.seed, epoch).permutation(self.reader.records.keys)
            order = np.resize(order, self.batches_per_epoch * self.part.size * self.batch_size)
            for number in range(first_batch, self.batches_per_epoch):
                first = (number * self.part.size + self.part.rank) * self.batch_size
                yield epoch, first, order[first : first + self.batch_size]
            epoch, first_batch = epoch + 1, 0

    def _start(
        self, executor: ThreadPoolExecutor, epoch: int, first: int, keys: np.ndarray
    ) -> tuple[Batch, list[Future]]:
        """Set the threads to work on a batch, an equal share of its rows each."""
        height, width, channels = self.reader.image_shape
        batch = Batch(
            np.empty((self.batch_size, channels, height, width), np.float32), np.empty(self.batch_size, np.float32)
        )
        shares = np.array_split(np.arange(self.batch_size), self.reader.threads)
        return batch, [executor.submit(self._fill, batch, rows, epoch, first, keys) for rows in shares]

    def _fill(self, batch: Batch, rows: np.ndarray, epoch: int, first: int, keys: np.ndarray) -> dict[int, str]:
        """Fill these rows of a batch, and return the broken pictures that were met."""
        bad: dict[int, str] = {}
        for row in rows.tolist():
            image, batch.label[row] = self._draw(int(keys[row]), epoch, first + row, bad)
            batch.data[row] = image.transpose(2, 0, 1)
        return bad

    def _draw(self, key: int, epoch: int, position: int, bad: dict[int, str]) -> tuple[np.ndarray, int]:
        """Return the picture for a position and its class, or those of a replacement."""
        for attempt in range(1 + _MAX_ATTEMPTS):
            rng = _generator(self.seed, epoch, position + 1, attempt)
            if attempt:
                key = int(rng.choice(self.reader.records.keys))
            try:
                record, picture = self.reader.read(key)
            except RecordError as error:
                bad[key] = str(error)
            else:
                if self.mix and rng.random() < self.mix:
                    picture = self._mixed(picture, rng, bad)
                # A label outside the classes means that the set does not fit its property file.
                return self.augmentation(picture, rng), self.reader.records.label(record)
        raise InputError(
            f"{bad[key]}; so were {_MAX_ATTEMPTS} others in a row: check the records with denseface dataset info"
        )

    def _mixed(self, picture: np.ndarray, rng: np.random.Generator, bad: dict[int, str]) -> np.ndarray:
        """Mix a picture with another one drawn at random; it stays as it is if that one is broken."""
        key = int(rng.choice(self.reader.records.keys))
        try:
            _, other = self.reader.read(key)
        except RecordError as error:
            bad[key] = str(error)
            return picture
        return mix_faces(picture, other, rng)


def _check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise InputError(f"{name} must be {limits}, got {value}")


def _generator(seed: int, epoch: int, position: int = 0, attempt: int = 0) -> np.random.Generator:
    """The independent stream of one place; positions of pictures count from 1, and 0 is for the order of the epoch."""
    key = np.array([seed, epoch], np.uint64)
    counter = np.array([0, attempt, position, 0], np.uint64)  # the first word is what drawing advances
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
