"""Embeddings computed in parts, on as many machines as there are, and merged into one gallery."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.data.sources import Source
from denseface.galleries.gallery import Gallery, write_gallery

_MOST_PARTS = 1 << 20
_BLOCK = 1 << 20  # bytes
_NAMES = 1 << 16
_ORIGIN = ("prefix", "epoch")  # where a machine has the model


class Part(NamedTuple):
    """One part of many.

    Attributes
    ----------
    number : int
        Which one, from 1.
    total : int
        How many there are.
    """

    number: int
    total: int

    def of(self, sources: Iterable[Source], batch_size: int) -> ChosenPart:
        """Choose from pictures: whole batches, as many for each part as for any other, up to one.

        Raises
        ------
        InputError
            If there is no such part.
        """
        if not 1 <= self.number <= self.total <= _MOST_PARTS:
            raise InputError(f"is from 1 to the number of parts, at most {_MOST_PARTS}: not {self}", option="part")
        digest, pictures = hashlib.sha256(), 0
        for source in sources:
            digest.update(source.name.encode("utf-8", "surrogatepass") + b"\n")
            pictures += 1
        batches = -(-pictures // batch_size)
        start, stop = (min(pictures, batches * n // self.total * batch_size) for n in (self.number - 1, self.number))
        description = {
            "index": self.number,
            "count": self.total,
            "batch_size": batch_size,
            "pictures": pictures,
            "names": digest.hexdigest(),
        }
        return ChosenPart(start, stop, description)

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


class ChosenPart(NamedTuple):
    """The pictures of a part.

    Attributes
    ----------
    start, stop : int
        From which picture to which.
    description : dict
        What its gallery says about it: ``index`` and ``count``, and what all parts have to agree in: ``batch_size``,
        the number of ``pictures`` in all parts, and the hash of their ``names``.
    """

    start: int
    stop: int
    description: dict

    @property
    def size(self) -> int:
        """Number of pictures."""
        return self.stop - self.start

    def sources(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Return those of all pictures that belong to it."""
        return itertools.islice(sources, self.start, self.stop)


def merge(
    paths: Sequence[str | Path], out: str | Path, on_progress: Callable[[int], object] = lambda done: None
) -> tuple[int, int]:
    """Merge the galleries of all parts into one, byte for byte what one machine would have written.

    Parameters
    ----------
    paths : sequence of path-like
        Their files, in any order.
    out : path-like
        The file to write.
    on_progress : callable
        Called with the number of embeddings written since the last call.

    Returns
    -------
    tuple (N, emb_size)
        Shape of the embeddings written.

    Raises
    ------
    InputError
        If one is missing, comes twice, is not a part, or was computed otherwise or from other pictures.
    """
    galleries = sorted(map(_seen, paths), key=lambda gallery: _described(gallery)["index"])
    first = galleries[0]
    for gallery in galleries:
        _check_alike(gallery, first)
    indices, count = [_described(gallery)["index"] for gallery in galleries], _described(first)["count"]
    for one, other in zip(galleries, galleries[1:]):
        if _described(one)["index"] == _described(other)["index"]:
            raise InputError(f"the same part as {one.path}, {_described(one)['index']} of {count}", path=other.path)
    missing = sorted({*range(1, count + 1)} - {*indices})
    if missing:
        raise InputError(
            f"not written, because part {missing[0]} of {count} is missing ({len(missing)} in all); make it "
            f"with denseface embed --part {missing[0]}/{count}",
            path=out,
        )
    shape = (sum(gallery.shape[0] for gallery in galleries), first.shape[1])
    if not shape[0]:
        raise InputError("not written, because no picture could be read", path=out)
    model = {key: value for key, value in first.model.items() if key != "part"}
    width = max(gallery.name_width for gallery in galleries)
    write_gallery(out, _blocks(galleries, on_progress), shape, _names(galleries), width, model)
    return shape


class _Seen(NamedTuple):
    """What a gallery says about itself, which is closed again: a process may have few files open at once."""

    path: Path
    shape: tuple[int, ...]
    name_width: int
    model: dict

    def open(self) -> Gallery:
        """Open it again."""
        gallery = Gallery(self.path)
        if (gallery.shape, gallery.name_width, gallery.model) != self[1:]:
            raise InputError("has been replaced meanwhile; merge again", path=self.path)
        return gallery


def _seen(path: str | Path) -> _Seen:
    gallery = Gallery(path)
    return _Seen(gallery.path, gallery.shape, gallery.name_width, gallery.model)


def _blocks(galleries: Sequence[_Seen], on_progress: Callable[[int], object]) -> Iterator[np.ndarray]:
    """Yield the embeddings of some galleries, one after the other."""
    step = max(1, _BLOCK // (4 * galleries[0].shape[1]))
    for gallery in galleries:
        for _, rows in gallery.open().blocks(step):
            yield rows
            on_progress(len(rows))


def _names(galleries: Sequence[_Seen]) -> Iterator[str]:
    for gallery in map(_Seen.open, galleries):
        for start in range(0, len(gallery), _NAMES):
            yield from gallery.names(range(start, min(start + _NAMES, len(gallery)))).values()


def _described(gallery: _Seen) -> dict:
    said = gallery.model.get("part")
    kinds = {"index": int, "count": int, "batch_size": int, "pictures": int, "names": str}
    if not isinstance(said, dict) or any(type(said.get(key)) is not kind for key, kind in kinds.items()):
        raise InputError("not a part; make parts with denseface embed --part I/N", path=gallery.path)
    if not 1 <= said["index"] <= said["count"] <= _MOST_PARTS:
        raise InputError(
            f"it says that it is part {said['index']} of {said['count']}; make it again", path=gallery.path
        )
    return said


def _check_alike(gallery: _Seen, first: _Seen) -> None:
    """Refuse a part that was computed otherwise than the first, or of other pictures."""
    ours, theirs = _described(gallery), _described(first)
    for key, what in (
        ("count", "of another number of parts"),
        ("batch_size", "computed with another --batch-size"),
        ("names", "of other pictures"),
    ):
        if ours[key] != theirs[key]:
            raise InputError(f"{what} than {first.path}; make it again with the same command", path=gallery.path)
    for key in {*gallery.model, *first.model} - {"part", *_ORIGIN}:
        if gallery.model.get(key) != first.model.get(key):
            raise InputError(f"computed with another {key} than {first.path}; make it again", path=gallery.path)
    if gallery.shape[1] != first.shape[1]:
        raise InputError(f"it has {gallery.shape[1]} values per embedding, not {first.shape[1]}", path=gallery.path)
