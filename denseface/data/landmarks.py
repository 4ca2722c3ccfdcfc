"""Files of landmarks: written by people and other detectors, or by ``denseface detect``.

In the plain form a line is ``picture x1 y1 x2 y2 x3 y3 x4 y4 x5 y5``, one face per picture, separated by spaces or
tabs; the picture's path may have spaces itself. What ``denseface detect`` writes has tabs only, any number of faces per
picture, and three more things: the detector, in its first line; the box, the score and the picture's size, after the
landmarks; and a line ``#``, picture, reason for each picture without a face.
"""

from __future__ import annotations

import itertools
import json
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import read_lines, sha256_of
from denseface.data.align import LANDMARK_ORDER, SURELY_FACE, check_landmarks, crop_side, likely_order, residuals
from denseface.data.detection import FaceError, Faces

_LABELED = re.compile(r"\.[A-Za-z]\w*\s+[-+.\d]+\s*$")  # a name with a suffix, then a number
_HEADING = "# denseface detect "
_POINTS = ["x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "x5", "y5"]
_COLUMNS = ["picture", *_POINTS, "left", "top", "right", "bottom", "score", "width", "height"]
_LARGEST_COORDINATE = 1e6
_FRACTION = 1.5  # if all landmarks are below this, they are fractions of the picture's size, not pixels


class Located(NamedTuple):
    """The faces that a file lists for a picture.

    Attributes
    ----------
    faces : Faces
        In the order of the file.
    size : tuple (width, height), optional
        Of the picture that they were found in, in pixels.
    """

    faces: Faces
    size: tuple[int, int] | None


class LandmarkFile:
    """The landmarks of pictures, read from a file.

    A path in the file is relative to the file's folder. Where there is no such picture, because the file lies
    elsewhere, it is the end of a picture's path: ``anna/1.jpg`` stands for ``photos/anna/1.jpg``.

    Parameters
    ----------
    path : path-like
        The file, in one of the forms that this module describes.

    Attributes
    ----------
    description : dict
        ``landmarks``, the file's name, and ``sha256`` of its content; and ``detector``, a dict, if it says which
        detector found them.

    Raises
    ------
    InputError
        If the file cannot be read, a line has another form, a plain file has a picture twice, or most of the lines are
        not the landmarks of a face; the message then names the likely cause.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._folder = os.path.dirname(os.path.abspath(path))
        self.description: dict = {"landmarks": self.path.name, "sha256": sha256_of(path)}
        self._rows: dict[str, list[int]] = {}
        self._reasons: dict[str, str] = {}
        self._meant: dict[str, str] = {}  # the picture that each ambiguous path was used for
        lines = iter(read_lines(path))
        first = next(lines, (1, ""))
        is_detected = first[1].startswith(_HEADING)
        width = len(_COLUMNS) - 1 if is_detected else len(_POINTS)
        read = self._read_detected if is_detected else self._read_plain
        numbers = read(itertools.chain([first], lines), width)
        self._composed = {_compose(key): key for key in (*self._rows, *self._reasons)}
        self._numbers = np.array(numbers, np.float64).reshape(-1, width)
        _check_most(self.path, self._numbers[:, :10].reshape(-1, 5, 2))

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the pictures that have faces, as the file names them."""
        return iter(self._rows)

    def number_of_faces(self, picture: str) -> int:
        """Return how many faces a picture has, by its name in the file."""
        return len(self._rows[picture])

    def locate(self, picture: str | os.PathLike) -> Located:
        """Look up the faces of a picture by its path.

        Raises
        ------
        FaceError
            If the file has none.
        InputError
            If the file does not say which of two pictures a line belongs to.
        """
        key = self._find(os.path.abspath(picture))
        if key is None:
            raise FaceError(f"no landmarks of it are in {self.path}", "no landmarks in the file", "landmarks")
        if key in self._reasons:
            raise FaceError(self._reasons[key], "no face found", "landmarks")
        rows = self._numbers[self._rows[key]]
        landmarks = rows[:, :10].reshape(-1, 5, 2)
        if rows.shape[1] == len(_POINTS):
            return Located(Faces(_boxes_around(landmarks), np.ones(len(rows)), landmarks), None)
        return Located(Faces(rows[:, 10:14], rows[:, 14], landmarks), (int(rows[0, 15]), int(rows[0, 16])))

    def require_any(self, pictures: Iterable[str | os.PathLike]) -> None:
        """Check, before pictures are read, that the file knows at least one of them.

        Raises
        ------
        InputError
            If it knows none; the message says by which paths it names pictures.
        """
        first, count = None, 0
        for picture in pictures:
            if self._find(os.path.abspath(picture)) is not None:
                return
            first, count = first or picture, count + 1
        if first is not None:
            example = next(iter((*self._rows, *self._reasons)), None)
            named = f"it names {example}, for example" if example else "it is empty"
            raise InputError(
                f"has none of the {count} pictures, such as {first}: {named}; write paths relative to this file, or "
                "ends of the pictures' paths",
                path=self.path,
            )

    def _read_plain(self, lines: Iterator[tuple[int, str]], width: int) -> list[list[float]]:
        numbers: list[list[float]] = []
        for number, line in lines:
            name, *values = line.rsplit(None, width) or ("",)
            if not name:
                continue
            if _LABELED.search(name):
                raise InputError(
                    f"line {number}: more than {width} numbers follow the name; leave the label out", path=self.path
                )
            picture = posixpath.normpath(name.strip())
            if picture in self._rows:
                raise InputError(f"line {number}: {picture} is there twice", path=self.path)
            self._rows[picture] = [len(numbers)]
            numbers.append(self._floats(values, width, number))
        return numbers

    def _read_detected(self, lines: Iterator[tuple[int, str]], width: int) -> list[list[float]]:
        try:
            detector = json.loads(next(lines)[1][len(_HEADING) :])
        except (ValueError, RecursionError):
            detector = None
        if not isinstance(detector, dict) or any(type(value) not in (str, type(None)) for value in detector.values()):
            raise InputError(
                "line 1 does not say which detector found the faces; run denseface detect again", path=self.path
            )
        self.description["detector"] = detector
        numbers: list[list[float]] = []
        for number, line in itertools.islice(lines, 1, None):
            name, *values = line.split("\t")
            if name == "#" and len(values) == 2:
                self._reasons[posixpath.normpath(values[0])] = values[1]
            elif line:
                self._rows.setdefault(posixpath.normpath(name), []).append(len(numbers))
                numbers.append(self._floats(values, width, number))
        return numbers

    def _floats(self, values: list[str], count: int, number: int) -> list[float]:
        try:
            floats = [float(value) for value in values]
        except ValueError:
            floats = []
        if len(floats) != count or not all(abs(value) <= _LARGEST_COORDINATE for value in floats):
            raise InputError(f"line {number} is not a picture's path and x, y of 5 points", path=self.path)
        return floats

    def _find(self, picture: str) -> str | None:
        """Return the path by which the file names a picture."""
        for name in (_relative(picture, self._folder), picture):
            key = self._key(name)
            if key == name or (key is not None and not self._is_another(key, picture)):
                return key
        parts = PurePath(picture).parts[1:]
        for start in range(len(parts)):
            key = self._key("/".join(parts[start:]))
            if key is not None and not self._is_another(key, picture):
                meant = self._meant.setdefault(key, picture)
                if meant != picture and not _is_same(meant, picture):
                    raise InputError(
                        f"{key} could be this picture or {meant}; write longer paths in it", path=self.path
                    )
                return key
        return None

    def _key(self, name: str) -> str | None:
        """Return a path as the file has it, perhaps in another form of Unicode."""
        return name if name in self._rows or name in self._reasons else self._composed.get(_compose(name))

    def _is_another(self, key: str, picture: str) -> bool:
        """Whether a path, taken from the file's folder, is a picture, and not this one."""
        path = os.path.join(self._folder, key)
        return os.path.lexists(path) and not _is_same(path, picture)


def _compose(path: str) -> str:
    """Write a path in one form of Unicode: archives made on macOS have "ë" as two characters."""
    return unicodedata.normalize("NFC", path)


def heading(detector: dict) -> str:
    """Return the first two lines of a file that `LandmarkFile` reads: the detector's description, and the columns."""
    return f"{_HEADING}{json.dumps(detector)}\n# {chr(9).join(_COLUMNS)}\n"


def face_lines(picture: str, faces: Faces, size: tuple[int, int]) -> str:
    """Return the lines with the faces of a picture.

    Parameters
    ----------
    picture : str
        Its path, relative to the file's folder, without tabs and line breaks.
    faces : Faces
    size : tuple (width, height)
        Of the picture, in pixels.
    """
    lines = []
    for box, score, landmarks in zip(*faces):
        numbers = [f"{value:.2f}" for value in (*np.ravel(landmarks), *box)]
        lines.append("\t".join([_escaped(picture), *numbers, f"{score:.4f}", *map(str, size)]) + "\n")
    return "".join(lines)


def are_face_lines(lines: str, picture: str, count: int) -> bool:
    """Whether text is what `face_lines` returns for some number of faces of a picture."""
    line = re.escape(_escaped(picture)) + r"(\t-?\d{1,6}\.\d\d){14}\t-?\d\.\d{4}\t\d{1,6}\t\d{1,6}\n"
    return count < 1000 and re.fullmatch(f"({line}){{{count}}}", lines, re.ASCII) is not None


def reason_line(picture: str, reason: str) -> str:
    """Return the line of a picture without a face."""
    return "\t".join(["#", _escaped(picture), " ".join(reason.split())]) + "\n"


def relative_name(picture: str | Path, file: str | Path) -> str:
    """Return the path by which a file of landmarks names a picture.

    Raises
    ------
    InputError
        If the path has a tab or a line break in it, which the file cannot contain.
    """
    name = _relative(os.path.abspath(picture), os.path.dirname(os.path.abspath(file)))
    if set(name) & set("\t\n\r"):
        raise InputError("its name has a tab or a line break, which a file of landmarks cannot contain; rename it")
    return name


def _relative(picture: str, folder: str) -> str:
    return os.path.relpath(picture, folder).replace(os.sep, "/")


def _escaped(picture: str) -> str:
    return f"./{picture}" if picture.startswith("#") else picture


def _is_same(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def _boxes_around(landmarks: np.ndarray) -> np.ndarray:
    """The upright square about each face that is as large as its crop."""
    sides = np.array([crop_side(points) for points in landmarks])[:, None]
    middles = landmarks.mean(axis=1)
    return np.hstack([middles - sides / 2, middles + sides / 2])


def _check_most(path: Path, landmarks: np.ndarray) -> None:
    """Refuse a file if most of its lines are at fault, and name the commonest fault."""
    suspects = landmarks[(residuals(landmarks) > SURELY_FACE) | (np.abs(landmarks).max(axis=(1, 2)) < _FRACTION)]
    faults = [fault for points in suspects if (fault := _fault(points))]
    if 2 * len(faults) > len(landmarks):
        fault, _ = Counter(faults).most_common(1)[0]
        raise InputError(f"{len(faults)} of {len(landmarks)} lines are not the landmarks of a face: {fault}", path=path)


def _fault(points: np.ndarray) -> str | None:
    """Say what is wrong with landmarks, the same for all that have the same fault."""
    if np.abs(points).max() < _FRACTION:
        return "they are fractions of the picture's size; write pixels"
    order = likely_order(points)
    if order:
        return f"they seem to have {order}; write {LANDMARK_ORDER}"
    try:
        check_landmarks(points)
    except InputError:
        return f"write {LANDMARK_ORDER}"
    return None
