"""Convert picture files to the encoded faces that a set contains."""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.core.parallel import parallel_map
from denseface.data.cropping import Cropper, cut_middle
from denseface.data.detection import FaceError
from denseface.data.faces import require_landmarks
from denseface.data.landmarks import Located
from denseface.data.pictures import MAX_FILE_SIZE, Photograph, decode, is_upright, read_header
from denseface.data.sources import Source

ONE_FACE = Cropper(face=None)

_LARGEST_SIZE = 1024


@dataclass(frozen=True)
class Encoding:
    """How faces are cut and encoded.

    Parameters
    ----------
    size : int
        Height and width of the faces in pixels, 8 to 1024.
    quality : int
        JPEG quality, 1 to 95.
    crop : Cropper
        What makes aligned faces of pictures of another size. By default the installed detector finds the face, and
        pictures of several faces cannot be used.
    processes : int
        How many processes share the work; the faces do not depend on it.

    Raises
    ------
    InputError
        If ``size`` or ``quality`` is out of its range, or ``crop`` takes all faces of a picture.
    """

    size: int = 112
    quality: int = 95
    crop: Cropper = ONE_FACE
    processes: int = 1

    def __post_init__(self) -> None:
        for option, low, high in (("size", 8, _LARGEST_SIZE), ("quality", 1, 95)):
            value = getattr(self, option)
            if not low <= value <= high:
                raise InputError(f"must be from {low} to {high}, not {value}", option=option)
        if self.crop.face == "all":
            raise InputError("a set has one face per picture: choose largest or center", option="face")


DEFAULT_ENCODING = Encoding()


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
    encoding: Encoding = DEFAULT_ENCODING,
    middle: bool = False,
) -> Generator[Face, None, None]:
    """Make faces of one size, in the order of the files.

    A JPEG that already has the size is copied byte for byte, unless it is to be aligned by landmarks from a file.

    Parameters
    ----------
    root : path-like
        The folder of all pictures.
    files : iterable of str
        Their paths below it.
    encoding : Encoding
        How they are cut and encoded.
    middle : bool
        Of a picture without a face that can be cut out, take the middle, beside the reason.

    Yields
    ------
    Face

    Raises
    ------
    InputError
        If ``encoding.processes`` is less than 1, or the file of landmarks knows none of the files.
    """
    files = list(files)
    require_landmarks(encoding.crop, (Source.of_file(Path(root, file)) for file in files))
    jobs = ((file, _locate(encoding.crop, Path(root, file))) for file in files)
    shared = replace(encoding, crop=encoding.crop.shared(encoding.processes))
    return parallel_map(partial(_encode_file, root, shared, middle), jobs, encoding.processes)


def encode_face(payload: bytes, encoding: Encoding = DEFAULT_ENCODING, located: Located | None = None) -> bytes:
    """Make the face of one picture.

    Parameters
    ----------
    payload : bytes
        A picture file, as `denseface.data.pictures.decode` reads it.
    encoding : Encoding
        How it is cut and encoded.
    located : Located, optional
        The faces in it, from a file of landmarks.

    Raises
    ------
    InputError
        If the picture is broken or cannot be aligned.
    """
    photograph, size = Photograph(payload), encoding.size
    is_ready = read_header(payload) in (("JPEG", mode, size, size) for mode in ("L", "RGB")) and is_upright(payload)
    if is_ready and located is None:
        photograph.reduced()  # it must not be broken
        return payload
    (face,) = encoding.crop(photograph, (size, size, 3), located)
    assert face.pixels is not None  # it is, unless all faces are cut
    return _jpeg(face.pixels, encoding.quality)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _locate(crop: Cropper, path: Path) -> Located | InputError | None:
    """Look up a picture's landmarks here: a file of them is not sent to other processes."""
    try:
        return crop.locate(path)
    except InputError as error:
        return error


def _encode_file(
    root: str | Path, encoding: Encoding, middle: bool, job: tuple[str, Located | InputError | None]
) -> Face:
    file, located = job
    path = Path(root, file)
    try:
        payload = read_input(path, MAX_FILE_SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF data, say, do not make a broken picture
            try:
                if isinstance(located, InputError):
                    raise located
                return Face(file, encode_face(payload, encoding, located), None)
            except FaceError as error:
                cut = None
                if middle:
                    cut = _jpeg(cut_middle(decode(payload), (encoding.size, encoding.size, 3)), encoding.quality)
                return Face(file, cut, str(error), error.kind, error.remedy)
    except InputError as error:
        return Face(file, None, error.without(path), "cannot be read")
