"""Embed the pictures that a command line names."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from denseface.cli.console import report_error, report_warning
from denseface.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from denseface.data.cropping import Crop
    from denseface.embedding.embedder import Embedder

_MOST_THREADS = 4


def embed_picture(embedder: Embedder, picture: str, args: argparse.Namespace) -> np.ndarray:
    """Embed the face of one picture, as an array of one row.

    Raises
    ------
    InputError
        If the picture cannot be read, or has no face.
    """
    crops = embedder.cut(picture)
    _warn_of_several(picture, crops, args)
    return _embed(embedder, [(picture, crop.pixels) for crop in crops])


def embed_pictures(
    embedder: Embedder,
    pictures: Sequence[str],
    args: argparse.Namespace,
    cut: Callable[[str], list[Crop]] | None = None,
) -> tuple[list[str], np.ndarray, int]:
    """Embed the faces of pictures, decoded on threads; report what has none, and continue with the others.

    Parameters
    ----------
    embedder : Embedder
    pictures : sequence of str
        Their paths.
    args : argparse.Namespace
        With ``face``: a warning says if one of several faces was taken without it.
    cut : callable, optional
        Cuts the faces out of a picture; by default, the embedder does.

    Returns
    -------
    names : list of str
        The names of the faces that were embedded.
    rows : ndarray of shape (n, emb_size), float32
        Their embeddings.
    num_failures : int
        How many pictures or faces were reported.
    """
    import numpy as np

    from denseface.core.cpus import usable_cpus
    from denseface.core.parallel import ordered_map

    def cut_one(picture):
        try:
            return (cut or embedder.cut)(picture), None
        except InputError as error:
            return [], error

    failures: list[InputError] = []
    names, rows = [], [np.empty((0, embedder.emb_size), np.float32)]
    with ordered_map(cut_one, pictures, usable_cpus(most=_MOST_THREADS), ahead=2 * embedder.batch_size) as crops:
        faces = _faces(pictures, crops, args, failures)
        with contextlib.closing(faces):  # and with it the progress bar
            while batch := list(itertools.islice(faces, embedder.batch_size)):
                names += [name for name, _ in batch]
                rows.append(_embed(embedder, batch))
    return names, np.concatenate(rows), len(failures)


def _faces(pictures, cut, args, failures):
    """Yield the name and the pixels of every face; report what has none, and add it to `failures`."""
    from tqdm import tqdm

    with tqdm(zip(pictures, cut), total=len(pictures), unit="picture", disable=None) as bar:

        def report(error):
            failures.append(error)
            bar.clear()
            report_error(error)

        for picture, (crops, error) in bar:
            if error is not None:
                report(error)
            else:
                _warn_of_several(picture, crops, args)
            for face in crops:
                if face.pixels is None:
                    report(InputError(f"{picture}{face.suffix}: {face.reason}"))
                else:
                    yield picture + face.suffix, face.pixels


def _warn_of_several(picture, crops, args):
    if crops[0].others and not args.face:
        report_warning(f"{picture}: {crops[0].others + 1} faces are in it; the largest is taken (--face chooses)")


def _embed(embedder, faces):
    """Embed aligned faces; an error begins with the name of one."""
    from denseface.embedding.embedder import PictureError, as_batch

    try:
        return embedder.combine(*embedder.compute(as_batch([pixels for _, pixels in faces], embedder.image_shape)))
    except PictureError as error:
        raise InputError(f"{faces[error.position][0]}: {error.reason}") from error
