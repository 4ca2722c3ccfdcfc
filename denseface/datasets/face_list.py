"""Write the faces in photographs to a file of landmarks, resumed where an earlier run was interrupted.

During a run, and after it was killed, finished pictures are in the journal ``OUT.partial``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError, warn_of_many
from denseface.core.files import beside, replacing
from denseface.core.journal import Journal
from denseface.core.parallel import parallel_map
from denseface.data.align import align
from denseface.data.cropping import Cropper
from denseface.data.detection import load_detector
from denseface.data.landmarks import LandmarkFile, are_face_lines, face_lines, heading, reason_line, relative_name
from denseface.data.pictures import Photograph, load_picture
from denseface.data.sources import Source


@dataclass
class Counts:
    """The results of a run.

    Attributes
    ----------
    pictures, faces : int
        Pictures with faces, and their faces.
    without : int
        Pictures without a face that is large and certain enough, or that cannot be read.
    taken_over : int
        Pictures that an earlier run had processed.
    """

    pictures: int = 0
    faces: int = 0
    without: int = 0
    taken_over: int = 0


class _Found(NamedTuple):
    """The name and the stamp of a picture, its lines, the number of its faces, and why it has none."""

    name: str
    stamp: tuple[int, int]
    lines: str
    faces: int
    reason: str | None


class ListedFace(NamedTuple):
    """A face of a file of landmarks.

    Attributes
    ----------
    name : str
        The picture's, with ``#2`` for the second of several faces.
    score : float
        How certain the detector was.
    pixels : ndarray of shape (112, 112, 3), uint8, optional
        The aligned face; None if the picture cannot be read any more.
    """

    name: str
    score: float
    pixels: np.ndarray | None


def list_faces(
    sources: Iterable[Source],
    out: str | Path,
    *,
    crop: Cropper | None = None,
    processes: int = 1,
    on_progress: Callable[[int], object] = lambda done: None,
) -> Counts:
    """Find the faces in pictures, and write them to a file that `denseface.data.landmarks.LandmarkFile` reads.

    Parameters
    ----------
    sources : iterable of Source
        The pictures. One without a face is named in a warning (the first 20; then they are counted), and listed in the
        file with the reason.
    out : path-like
        The file to write. The paths in it are relative to its folder.
    crop : Cropper, optional
        Its detector and limits decide what a face is.
    processes : int
        How many processes share the work; the file does not depend on it.
    on_progress : callable
        Called with the number of pictures processed since the last call.

    Returns
    -------
    Counts

    Raises
    ------
    InputError
        If there is no detector, a source is an aligned face, another run writes the same file, or it cannot be written.
        Finished pictures are kept for the next run.
    """
    crop = crop or Cropper()
    crop = replace(crop, detector=crop.detector or load_detector())
    out = Path(out)
    counts = Counts()
    partial_path = beside(out, ".partial")
    with Journal(partial_path, {"out": str(out.absolute()), **crop.description}) as journal:

        def holds(values: list, source: Source) -> bool:
            if not _is_entry(values, source, out):
                return False
            *_, faces, reason = values
            _count(counts, source.name, faces, reason)
            counts.taken_over += 1
            on_progress(1)
            return True

        remaining = _photographs(journal.resume(iter(sources), holds))
        search = partial(_search, crop.shared(processes), out)
        with contextlib.closing(parallel_map(search, remaining, processes)) as results:
            for found in results:
                journal.append([[found.name, *found.stamp, found.lines, found.faces, found.reason]])
                _count(counts, found.name, found.faces, found.reason)
                on_progress(1)
        _write(out, crop, journal)
    partial_path.unlink()
    return counts


def listed_faces(path: str | Path, count: int) -> Iterator[ListedFace]:
    """Cut out up to ``count`` faces of a file of landmarks, evenly spread over it.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    landmarks = LandmarkFile(path)
    faces = [(picture, index) for picture in landmarks for index in range(landmarks.number_of_faces(picture))]
    for i in range(min(count, len(faces))):
        picture, index = faces[i * len(faces) // min(count, len(faces))]
        file = Path(path).absolute().parent / picture
        found = landmarks.locate(file).faces
        several = len(found.scores) > 1
        name = f"{picture}#{index + 1}" if several else picture
        try:
            pixels = align(load_picture(file), found.landmarks[index])
        except InputError:
            pixels = None
        yield ListedFace(name, float(found.scores[index]), pixels)


def _write(out: Path, crop: Cropper, journal: Journal) -> None:
    with replacing(out) as file:
        file.write(heading(crop.description["detector"]).encode())
        for *_, lines, _, _ in journal:
            file.write(lines.encode("utf-8", "surrogateescape"))


def _photographs(sources: Iterable[Source]) -> Iterator[Source]:
    for source in sources:
        if source.is_aligned:
            raise InputError("contains aligned faces; give photographs", path=source.file)
        yield source


def _search(crop: Cropper, out: Path, source: Source) -> _Found:
    stamp = source.stamp()
    try:
        name = relative_name(source.file, out)
    except InputError as error:
        return _Found(source.name, stamp, "", 0, str(error))
    try:
        payload = source.load()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF data, say, do not make a broken picture
            photograph = Photograph(payload)
            faces = crop.find(photograph)
    except InputError as error:
        reason = error.without(source.file)
        return _Found(source.name, stamp, reason_line(name, reason), 0, reason)
    height, width = photograph.shape
    return _Found(source.name, stamp, face_lines(name, faces, (width, height)), len(faces.scores), None)


def _is_entry(values: list, source: Source, out: Path) -> bool:
    """Whether a journal, which somebody may have edited, has values that a run writes about a picture."""
    *key, lines, faces, reason = values if len(values) > 2 else (None, None, None)
    if key != [source.name, *source.stamp()]:
        return False
    try:
        name = relative_name(source.file, out)
    except InputError as error:
        return (lines, faces, reason) == ("", 0, str(error))
    if not isinstance(lines, str) or type(faces) is not int:
        return False
    if reason is not None:
        return isinstance(reason, str) and faces == 0 and lines == reason_line(name, reason)
    return faces > 0 and are_face_lines(lines, name, faces)


def _count(counts: Counts, name: str, faces: int, reason: str | None) -> None:
    if reason is None:
        counts.pictures += 1
        counts.faces += faces
        return
    counts.without += 1
    warn_of_many(counts.without, f"no face: {name}: {reason}", "pictures without a face")
