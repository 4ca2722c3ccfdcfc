"""Convert picture files to the encoded faces that a set contains."""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.core.parallel import parallel_map
from denseface.data.align import align
from denseface.data.pictures import MAX_FILE_SIZE, decode, is_upright, read_header

_LARGEST_SIZE = 1024


class Face(NamedTuple):
    """The face of a file, or the reason why there is none.

    Attributes
    ----------
    file : str
        The file's path below the folder of all pictures.
    payload : bytes or None
        The encoded face, a JPEG.
    reason : str or None
        Why the file cannot be used.
    """

    file: str
    payload: bytes | None
    reason: str | None


def encode_faces(
    root: str | Path,
    files: Iterable[str],
    size: int = 112,
    quality: int = 95,
    landmarks: Mapping[str, np.ndarray] | None = None,
    processes: int = 1,
) -> Generator[Face, None, None]:
    """Make faces of one size, in the order of the files.

    The faces do not depend on the number of processes. A JPEG that already has the size is copied byte for byte, unless
    it is to be aligned.

    Parameters
    ----------
    root : path-like
        The folder of all pictures.
    files : iterable of str
        Their paths below it.
    size : int
        Height and width of the faces in pixels, 8 to 1024.
    quality : int
        JPEG quality, 1 to 95.
    landmarks : mapping of str to ndarray of shape (5, 2), optional
        Five points for each file, to align the faces by; files without points cannot be used. By default pictures are
        resized, bilinear, whatever their proportions.
    processes : int
        How many processes share the work.

    Yields
    ------
    Face

    Raises
    ------
    InputError
        If ``size``, ``quality`` or ``processes`` is out of its range.
    """
    for option, value, low, high in (("size", size, 8, _LARGEST_SIZE), ("quality", quality, 1, 95)):
        if not low <= value <= high:
            raise InputError(f"must be from {low} to {high}, not {value}", option=option)
    jobs = ((file, None if landmarks is None else landmarks.get(file)) for file in files)
    return parallel_map(partial(_encode_file, root, size, quality, landmarks is not None), jobs, processes)


def encode_face(payload: bytes, size: int = 112, quality: int = 95, landmarks: np.ndarray | None = None) -> bytes:
    """Make the face of one picture; the arguments are those of `encode_faces`.

    Parameters
    ----------
    payload : bytes
        A picture file, as `denseface.data.pictures.decode` reads it.

    Raises
    ------
    InputError
        If the picture is broken or cannot be aligned.
    """
    pixels = decode(payload)
    is_ready = read_header(payload) in (("JPEG", mode, size, size) for mode in ("L", "RGB")) and is_upright(payload)
    if is_ready and landmarks is None:
        return payload
    picture = Image.fromarray(pixels if landmarks is None else align(pixels, landmarks, size))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _encode_file(root, size, quality, is_aligned, job):
    file, landmarks = job
    try:
        if is_aligned and landmarks is None:
            raise InputError("the picture has no landmarks")
        payload = read_input(Path(root, file), MAX_FILE_SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF data, say, do not make a broken picture
            return Face(file, encode_face(payload, size, quality, landmarks), None)
    except InputError as error:
        return Face(file, None, str(error))
