"""Embed the pictures that a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from denseface.cli.console import report_error, report_warning
from denseface.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from denseface.data.faces import CutPicture, Face
    from denseface.data.sources import Source
    from denseface.embedding.embedder import Embedder


class EmbeddedFaces(NamedTuple):
    """The faces of some pictures.

    Attributes
    ----------
    names : list of str
        The names of the faces that were embedded.
    rows : ndarray of shape (n, emb_size), float32
        Their embeddings.
    num_failures : int
        How many pictures or faces were reported.
    """

    names: list[str]
    rows: np.ndarray
    num_failures: int


def embed_picture(embedder: Embedder, picture: str, args: argparse.Namespace) -> np.ndarray:
    """Embed the face of one picture, as an array of one row.

    Raises
    ------
    InputError
        If the picture cannot be read, or has no face.
    """
    from denseface.data.faces import cut_source, usable
    from denseface.data.sources import Source

    cut = cut_source(Source.of_file(picture), embedder.crop, embedder.image_shape)
    return _embed(embedder, usable(_warned([cut], args)))[1]


def embed_pictures(
    embedder: Embedder,
    pictures: Sequence[str],
    args: argparse.Namespace,
    cut: Callable[[Source], CutPicture[Source]] | None = None,
) -> EmbeddedFaces:
    """Embed the faces of pictures, decoded on threads; report what has none, and continue with the others.

    Parameters
    ----------
    embedder : Embedder
    pictures : sequence of str
        Their paths.
    args : argparse.Namespace
        With ``face``: a warning says if one of several faces was taken without it.
    cut : callable, optional
        Cuts the faces out of a picture; by default as the embedder does.
    """
    from denseface.core.progress_bar import ProgressBar
    from denseface.data.faces import cut_ahead, cut_source, usable
    from denseface.data.sources import Source

    cut = cut or partial(cut_source, crop=embedder.crop, image_shape=embedder.image_shape)
    num_failures = 0

    def report(_: Source, face: Face) -> None:
        nonlocal num_failures
        num_failures += 1
        bar.clear()
        report_error(InputError(face.message))

    cutting = cut_ahead(cut, map(Source.of_file, pictures), ahead=2 * embedder.batch_size)
    with cutting as cuts, ProgressBar(cuts, total=len(pictures), unit="picture") as bar:
        names, rows = _embed(embedder, usable(_warned(bar, args), report))
    return EmbeddedFaces(names, rows, num_failures)


def _embed(embedder: Embedder, pictures: Iterator[CutPicture[Source]]) -> tuple[list[str], np.ndarray]:
    """Return the names and the embeddings of faces."""
    import numpy as np

    from denseface.data.faces import compute_batches

    names, rows = [], [np.empty((0, embedder.emb_size), np.float32)]
    for batch, computed in compute_batches(embedder.compute, pictures, embedder.batch_size, embedder.image_shape):
        names += [face.name for picture in batch for face in picture.faces]
        rows.append(computed.rows)
    return names, np.concatenate(rows)


def _warned(pictures: Iterable[CutPicture[Source]], args: argparse.Namespace) -> Iterator[CutPicture[Source]]:
    """Pass pictures on, with a warning where a face was chosen without being asked."""
    for picture in pictures:
        others = picture.faces[0].others
        if others and not args.face:
            name = picture.key.name
            report_warning(f"{name}: {others + 1} faces are in it; the largest is taken (--face chooses)")
        yield picture
