"""Pictures in any form, as arrays of the size of a network's input."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Union

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from denseface.core.errors import InputError, is_lack
from denseface.core.files import open_input, read_input
from denseface.data.fast_jpeg import decode_fast

PictureFile = Union[str, os.PathLike, bytes, bytearray, memoryview, IO[bytes]]
Picture = Union[np.ndarray, Image.Image, PictureFile]

# Files with these suffixes are pictures, even if they turn out to be broken; others are by their first bytes.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".pbm", ".pgm", ".ppm", ".pnm", ".webp", ".gif"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl"),
)

# Files from outside are not trusted: Pillow's readers that run an interpreter (EPS) or are seldom used stay out.
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "GIF", "TIFF", "AVIF", "HEIF", "JXL")
_READ = "JPEG, PNG, BMP, PPM, WebP, GIF, TIFF or AVIF"
_PLUGINS = ("Bmp", "Jpeg", "Png", "Ppm", "WebP", "Gif", "Tiff", "Avif")


class _Addition(NamedTuple):
    """A package that adds the reader of a format to Pillow when its module is imported."""

    format: str
    module: str
    package: str


# By the names of formats in _SIGNATURES.
_ADDITIONS = {
    "HEIC": _Addition("HEIF", "pillow_heif.HeifImagePlugin", "pillow-heif"),
    "AVIF": _Addition("AVIF", "pillow_avif", "pillow-avif-plugin"),
    "JPEG XL": _Addition("JXL", "pillow_jxl", "pillow-jxl-plugin"),
}

_SIGNATURE_LENGTH = 32
# First bytes of each format, its usual suffix and its name.
_SIGNATURES = [
    (re.compile(pattern, re.DOTALL), suffix, name)
    for pattern, suffix, name in (
        (rb"\xff\xd8\xff", ".jpg", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", ".png", "PNG"),
        (rb"RIFF.{4}WEBP", ".webp", "WebP"),
        (rb"GIF8[79]a", ".gif", "GIF"),
        (rb"BM.{12}[\x0c(4@8l|]\0\0\0", ".bmp", "BMP"),  # after the sizes, the length of one of its headers
        (rb"P[1-6]\s+[#\d]", ".ppm", "PPM"),
        (rb"II\*\0|MM\0\*", ".tif", "TIFF"),
        (rb".{4}ftyp(avi[fs]|mif1.{4}.*avif)", ".avif", "AVIF"),
        (rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", ".heic", "HEIC"),
        (rb"\0\0\0\x0cjP  ", ".jp2", "JPEG 2000"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", ".jxl", "JPEG XL"),
        (rb"8BPS", ".psd", "Photoshop"),
    )
]

_EXPECTED = "a picture must be a path, bytes, an open file, a PIL image or a uint8 array"
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_DEEP_MODES = ("I", "F")  # and I;16 and its like
_MAX_16_BITS = 65535
_MAX_PIXELS = 64_000_000
MAX_FILE_SIZE = 8 * _MAX_PIXELS  # in bytes: more than such a picture takes uncompressed
_REDUCIBLE = ("JPEG", "MPO")  # MPO: several JPEG files in one, as telephones write them
_LYING = (5, 6, 7, 8)  # orientations that exchange height and width
_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was turned; 1 is upright
# TIFF's tags: whether a picture is a smaller one of another; how many bits a number has; whether 0 is white.
_KIND, _BITS, _POLARITY = 0x00FE, 0x0102, 0x0106


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
    """The header of a picture file.

    Attributes
    ----------
    format : str
        As Pillow names it: "JPEG", "PNG" and so on.
    mode : str
        As Pillow names it: "L" is gray, "RGB" color.
    width, height : int
        In pixels, as they are stored: before the picture is turned upright.
    """

    format: str
    mode: str
    width: int
    height: int


class Reduced(NamedTuple):
    """A photograph, decoded at a fraction of its size.

    Attributes
    ----------
    pixels : ndarray of shape (height, width, 3), uint8
        RGB, upright, read-only.
    factor : int
        1, 2, 4 or 8: how many pixels of the photograph, each way, one pixel of the array covers.
    """

    pixels: np.ndarray
    factor: int


class Photograph:
    """A photograph that is decoded as finely as each use of it needs.

    A JPEG file is decoded at a half, a quarter or an eighth of its size in a fraction of the time. All other formats
    are decoded whole, and arrays taken as they are.

    Parameters
    ----------
    picture : bytes or ndarray of shape (height, width, 3), uint8
        A picture file, as `decode` takes it, or RGB, upright.

    Attributes
    ----------
    shape : tuple (height, width)
        In pixels, upright.

    Raises
    ------
    ImageError
        If the file is broken, as far as its header says. `reduced` tells what is wrong with its pixels.
    """

    def __init__(self, picture: bytes | np.ndarray):
        self._decoded: dict[int, np.ndarray] = {}
        self._header: Header | None = None  # of a JPEG file
        self._orientation = 1
        if isinstance(picture, bytes):
            self._payload = picture
            with _opened(picture) as opened:
                if opened.format in _REDUCIBLE:
                    self._header = Header(opened.format, opened.mode, opened.width, opened.height)
                    self._orientation = _orientation(opened)
        if self._header is None:
            self._decoded[1] = decode(picture) if isinstance(picture, bytes) else picture
            self.shape = self._decoded[1].shape[:2]
        else:
            size = self._header.height, self._header.width
            self.shape = size[::-1] if self._orientation in _LYING else size

    def reduced(self, most: float = 1) -> Reduced:
        """Decode the photograph, or return what an earlier call has decoded.

        Parameters
        ----------
        most : float
            The largest factor that is good enough; below 1 it is 1.

        Raises
        ------
        ImageError
            As for `decode`.
        """
        factor = 1
        if self._header is not None:
            factor = next((factor for factor in (8, 4, 2) if factor <= most), 1)
        if factor not in self._decoded:
            assert self._header is not None, "all other pictures are decoded whole"
            self._decoded[factor] = self._decode(self._header, factor)
        return Reduced(self._decoded[factor], factor)

    def _decode(self, header: Header, factor: int) -> np.ndarray:
        _, mode, width, height = header
        if self._orientation == 1 and mode in ("RGB", "L") and width * height <= _MAX_PIXELS:
            pixels = decode_fast(self._payload, (height, width, 3), factor)
            if pixels is not None:
                return pixels
        with _opened(self._payload) as picture:
            _check(picture)
            picture.draft(None, (max(1, width // factor), max(1, height // factor)))
            return _converted(picture, None, upright=True)


def load_picture(picture: Picture, image_shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Convert a picture to the shape that a network takes, or to RGB of its own size.

    Parameters
    ----------
    picture : ndarray, PIL image, path, bytes or open file
        An array is uint8, RGB of shape (height, width, 3) or gray of shape (height, width) or (height, width, 1). What
        has a method ``read`` is read from where it stands. All but arrays are turned upright, as `decode` does.
    image_shape : tuple (height, width, channels), optional
        Channels 1 (gray) or 3 (RGB). A picture of another size is resized, bilinear, whatever its proportions. By
        default the picture keeps its size, and is RGB.

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
            return _converted(picture, image_shape, upright=True)
    with _naming(picture):
        return decode(_payload(picture), image_shape)


def open_photograph(picture: Picture) -> Photograph:
    """Make a `Photograph` of a picture in any form that `load_picture` takes.

    Raises
    ------
    InputError
        If it is none of these, or broken, as far as its header says; for a file, the message names it.
    """
    if isinstance(picture, (np.ndarray, Image.Image)):
        return Photograph(load_picture(picture))
    with _naming(picture):
        return Photograph(_payload(picture))


@contextlib.contextmanager
def _naming(picture: PictureFile) -> Iterator[None]:
    """Name the file of a picture in an error, if a path was given."""
    try:
        yield
    except ImageError as error:
        if isinstance(picture, (str, os.PathLike)):
            raise ImageError(str(error), path=picture) from error
        raise


def _payload(picture: PictureFile) -> bytes:
    """Return the content of a picture file, which is given itself, by its path or open."""
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, (str, os.PathLike)):
        return read_input(os.fspath(picture), MAX_FILE_SIZE)
    if hasattr(picture, "read"):
        return _read_open(picture)
    raise InputError(f"{_EXPECTED}, not {type(picture).__name__}")


def is_picture_form(value: object) -> bool:
    """Whether a value is one picture in a form that `load_picture` takes, not several of them."""
    forms = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, forms) or hasattr(value, "read") or (isinstance(value, np.ndarray) and value.ndim < 4)


def _read_open(file: IO[bytes]) -> bytes:
    """Read an open file, as far as a picture could be long."""
    try:
        payload = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:  # closed, or not open for reading
        raise InputError(f"the open file cannot be read ({error})") from error
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise InputError(f"an open file must return bytes, not {type(payload).__name__}; open it in binary mode")
    if len(payload) > MAX_FILE_SIZE:
        raise ImageError(f"more than {MAX_FILE_SIZE:,} bytes, too long for a picture")
    if not payload:
        raise ImageError("nothing is left to read in the open file; has it been read already?")
    return bytes(payload)


def decode(payload: bytes, image_shape: tuple[int, int, int] | None = None, *, upright: bool = True) -> np.ndarray:
    """Decode a picture file.

    Parameters
    ----------
    payload : bytes
        A JPEG, PNG, BMP, PBM, PGM, PPM, WebP, GIF or TIFF file; HEIC, AVIF and JPEG XL where Pillow or a package that
        adds a reader to it reads them. The content decides, not a name. Of several pictures in a file, the first is
        read. Numbers of 16 bits are scaled to 8.
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
        If the picture is broken, of another format, of more than 16 bits per channel, or larger than 64 megapixels.
    """
    if not upright and image_shape is not None:
        pixels = decode_fast(payload, image_shape)
        if pixels is not None:
            return pixels
    with _opened(payload) as picture:
        return _converted(picture, image_shape, upright)


def as_batch(pictures: Sequence[np.ndarray], image_shape: tuple[int, int, int]) -> np.ndarray:
    """Stack pictures as networks take them.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, channels), uint8
    image_shape : tuple (height, width, channels)

    Returns
    -------
    ndarray of shape (n, channels, height, width), float32
    """
    stacked = np.array(pictures, np.uint8).reshape(len(pictures), *image_shape)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), np.float32)


def filled(batch: np.ndarray, size: int) -> np.ndarray:
    """Fill a batch (n, C, H, W) up with zeros, to (size, C, H, W); a full one is returned as it is."""
    if len(batch) == size:
        return batch
    whole = np.zeros((size, *batch.shape[1:]), batch.dtype)
    whole[: len(batch)] = batch
    return whole


def is_picture(path: str | Path) -> bool:
    """Whether a file is a picture by its suffix, or by its first bytes; it may still be broken."""
    if str(path).lower().endswith(PICTURE_SUFFIXES):
        return True
    try:
        with open_input(path) as file:
            return usual_suffix(file.read(_SIGNATURE_LENGTH)) is not None
    except InputError as error:
        if is_lack(error.__cause__):
            raise
        return False


def usual_suffix(payload: bytes) -> str | None:
    """Return the suffix that pictures of a format usually have, by their first bytes: ``.jpg``; None if it is none."""
    return next((suffix for pattern, suffix, _ in _SIGNATURES if pattern.match(payload[:_SIGNATURE_LENGTH])), None)


def read_header(payload: bytes) -> Header:
    """Read the header of a picture file.

    Raises
    ------
    ImageError
        If it is not a picture file of a format that `decode` reads.
    """
    with _opened(payload) as picture:
        return Header(str(picture.format), picture.mode, picture.width, picture.height)


def is_upright(payload: bytes) -> bool:
    """Whether a picture file is stored upright, as far as its EXIF data say.

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
    with _described(payload):
        _load_plugins()
        name = _format_of(payload)
        if name in _ADDITIONS:
            _load_addition(name)
        formats = [name for name in _FORMATS if name in Image.OPEN]
        with Image.open(io.BytesIO(payload), formats=formats) as picture:
            yield picture


@contextlib.contextmanager
def _described(payload: bytes = b"") -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_why_unidentified(payload)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"it has more than {_MAX_PIXELS:,} pixels; scale it down") from error
    except Exception as error:  # on broken files Pillow raises OSError, SyntaxError, ValueError and more
        if "MAX_TEXT_" in str(error):
            reason = "its text or color profile is longer than Pillow reads; save it again without"
            raise ImageError(reason) from error
        raise ImageError(f"the picture is broken ({error})") from error


def _format_of(payload: bytes) -> str | None:
    """Name the format of a picture by its first bytes."""
    return next((name for pattern, _, name in _SIGNATURES if pattern.match(payload[:_SIGNATURE_LENGTH])), None)


def _why_unidentified(payload: bytes) -> str:
    name = _format_of(payload)
    if name is None:
        return f"not a {_READ} picture"
    if name in _ADDITIONS and not _has_reader(name):
        package, failure = _ADDITIONS[name].package, _load_addition(name)
        if failure:
            return f"a {name} picture; {package}, which reads it, is installed, but cannot be imported: {failure}"
        return f"a {name} picture, which cannot be read here: pip install {package}, or convert it to JPEG or PNG"
    if name in _READ or name in _ADDITIONS:
        return f"the picture is broken: its first bytes say {name}, but no such picture follows"
    return f"a {name} picture, which cannot be read here; convert it to JPEG or PNG"


@functools.cache
def _load_plugins() -> None:
    """Load the readers of these formats; for an unknown format Pillow would load all of its readers."""
    for name in _PLUGINS:
        with contextlib.suppress(ImportError):  # as AVIF's is in older versions
            importlib.import_module(f"PIL.{name}ImagePlugin")


def _load_addition(name: str) -> str:
    """Add the reader of a format to Pillow, if a package has it; return why an installed package does not."""
    addition = _ADDITIONS[name]
    module, _, _ = addition.module.partition(".")
    if _has_reader(name) or importlib.util.find_spec(module) is None:
        return ""
    try:
        importlib.import_module(addition.module)
    except Exception as error:  # an incompatible package may raise anything
        return str(error) or type(error).__name__
    return ""


def _has_reader(name: str) -> bool:
    """Whether Pillow has the reader of a format; that of AVIF may be there without the library that it needs."""
    is_complete = name != "AVIF" or "pillow_avif" in sys.modules or importlib.util.find_spec("PIL._avif") is not None
    return is_complete and _ADDITIONS[name].format in Image.OPEN


def _converted(picture: Image.Image, image_shape: tuple[int, int, int] | None, upright: bool) -> np.ndarray:
    _check(picture)
    white = _white(picture)
    if upright:
        picture = _upright(picture)
    return _as_array(_of_8_bits(picture, *white) if white else picture, image_shape)


def _check(picture: Image.Image) -> None:
    if picture.width * picture.height > _MAX_PIXELS:
        raise ImageError(f"{picture.width} x {picture.height} pixels are more than {_MAX_PIXELS:,}; scale it down")
    if picture.mode not in _MODES and not _white(picture):
        if picture.mode.startswith(_DEEP_MODES):
            raise ImageError(f"it has more than 16 bits per channel (mode {picture.mode}); convert it to 8 bits")
        raise ImageError(f"its colors are of mode {picture.mode}; convert them to RGB")
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.get(_KIND, 0) & 1:
        raise ImageError("the first picture in it is a preview, as in a camera's raw file; convert it to JPEG")


def _white(picture: Image.Image) -> tuple[int, int] | None:
    """Return the numbers that are black and white in a gray picture of 16 bits; None for any other picture."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        if not picture.mode.startswith("I;16"):
            return None
        white = 2 ** picture.tag_v2.get(_BITS, (16,))[0] - 1
        return (white, 0) if picture.tag_v2.get(_POLARITY) == 0 else (0, white)
    # Pillow scales what is in a PGM file to 16 bits, and some of its versions read PNG files of 16 bits like that, too.
    is_deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))
    return (0, _MAX_16_BITS) if is_deep else None


def _of_8_bits(picture: Image.Image, black: int, white: int) -> Image.Image:
    """Scale a gray picture to 8 bits."""
    scaled = (np.arange(_MAX_16_BITS + 1) - black) * (255 / (white - black))
    return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8)[np.asarray(picture)])


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a picture upright by its EXIF data."""
    picture.load()
    if _orientation(picture) == 1:
        return picture
    picture = picture.copy()
    # Pillow turns the pixels first. Where the other EXIF data are broken, it then fails to write them back.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or unknown."""
    with contextlib.suppress(Exception):  # broken EXIF data; the picture need not be
        orientation = picture.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in range(1, 9) else 1
    return 1


def _from_array(array: np.ndarray, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype != np.uint8 or not has_shape or not array.size:
        raise InputError(f"an array must be uint8 of shape (height, width, 3), not {array.dtype} {array.shape}")
    if array.shape == tuple(image_shape or (*array.shape[:2], 3)):
        return array
    picture = Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
    return _converted(picture, image_shape, upright=False)


def _as_array(picture: Image.Image, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    height, width, channels = image_shape or (picture.height, picture.width, 3)
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels)
