"""Folders of pictures that can be told apart, for the tests of data sets."""

import contextlib
import io
import os

import numpy as np
from PIL import Image

SIZE = 16


def face(person, number, size=SIZE):
    """A picture that survives JPEG: one color for the person and a gray level for the number, up to 24."""
    picture = np.full((size, size, 3), 10 * (number % 25), np.uint8)
    picture[: size // 2] = 40 * (person % 6 + 1), 40 * (person // 6 + 1), 128
    return picture


def who(payload):
    """The person and the number of an encoded `face`, of any size."""
    with Image.open(io.BytesIO(payload)) as image:
        pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), float)
    red, green, _ = pixels[2, 8]
    return round(red / 40) - 1 + 6 * (round(green / 40) - 1), round(pixels[13, 8, 0] / 10)


def save_face(path, person, number, size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(face(person, number, size)).save(path, **options)
    return path


def save_people(root, counts, suffix=".png", size=SIZE):
    """Write `counts[i]` pictures of person i to folders named p00, p01 and so on."""
    for person, count in enumerate(counts):
        for number in range(1, count + 1):
            save_face(root / f"p{person:02}" / f"{number:02}{suffix}", person, number, size)
    return root


def contents(folder):
    """All files below a folder, with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def deep_folder(path, depth=1500):
    """Go to the innermost of many nested folders; remove them afterwards, which shutil.rmtree cannot do everywhere."""
    before = os.getcwd()
    os.chdir(path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    try:
        yield
    finally:
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
        os.chdir(before)
