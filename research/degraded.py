"""A copy of a data set as a bad camera would have taken it: a quarter of the resolution, blurred, with gray noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from denseface.data.pairs import read_pairs, write_pairs
from denseface.data.pictures import decode
from denseface.data.records import FaceRecords, write_face_records

_REDUCTION = 4
_BLUR = 0.7  # standard deviation, in pixels of the reduced picture
_NOISE = 12.0  # standard deviation, in gray levels


def degrade_set(source: Path, out: Path) -> None:
    """Write the records, and the verification set ``orl.bin``, of one folder to another, all degraded.

    The noise of a picture depends on its place in the set alone, so the same set gives the same copy.
    """
    out.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(source / "orl.bin")
    images, places = pairs.unique()
    degraded = [degrade(image, seed=i) for i, image in enumerate(images)]
    write_pairs(out / "orl.bin", [degraded[place] for place in places.ravel()], pairs.issame)
    with FaceRecords(source) as records:
        size = records.image_shape
        labeled = [records.read_image(key) for key in records.keys]
    faces = [(label, degrade(image, seed=len(images) + i)) for i, (label, image) in enumerate(labeled)]
    write_face_records(out, faces, size)


def degrade(payload: bytes, seed: int) -> bytes:
    """Degrade one encoded picture; it keeps its size, and is a JPEG."""
    picture = Image.fromarray(decode(payload)[:, :, 0])
    small = picture.resize([side // _REDUCTION for side in picture.size], Image.Resampling.BOX)
    small = small.filter(ImageFilter.GaussianBlur(_BLUR))
    noise = np.random.default_rng(seed).normal(0, _NOISE, (small.height, small.width))
    noisy = Image.fromarray(np.clip(np.rint(np.asarray(small) + noise), 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    enlarged = noisy.resize(picture.size, Image.Resampling.BICUBIC)
    Image.merge("RGB", [enlarged] * 3).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
