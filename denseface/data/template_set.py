"""Verification of templates: IJB-B and IJB-C in the files that InsightFace's evaluation reads.

The folder of a set contains ``loose_crop/`` with pictures, and ``meta/`` with three files of lines of words:

- ``NAME_name_5pts_score.txt``: a picture, x and y of five points, and the detection score
- ``NAME_face_tid_mid.txt``: the same picture, its template and its medium (a photograph, or a video with many pictures)
- ``NAME_template_pair_label.txt``: two templates, and 1 for one person or 0 for two

References
----------
Whitelam et al., "IARPA Janus Benchmark-B Face Dataset", 2017; Maze et al., "IARPA Janus Benchmark - C", 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import read_lines
from denseface.data.align import align
from denseface.data.pictures import load_picture

_SUFFIXES = ("name_5pts_score.txt", "face_tid_mid.txt", "template_pair_label.txt")
_FARTHEST = 1e6  # pixels from the origin
_LARGEST = (1 << 63) - 1

_Row = TypeVar("_Row")


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """Pictures, the templates that they belong to, and pairs of templates.

    Attributes
    ----------
    name : str
        As in ``ijbc``.
    folder : Path
        Of the pictures.
    files : list of str, of length n
    landmarks : ndarray of shape (n, 5, 2), float32
    scores : ndarray of shape (n,), float32
        Of detection.
    templates, media : ndarray of shape (n,), int64
        The template and the medium of each picture; templates are numbered from 0.
    num_templates : int
    ids : ndarray of shape (num_templates,), int64
        The number that the files give each template.
    pairs : ndarray of shape (m, 2), int64
        Numbers of templates.
    issame : ndarray of shape (m,), bool
    """

    name: str
    folder: Path
    files: list[str]
    landmarks: np.ndarray
    scores: np.ndarray
    templates: np.ndarray
    media: np.ndarray
    num_templates: int
    ids: np.ndarray
    pairs: np.ndarray
    issame: np.ndarray

    def weights(self) -> np.ndarray:
        """Return each picture's weight in its template: its detection score over the number of its medium's pictures.

        So a template is the sum over its media of the means of their embeddings, each multiplied by its score.
        """
        _, group, counts = np.unique(
            np.stack([self.templates, self.media]), axis=1, return_inverse=True, return_counts=True
        )
        return self.scores / counts[group.reshape(-1)]

    def load(self, index: int, size: int) -> np.ndarray:
        """Return a picture aligned by its points, uint8 (size, size, 3).

        Raises
        ------
        InputError
            If it cannot be read, or the points are not those of a face.
        """
        path = self.folder / self.files[index]
        picture = load_picture(path)
        try:
            return align(picture, self.landmarks[index], size)
        except InputError as error:
            raise InputError(str(error), path=path) from error


def read_templates(path: str | Path) -> TemplateSet:
    """Read a set of templates; no picture is opened.

    Raises
    ------
    InputError
        If a file is missing, a line has another form, the first two files are of different pictures, a picture lies
        outside the folder, or a pair names a template without pictures.
    """
    path = Path(path)
    found = sorted((path / "meta").glob(f"*_{_SUFFIXES[0]}"))
    if len(found) != 1:
        raise InputError(f"not a set of templates, which has one file meta/NAME_{_SUFFIXES[0]}", path=path)
    name = found[0].name[: -len(_SUFFIXES[0]) - 1]
    face_path, owner_path, pair_path = (path / "meta" / f"{name}_{suffix}" for suffix in _SUFFIXES)
    faces = list(_rows(face_path, _face, "a picture, ten coordinates and a score of at least 0"))
    owners = list(_rows(owner_path, _owner, "a picture and two whole numbers"))
    files = [face.file for face in faces]
    if files != [file for file, _, _ in owners]:
        raise InputError(f"{face_path.name} and {owner_path.name} are not of the same pictures", path=path)
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{file} lies outside the folder of pictures", path=path)
    ids, owner = np.unique(np.array([template for _, template, _ in owners], np.int64), return_inverse=True)
    rows = np.array(list(_rows(pair_path, _pair, "two whole numbers, and 0 or 1")), np.int64)
    pairs = np.minimum(np.searchsorted(ids, rows[:, :2]), len(ids) - 1)
    unknown = ids[pairs] != rows[:, :2]
    if unknown.any():
        raise InputError(f"template {rows[:, :2][unknown][0]} has no picture", path=pair_path)
    return TemplateSet(
        name=name,
        folder=path / "loose_crop",
        files=files,
        landmarks=np.array([face.landmarks for face in faces], np.float32).reshape(-1, 5, 2),
        scores=np.array([face.score for face in faces], np.float32),
        templates=owner.reshape(-1),
        media=np.array([medium for _, _, medium in owners], np.int64),
        num_templates=len(ids),
        ids=ids,
        pairs=pairs,
        issame=rows[:, 2] == 1,
    )


class _Face(NamedTuple):
    file: str
    landmarks: list[float]
    score: float


def _face(file: str, *numbers: str) -> _Face:
    *landmarks, score = map(float, numbers)
    if len(landmarks) != 10 or not all(abs(value) <= _FARTHEST for value in landmarks) or not 0 <= score < _FARTHEST:
        raise ValueError
    return _Face(file, landmarks, score)


def _owner(file: str, template: str, medium: str) -> tuple[str, int, int]:
    return file, _whole(template), _whole(medium)


def _pair(one: str, other: str, same: str) -> tuple[int, int, int]:
    if same not in ("0", "1"):
        raise ValueError
    return _whole(one), _whole(other), int(same)


def _whole(word: str) -> int:
    number = int(word)
    if abs(number) > _LARGEST:
        raise ValueError
    return number


def _rows(path: Path, read: Callable[..., _Row], form: str) -> Iterator[_Row]:
    """Yield the parsed words of each line; the error names a line of another form."""
    empty = True
    for number, line in read_lines(path):
        words = line.split()
        if not words:
            continue
        try:
            row = read(*words)
        except (TypeError, ValueError):  # another number of words, or another kind
            raise InputError(f"line {number}: not {form}", path=path) from None
        empty = False
        yield row
    if empty:
        raise InputError("contains no line", path=path)
