"""Report the contents and the problems of a training or verification set."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseface.core.cpus import decoding_threads
from denseface.core.parallel import ordered_map
from denseface.core.text import counted, listed
from denseface.data.pairs import read_pairs
from denseface.data.pictures import decode
from denseface.data.recordio import RecordError
from denseface.data.records import FaceRecords
from denseface.datasets.manifest import read_manifest
from denseface.datasets.output import Progress, no_progress
from denseface.datasets.pairing import FOLDS
from denseface.datasets.picture_checks import Checked, Pictures, Tally, are_near, check_picture, reduced

if TYPE_CHECKING:
    from denseface.datasets.manifest import Entry

_AHEAD = 64
_NAMED = 5  # of a group of equal pictures
_ENLARGED = "blurred, or enlarged from less than a quarter of its size"


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
    near_copies : list of str
        The pictures that are nearly the same as an earlier one of their person, with that one. Those of a set without
        identities are not looked for.
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
    near_copies: list[str]
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

    Pictures are named by key, and by file if ``manifest.csv`` has it.

    Raises
    ------
    InputError
        If the set cannot be opened.
    """
    with FaceRecords(folder) as records:
        keys = records.keys.tolist()
        labels = np.full(len(keys), -1)
        faults = []
        tally = Tally()
        check, threads = partial(_check_record, records), decoding_threads()
        with ordered_map(check, keys, threads, _AHEAD) as checked:
            for index, found in enumerate(checked):
                tally.add(found.picture)
                if found.label_fault:
                    faults.append(found.label_fault)
                else:
                    labels[index] = found.label
                on_progress(index + 1, len(keys))
        copies = tally.copies()
        near = tally.near_copies(labels, partial(_are_near, records, keys)) if records.num_classes > 1 else []
        named = [*tally.blank, *tally.enlarged, *itertools.chain.from_iterable([*copies, *near])]
        manifest = read_manifest(folder, (keys[index] for index in named))
        pictures = tally.pictures(lambda index: _record_name(keys[index], labels[index], manifest))
        shared = [len({labels[index] for index in group} - {-1}) > 1 for group in copies]
        counts = np.bincount(labels[labels >= 0], minlength=records.num_classes)
        height, width = records.image_shape
        problems = [
            *_picture_problems(pictures),
            *_copy_problems("of several people", itertools.compress(pictures.copies, shared)),
            *_copy_problems("repeated", itertools.compress(pictures.copies, np.logical_not(shared))),
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
            near_copies=[
                f"{_record_name(keys[later], labels[later], manifest)} ~ "
                f"{_record_name(keys[earlier], labels[earlier], manifest)}"
                for earlier, later in near
            ],
            problems=problems,
        )


def inspect_pairs(path: str | Path, on_progress: Progress = no_progress) -> PairsReport:
    """Decode every picture of a verification set, and compare the pairs.

    Raises
    ------
    InputError
        If the set cannot be read.
    """
    pair_set = read_pairs(path)
    images, pairs = pair_set.unique()
    _, firsts = np.unique(pairs, return_index=True)
    names = [f"image {first} (pair {first // 2})" for first in firsts.tolist()]
    tally = Tally()
    with ordered_map(check_picture, images, decoding_threads(), _AHEAD) as results:
        for index, checked in enumerate(results):
            tally.add(checked._replace(fault=checked.fault and f"{path}: {names[index]}: {checked.fault}"))
            on_progress(index + 1, len(images))
    pictures = tally.pictures(names.__getitem__)
    same_pixels = np.arange(len(images))
    for group in tally.copies():
        same_pixels[group] = group[0]
    problems = [*_picture_problems(pictures), *_pair_problems(same_pixels[pairs], pair_set.issame)]
    num_genuine = int(pair_set.issame.sum())
    return PairsReport(str(path), num_genuine, len(pairs) - num_genuine, pictures, problems)


class _CheckedRecord(NamedTuple):
    picture: Checked
    label: int = -1
    label_fault: str | None = None


def _check_record(records: FaceRecords, key: int) -> _CheckedRecord:
    try:
        record = records.reader.read(key)
    except RecordError as error:
        return _CheckedRecord(Checked(None, str(error)))
    picture = check_picture(record.payload)
    picture = picture._replace(fault=picture.fault and f"{records.reader.path}: key {key}: {picture.fault}")
    try:
        return _CheckedRecord(picture, records.label(record))
    except RecordError as error:
        return _CheckedRecord(picture, label_fault=str(error))


def _are_near(records: FaceRecords, keys: Sequence[int], one: int, other: int) -> bool:
    return are_near(*(reduced(decode(records.reader.read(keys[index]).payload)) for index in (one, other)))


def _record_name(key: int, label: object, manifest: Mapping[int, Entry]) -> str:
    """Name a record by its file, unless the manifest is of other records."""
    entry = manifest.get(key)
    return f"key {key} ({entry.file if entry and entry.label == str(label) else f'label {label}'})"


def _picture_problems(pictures: Pictures) -> list[str]:
    kinds = (("cannot be read", pictures.broken), ("of one color", pictures.blank), (_ENLARGED, pictures.enlarged))
    return [f"{counted(len(found), 'picture')} {kind}: {listed(found)}" for kind, found in kinds if found]


def _copy_problems(kind: str, groups: Iterable[Sequence[str]]) -> list[str]:
    """Name pictures that have the same pixels."""
    names = [" = ".join(group[:_NAMED]) + " = ..." * (len(group) > _NAMED) for group in groups]
    return [f"{counted(len(names), 'picture')} {kind}: {listed(names)}"] if names else []


def _label_problems(faults: Sequence[str], counts: np.ndarray) -> list[str]:
    problems = []
    if faults:
        problems.append(
            f"{counted(len(faults), 'picture')} with a label outside the classes in property, the first: {faults[0]}"
        )
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        problems.append(
            f"{len(empty)} of the {len(counts)} classes in property without a picture: {listed(list(map(str, empty)))}"
        )
    return problems


def _size_problem(pictures: Pictures, size: str) -> list[str]:
    others = sum(count for found, count in pictures.sizes.items() if found != size)
    return [f"{counted(others, 'picture')} of another size than {size}, the size in property"] if others else []


def _identity_problems(identities: np.ndarray, labels: np.ndarray) -> list[str]:
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


def _pair_problems(pairs: np.ndarray, issame: np.ndarray) -> list[str]:
    """Look for wrong pairs and for folds that verification cannot use; equal pictures have equal numbers."""
    twice = pairs[:, 0] == pairs[:, 1]
    _, numbers = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)  # of shape (n, 1) in NumPy 2.0
    contradictory = np.isin(numbers, np.intersect1d(numbers[issame], numbers[~issame]))
    problems = []
    for noun, kind, wrong in (
        ("genuine pair", "of a picture with itself", twice & issame),
        ("impostor pair", "of a picture with itself", twice & ~issame),
        ("pair", "both genuine and impostor", contradictory & ~twice),
    ):
        if wrong.any():
            named = [f"pair {index}" for index in np.flatnonzero(wrong).tolist()]
            problems.append(f"{counted(len(named), noun)} {kind}: {listed(named)}")
    if len(pairs) < FOLDS:
        problems.append(f"{counted(len(pairs), 'pair')}, too few for {FOLDS} folds")
    for noun, is_of_kind in (("genuine", issame), ("impostor", ~issame)):
        empty = sum(not fold.any() for fold in np.array_split(is_of_kind, FOLDS))
        if not is_of_kind.any():
            problems.append(f"no {noun} pair")
        elif empty and len(pairs) >= FOLDS:
            problems.append(
                f"{empty} of {FOLDS} folds without {noun} pairs, on which InsightFace's verification divides by zero"
            )
    return problems


def _quantiles(counts: np.ndarray) -> dict[str, float]:
    if not len(counts):
        return {}
    return {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())}


def _histogram(counts: np.ndarray) -> dict[str, int]:
    bins = Counter(int(count).bit_length() for count in counts)
    return {_bin_name(1 << bits - 1, (1 << bits) - 1): bins[bits] for bits in sorted(bins)}


def _bin_name(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
