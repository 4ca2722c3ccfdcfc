"""From pictures to the faces in them, and from faces to batches and what is computed from them.

Every command and every part of training that embeds pictures goes through these functions: pictures are decoded on
threads here and nowhere else, and here the face that cannot be used gets its name. A new kind of pictures is one more
iterable, a new use one more loop::

    with cut_ahead(cut, sources, ahead=2 * batch_size) as pictures:
        for batch, embeddings in compute_batches(embedder.compute, usable(pictures), batch_size, image_shape):
            ...
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from denseface.core.cpus import decoding_threads
from denseface.core.errors import InputError
from denseface.core.parallel import ordered_map
from denseface.data.cropping import Crop, Cropper
from denseface.data.pictures import Photograph, as_batch, load_picture
from denseface.data.sources import Source

Key = TypeVar("Key")
Item = TypeVar("Item")
Computed = TypeVar("Computed")


class Face(NamedTuple):
    """A face of a picture, or the reason why there is none.

    Attributes
    ----------
    name : str
        What messages and galleries call it: ``people/anna/1.jpg#2``.
    pixels : ndarray of shape (height, width, channels), uint8, optional
        The aligned face; None if it cannot be used.
    reason : str
        Why it cannot be used, without its name.
    others : int
        How many more faces the picture has.
    """

    name: str
    pixels: np.ndarray | None
    reason: str = ""
    others: int = 0

    @classmethod
    def failed(cls, name: str, error: InputError, file: str | Path) -> Face:
        """Make the face of a picture that cannot be used; the error may name its file first."""
        return cls(name, None, error.without(file))

    @property
    def message(self) -> str:
        """Name the face, and say why it cannot be used."""
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class CutPicture(Generic[Key]):
    """A picture whose faces have been cut out.

    Attributes
    ----------
    key : object
        What the caller knows the picture by: its source, its index, its record.
    faces : list of Face
        At least one; a picture that cannot be read has one face, with the reason.
    """

    key: Key
    faces: list[Face]


class PictureError(InputError):
    """One of the pictures cannot be used.

    Attributes
    ----------
    name : str
        The face, as :class:`Face` has it.
    reason : str
        What is wrong with it.
    position : int
        The index of the picture among those that were given.
    """

    def __init__(self, name: str, reason: str, position: int):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
        self.position = position


@contextlib.contextmanager
def cut_ahead(
    cut: Callable[[Item], CutPicture[Key]], items: Iterable[Item], ahead: int, threads: int | None = None
) -> Iterator[Iterator[CutPicture[Key]]]:
    """Cut the faces out of pictures on other threads, and iterate over the pictures in their order.

    Parameters
    ----------
    cut : callable
        Reads a picture and cuts its faces out. An error that it raises ends the iteration.
    items : iterable
        The pictures. They are taken as they are needed, on the caller's thread.
    ahead : int
        How many to cut before they are needed.
    threads : int, optional
        By default as many as decode pictures well; with 0 they are cut on the caller's thread.
    """
    if threads == 0:
        yield map(cut, items)
        return
    with ordered_map(cut, items, threads or decoding_threads(), ahead) as pictures:
        yield pictures


def cut_source(source: Source, crop: Cropper, image_shape: tuple[int, int, int]) -> CutPicture[Source]:
    """Read a source, and cut its faces out.

    Parameters
    ----------
    source : Source
    crop : Cropper
        What cuts the faces out, unless the source is an aligned face.
    image_shape : tuple (height, width, channels)
        The shape that the network takes.
    """
    try:
        payload = source.load()
        if source.is_aligned:
            crops = [Crop("", load_picture(payload, image_shape))]
        else:
            crops = crop(Photograph(payload), image_shape, crop.locate(source.file))
    except InputError as error:
        return CutPicture(source, [Face.failed(source.name, error, source.file)])
    faces = [Face(source.name + crop.suffix, crop.pixels, crop.reason or "", crop.others) for crop in crops]
    return CutPicture(source, faces)


def require_landmarks(crop: Cropper, sources: Iterable[Source]) -> None:
    """Check, before pictures are read, that a file of landmarks, if faces are cut by one, knows one of them.

    Raises
    ------
    InputError
        If it knows none.
    """
    if crop.landmarks is not None:
        crop.landmarks.require_any(source.file for source in sources if not source.is_aligned)


def usable(
    pictures: Iterable[CutPicture[Key]], bad: Callable[[Key, Face], object] | None = None
) -> Iterator[CutPicture[Key]]:
    """Leave out faces that cannot be used, and pictures without any other.

    Parameters
    ----------
    pictures : iterable of CutPicture
    bad : callable, optional
        Called with the picture's key and each such face.

    Raises
    ------
    PictureError
        At the first such face, if `bad` is not given.
    """
    for position, picture in enumerate(pictures):
        faces = []
        for face in picture.faces:
            if face.pixels is not None:
                faces.append(face)
            elif bad is None:
                raise PictureError(face.name, face.reason, position)
            else:
                bad(picture.key, face)
        if faces:
            yield replace(picture, faces=faces)


def compute_batches(
    compute: Callable[[np.ndarray], Computed],
    pictures: Iterator[CutPicture[Key]],
    batch_size: int,
    image_shape: tuple[int, int, int],
) -> Iterator[tuple[list[CutPicture[Key]], Computed]]:
    """Compute the faces of pictures, batch by batch, in memory that does not grow with their number.

    Parameters
    ----------
    compute : callable
        Takes the faces of a batch, float32 (n, C, H, W), 0 to 255, such as
        :meth:`denseface.embedding.embedder.Embedder.compute`. A :class:`PictureError` of it has the index among these.
    pictures : iterator of CutPicture
        Faces without pixels are left out of `compute`.
    batch_size : int
        Pictures per batch.
    image_shape : tuple (height, width, channels)
        The shape of the faces.

    Yields
    ------
    batch : list of CutPicture
        Up to `batch_size`.
    computed : object
        What `compute` returned for their faces.

    Raises
    ------
    PictureError
        If `compute` raises one; it names the face.
    """
    first = 0
    while batch := list(itertools.islice(pictures, batch_size)):
        faces = [
            (position, face)
            for position, picture in enumerate(batch, start=first)
            for face in picture.faces
            if face.pixels is not None
        ]
        try:
            computed = compute(as_batch([face.pixels for _, face in faces], image_shape))
        except PictureError as error:
            position, face = faces[error.position]
            raise PictureError(face.name, error.reason, position) from error
        yield batch, computed
        first += len(batch)


def check_finite(rows: np.ndarray, advice: str) -> None:
    """Raise a PictureError for the first of some embeddings, an array (n, emb_size), that is not finite."""
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        position = int(broken[0])
        raise PictureError(f"picture {position}", f"its embedding is not finite; {advice}", position)
