"""Photographs that installed packages carry, found without importing them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseface.datasets.orl import find_faces


def photograph(name, package="skimage"):
    """The path of a photograph; the test is skipped where its package is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    folder = Path(spec.submodule_search_locations[0]) / {"skimage": "data", "insightface": "data/images"}[package]
    return folder / name


def load(path):
    """A picture file as uint8 RGB (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def astronaut():
    """512 x 512 pixels, and one face, 120 pixels high."""
    return load(photograph("astronaut.png"))


def orl_square(person, picture):
    """One ORL face as uint8 RGB (112, 112, 3), the sides filled with copies of its edges."""
    pixels = load(find_faces() / f"s{person}" / f"{picture}.pgm")
    return np.pad(pixels, ((0, 0), (10, 10), (0, 0)), mode="edge")


def orl_faces():
    """The paths of the 400 ORL faces, 92 x 112 pixels each."""
    return sorted(find_faces().glob("s*/*.pgm"))
