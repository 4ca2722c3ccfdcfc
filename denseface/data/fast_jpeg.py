"""JPEG files decoded by the package simplejpeg, if it is installed and returns the same pixels as Pillow.

Both packages contain libjpeg-turbo; simplejpeg goes to it more directly, in half of the time.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
from collections.abc import Callable

import numpy as np
from PIL import Image

logger = logging.getLogger("denseface")

_COLORS = ("YCbCr", "Gray")
# Subsampling of the colors, and whether the file is progressive: what pictures of faces are.
_KINDS = ((0, False), (1, False), (2, False), (2, True))
_TRIED = (35, 41)


@functools.cache
def fast_jpeg_decoder() -> Callable[[bytes, tuple[int, int, int]], np.ndarray | None] | None:
    """Return a decoder, or None if there is none.

    Returns
    -------
    callable, optional
        Called with the bytes of a file and the shape (height, width, channels) that is wanted, it returns the pixels,
        uint8 and read-only; or None if it is not a JPEG file of this size in RGB or gray, or anything is unusual about
        it. Pillow then decides what it is.
    """
    try:
        library = importlib.import_module("simplejpeg")
    except ImportError:
        return None
    decoder = functools.partial(_decode, library)
    if all(np.array_equal(decoder(_encoded(*kind), (*_TRIED, 3)), _by_pillow(_encoded(*kind))) for kind in _KINDS):
        return decoder
    logger.warning("simplejpeg decodes JPEG files in another way than Pillow does, and is not used; upgrade both")
    return None


def _decode(library, payload, image_shape):
    height, width, channels = image_shape
    try:
        *size, colors, _ = library.decode_jpeg_header(payload)
        if size != [height, width] or colors not in _COLORS or (channels == 1 and colors != "Gray"):
            return None
        pixels = library.decode_jpeg(payload, colorspace="GRAY" if channels == 1 else "RGB")
    except Exception:  # whatever it raises, Pillow has the last word, and the message
        return None
    pixels.flags.writeable = False
    return pixels


def _encoded(subsampling, progressive):
    """Make a picture of edges and colors."""
    pixels = np.random.RandomState(0).randint(0, 256, (*_TRIED, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    return file.getvalue()


def _by_pillow(payload):
    with Image.open(io.BytesIO(payload), formats=["JPEG"]) as picture:
        return np.asarray(picture)
