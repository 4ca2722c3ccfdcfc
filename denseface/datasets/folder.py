"""Build a training set, and a verification set, from one folder of pictures per person."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.text import counted, listed
from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.datasets.faces import DEFAULT_ENCODING, Encoding, Face, encode_faces
from denseface.datasets.manifest import write_manifest
from denseface.datasets.output import Progress, fresh_folder, no_progress, replacing_csv
from denseface.datasets.pairing import draw_pairs
from denseface.datasets.people import Person, find_people, read_names

DEFAULT_PAIRS = 3000  # of each kind, as LFW has


@dataclass(frozen=True)
class Summary:
    """What `build_from_folder` has written.

    Attributes
    ----------
    num_classes, num_images : int
        The numbers of people and of pictures to train on.
    num_holdout, num_genuine, num_impostor : int
        The numbers of people and of pairs of the verification set; 0 without one.
    left_out : list of str
        The people with too few usable pictures.
    num_few : int
        The number of their pictures, listed in ``few.csv``.
    num_bad : int
        The number of files listed in ``bad.csv``.
    reasons : dict of (str, str or None) to int
        How many of those have the same kind of fault; with the parameter by which such pictures can be used.
    num_absent : dict of str to int
        By the parameters that are lists, how many of their names nobody has.
    """

    num_classes: int
    num_images: int
    num_holdout: int
    num_genuine: int
    num_impostor: int
    left_out: list[str]
    num_few: int
    num_bad: int
    reasons: dict[tuple[str, str | None], int]
    num_absent: dict[str, int]


@dataclass(frozen=True)
class Split:
    """Which people are trained on, and which pairs of the others make the verification set.

    Parameters
    ----------
    people : path-like, optional
        A list of the people to train on, see `denseface.datasets.people.read_names`; by default everybody.
    holdout : int, float or path-like
        The number of people in the verification set, or their fraction as a float below 1. They are drawn from the
        people with at least two pictures, and at least ``min_pictures``. Or a list of these people, who need not be in
        that of ``people``. Nobody trains on them.
    exclude : path-like, optional
        A list of people who are left out; some of them may not be there.
    min_pictures : int
        People with fewer usable pictures are left out.
    unlabeled : bool
        The pictures have no identities: those in the folder and its subfolders become one class, for a network that
        learns from a teacher. Without ``people``, ``holdout`` and ``exclude``.
    max_pairs : int, optional
        The largest number of genuine and of impostor pairs; None for all.
    seed : int
        Decides who is held out and which pairs are drawn.

    Raises
    ------
    InputError
        If ``unlabeled`` is combined with another parameter that chooses people.
    """

    people: str | Path | None = None
    holdout: int | float | str | Path = 0
    exclude: str | Path | None = None
    min_pictures: int = 1
    unlabeled: bool = False
    max_pairs: int | None = DEFAULT_PAIRS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unlabeled and self.holdout:
            raise InputError("pictures without identities make no pairs to verify on; leave it out", option="holdout")
        if self.unlabeled and (self.people or self.exclude):
            option = "people" if self.people else "exclude"
            raise InputError("pictures without identities have nobody to choose; leave it out", option=option)


DEFAULT_SPLIT = Split()


def build_from_folder(
    source: str | Path,
    out: str | Path,
    split: Split = DEFAULT_SPLIT,
    encoding: Encoding = DEFAULT_ENCODING,
    on_progress: Progress = no_progress,
) -> Summary:
    """Build a training set from one folder of pictures per person.

    A person's pictures are those in the person's folder and its subfolders. People and pictures are sorted by name, and
    the same arguments always produce the same files:

    ``train.rec``, ``train.idx``, ``property``
        The training set in InsightFace's layout.
    ``manifest.csv``
        Key, label, person and file of each of its records.
    ``holdout.bin``, ``holdout.csv``
        If people are held out: the verification set, and the two files of each pair, with 1 for a genuine pair.
    ``bad.csv``
        The files that cannot be used, and the reasons; written only if there are any. Hidden files, thumbnails, and
        people who are not selected are not in it.
    ``few.csv``
        The usable pictures of people with too few of them; written only if there are any.

    Parameters
    ----------
    source : path-like
        The folder of people. Links that stay inside it are followed.
    out : path-like
        The folder to make, outside ``source``. It may exist if it is empty.
    split : Split
        Which people are trained on, and which are held out; by default all are trained on.
    encoding : Encoding
        How the faces are cut and encoded.
    on_progress : callable
        Called with the number of pictures that are done, and of all.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        If no picture is left to train on, ``split`` names or counts absent people, or ``out`` cannot be made.
    """
    source = Path(source)
    _check_apart(source, out)
    everybody, faults = find_people(source, split.unlabeled)
    groups = _divide(source, everybody, split)
    rejected = _Rejected({file: _Fault(reason, reason) for file, reason in faults.items()})
    files = groups.files
    with fresh_folder(out) as folder, contextlib.closing(encode_faces(source, files, encoding)) as encoded:
        faces = _counted(encoded, len(files), on_progress)
        held_faces = dict(rejected.usable(groups.held_out, faces))
        issame = _write_holdout(folder, held_faces, split) if held_faces else np.zeros(0, bool)
        training = rejected.with_enough(groups.training, faces, split.min_pictures)
        written = _write_training(folder, training, encoding.size, source, rejected)
        rejected.write(folder)
    return _summary(written, groups, issame, rejected)


class _Groups(NamedTuple):
    """The people to hold out and to train on; by list, how many of its names nobody has."""

    held_out: list[Person]
    training: list[Person]
    num_absent: dict[str, int]

    @property
    def files(self) -> list[str]:
        """All pictures, first of people held out: their pairs are drawn before training records are written."""
        return [file for person in self.held_out + self.training for file in person.files]


class _Written(NamedTuple):
    """The numbers of people and of pictures of a training set."""

    num_classes: int
    num_images: int


class _Fault(NamedTuple):
    """Why a file cannot be used: a reason, its kind, and the parameter that helps."""

    reason: str
    kind: str
    remedy: str | None = None


@dataclass
class _Rejected:
    """The faults of files, the owners of usable files of people with too few, and the names of these people."""

    bad: dict[str, _Fault]
    few: dict[str, str] = field(default_factory=dict)
    people: list[str] = field(default_factory=list)

    def usable(self, people: Iterable[Person], faces: Iterator[Face]) -> Iterator[tuple[str, list[Face]]]:
        """Yield the usable faces of each person, and add the others to ``bad``."""
        for person in people:
            found = list(itertools.islice(faces, len(person.files)))
            self.bad.update(
                (face.file, _Fault(face.reason, face.kind, face.remedy)) for face in found if face.reason is not None
            )
            yield person.name, [face for face in found if face.payload is not None]

    def with_enough(
        self, people: Iterable[Person], faces: Iterator[Face], min_pictures: int
    ) -> Iterator[tuple[str, list[Face]]]:
        """Yield the people with enough usable faces, and add the others to ``people`` and their files to ``few``."""
        for name, usable in self.usable(people, faces):
            if len(usable) >= min_pictures:
                yield name, usable
            else:
                self.people.append(name)
                self.few.update((face.file, name) for face in usable)

    def write(self, folder: Path) -> None:
        """Write the tables that have rows."""
        bad = [(file, fault.reason) for file, fault in sorted(self.bad.items())]
        for name, heading, rows in (("bad", "reason", bad), ("few", "person", list(self.few.items()))):
            if rows:
                with replacing_csv(folder / f"{name}.csv", ("file", heading)) as table:
                    table.writerows(rows)


def _divide(source: Path, everybody: list[Person], split: Split) -> _Groups:
    """Decide who is held out and who is trained on."""
    number, listing = (split.holdout, None) if isinstance(split.holdout, (int, float)) else (0, split.holdout)
    lists = {"people": split.people, "exclude": split.exclude, "holdout": listing}
    chosen, num_absent = _read_lists(source, lists, [person.name for person in everybody])
    selected = _selected(everybody, chosen)
    if "holdout" in chosen:
        held_out = [person for person in everybody if person.name in chosen["holdout"]]
        training = [person for person in selected if person.name not in chosen["holdout"]]
    else:
        held_out, training = _draw_people(selected, number, max(2, split.min_pictures), split.seed)
    return _Groups(held_out, training, num_absent)


def _read_lists(
    source: Path, lists: Mapping[str, str | Path | None], names: list[str]
) -> tuple[dict[str, set[str]], dict[str, int]]:
    """Read the lists that are given: who is in each, and how many of each are not there."""
    chosen: dict[str, set[str]] = {}
    num_absent: dict[str, int] = {}
    for option, path in lists.items():
        if path is None:
            continue
        found, absent = read_names(path, names)
        if absent and option != "exclude":
            raise InputError(
                f"{counted(len(absent), 'person')} without a folder in {source}: {listed(absent)}",
                path=path,
                option=option,
            )
        chosen[option], num_absent[option] = set(found), len(absent)
    both = sorted(chosen.get("holdout", set()) & chosen.get("exclude", set()))
    if both:
        raise InputError(f"{listed(both)}: in the list of people held out, too", option="exclude")
    return chosen, num_absent


def _selected(everybody: list[Person], chosen: Mapping[str, set[str]]) -> list[Person]:
    """Return the people to train on or to draw from."""
    excluded = chosen.get("exclude", set())
    return [
        person
        for person in everybody
        if person.name not in excluded and ("people" not in chosen or person.name in chosen["people"])
    ]


def _check_apart(source: str | Path, out: str | Path) -> None:
    inside, around = (Path(os.path.realpath(path)) for path in (out, source))
    if around in (inside, *inside.parents):
        raise InputError(f"lies inside {source}, where it would count as a person; name another folder", path=out)


def _draw_people(
    people: list[Person], holdout: int | float, min_pictures: int, seed: int
) -> tuple[list[Person], list[Person]]:
    """Draw the people held out; return them and the others, both sorted by name."""
    if not holdout:
        return [], people
    able = [person for person in people if len(person.files) >= min_pictures]
    count = round(holdout * len(able)) if isinstance(holdout, float) else holdout
    if not 2 <= count <= len(able):
        raise InputError(
            f"{holdout} selects {counted(count, 'person')}; select at least 2, and at most the {len(able)} who have "
            f"{min_pictures} pictures",
            option="holdout",
        )
    if count == len(people):
        raise InputError(f"{holdout} selects everybody, so nobody is left to train on", option="holdout")
    chosen = {person.name for person in random.Random(seed).sample(able, count)}
    held_out = [person for person in people if person.name in chosen]
    return held_out, [person for person in people if person.name not in chosen]


def _counted(faces: Iterable[Face], total: int, on_progress: Progress) -> Iterator[Face]:
    for done, face in enumerate(faces, 1):
        on_progress(done, total)
        yield face


def _write_training(
    folder: Path, people: Iterable[tuple[str, list[Face]]], size: int, source: Path, rejected: _Rejected
) -> _Written:
    """Write the records and the manifest."""
    num_images = 0

    def labeled():
        nonlocal num_images
        for label, (person, faces) in enumerate(people):
            for face in faces:
                num_images += 1  # also the key
                manifest.writerow((num_images, label, person, face.file))
                yield label, face.payload
        if not num_images:
            faults = [f"{file}: {fault.reason}" for file, fault in rejected.bad.items()]
            faults += [f"{file}: {person} has too few" for file, person in rejected.few.items()]
            reasons = "".join(f"; {fault}" for fault in faults[-1:])
            raise InputError(f"no person has enough usable pictures to train on{reasons}", path=source)

    with write_manifest(folder) as manifest:
        written = write_face_records(folder, labeled(), (size, size))
    return _Written(written.num_classes, num_images)


def _write_holdout(folder: Path, people: Mapping[str, list[Face]], split: Split) -> np.ndarray:
    """Write the verification set; return whether each pair is genuine."""
    faces = [face for found in people.values() for face in found]
    owners = np.repeat(np.arange(len(people)), [len(found) for found in people.values()])
    pairs, issame = draw_pairs(owners, split.max_pairs, split.seed)
    names = np.array(list(people), object)[owners[pairs.ravel()]].tolist()
    write_pairs(folder / "holdout.bin", [faces[index].payload for index in pairs.ravel().tolist()], issame, names)
    with replacing_csv(folder / "holdout.csv", ("file1", "file2", "same")) as table:
        for (first, second), same in zip(pairs.tolist(), issame.tolist()):
            table.writerow((faces[first].file, faces[second].file, int(same)))
    return issame


def _summary(written: _Written, groups: _Groups, issame: np.ndarray, rejected: _Rejected) -> Summary:
    return Summary(
        num_classes=written.num_classes,
        num_images=written.num_images,
        num_holdout=len(groups.held_out),
        num_genuine=int(issame.sum()),
        num_impostor=int((~issame).sum()),
        left_out=rejected.people,
        num_few=len(rejected.few),
        num_bad=len(rejected.bad),
        reasons=dict(Counter((fault.kind, fault.remedy) for fault in rejected.bad.values()).most_common()),
        num_absent=groups.num_absent,
    )
