"""Verification sets in InsightFace's ``.bin`` format, read without trusting the file, and written.

A set of n pairs is a pickle of (2n encoded images, n bools): images 2i and 2i + 1 are pair i, and bool i says whether
they show the same person. Whole numbers 0 and 1 may stand for the bools. The format does not contain names, so
``NAME.people.csv`` beside ``NAME.bin`` may say who is in its images, by their SHA-256.

A picture that no face could be cut out of may be in a set as a failure to enroll: a black JPEG file with a comment that
says so, and that names the picture. Its pairs never match.
"""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing_together
from denseface.core.text import counted
from denseface.data import plain_pickle

_FAILURE = b"denseface: failure to enroll: "
_HEAD = 64  # bytes of a JPEG file within which Pillow's comment starts

_PEOPLE_COLUMNS = ("sha256", "person")


@dataclass(frozen=True, eq=False)
class PairSet:
    """The pairs of a verification set.

    Attributes
    ----------
    images : list of bytes, of length 2n
        The encoded images; pair i is made of 2i and 2i + 1.
    issame : ndarray of shape (n,), bool
        Whether the pair shows one person.
    name : str
        The file's name without its suffix, as in ``lfw``.
    people : dict of str to str
        The person in an image, by its SHA-256 in hexadecimal digits; empty if nobody says.
    """

    images: list[bytes]
    issame: np.ndarray
    name: str
    people: dict[str, str] = field(default_factory=dict)

    def unique(self) -> tuple[list[bytes], np.ndarray]:
        """Find the distinct images, so that each need be embedded only once.

        Returns
        -------
        images : list of bytes
            The distinct images, in the order of their first use.
        pairs : ndarray of shape (n, 2), int64
            For each pair, the indices of its two images in that list.
        """
        index_of: dict[bytes, int] = {}
        indices = [index_of.setdefault(image, len(index_of)) for image in self.images]
        return list(index_of), np.array(indices, np.int64).reshape(-1, 2)

    @property
    def failed(self) -> np.ndarray:
        """Whether a picture of each pair is a failure to enroll, as bools of shape (n,)."""
        return np.array([_FAILURE in image[:_HEAD] for image in self.images], bool).reshape(-1, 2).any(axis=1)

    def people_of(self, images: Iterable[bytes]) -> list[str] | None:
        """Return the person in each of some images of the set; None if unknown.

        Raises
        ------
        InputError
            If an image is not in the table: it was made for another set.
        """
        if not self.people:
            return None
        try:
            return [self.people[_digest(image)] for image in images]
        except KeyError:
            raise InputError(
                f"{self.name}.people.csv is of another set, since it lacks pictures of this one; remove it, or make "
                "both again"
            ) from None


def read_pairs(path: str | Path) -> PairSet:
    """Read a verification set.

    Nothing in the file is run: a pickle that asks for more than lists, tuples, bytes, bools and whole numbers, or NumPy
    arrays of these, is refused, and the message names what it asks for.

    Parameters
    ----------
    path : path-like
        The file, from Python 2 or 3.

    Returns
    -------
    PairSet

    Raises
    ------
    InputError
        If the file cannot be read, is refused, damaged or empty, or does not contain two images per bool.
    """
    path = Path(path)
    with open_input(path) as file:
        data = file.read()
    if not data:
        raise InputError("the file is empty; copy it again", path=path)
    content = plain_pickle.loads(data, str(path))
    if type(content) not in (list, tuple) or len(content) != 2 or type(content[0]) not in (list, tuple):
        raise InputError(
            "not a verification set, which is a pair of images and bools; denseface dataset makes one", path=path
        )
    images = _images(content[0], path)
    issame = _bools(content[1])
    if issame is None:
        raise InputError("the second part must be a list of bools, or of 0 and 1, one per pair", path=path)
    _check_counts(len(images), len(issame), path)
    return PairSet(images, issame, path.stem, _read_people(_people_path(path)))


def write_pairs(
    path: str | Path, images: Sequence[bytes], issame: Iterable[bool], people: Sequence[str] | None = None
) -> None:
    """Write a verification set that InsightFace, Python 2 and Python 3 read.

    It is written aside, synced and renamed, together with the table of people. Equal images are stored once.

    Parameters
    ----------
    path : path-like
        The file to write.
    images : sequence of bytes, of length 2n
        The encoded images; pair i is made of 2i and 2i + 1.
    issame : iterable of bool, of length n
        Whether the pair shows one person.
    people : sequence of str, of length 2n, optional
        The person in each image, for the table beside the set. It is left out if equal images are of two people.

    Raises
    ------
    InputError
        If there are not two images per bool, or the file cannot be written.
    """
    path = Path(path)
    issame = [bool(same) for same in issame]
    _check_counts(len(images), len(issame), path)
    first_copies: dict[bytes, bytes] = {}
    images = [first_copies.setdefault(image, image) for image in images]
    owners = {*zip(map(_digest, images), people or ())}
    table = dict(sorted(owners))
    has_table = bool(table) and len(table) == len(owners)
    with replacing_together(path, *[_people_path(path)][:has_table]) as files:
        pickle.dump((images, issame), files[0], protocol=2)
        if has_table:
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows([_PEOPLE_COLUMNS, *table.items()])
            files[1].write(text.getvalue().encode("utf-8", "surrogateescape"))
    if not has_table:
        _people_path(path).unlink(missing_ok=True)  # of the set that was replaced


def failure_to_enroll(name: str, size: int) -> bytes:
    """Return the placeholder in a set for a picture without a usable face.

    Parameters
    ----------
    name : str
        The picture's.
    size : int
        Height and width of the set's pictures.
    """
    file = io.BytesIO()
    comment = _FAILURE + name.encode("utf-8", "surrogateescape")
    Image.new("RGB", (size, size)).save(file, "JPEG", comment=comment)
    return file.getvalue()


def _people_path(path: Path) -> Path:
    return path.with_suffix(".people.csv")


def _digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def _read_people(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        with io.TextIOWrapper(open_input(path), "utf-8", "surrogateescape", newline="") as file:
            heading, *rows = csv.reader(file)
        if tuple(heading) != _PEOPLE_COLUMNS or not rows:
            raise ValueError("columns")
        return {digest: person for digest, person in rows}
    except InputError:
        raise
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"not a table of {' and '.join(_PEOPLE_COLUMNS)}; remove it, or make the set again", path=path
        ) from error


def _check_counts(num_images: int, num_pairs: int, path: Path) -> None:
    if num_pairs == 0 or num_images != 2 * num_pairs:
        raise InputError(
            f"{counted(num_images, 'image')} for {counted(num_pairs, 'pair')}; it needs a pair, and two images "
            "per pair",
            path=path,
        )


def _images(items: Sequence[Any], path: Path) -> list[bytes]:
    images = [item.data if isinstance(item, plain_pickle.Array) else item for item in items]
    for index, (item, image) in enumerate(zip(items, images)):
        if type(image) is not bytes or not image or (item is not image and item.kind != "u1"):
            raise InputError(f"image {index} is not the bytes of an encoded image, such as a JPEG file's", path=path)
    return images


def _bools(items: Any) -> np.ndarray | None:
    if isinstance(items, plain_pickle.Array) and len(items.shape) == 1:
        numbers = np.frombuffer(items.data, "u1" if items.kind == "b1" else f"<{items.kind}").tolist()
    elif isinstance(items, (list, tuple)):
        numbers = list(items)
    else:
        return None
    if any(type(number) not in (bool, int) or number not in (0, 1) for number in numbers):
        return None
    return np.array(numbers, bool)
