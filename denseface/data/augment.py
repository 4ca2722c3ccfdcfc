"""Random augmentation of training pictures, under the names of InsightFace's configuration."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from denseface.core.option import Options, option
from denseface.data.pose import turn_head
from denseface.data.warp import from_pillow, pad_for, to_pillow

_JITTER = 0.125
_WORST_QUALITY, _BEST_QUALITY = 2, 20
_CUTOFF_VALUE = 128
_POOR = 0.2  # probability of each loss of quality
_CROP_ASPECTS = (3 / 4, 4 / 3)
_FILTERS = tuple(Image.Resampling[name] for name in ("NEAREST", "BOX", "BILINEAR", "BICUBIC", "LANCZOS"))
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation(Options):
    """Random augmentation; calling it applies it.

    The order is: yaw and pitch, rotation, scale and shift as one warp, mirror, crop, downsampling, blur, JPEG
    compression, color, cutoff. Crop and downsampling are those with which AdaFace was trained (Kim et al. 2022),
    whose crop is black outside.

    Each field says what it does, in which unit and within which limits, and its key in ``config.py``. Beyond the limits
    a face leaves its picture, or cannot be recognized. For yaw and pitch the picture must be an aligned face; see
    :mod:`denseface.data.pose`.

    Raises
    ------
    InputError
        A value is out of its limits or of the wrong kind.
    """

    mirror: bool = option(True, "mirror left and right with probability 0.5", key="data_rand_mirror")
    color: int = option(
        0,
        "from 1, brightness, contrast and saturation each change by a factor of up to 1 +- 0.125, in random order; "
        "from 2, before that, JPEG compression at a quality of 2 to 20 with probability 0.5",
        key="data_color",
        bounds=(0, math.inf),
    )
    cutoff: int = option(
        0,
        "side of a square that becomes gray, around a random center, with probability 0.5; 0 for none",
        key="data_cutoff",
        bounds=(0, 4096),
        unit="pixels",
        advice={"true": "write the side of the square in pixels, as in data_cutoff=40"},
    )
    rotate: float = option(
        0.0, "largest rotation about the center, to either side", key="data_rotate", bounds=(0, 180), unit="degrees"
    )
    scale: float = option(
        0.0, "largest change of size: 0.1 gives factors from 0.9 to 1.1", key="data_scale", bounds=(0, 0.5)
    )
    shift: float = option(
        0.0, "largest shift along each axis, as a fraction of that side", key="data_shift", bounds=(0, 0.5)
    )
    yaw: float = option(
        0.0, "largest angle by which the head turns to either side", key="data_yaw", bounds=(0, 45), unit="degrees"
    )
    pitch: float = option(
        0.0, "largest angle by which the head turns up or down", key="data_pitch", bounds=(0, 30), unit="degrees"
    )
    crop: float = option(
        0.0,
        "largest fraction of the area that becomes gray, outside a random rectangle, with probability 0.2; AdaFace has "
        "0.8",
        key="data_crop",
        bounds=(0, 0.95),
    )
    downsample: float = option(
        0.0,
        "largest factor by which the picture is reduced and enlarged again, by random interpolations, with probability "
        "0.2; 0 for none; AdaFace has 5",
        key="data_downsample",
        bounds=(0, 16),
    )
    blur: float = option(
        0.0,
        "largest standard deviation of a Gaussian blur, with probability 0.2",
        key="data_blur",
        bounds=(0, 10),
        unit="pixels",
    )

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
