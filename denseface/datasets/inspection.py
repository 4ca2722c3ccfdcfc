"""What is in a training or a verification set, and what is wrong with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.parallel import ordered_map
from denseface.data.pairs import read_pairs
from denseface.data.pictures import Header, decode, read_header
from denseface.data.recordio import RecordError
from denseface.data.records import FaceRecords

_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 64
_NAMED = 20
_FOLDS = 10

OnProgress = Callable[[int, int], object]


@dataclass(frozen=True)
class Pictures:
    """What the pictures of a set are.

    Attributes
    ----------
    count : int
        How many there are, broken ones among them.
    sizes, formats : dict of str to int
        How many are "112x96" (width by height) and so on, and how many "JPEG" and so on; most frequent first.
    num_broken : int
        How many cannot be read.
    broken : list of str
        The first 20 of these, with the reasons.
    """

    count: int
    sizes: dict[str, int]
    formats: dict[str, int]
    num_broken: int
    broken: list[str]


@dataclass(frozen=True)
class RecordsReport:
    """What is in a training set.

    Attributes
    ----------
    path : str
        Its folder.
    layout : str
        "insightface", with header records, or "plain".
    pictures : Pictures
    num_people : int
        How many different labels the pictures have.
    num_classes, height, width : int
        What ``property`` says.
    per_person : dict of str to number
        "min", "median" and "max" of the number of pictures a person; empty if no picture has a label.
    histogram : dict of str to int
        How many people have "1", "2-3", "4-7" and so on pictures.
    problems : list of str
        What is wrong; empty for a sound set.
    """

    path: str
    layout: str
    pictures: Pictures
    num_people: int
    num_classes: int
    height: int
    width: int
    per_person: dict[str, float]
    histogram: dict[str, int]
    problems: list[str]

    def to_dict(self) -> dict:
        """Everything, in types that JSON knows."""
        return asdict(self)


@dataclass(frozen=True)
class PairsReport:
    """What is in a verification set.

    Attributes
    ----------
    path : str
        Its file.
    num_genuine, num_impostor : int
        The pairs of one person and of two.
    pictures : Pictures
        Each different picture counts once.
    problems : list of str
        What is wrong; empty for a sound set.
    """

    path: str
    num_genuine: int
    num_impostor: int
    pictures: Pictures
    problems: list[str]

    def to_dict(self) -> dict:
        """Everything, in types that JSON knows."""
        return asdict(self)


def inspect_records(folder: str | Path, on_progress: OnProgress = lambda done, total: None) -> RecordsReport:
    """Read every record of a training set, decode every picture, and compare with ``property``.

    Raises
    ------
    InputError
        If the set cannot be opened.
    """
    with FaceRecords(folder) as records:
        keys = records.keys.tolist()
        labels = np.full(len(keys), -1)
        faults = []
        tally = _Tally()
        for place, found in enumerate(ordered_map(partial(_check_record, records), keys, _THREADS, _AHEAD)):
            tally.add(found.header, found.fault)
            if found.label_fault:
                faults.append(found.label_fault)
            else:
                labels[place] = found.label
            on_progress(place + 1, len(keys))
        pictures = tally.pictures()
        counts = np.bincount(labels[labels >= 0], minlength=records.num_classes)
        height, width = records.image_shape
        problems = [
            *_broken_problem(pictures),
            *_label_problems(faults, counts),
            *_size_problem(pictures, f"{width}x{height}"),
            *_identity_problems(records.identities, labels),
        ]
        counts = counts[counts > 0]
        return RecordsReport(
            path=str(folder),
            layout="plain" if records.identities is None else "insightface",
            pictures=pictures,
            num_people=len(counts),
            num_classes=records.num_classes,
            height=height,
            width=width,
            per_person=_quantiles(counts),
            histogram=_histogram(counts),
            problems=problems,
        )


def inspect_pairs(path: str | Path, on_progress: OnProgress = lambda done, total: None) -> PairsReport:
    """Decode every picture of a verification set.

    Raises
    ------
    InputError
        If the set cannot be read.
    """
    pair_set = read_pairs(path)
    images, pairs = pair_set.unique()
    tally = _Tally()
    for place, (header, fault) in enumerate(ordered_map(_check_picture, images, _THREADS, _AHEAD)):
        tally.add(header, fault and f"{path}: image {pair_set.images.index(images[place])}: {fault}")
        on_progress(place + 1, len(images))
    pictures = tally.pictures()
    num_genuine = int(pair_set.issame.sum())
    num_impostor = len(pair_set.issame) - num_genuine
    problems = [*_broken_problem(pictures), *_pair_problems(pairs, num_genuine, num_impostor)]
    return PairsReport(str(path), num_genuine, num_impostor, pictures, problems)


class _Checked(NamedTuple):
    label: int
    label_fault: str | None
    header: Header | None
    fault: str | None


class _Tally:
    """Counts pictures as they are looked at."""

    def __init__(self) -> None:
        self._sizes, self._formats = Counter(), Counter()
        self._num_broken = 0
        self._broken: list[str] = []

    def add(self, header: Header | None, fault: str | None) -> None:
        if header is None:
            self._num_broken += 1
            self._broken += [fault] if self._num_broken <= _NAMED else []
        else:
            self._sizes[f"{header.width}x{header.height}"] += 1
            self._formats[header.format] += 1

    def pictures(self) -> Pictures:
        sizes, formats = dict(self._sizes.most_common()), dict(self._formats.most_common())
        return Pictures(sum(sizes.values()) + self._num_broken, sizes, formats, self._num_broken, self._broken)


def _check_record(records, key):
    try:
        record = records.reader.read(key)
    except RecordError as error:
        return _Checked(-1, None, None, str(error))
    label, label_fault = -1, None
    try:
        label = records.label(record)
    except RecordError as error:
        label_fault = str(error)
    header, fault = _check_picture(record.payload)
    return _Checked(label, label_fault, header, fault and f"{records.reader.path}: key {key}: {fault}")


def _check_picture(payload):
    """Return what a picture is and None, or None and what is wrong with it."""
    try:
        header = read_header(payload)
        decode(payload)
    except InputError as error:
        return None, str(error)
    return header, None


def _broken_problem(pictures):
    if not pictures.num_broken:
        return []
    return [f"{_count(pictures.num_broken, 'picture')} cannot be read"]


def _label_problems(faults, counts):
    problems = []
    if faults:
        problems.append(f"{_count(len(faults), 'picture')} with a label outside property's classes; {faults[0]}")
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        problems.append(f"{len(empty)} of property's {len(counts)} classes without a picture, the first is {empty[0]}")
    return problems


def _size_problem(pictures, size):
    others = sum(count for found, count in pictures.sizes.items() if found != size)
    return [f"{_count(others, 'picture')} of another size than property's, {size}"] if others else []


def _identity_problems(identities, labels):
    """Compare the identities with the labels of their pictures; those without one do not count."""
    if identities is None:
        return []
    owners = np.repeat(np.arange(len(identities)), identities[:, 1] - identities[:, 0])
    found = np.unique(np.stack([owners, labels], 1)[labels >= 0], axis=0)
    mixed = np.flatnonzero(np.bincount(found[:, 0]) > 1)
    shared = np.flatnonzero(np.bincount(found[:, 1]) > 1)
    problems = []
    if len(mixed):
        problems.append(f"{len(mixed)} identity records with several labels, the first is identity {mixed[0]}")
    if len(shared):
        problems.append(f"{len(shared)} labels in several identity records, the first is {shared[0]}")
    return problems


def _pair_problems(pairs, num_genuine, num_impostor):
    problems = []
    twice = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if len(twice):
        problems.append(f"{_count(len(twice), 'pair')} of a picture with itself, the first is pair {twice[0]}")
    if not num_genuine or not num_impostor:
        problems.append(f"no pair of {'two people' if num_genuine else 'one person'}")
    if len(pairs) < _FOLDS:
        problems.append(f"fewer than {_FOLDS} pairs, too few for {_FOLDS} folds")
    return problems


def _quantiles(counts):
    if not len(counts):
        return {}
    return {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())}


def _histogram(counts):
    bins = Counter(int(count).bit_length() for count in counts)
    return {_bin_name(1 << bits - 1, (1 << bits) - 1): bins[bits] for bits in sorted(bins)}


def _bin_name(low, high):
    return str(low) if low == high else f"{low}-{high}"


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
