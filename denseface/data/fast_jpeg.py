"""JPEG files decoded by the package simplejpeg, if it is installed: the pixels of Pillow in half of the time.

Both packages contain libjpeg-turbo; simplejpeg calls it more directly. The tests compare their pixels.
"""

from __future__ import annotations

import numpy as np

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_COLORS = ("YCbCr", "Gray")


def decode_fast(payload: bytes, image_shape: tuple[int, int, int], reduction: int = 1) -> np.ndarray | None:
    """Decode a JPEG file of a known size.

    Parameters
    ----------
    payload : bytes
        The file.
    image_shape : tuple (height, width, channels)
        The shape of the picture; channels 1 (gray) or 3 (RGB).
    reduction : int
        1, 2, 4 or 8: height and width of the array are divided by it, and rounded up.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8, optional
        Read-only. None if the package is not installed, the file is not a JPEG file of this size in RGB or gray, or
        anything is unusual about it: Pillow then decides what it is.
    """
    if simplejpeg is None:
        return None
    height, width, channels = image_shape
    try:
        *size, colors, _ = simplejpeg.decode_jpeg_header(payload)
        if size != [height, width] or colors not in _COLORS or (channels == 1 and colors != "Gray"):
            return None
        reduced = -(-height // reduction), -(-width // reduction)
        pixels = simplejpeg.decode_jpeg(
            payload, colorspace="GRAY" if channels == 1 else "RGB", min_height=reduced[0], min_width=reduced[1]
        )
        if pixels.shape[:2] != reduced:
            return None
    except Exception:  # of any kind: Pillow then decodes the file, or raises the error
        return None
    pixels.flags.writeable = False
    return pixels
