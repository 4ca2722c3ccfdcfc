"""Build a verification set from a list of pairs: LFW's ``pairs.txt``, or a list of paths."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import read_lines
from denseface.data.folders import existing
from denseface.data.pairs import failure_to_enroll, write_pairs
from denseface.data.pictures import PICTURE_SUFFIXES
from denseface.datasets.faces import DEFAULT_ENCODING, Encoding, Face, encode_faces
from denseface.datasets.output import Progress, no_progress, replacing_csv
from denseface.datasets.pairing import spread

_ANY_SUFFIX = (*PICTURE_SUFFIXES, *map(str.upper, PICTURE_SUFFIXES))
_FORMS = "NAME N1 N2, NAME1 N1 NAME2 N2 or PATH1 PATH2 0|1, with tabs between the fields if names contain spaces"

UNFOUND = ("omit", "center", "fail")


@dataclass(frozen=True)
class BuiltPairs:
    """What `build_from_list` has written.

    Attributes
    ----------
    num_genuine, num_impostor : int
        The numbers of pairs in the set.
    num_omitted : int
        The number of pairs of the list that are not in it.
    bad : list of Face
        The pictures that no face could be cut out of; those with a payload are in the set.
    bad_file : Path
        The table of them, ``NAME.bad.csv`` beside ``NAME.bin``; it exists only if there are any.
    """

    num_genuine: int
    num_impostor: int
    num_omitted: int
    bad: list[Face]
    bad_file: Path


@dataclass(frozen=True, eq=False)
class PairList:
    """The pairs of a list.

    Attributes
    ----------
    files : list of str, of length 2n
        Paths of pictures below the folder of all pictures; pair i consists of 2i and 2i + 1.
    issame : ndarray of shape (n,), bool
        Whether the pair is genuine.
    lines : list of int, of length n
        The line of each pair, counted from 1.
    has_folds : bool
        Whether the order of the pairs makes folds: not in a list that announces one number of pairs of each kind, as
        LFW's for development, and has first all genuine and then all impostor pairs.
    """

    files: list[str]
    issame: np.ndarray
    lines: list[int]
    has_folds: bool = True


def read_pair_list(path: str | Path, images: str | Path) -> PairList:
    """Read a list of pairs and find their pictures.

    Parameters
    ----------
    path : path-like
        The list, in UTF-8. Each line has one of these forms, with tabs between the fields, or, if no field contains a
        space, with spaces:

        - ``NAME N1 N2``: two pictures of one person, ``NAME/NAME_0001.jpg`` if N1 is 1, with any suffix of a picture
        - ``NAME1 N1 NAME2 N2``: pictures of two people
        - ``PATH1 PATH2 0|1``: two paths below ``images``, and 1 for a genuine pair

        A first line of one or two numbers, as in LFW's lists, is the number of pairs of each kind: in all, or per fold
        after the number of folds. Empty lines are skipped.
    images : path-like
        The folder of all pictures, which no path may leave, not even through a link.

    Returns
    -------
    PairList

    Raises
    ------
    InputError
        If the list cannot be read or contains no pair, a line has another form, the number of pairs is not that of the
        first line, or a picture is missing or lies outside ``images``.
    """
    folder = _Folder(images)
    files: list[str] = []
    issame: list[bool] = []
    lines: list[int] = []
    announced = None
    has_folds = True
    missing: list[str] = []
    for number, line in read_lines(path):
        fields = _split(line)
        if not fields:
            continue
        if not lines and announced is None and len(fields) <= 2 and all(map(_is_number, fields)):
            announced = 2 * int(fields[-1]) * (int(fields[0]) if len(fields) == 2 else 1)
            has_folds = len(fields) == 2
            continue
        pair = _parse(fields)
        if pair is None:
            raise InputError(f"line {number}: not of the form {_FORMS}", path=path)
        try:
            files += map(folder.find, pair[:2])
        except InputError as error:
            missing.append(f"line {number}: {error}")
        issame.append(pair[2])
        lines.append(number)
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{others}", path=path)
    if not lines:
        raise InputError(f"contains no pair; write lines of the form {_FORMS}", path=path)
    if announced not in (None, len(lines)):
        raise InputError(f"the first line announces {announced} pairs, but there are {len(lines)}", path=path)
    return PairList(files, np.array(issame), lines, has_folds)


def build_from_list(
    path: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    encoding: Encoding = DEFAULT_ENCODING,
    unfound: str = "omit",
    on_progress: Progress = no_progress,
) -> BuiltPairs:
    """Build a verification set from a list of pairs, in the list's order.

    The pairs of a list without folds are spread over ten folds, in its order of the genuine and of the impostor pairs.

    Parameters
    ----------
    path, images : path-like
        As for `read_pair_list`; ``images`` defaults to the list's folder.
    out : path-like
        The file to write, a ``.bin``; an existing file is replaced.
    encoding : Encoding
        How the faces are cut and encoded.
    unfound : {"omit", "center", "fail"}
        What becomes of a pair with a picture that no face can be cut out of: it is left out; or the middle of the
        picture is taken, `denseface.data.cropping.cut_middle`; or the picture is kept as a failure to enroll, which
        never matches. A broken picture has no middle: its pairs are left out then.
    on_progress : callable
        Called with the number of pictures that are done, and of all.

    Returns
    -------
    BuiltPairs

    Raises
    ------
    InputError
        If the list cannot be used, no pair or pairs of one kind only are left, or ``out`` cannot be written.
    """
    if Path(out).suffix != ".bin":
        raise InputError("the name of a verification set must end in .bin", path=out)
    if unfound not in UNFOUND:
        raise InputError(f"must be one of {', '.join(UNFOUND)}, not {unfound}", option="unfound")
    images = Path(path).parent if images is None else Path(images)
    pairs = read_pair_list(path, images)
    faces = _encode(images, pairs.files, encoding, unfound, on_progress)
    bad = [face for face in faces if face.reason is not None]
    payloads = {face.file: face.payload for face in faces if face.payload is not None}
    kept = _kept(path, pairs, payloads, bad)
    bad_file = Path(out).with_suffix(".bad.csv")
    if bad:
        with replacing_csv(bad_file, ("file", "reason")) as table:
            table.writerows((face.file, face.reason) for face in bad)
    else:
        bad_file.unlink(missing_ok=True)
    people, issame = _people(pairs), pairs.issame[kept]
    order = [2 * index + side for index in kept for side in (0, 1)]
    write_pairs(out, [payloads[pairs.files[i]] for i in order], issame, people and [people[i] for i in order])
    return BuiltPairs(int(issame.sum()), int((~issame).sum()), len(pairs.issame) - len(kept), bad, bad_file)


def _encode(images: Path, files: list[str], encoding: Encoding, unfound: str, on_progress: Progress) -> list[Face]:
    """Encode each distinct file; one without a face has a payload only if ``unfound`` keeps it."""
    distinct = list(dict.fromkeys(files))
    faces = []
    with contextlib.closing(encode_faces(images, distinct, encoding, middle=unfound == "center")) as encoded:
        for done, face in enumerate(encoded, 1):
            if face.reason is not None and unfound == "fail":
                face = face._replace(payload=failure_to_enroll(face.file, encoding.size))
            faces.append(face)
            on_progress(done, len(distinct))
    return faces


def _kept(path: str | Path, pairs: PairList, payloads: dict[str, bytes], bad: list[Face]) -> list[int]:
    """Return the indices of the pairs of two payloads, in the order of the set."""
    has_payload = [file in payloads for file in pairs.files]
    kept = np.flatnonzero(np.logical_and(has_payload[::2], has_payload[1::2]))
    issame = pairs.issame[kept]
    if len(set(issame.tolist())) < len(set(pairs.issame.tolist())):
        kind = "" if not len(issame) else "impostor " if issame[0] else "genuine "
        line = pairs.lines[pairs.files.index(bad[0].file) // 2]
        raise InputError(f"no {kind}pair is left; line {line}: {bad[0].file}: {bad[0].reason}", path=path)
    if not pairs.has_folds:
        order = spread(int(issame.sum()), int((~issame).sum()))
        genuine, impostor = kept[issame], kept[~issame]
        kept[order], kept[~order] = genuine, impostor
    return kept.tolist()


def _people(pairs: PairList) -> list[str] | None:
    """Return the folder of each picture, if that is the person's: no pair of the list contradicts it."""
    people = [os.path.dirname(file) for file in pairs.files]
    equal = [one == other for one, other in zip(people[::2], people[1::2])]
    return people if equal == pairs.issame.tolist() else None


class _Folder:
    """The folder of all pictures."""

    def __init__(self, path: str | Path):
        self._root = os.path.realpath(path)
        if not os.path.isdir(self._root):
            raise InputError("not a folder", path=path)

    def find(self, name: str) -> str:
        """Return the path of a picture below the folder; its suffix may lack, its accents be composed or not."""
        for suffix in ("", *_ANY_SUFFIX) if "\0" not in name else ():
            path = existing(os.path.normpath(os.path.join(self._root, name + suffix)))
            if os.path.commonpath([self._root, os.path.realpath(path)]) != self._root:
                raise InputError(f"{name} lies outside {self._root}")
            if os.path.isfile(path):
                return os.path.relpath(path, self._root)
        raise InputError(f"no picture {name} in {self._root}")


def _split(line: str) -> list[str]:
    """Split a line at its tabs; only a line without tabs at its spaces."""
    fields = (field.strip() for field in (line.split("\t") if "\t" in line.strip() else line.split()))
    return [field for field in fields if field]


def _parse(fields: list[str]) -> tuple[str, str, bool] | None:
    """Return the two pictures of a line, and whether they show one person."""
    if len(fields) == 4 and _is_number(fields[1]) and _is_number(fields[3]):
        return _lfw_name(*fields[:2]), _lfw_name(*fields[2:]), False
    if len(fields) == 3 and _is_number(fields[1]) and _is_number(fields[2]):
        return _lfw_name(fields[0], fields[1]), _lfw_name(fields[0], fields[2]), True
    if len(fields) == 3 and fields[2] in ("0", "1"):
        return fields[0], fields[1], fields[2] == "1"
    return None


def _lfw_name(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", text) is not None
