"""Convert picture files to the encoded faces that a set contains."""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.core.parallel import parallel_map
from denseface.data.cropping import Cropper, cut_middle
from denseface.data.detection import FaceError
from denseface.data.landmarks import Located
from denseface.data.pictures import MAX_FILE_SIZE, decode, is_upright, read_header

ONE_FACE = Cropper(face=None)

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
    kind : str
        The same for all files with such a reason: "cannot be read", or that of a `denseface.data.cropping.FaceError`.
    remedy : str or None
        The parameter by which such a file can be used.
    """

    file: str
    payload: bytes | None
    reason: str | None
    kind: str = ""
    remedy: str | None = None


def encode_faces(
    root: str | Path,
    files: Iterable[str],
    size: int = 112,
    quality: int = 95,
    crop: Cropper = ONE_FACE,
    processes: int = 1,
    middle: bool = False,
) -> Generator[Face, None, None]:
    """Make faces of one size, in the order of the files.

    The faces do not depend on the number of processes. A JPEG that already has the size is copied byte for byte, unless
    it is to be aligned by landmarks from a file.

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
    crop : Cropper
        What makes aligned faces of pictures of another size. By default the installed detector finds the face, and
        pictures of several faces cannot be used.
    processes : int
        How many processes share the work.
    middle : bool
        Of a picture without a face that can be cut out, take the middle, beside the reason.

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
    if crop.face == "all":
        raise InputError("a set has one face per picture: choose largest or center", option="face")
    jobs = ((file, _locate(crop, Path(root, file))) for file in files)
    return parallel_map(partial(_encode_file, root, size, quality, crop.shared(processes), middle), jobs, processes)


def encode_face(
    payload: bytes, size: int = 112, quality: int = 95, crop: Cropper = ONE_FACE, located: Located | None = None
) -> bytes:
    """Make the face of one picture; the other arguments are those of `encode_faces`.

    Parameters
    ----------
    payload : bytes
        A picture file, as `denseface.data.pictures.decode` reads it.
    located : Located, optional
        The faces in it, from a file of landmarks.

    Raises
    ------
    InputError
        If the picture is broken or cannot be aligned.
    """
    picture = decode(payload)
    is_ready = read_header(payload) in (("JPEG", mode, size, size) for mode in ("L", "RGB")) and is_upright(payload)
    if is_ready and located is None:
        return payload
    (face,) = crop(picture, (size, size, 3), located)
    assert face.pixels is not None  # it is, unless all faces are cut
    return _jpeg(face.pixels, quality)


def _jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _locate(crop, path):
    """Look up a picture's landmarks here: a file of them is not sent to other processes."""
    try:
        return crop.locate(path)
    except InputError as error:
        return error


def _encode_file(root, size, quality, crop, middle, job):
    file, located = job
    try:
        payload = read_input(Path(root, file), MAX_FILE_SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF data, say, do not make a broken picture
            try:
                if isinstance(located, InputError):
                    raise located
                return Face(file, encode_face(payload, size, quality, crop, located), None)
            except FaceError as error:
                cut = _jpeg(cut_middle(decode(payload), (size, size, 3)), quality) if middle else None
                return Face(file, cut, str(error), error.kind, error.remedy)
    except InputError as error:
        return Face(file, None, str(error), "cannot be read")
