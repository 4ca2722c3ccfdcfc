"""Pictures in any form that a user may have them, as arrays of the size that a network takes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from denseface.core.errors import InputError
from denseface.core.files import open_input

Picture = Union[np.ndarray, Image.Image, str, Path, bytes]

# By their suffix, files that a folder is searched for.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".webp")

# Files from outside are not trusted, so Pillow's readers that run an interpreter or are seldom tested stay out.
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
_MAX_PIXELS = 64_000_000
_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was turned; 1 is upright


class ImageError(InputError):
    """An encoded picture cannot be used."""


class PictureShape(NamedTuple):
    """The shape of a picture as an array, and of batches as networks take them.

    Attributes
    ----------
    height, width : int
        In pixels.
    channels : int
        1 (gray) or 3 (RGB).
    """

    height: int
    width: int
    channels: int

    def nchw(self, n: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of ``n`` pictures, (N, C, H, W)."""
        return n, self.channels, self.height, self.width

    @classmethod
    def from_nchw(cls, shape: tuple[int, ...]) -> PictureShape:
        """Return the shape of one picture of a batch of shape (N, C, H, W)."""
        _, channels, height, width = shape
        return cls(height, width, channels)


class Header(NamedTuple):
    """What a picture file says of itself before its pixels.

    Attributes
    ----------
    format : str
        As Pillow names it: "JPEG", "PNG" and so on.
    mode : str
        As Pillow names it: "L" is gray, "RGB" colour.
    width, height : int
        In pixels, as they are stored: before the picture is turned upright.
    """

    format: str
    mode: str
    width: int
    height: int


def load_picture(picture: Picture, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Convert a picture to the shape that a network takes.

    Parameters
    ----------
    picture : ndarray, PIL image, path or bytes
        An array is uint8, RGB of shape (height, width, 3) or gray of shape (height, width) or (height, width, 1).
        Paths, bytes and PIL images are turned upright, as `decode` does.
    image_shape : tuple (height, width, channels)
        Channels 1 (gray) or 3 (RGB). A picture of another size is resized, bilinear, whatever its proportions.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8

    Raises
    ------
    InputError
        If it is none of these, or broken; for a file, the message names it.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture, image_shape)
    if isinstance(picture, Image.Image):
        with _described():
            return _as_array(_upright(_checked(picture)), image_shape)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return decode(bytes(picture), image_shape)
    if isinstance(picture, (str, Path)):
        with open_input(picture) as file:
            payload = file.read()
        try:
            return decode(payload, image_shape)
        except ImageError as error:
            raise ImageError(f"{picture}: {error}") from error
    raise InputError(f"a picture is an array, a PIL image, a path or bytes, not {type(picture).__name__}")


def decode(payload: bytes, image_shape: tuple[int, int, int] | None = None, *, upright: bool = True) -> np.ndarray:
    """Decode a picture file.

    Parameters
    ----------
    payload : bytes
        A JPEG, PNG, BMP, PGM, PPM or WebP file.
    image_shape : tuple (height, width, channels), optional
        Channels 1 (gray) or 3 (RGB). A picture of another size is resized, bilinear, whatever its proportions. By
        default the picture keeps its size, and is RGB.
    upright : bool
        Turn the picture as its EXIF data say that the camera was held. Training alone does not: the pictures of its
        records stay as the program that packed them stored them.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8, read-only

    Raises
    ------
    ImageError
        If the picture is broken, of another format, not of 8 bits per channel, or larger than 64 megapixels.
    """
    with _opened(payload) as picture:
        _checked(picture)
        return _as_array(_upright(picture) if upright else picture, image_shape)


def read_header(payload: bytes) -> Header:
    """Read what a picture file says of itself.

    Raises
    ------
    ImageError
        If it is not a picture file of a format that `decode` reads.
    """
    with _opened(payload) as picture:
        return Header(str(picture.format), picture.mode, picture.width, picture.height)


def is_upright(payload: bytes) -> bool:
    """Whether a picture file is stored as it is to be seen, or does not say that it is not.

    Raises
    ------
    ImageError
        If it is not a picture file of a format that `decode` reads.
    """
    with _opened(payload) as picture:
        return _orientation(picture) == 1


@contextlib.contextmanager
def _opened(payload: bytes) -> Iterator[Image.Image]:
    """Open a picture file; whatever fails in the block is a fault of the picture."""
    with _described(), Image.open(io.BytesIO(payload), formats=_formats()) as picture:
        yield picture


@contextlib.contextmanager
def _described() -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("no JPEG, PNG, BMP, PGM, PPM or WebP picture can be read from it") from error
    except Exception as error:  # on broken files Pillow raises OSError, SyntaxError, ValueError and more
        raise ImageError(f"the picture is broken ({error})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this installation of Pillow has; it looks for all of its own if asked for another."""
    for name in ("Bmp", "Jpeg", "Png", "Ppm", "WebP"):
        importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _checked(picture: Image.Image) -> Image.Image:
    if picture.width * picture.height > _MAX_PIXELS:
        raise ImageError(f"{picture.width} x {picture.height} pixels are more than {_MAX_PIXELS:,}")
    if picture.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"its mode is {picture.mode}; convert it to 8 bits per channel")
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF data say."""
    picture.load()
    if _orientation(picture) == 1:
        return picture
    picture = picture.copy()
    # Pillow turns the pixels first. Where the other EXIF data are broken, it then fails to write them back.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _orientation(picture: Image.Image) -> int:
    """Return how the camera was held, 1 to 8; 1 (upright) where the EXIF data say nothing that is known."""
    with contextlib.suppress(Exception):  # broken EXIF data; the picture need not be
        orientation = picture.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in range(1, 9) else 1
    return 1


def _from_array(array: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype != np.uint8 or not has_shape or not array.size:
        raise InputError(f"an array must be uint8 of shape (height, width, 3), not {array.dtype} {array.shape}")
    if array.shape == tuple(image_shape):
        return array
    return _as_array(_checked(Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)), image_shape)


def _as_array(picture: Image.Image, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    height, width, channels = image_shape or (picture.height, picture.width, 3)
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels)
