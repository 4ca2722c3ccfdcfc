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

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import read_input, read_lines
from denseface.data.align import align
from denseface.data.pictures import MAX_FILE_SIZE, decode

_SUFFIXES = ("name_5pts_score.txt", "face_tid_mid.txt", "template_pair_label.txt")


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
    pairs: np.ndarray
    issame: np.ndarray

    def weights(self) -> np.ndarray:
        """Return what each picture counts in its template: its detection score over the pictures of its medium there.

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
        try:
            return align(decode(read_input(path, MAX_FILE_SIZE)), self.landmarks[index], size)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


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
        raise InputError(f"{path}: not a set of templates, which has one file meta/NAME_{_SUFFIXES[0]}")
    name = found[0].name[: -len(_SUFFIXES[0]) - 1]
    faces = list(_rows(path / "meta" / f"{name}_{_SUFFIXES[0]}", 12))
    owners = list(_rows(path / "meta" / f"{name}_{_SUFFIXES[1]}", 3))
    files = [words[0] for words, _ in faces]
    if files != [words[0] for words, _ in owners]:
        raise InputError(f"{path}: {name}_{_SUFFIXES[0]} and {name}_{_SUFFIXES[1]} are not of the same pictures")
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{path}: {file} lies outside the folder of pictures")
    numbers = np.array([numbers for _, numbers in faces], np.float32)
    ids, media = np.array([numbers for _, numbers in owners], np.int64).T
    templates, owner = np.unique(ids, return_inverse=True)
    pairs_path = path / "meta" / f"{name}_{_SUFFIXES[2]}"
    rows = np.array([[float(word) for word in words] + numbers for words, numbers in _rows(pairs_path, 3)]).astype(
        np.int64
    )
    pairs = np.minimum(np.searchsorted(templates, rows[:, :2]), len(templates) - 1)
    unknown = templates[pairs] != rows[:, :2]
    if unknown.any():
        raise InputError(f"{pairs_path}: template {rows[:, :2][unknown][0]} has no picture")
    if not np.isin(rows[:, 2], (0, 1)).all():
        raise InputError(f"{pairs_path}: the last word of a line must be 0 or 1")
    return TemplateSet(
        name=name,
        folder=path / "loose_crop",
        files=files,
        landmarks=numbers[:, :-1].reshape(-1, 5, 2),
        scores=numbers[:, -1],
        templates=owner.reshape(-1),
        media=media,
        num_templates=len(templates),
        pairs=pairs,
        issame=rows[:, 2] == 1,
    )


def _rows(path, count):
    """Yield the first word of each line, in a list, and the numbers after it."""
    empty = True
    for number, line in read_lines(path):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
            if len(words) != count or not all(map(math.isfinite, values)):
                raise ValueError
        except ValueError:
            raise InputError(f"{path}: line {number}: not a word and {count - 1} numbers") from None
        empty = False
        yield words[:1], values
    if empty:
        raise InputError(f"{path}: contains no line")
