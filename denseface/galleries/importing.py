"""Galleries made of embeddings that other programs have stored, for a model that is at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError, check_resources
from denseface.core.files import open_input, read_lines
from denseface.core.vectors import normalize, similarity
from denseface.data.faces import compute_batches, cut_ahead, cut_source, usable
from denseface.data.sources import Source, Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.gallery import write_gallery

LEAST_COSINE = 0.99
_ROWS = 8192  # read at a time
_LONGEST_NAME = 4096  # as of a path; in a gallery, each name takes the space of the longest


class Imported(NamedTuple):
    """What was imported.

    Attributes
    ----------
    embedded, emb_size : int
        Number of embeddings, and values in one.
    checked : int
        How many were compared with what the model computes from their pictures.
    agreement : float
        The lowest cosine of these, -1 to 1; 1 if there are none.
    """

    embedded: int
    emb_size: int
    checked: int
    agreement: float


class _Checked(NamedTuple):
    """The cosine of one stored embedding with that of its picture."""

    name: str
    picture: str
    cosine: float
    other_cosine: float  # with mirror images instead of without, or the reverse


class _Rows(NamedTuple):
    """The embeddings, and the file that they are in, which may be mapped into memory."""

    path: str | Path
    array: np.ndarray

    def read(self, part: slice | int) -> np.ndarray:
        """Return some of the rows; to touch what is gone from a mapped file would end the process."""
        array = self.array
        if isinstance(array, np.memmap) and os.path.getsize(self.path) < array.offset + array.nbytes:
            raise InputError("has become shorter; import it again when it is complete", path=self.path)
        return np.asarray(array[part], np.float64)


def import_gallery(
    path: str | Path,
    names_path: str | Path,
    out: str | Path,
    embedder: Embedder,
    *,
    flip: bool = True,
    pictures: Sources | None = None,
    on_checked: Callable[[int], object] | None = None,
    on_written: Callable[[int], object] | None = None,
) -> Imported:
    """Write a gallery of embeddings that another program has computed with a model.

    Parameters
    ----------
    path : path-like
        A file ``.npy`` with an array (N, emb_size) of float numbers, or ``.npz`` with one such array.
    names_path : path-like
        A text file of N names, one per line, each once.
    out : path-like
        The gallery to write; it appears whole or not at all.
    embedder : Embedder
        The model that is said to have computed them; made with ``flip``, whatever the embeddings are.
    flip : bool
        Whether the embeddings have those of mirror images added.
    pictures : Sources, optional
        Pictures of some of the names. A picture's name is its path, or its path below the folder that was given, with
        or without suffix; pictures without a row are passed over.
    on_checked, on_written : callable, optional
        Called with numbers of pictures that were compared, and of rows that were written.

    Raises
    ------
    InputError
        If a file is missing or broken, sizes do not fit, a row is not finite or all zeros, a name is empty or
        repeated, no picture has a row, a picture cannot be used, or a row and the embedding of its picture have a
        cosine below 0.99.
    """
    rows = _Rows(path, _read_array(path))
    numbers = _read_names(names_path)
    count, emb_size = rows.array.shape
    if len(numbers) != count:
        raise InputError(f"{len(numbers)} names for the {count} embeddings of {path}", path=names_path)
    if emb_size != embedder.emb_size:
        raise InputError(
            f"embeddings of {emb_size} values; those of {embedder.model.name} have {embedder.emb_size}", path=path
        )
    names = list(numbers)
    cosines: list[float] = []
    if pictures is not None:
        for _ in _normalized(rows, names):  # before a row that is broken is compared
            pass
        cosines = _check(rows, numbers, embedder, flip, pictures, on_checked)
    described = {"engine": "imported", "precision": embedder.model.precision, "flip": flip, "checked": len(cosines)}
    model = {**embedder.describe(), **described}
    model.pop("provider", None)  # which computed what was compared
    write_gallery(out, _normalized(rows, names, on_written), (count, emb_size), names, max(map(len, names)), model)
    return Imported(count, emb_size, len(cosines), min(cosines, default=1.0))


def _read_array(path: str | Path) -> np.ndarray:
    """Open an array of embeddings, mapped into memory if it is not in an archive."""
    with open_input(path) as file:
        is_archive = file.read(2) == b"PK"
    try:
        if is_archive:
            with np.load(path, allow_pickle=False) as archive:
                if len(archive.files) != 1:
                    raise InputError(f"has {len(archive.files)} arrays; save the embeddings alone", path=path)
                rows = archive[archive.files[0]]
        else:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy have many for a broken file
        check_resources(error, path)
        raise InputError("not an array as numpy.save writes it, or broken; save it again", path=path) from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.ndim != 2 or 0 in rows.shape:
        kind = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "bytes"
        raise InputError(f"must be float32 or float64 of shape (N, emb_size), not {kind}", path=path)
    return rows


def _read_names(path: str | Path) -> dict[str, int]:
    """Read names; return the row of each."""
    numbers: dict[str, int] = {}
    for line, name in read_lines(path):
        if not name.strip():
            raise InputError(f"line {line} is empty; write one name per line", path=path)
        if "\0" in name or len(name) > _LONGEST_NAME:
            raise InputError(
                f"line {line} has a null character, or more than {_LONGEST_NAME:,} characters; write names", path=path
            )
        if name in numbers:
            raise InputError(f"line {line} repeats {name}, of line {numbers[name] + 1}; make names unique", path=path)
        numbers[name] = line - 1
    return numbers


def _normalized(
    rows: _Rows, names: Sequence[str], on_written: Callable[[int], object] | None = None
) -> Iterator[np.ndarray]:
    """Yield the embeddings at length 1, some at a time."""
    for start in range(0, len(rows.array), _ROWS):
        block = rows.read(slice(start, start + _ROWS))
        for broken, reason in ((~np.isfinite(block).all(axis=1), "not finite"), (~block.any(axis=1), "all zeros")):
            if broken.any():
                row = start + int(np.flatnonzero(broken)[0])
                raise InputError(f"row {row}, {names[row]}, is {reason}; leave it out", path=rows.path)
        yield normalize(block).astype(np.float32)
        if on_written:
            on_written(len(block))


def _check(
    rows: _Rows,
    numbers: Mapping[str, int],
    embedder: Embedder,
    flip: bool,
    pictures: Sources,
    on_checked: Callable[[int], object] | None,
) -> list[float]:
    """Compare rows with the model's embeddings of their pictures; return the cosines."""
    named = {source: name for source in pictures if (name := _name_of(source, pictures.roots, numbers)) is not None}
    if not named:
        raise InputError(f"no name is that of a picture to check, such as {next(iter(pictures)).name}", path=rows.path)
    checked = []
    for each in _compared(rows, numbers, embedder, flip, named):
        checked.append(each)
        if on_checked:
            on_checked(1)
    worst = min(checked, key=lambda each: each.cosine)
    if not worst.cosine >= LEAST_COSINE:
        way, other = ("with", "without") if flip else ("without", "with")
        lowest = min(each.other_cosine for each in checked)
        advice = (
            f"{other} mirror images all agree, with cosines from {lowest:.4f}"
            if lowest >= LEAST_COSINE
            else "they come from another model, or from faces that were cut or scaled in another way"
        )
        raise InputError(
            f"the row of {worst.name} has a cosine of {worst.cosine:.4f} with what {embedder.model.name} "
            f"computes from {worst.picture} {way} mirror images, and {LEAST_COSINE} is the least; {advice}",
            path=rows.path,
        )
    return [each.cosine for each in checked]


def _name_of(source: Source, roots: Iterable[str], names: Mapping[str, int]) -> str | None:
    """Return the name of a picture among those of the embeddings."""
    path = Path(source.name)
    below = [path.relative_to(root) for root in roots if path.is_relative_to(root)] or [Path(path.name)]
    texts = [text for each in (path, *below) for text in (each.as_posix(), each.with_suffix("").as_posix())]
    return next((text for text in (os.fspath(source.name), *texts) if text in names), None)


def _compared(
    rows: _Rows, numbers: Mapping[str, int], embedder: Embedder, flip: bool, named: Mapping[Source, str]
) -> Iterator[_Checked]:
    cut = partial(cut_source, crop=embedder.crop, image_shape=embedder.image_shape)
    with cut_ahead(cut, named, ahead=2 * embedder.batch_size) as cuts:
        batches = compute_batches(embedder.compute, usable(cuts), embedder.batch_size, embedder.image_shape)
        for batch, computed in batches:
            for picture, summed, plain in zip(batch, computed.summed, computed.plain):
                name = named[picture.key]
                stored = rows.read(numbers[name])
                cosines = [float(similarity(stored, ours)) for ours in (summed, plain)]
                yield _Checked(name, picture.key.name, *(cosines if flip else cosines[::-1]))
