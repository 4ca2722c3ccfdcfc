"""Report the contents and the problems of a training or verification set."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.parallel import ordered_map
from denseface.core.text import counted
from denseface.data.pairs import read_pairs
from denseface.data.pictures import Header, decode, read_header
from denseface.data.recordio import RecordError
from denseface.data.records import FaceRecords
from denseface.datasets.output import Progress, no_progress

_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 64
_NAMED = 20
_FOLDS = 10


@dataclass(frozen=True)
class Pictures:
    """The pictures of a set.

    Attributes
    ----------
    count : int
        The number of pictures, including broken ones.
    sizes, formats : dict of str to int
        The number of pictures per size, such as "112x96" (width x height), and per format, such as "JPEG"; the most
        frequent comes first.
    num_broken : int
        The number of pictures that cannot be read.
    broken : list of str
        The first 20 of them, with the reasons.
    """

    count: int
    sizes: dict[str, int]
    formats: dict[str, int]
    num_broken: int
    broken: list[str]


@dataclass(frozen=True)
class RecordsReport:
    """The contents and problems of a training set.

    Attributes
    ----------
    path : str
        Its folder.
    layout : str
        "insightface", with header records, or "plain".
    pictures : Pictures
    num_people : int
        The number of different labels.
    num_classes, height, width : int
        The values in ``property``.
    per_person : dict of str to number
        "min", "median" and "max" of the number of pictures per person; empty if no picture has a label.
    histogram : dict of str to int
        The number of people with "1", "2-3", "4-7" and so on pictures.
    problems : list of str
        One line per problem; empty for a sound set.
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
        """Return the report in types that JSON knows."""
        return asdict(self)


@dataclass(frozen=True)
class PairsReport:
    """The contents and problems of a verification set.

    Attributes
    ----------
    path : str
        Its file.
    num_genuine, num_impostor : int
        The numbers of pairs.
    pictures : Pictures
        Each distinct file counts once.
    problems : list of str
        One line per problem; empty for a sound set.
    """

    path: str
    num_genuine: int
    num_impostor: int
    pictures: Pictures
    problems: list[str]

    def to_dict(self) -> dict:
        """Return the report in types that JSON knows."""
        return asdict(self)


def inspect_records(folder: str | Path, on_progress: Progress = no_progress) -> RecordsReport:
    """Read every record of a training set, decode every picture, and compare both with ``property``.

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
        for index, found in enumerate(ordered_map(partial(_check_record, records), keys, _THREADS, _AHEAD)):
            tally.add(found.header, found.fault)
            if found.label_fault:
                faults.append(found.label_fault)
            else:
                labels[index] = found.label
            on_progress(index + 1, len(keys))
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


def inspect_pairs(path: str | Path, on_progress: Progress = no_progress) -> PairsReport:
    """Decode every picture of a verification set.

    Raises
    ------
    InputError
        If the set cannot be read.
    """
    pair_set = read_pairs(path)
    images, pairs = pair_set.unique()
    tally = _Tally()
    for index, (header, fault) in enumerate(ordered_map(_check_picture, images, _THREADS, _AHEAD)):
        tally.add(header, fault and f"{path}: image {pair_set.images.index(images[index])}: {fault}")
        on_progress(index + 1, len(images))
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
    """Counts pictures one by one."""

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
    """Return the header of a picture and None, or None and the reason why it is broken."""
    try:
        header = read_header(payload)
        decode(payload)
    except InputError as error:
        return None, str(error)
    return header, None


def _broken_problem(pictures):
    if not pictures.num_broken:
        return []
    return [f"{counted(pictures.num_broken, 'picture')} cannot be read"]


def _label_problems(faults, counts):
    problems = []
    if faults:
        problems.append(
            f"{counted(len(faults), 'picture')} with a label outside the classes in property, the first: {faults[0]}"
        )
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        problems.append(
            f"{len(empty)} of the {len(counts)} classes in property without a picture, the first is {empty[0]}"
        )
    return problems


def _size_problem(pictures, size):
    others = sum(count for found, count in pictures.sizes.items() if found != size)
    return [f"{counted(others, 'picture')} of another size than {size}, the size in property"] if others else []


def _identity_problems(identities, labels):
    """Compare identity records with the labels of their pictures, leaving out pictures without a label."""
    if identities is None:
        return []
    owners = np.repeat(np.arange(len(identities)), identities[:, 1] - identities[:, 0])
    found = np.unique(np.stack([owners, labels], 1)[labels >= 0], axis=0)
    mixed = np.flatnonzero(np.bincount(found[:, 0]) > 1)
    shared = np.flatnonzero(np.bincount(found[:, 1]) > 1)
    problems = []
    if len(mixed):
        problems.append(
            f"{counted(len(mixed), 'identity record')} with several labels, the first is identity {mixed[0]}"
        )
    if len(shared):
        problems.append(f"{counted(len(shared), 'label')} in several identity records, the first is {shared[0]}")
    return problems


def _pair_problems(pairs, num_genuine, num_impostor):
    problems = []
    twice = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if len(twice):
        problems.append(f"{counted(len(twice), 'pair')} of a picture with itself, the first is pair {twice[0]}")
    if not num_genuine or not num_impostor:
        problems.append(f"no {'impostor' if num_genuine else 'genuine'} pair")
    if len(pairs) < _FOLDS:
        problems.append(f"{counted(len(pairs), 'pair')}, too few for {_FOLDS} folds")
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
