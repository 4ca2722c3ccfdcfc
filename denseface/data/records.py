"""InsightFace's training sets, read and written: ``train.rec``, ``train.idx`` and ``property`` in one folder.

In its layout the images of a person follow each other. Record 0 contains the range of keys of the identity records, and
each of these the range of keys of its images, as labels. These header records have no payload: a record with a payload
is an image, whatever its labels are. The first label of an image is its identity.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input
from denseface.data.recordio import Record, RecordError, RecordReader, RecordWriter

logger = logging.getLogger("denseface")

# Labels are float32, which has every whole number up to here and no further.
_EXACT_LIMIT = 1 << 24
_PACK = "if train.rec and train.idx were copied, copy both again, else pack the set again"
_PROPERTY = re.compile(rb"\s*(\d{1,8})\s*,\s*(\d{1,5})\s*,\s*(\d{1,5})\s*(?:\n(\d{1,9})\s+shuffled\s*\n[^\n]*\s*)?")
_PROPERTY_LINE = b"%d,%d,%d\n"


class Property(NamedTuple):
    """Content of the ``property`` file of a training set.

    Attributes
    ----------
    num_classes : int
        Labels are 0 to ``num_classes`` - 1.
    height, width : int
        The size of the images in pixels.
    """

    num_classes: int
    height: int
    width: int


class FaceRecords:
    """A training set.

    A file whose record 0 is an image, or that has no key 0, is plain: each key is an image.

    Parameters
    ----------
    folder : path-like
        The folder of the three files.
    images_filter : int
        Identities with fewer images are left out, and the classes renumbered so that each has images.

    Attributes
    ----------
    keys : ndarray of shape (n,), int64
        The keys of the images.
    identities : ndarray of shape (num_identities, 2), int64, or None
        The range [start, end) of the keys of each identity; None for a plain file.
    num_classes : int
        Classes are 0 to ``num_classes`` - 1.
    image_shape : tuple (height, width)
        As ``property`` says, in pixels.
    reader : RecordReader
        All records, headers included; `read_image` is its `read` and `label` in one.

    Raises
    ------
    InputError
        If a file is missing or broken, the ranges do not fit the index, or no identity has enough images.
    """

    def __init__(self, folder: str | Path, images_filter: int = 0):
        self.folder = Path(folder)
        self._property = read_property(self.folder)
        self.image_shape = (self._property.height, self._property.width)
        self.num_classes = self._property.num_classes
        self._class_of_label: np.ndarray | None = None
        self.reader = open_records(self.folder / "train.rec")
        try:
            self.identities = self._read_identities()
            if self.identities is None:
                self.keys = self.reader.keys
            else:
                self.keys = _expand(self.identities)
            if images_filter > 1:
                self._leave_out(images_filter)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FaceRecords:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.keys)

    def close(self) -> None:
        """Close the record file."""
        self.reader.close()

    def read_image(self, key: int) -> tuple[int, bytes]:
        """Read the class of an image, 0 to ``num_classes`` - 1, and its encoded bytes.

        Raises
        ------
        RecordError
            If the record is broken, or its label is not one of the classes.
        """
        record = self.reader.read(key)
        return self.label(record), record.payload

    def label(self, record: Record) -> int:
        """Return the class of a record, 0 to ``num_classes`` - 1.

        Raises
        ------
        RecordError
            If the label is not one of the classes, or was left out by ``images_filter``.
        """
        label = self._checked_label(record.key, record.labels)
        if self._class_of_label is None:
            return label
        class_index = int(self._class_of_label[label])
        if class_index < 0:
            raise RecordError(f"key {record.key}: images_filter has left out label {label}", path=self.reader.path)
        return class_index

    def keys_by_identity(self) -> list[np.ndarray]:
        """Group the keys of the images by identity; for a plain file, every label is read.

        Returns
        -------
        list of ndarray of shape (n,), int64
            One array per identity. Records of a plain file whose label cannot be read are left out.
        """
        if self.identities is not None:
            counts = self.identities[:, 1] - self.identities[:, 0]
            return np.split(self.keys, np.cumsum(counts)[:-1])
        labels = np.array([self._raw_label(key) for key in self.keys.tolist()])
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order])) + 1
        groups = np.split(self.keys[order], starts)
        return groups[1:] if labels.min() < 0 else groups

    def _raw_label(self, key: int) -> float:
        try:
            return float(self.reader.read_labels(key)[0])
        except RecordError:
            return -1.0

    def _checked_label(self, key: int, labels: np.ndarray) -> int:
        label = float(labels[0])
        if not (0 <= label < self._property.num_classes and label.is_integer()):
            raise RecordError(
                f"key {key}: label {label:g} is not one of the "
                f"{self._property.num_classes} classes that {self.folder / 'property'} names",
                path=self.reader.path,
            )
        return int(label)

    def _read_identities(self) -> np.ndarray | None:
        """Follow record 0 to the ranges of keys of the identities."""
        headers = read_header_range(self.reader)
        if headers is None:
            return None
        first, last = headers
        missing = self.reader.first_missing(np.arange(first, last))
        if missing is not None:
            raise InputError(
                f"record 0 names identity record {missing}, which the index lacks; {_PACK}", path=self.reader.path
            )
        ranges = np.array([_read_range(self.reader, key) for key in range(first, last)], np.int64)
        by_start = np.array(sorted([[first, last], *ranges.tolist()]))
        overlap = by_start[1:, 0] < by_start[:-1, 1]
        if overlap.any():
            raise InputError(
                f"key {by_start[1:][overlap][0, 0]} is in the ranges of two headers; {_PACK}", path=self.reader.path
            )
        missing = self.reader.first_missing(_expand(ranges))
        if missing is not None:
            raise InputError(
                f"an identity claims the image with key {missing}, not in the index; {_PACK}", path=self.reader.path
            )
        return ranges

    def _leave_out(self, images_filter: int) -> None:
        """Keep the identities with enough images, and number their classes without gaps."""
        if self.identities is None:
            labels = np.fromiter(map(self._readable_label, self.keys.tolist()), np.int64, len(self.keys))
            counts = np.bincount(labels[labels >= 0], minlength=self._property.num_classes)
            # An unreadable record stays, so that its reader can report it.
            self.keys = self.keys[(labels < 0) | (counts[labels] >= images_filter)]
            kept_labels = np.flatnonzero(counts >= images_filter)
        else:
            self.identities = self.identities[self.identities[:, 1] - self.identities[:, 0] >= images_filter]
            self.keys = _expand(self.identities)
            labels = np.array([self._identity_label(*ends) for ends in self.identities.tolist()], np.int64)
            kept_labels = np.unique(labels[labels >= 0])
        if not len(kept_labels):
            raise InputError(
                f"images_filter {images_filter}: no identity has that many images; set it lower", path=self.reader.path
            )
        self.num_classes = len(kept_labels)
        self._class_of_label = np.full(self._property.num_classes, -1, np.int64)
        self._class_of_label[kept_labels] = np.arange(self.num_classes)

    def _identity_label(self, start: int, end: int) -> int:
        """Return the label of the first readable image of an identity, or -1."""
        return next((label for key in range(start, end) if (label := self._readable_label(key)) >= 0), -1)

    def _readable_label(self, key: int) -> int:
        try:
            return self._checked_label(key, self.reader.read_labels(key))
        except RecordError:
            return -1


def read_header_range(reader: RecordReader) -> tuple[int, int] | None:
    """Read the range [start, end) of the keys of the identity records, which record 0 contains.

    Returns
    -------
    tuple (start, end) or None
        None for a plain file: there is no record 0, or it is an image.

    Raises
    ------
    InputError
        If record 0 is broken, or a header record without such a range.
    """
    if 0 not in reader:
        return None
    record = reader.read(0)
    return None if record.payload or not record.flag else _read_range(reader, 0)


def _read_range(reader: RecordReader, key: int) -> tuple[int, int]:
    """Check the range that a header record contains."""
    record = reader.read(key)
    start, end = (*map(float, record.labels[:2]), 0.0, 0.0)[:2]
    if record.payload:
        reason = f"this record has a payload, but the headers say that it is one of them; {_PACK}"
    elif record.flag < 2:
        reason = f"a header record needs two labels, a key and the one after the last; {_PACK}"
    elif not (1 <= start < end and start.is_integer() and end.is_integer()):
        reason = f"from {start:g} to {end:g} is not a range of keys; {_PACK}"
    elif end >= _EXACT_LIMIT:
        reason = (
            f"the range ends at {end:.0f}, but this layout keeps keys as float32, exact only below {_EXACT_LIMIT}; "
            "split the set, or write it plain (without header records)"
        )
    else:
        return int(start), int(end)
    raise InputError(f"key {key}: {reason}", path=reader.path)


def open_records(path: str | Path) -> RecordReader:
    """Open a record file with its index, or without one if the ``property`` file beside it says that it has none.

    InsightFace's ``rec2shufrec.py`` writes no index; `RecordReader` then reads the whole file first.

    Raises
    ------
    InputError
        As `RecordReader` does, or if there are not as many images as ``property`` says.
    """
    path = Path(path)
    count = None
    if path.name == "train.rec" and not os.path.lexists(path.with_suffix(".idx")):
        with contextlib.suppress(InputError):  # code that needs the property file reports its errors
            count = _read_property(path.parent)[1]
    if count is None:
        return RecordReader(path)
    logger.info("%s: it has no index; reading all of it to find the images", path)
    reader = RecordReader(path, indexed=False)
    if len(reader) != count:
        reader.close()
        raise InputError(f"property says {count} images, and there are {len(reader)}; copy both files again", path=path)
    return reader


def read_property(folder: str | Path) -> Property:
    """Read the ``property`` file of a training set, one line ``num_classes,height,width``.

    InsightFace's ``rec2shufrec.py`` adds three lines, which are not needed here: the number of images, the word
    ``shuffled`` and a date.

    Raises
    ------
    InputError
        If the file is missing or says anything else.
    """
    return _read_property(folder)[0]


def _read_property(folder: str | Path) -> tuple[Property, int | None]:
    """Read ``property``, and the number of images if `rec2shufrec.py` wrote it."""
    path = Path(folder) / "property"
    with open_input(path) as file:
        text = file.read(256)
    match = _PROPERTY.fullmatch(text.removeprefix(codecs.BOM_UTF8))  # editors on Windows write the mark
    found = Property(*map(int, match.groups()[:3])) if match else None
    if match is None or found is None or 0 in found or found.num_classes > _EXACT_LIMIT:
        raise InputError("it must be one line num_classes,height,width, as in 85742,112,112", path=path)
    return found, None if match[4] is None else int(match[4])


def write_face_records(
    folder: str | Path, images: Iterable[tuple[int, bytes]], image_shape: tuple[int, int] = (112, 112)
) -> Property:
    """Write a training set in InsightFace's layout: ``train.rec``, ``train.idx`` and ``property``.

    Images get the keys 1 to N, identities the keys after these. Record 0 contains the range of the identities' keys,
    and each identity record the range of its images' keys.

    Parameters
    ----------
    folder : path-like
        Where to write; it is made if need be. An existing set is replaced.
    images : iterable of (label, payload)
        Label and encoded image, sorted by label; labels are 0, 1, 2, and so on without a gap.
    image_shape : tuple (height, width)
        The size of the images in pixels.

    Returns
    -------
    Property
        Content of the ``property`` file.

    Raises
    ------
    InputError
        If labels are not sorted or have gaps, there is no image, or there are too many for this layout (its ranges are
        float32, so images and identities together must stay below 2**24).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rec_path = folder / "train.rec"
    starts: list[int] = []
    key = 1
    with RecordWriter(rec_path, folder / "train.idx", folder / "property") as writer:
        for label, payload in images:
            if label == len(starts):
                starts.append(key)
            elif label != len(starts) - 1:
                raise InputError(
                    f"label {label} comes where {len(starts)} is the next; "
                    "images must be sorted by label, without gaps",
                    path=rec_path,
                )
            writer.write(key, float(label), payload)
            key += 1
            if key + len(starts) >= _EXACT_LIMIT:
                raise InputError(
                    f"more than {key - 2} images do not fit, because this layout keeps keys as float32, "
                    f"exact only below {_EXACT_LIMIT}; split the set",
                    path=rec_path,
                )
        if not starts:
            raise InputError("no image to write", path=rec_path)
        for identity, (start, end) in enumerate(zip(starts, [*starts[1:], key])):
            writer.write(key + identity, (start, end), b"")
        writer.write(0, (key, key + len(starts)), b"")
        written = Property(len(starts), *image_shape)
        assert writer.last is not None
        writer.last.write(_PROPERTY_LINE % tuple(written))
    return written


def _expand(ranges: np.ndarray) -> np.ndarray:
    """List the numbers of each range [start, end), in their order."""
    counts = ranges[:, 1] - ranges[:, 0]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(ranges[:, 0], counts) + offsets
