"""Random augmentation of training pictures, under the names of InsightFace's configuration."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real

import numpy as np
from PIL import Image, ImageFilter

from denseface.core.errors import InputError
from denseface.data.pose import turn_head
from denseface.data.warp import from_pillow, pad_for, to_pillow

_CONFIG_KEYS = {
    "mirror": "data_rand_mirror",
    "color": "data_color",
    "cutoff": "data_cutoff",
    "rotate": "data_rotate",
    "scale": "data_scale",
    "shift": "data_shift",
    "yaw": "data_yaw",
    "pitch": "data_pitch",
    "crop": "data_crop",
    "downsample": "data_downsample",
    "blur": "data_blur",
}

# Beyond these limits a face leaves its picture, or cannot be recognized.
_LIMITS = {
    "rotate": 180.0,
    "scale": 0.5,
    "shift": 0.5,
    "yaw": 45.0,
    "pitch": 30.0,
    "crop": 0.95,
    "downsample": 16.0,
    "blur": 10.0,
}

_JITTER = 0.125
_WORST_QUALITY, _BEST_QUALITY = 2, 20
_CUTOFF_VALUE = 128
_POOR = 0.2  # probability of each loss of quality
_CROP_ASPECTS = (3 / 4, 4 / 3)
_FILTERS = tuple(Image.Resampling[name] for name in ("NEAREST", "BOX", "BILINEAR", "BICUBIC", "LANCZOS"))
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation; calling it applies it.

    The order is: yaw and pitch, rotation, scale and shift as one warp, mirror, crop, downsampling, blur, JPEG
    compression, color, cutoff. Crop and downsampling are those with which AdaFace was trained (Kim et al. 2022),
    whose crop is black outside.

    Parameters
    ----------
    mirror : bool
        Mirror left and right with probability 0.5 (``data_rand_mirror``).
    color : int
        From 1: brightness, contrast and saturation each change by a factor of up to 1 +- 0.125, in random order. From
        2: before that, with probability 0.5, the picture goes through JPEG at a quality of 2 to 20 (``data_color``).
    cutoff : int
        Side in pixels of a square that is set to 128, around a random center, with probability 0.5; 0 for no square
        (``data_cutoff``).
    rotate : float
        Largest rotation about the center to either side, in degrees, up to 180 (``data_rotate``).
    scale : float
        Largest change of size as a fraction: 0.1 gives factors in [0.9, 1.1]; up to 0.5 (``data_scale``).
    shift : float
        Largest shift along each axis as a fraction of that side, up to 0.5 (``data_shift``).
    yaw, pitch : float
        Largest angles in degrees by which the head turns to either side, up to 45, and up or down, up to 30
        (``data_yaw``, ``data_pitch``). The picture must be an aligned face; see :mod:`denseface.data.pose`.
    crop : float
        Largest fraction of the picture's area outside a random rectangle that is set to 128, with probability 0.2, up
        to 0.95; AdaFace has 0.8 (``data_crop``).
    downsample : float
        Largest factor by which the picture is reduced and enlarged again, by random interpolation, with probability
        0.2, up to 16; AdaFace has 5 (``data_downsample``).
    blur : float
        Largest standard deviation of a Gaussian blur in pixels, with probability 0.2, up to 10 (``data_blur``).

    Raises
    ------
    InputError
        A value is negative, too large or of the wrong kind; the message names its configuration key.
    """

    mirror: bool = True
    color: int = 0
    cutoff: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    crop: float = 0.0
    downsample: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        if self.mirror not in (False, True):
            raise InputError(f"{_CONFIG_KEYS['mirror']} must be True or False, got {self.mirror!r}")
        for name in ("color", "cutoff"):
            value = getattr(self, name)
            if value is True or not isinstance(value, Integral) or value < 0:
                raise InputError(f"{_CONFIG_KEYS[name]} must be a whole number, 0 (off) or more, got {value!r}")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if value is True or not isinstance(value, Real) or not 0 <= float(value) <= limit:
                raise InputError(f"{_CONFIG_KEYS[name]} must be a number from 0 (off) to {limit:g}, got {value!r}")

    @classmethod
    def from_config(cls, config: Mapping) -> Augmentation:
        """Read the ``data_*`` keys of a configuration; a key that is missing or False is off.

        Raises
        ------
        InputError
            A value is negative, too large or of the wrong kind.
        """
        return cls(**{field.name: config.get(_CONFIG_KEYS[field.name], False) for field in fields(cls)})

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change one picture at random.

        Parameters
        ----------
        image : ndarray of shape (H, W, C), uint8
            RGB, or gray with C = 1. It is not changed in place.
        rng : numpy.random.Generator
            The source of every draw: equal generators make equal pictures.

        Returns
        -------
        ndarray of shape (H, W, C), uint8
            ``image`` itself if nothing was drawn that changes it; a mirrored view of it if only that was drawn.
        """
        if self.yaw or self.pitch:
            limits = np.array([self.yaw, self.pitch])
            image = turn_head(image, *rng.uniform(-limits, limits))
        if self.rotate or self.scale or self.shift:
            image = self._warp(image, rng)
        if self.mirror and rng.random() < 0.5:
            image = image[:, ::-1]
        if self.crop and rng.random() < _POOR:
            image = _crop(image, self.crop, rng)
        if self.downsample and rng.random() < _POOR:
            image = _downsample(image, self.downsample, rng)
        if self.blur and rng.random() < _POOR:
            blur = ImageFilter.GaussianBlur(rng.uniform(0, self.blur))
            image = from_pillow(to_pillow(image).filter(blur))
        if self.color >= 2 and rng.random() < 0.5:
            image = _recompress(image, quality=int(rng.integers(_WORST_QUALITY, _BEST_QUALITY + 1)))
        if self.color >= 1:
            image = _jitter_color(image, rng)
        if self.cutoff and rng.random() < 0.5:
            image = _cut_square(image, self.cutoff, rng)
        return image

    def _warp(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        factor = rng.uniform(1 - self.scale, 1 + self.scale)
        shift_x, shift_y = rng.uniform(-self.shift, self.shift, size=2) * (width, height)

        # Pillow asks where each pixel comes from, which is the inverse of the warp.
        cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
        inverse = np.array([[cos, sin], [-sin, cos]])
        center = np.array([width / 2, height / 2])
        offset = center - inverse @ (center + (shift_x, shift_y))

        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ inverse.T + offset
        padded, padding = pad_for(image, corners)
        matrix = np.column_stack([inverse, offset + padding]).ravel()
        warped = to_pillow(padded).transform(
            (width, height), Image.Transform.AFFINE, tuple(matrix), Image.Resampling.BILINEAR
        )
        return from_pillow(warped)


def _crop(image: np.ndarray, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Set everything but a rectangle to gray; the face stays in its place."""
    height, width = image.shape[:2]
    area = rng.uniform(1 - largest, 1)
    aspect = math.exp(rng.uniform(*map(math.log, _CROP_ASPECTS)))
    side = math.sqrt(area)
    rows, columns = min(side / math.sqrt(aspect), 1), min(side * math.sqrt(aspect), 1)  # as fractions
    cut = []
    for size, fraction in ((height, rows), (width, columns)):
        kept = max(1, round(size * fraction))
        first = int(rng.integers(size - kept + 1))
        cut.append(slice(first, first + kept))
    cropped = np.full_like(image, _CUTOFF_VALUE)
    cropped[tuple(cut)] = image[tuple(cut)]
    return cropped


def _downsample(image: np.ndarray, largest: float, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    fraction = rng.uniform(min(1 / largest, 1), 1)
    down, up = (_FILTERS[int(rng.integers(len(_FILTERS)))] for _ in range(2))
    small = to_pillow(image).resize((max(1, round(width * fraction)), max(1, round(height * fraction))), down)
    return from_pillow(small.resize((width, height), up))


def _recompress(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, format="JPEG", quality=quality)
    return from_pillow(Image.open(buffer))


def _jitter_color(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation; all three are affine in a pixel's channels, so one step does."""
    height, width, channels = image.shape
    luma = _LUMA if channels == 3 else np.ones(1)
    identity = np.eye(channels)
    mean = image.sum(axis=0, dtype=np.uint32).sum(axis=0) / (height * width)

    matrix, offset = identity, np.zeros(channels)
    for kind in rng.permutation(["brightness", "contrast", "saturation"]):
        alpha = rng.uniform(1 - _JITTER, 1 + _JITTER)
        if kind == "contrast":  # relative to the mean gray of the picture after the changes so far
            mean_gray = luma @ (matrix @ mean + offset)
            matrix, offset = alpha * matrix, alpha * offset + (1 - alpha) * mean_gray
        else:  # relative to black, or to the pixel's own gray
            step = alpha * identity
            if kind == "saturation":
                step = step + (1 - alpha) * luma
            matrix, offset = step @ matrix, step @ offset

    pixels = image.reshape(-1, channels) @ matrix.T.astype(np.float32)
    pixels += offset.astype(np.float32)
    np.rint(pixels, out=pixels)
    np.clip(pixels, 0, 255, out=pixels)
    return pixels.astype(np.uint8).reshape(image.shape)


def _cut_square(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Set a square to gray; it may extend beyond the border."""
    height, width = image.shape[:2]
    top, left = (int(rng.integers(size)) - side // 2 for size in (height, width))
    image = image.copy()
    image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = _CUTOFF_VALUE
    return image
