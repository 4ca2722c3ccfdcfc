"""Pictures in any form that a user may have them, as arrays of the size that a network takes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from denseface.core.errors import InputError
from denseface.core.files import open_input

Picture = Union[np.ndarray, Image.Image, str, Path, bytes]

# By their suffix, files that a folder is searched for.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".webp")

_TRAINING_FORMATS = (b"\xff\xd8", b"\x89PNG")  # JPEG and PNG are decoded as they are in training
_OTHER_FORMATS = ("BMP", "PPM", "WEBP")
_FORMATS = ("JPEG", "PNG", *_OTHER_FORMATS)
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
_MAX_PIXELS = 64_000_000
_ORIENTATION = 0x0112  # the tag in EXIF data that says how the camera was held
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(InputError):
    """An encoded picture cannot be used."""


class Header(NamedTuple):
    """What a picture says of itself before its pixels.

    Attributes
    ----------
    format : str
        As Pillow names it: "JPEG", "PNG" and so on.
    mode : str
        As Pillow names it: "L" is gray, "RGB" colour.
    width, height : int
        In pixels, as they are stored.
    """

    format: str
    mode: str
    width: int
    height: int


def load_picture(picture: Picture, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Bring a picture to the wanted size and channels.

    Parameters
    ----------
    picture : ndarray, PIL image, path or bytes
        An array is uint8, RGB of shape (height, width, 3) or gray of shape (height, width) or (height, width, 1). Bytes
        and files are JPEG, PNG, BMP, PGM, PPM or WebP.
    image_shape : tuple (height, width, channels)
        Channels 1 (gray) or 3 (RGB). A picture of another size is resized, bilinear, whatever its proportions.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8

    Raises
    ------
    InputError
        If it is none of these, or broken; of a file, the message names it.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture, image_shape)
    if isinstance(picture, Image.Image):
        return _from_pillow(picture, image_shape)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(picture), image_shape)
    if isinstance(picture, (str, Path)):
        with open_input(picture) as file:
            payload = file.read()
        try:
            return _from_bytes(payload, image_shape)
        except ImageError as error:
            raise ImageError(f"{picture}: {error}") from error
    raise InputError(f"a picture is an array, a PIL image, a path or bytes, not {type(picture).__name__}")


def decode_image(payload: bytes, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a JPEG or PNG picture to the wanted size and channels.

    Parameters
    ----------
    payload : bytes
        The encoded picture.
    image_shape : tuple (height, width, channels)
        Channels 1 (gray) or 3 (RGB). A picture of another size is resized, bilinear.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8, read-only

    Raises
    ------
    ImageError
        The picture is broken, neither JPEG nor PNG, not of 8 bits, or larger than 64 megapixels.
    """
    height, width, channels = image_shape
    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ImageError(f"{picture.width} x {picture.height} pixels are more than {_MAX_PIXELS:,}")
            if picture.mode not in _EIGHT_BIT_MODES:
                raise ImageError(f"its mode is {picture.mode}; convert it to 8 bits a channel")
            mode = "L" if channels == 1 else "RGB"
            fitted = picture if picture.mode == mode else picture.convert(mode)
            if fitted.size != (width, height):
                fitted = fitted.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(fitted).reshape(image_shape)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("no JPEG or PNG picture can be read from it") from error
    except Exception as error:  # on broken files Pillow raises OSError, SyntaxError, ValueError and more
        raise ImageError(f"the picture is broken ({error})") from error


def open_picture(payload: bytes) -> np.ndarray:
    """Decode a picture at its own size, turned upright as its EXIF data say.

    Parameters
    ----------
    payload : bytes
        A JPEG, PNG, BMP, PGM, PPM or WebP file.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8, RGB

    Raises
    ------
    InputError
        If it is none of these, or broken.
    """
    header = read_header(payload)
    pixels = load_picture(payload, (header.height, header.width, 3))
    if is_upright(payload):
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_TO_UPRIGHT[_orientation(payload)]))


def read_header(payload: bytes) -> Header:
    """Read what a picture says of itself.

    Raises
    ------
    ImageError
        If it is none.
    """
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
            return Header(str(image.format), image.mode, image.width, image.height)
    except Exception as error:  # on broken files Pillow raises OSError, SyntaxError, ValueError and more
        raise ImageError("no JPEG, PNG, BMP, PGM, PPM or WebP picture can be read from it") from error


def is_upright(payload: bytes) -> bool:
    """Whether a picture is stored the way it is to be seen, or does not say that it is not."""
    return _orientation(payload) not in _TO_UPRIGHT


def _orientation(payload):
    """How the camera was held, 1 to 8; 1, upright, where nothing can be read."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
        return image.getexif().get(_ORIENTATION, 1)
    return 1


def _from_bytes(payload, image_shape):
    if payload.startswith(_TRAINING_FORMATS):
        return decode_image(payload, image_shape)
    try:
        with Image.open(io.BytesIO(payload), formats=_OTHER_FORMATS) as picture:
            return _from_pillow(picture, image_shape)
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("no JPEG, PNG, BMP, PGM, PPM or WebP picture can be read from it") from error
    except Exception as error:  # on broken files Pillow raises OSError, SyntaxError, ValueError and more
        raise ImageError(f"the picture is broken ({error})") from error


def _from_array(array, image_shape):
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype != np.uint8 or not has_shape or not array.size:
        raise InputError(f"an array must be uint8 of shape (height, width, 3), not {array.dtype} {array.shape}")
    if array.shape == image_shape:
        return array
    return _from_pillow(Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array), image_shape)


def _from_pillow(picture, image_shape):
    height, width, channels = image_shape
    if picture.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"its mode is {picture.mode}; convert it to 8 bits a channel")
    if picture.width * picture.height > _MAX_PIXELS:
        raise ImageError(f"{picture.width} x {picture.height} pixels are more than {_MAX_PIXELS:,}")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image_shape)
