"""Check pictures for what their pixels tell: broken, blank, enlarged from a small one, or the same as another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from denseface.core.errors import InputError
from denseface.data.pictures import Header, decode, read_header

_SIDE, _COARSE_SIDE = 32, 8
_MOST_DIFFERENCE = 2.0  # gray levels on average; JPEG of quality 50 changes a reduced picture by less than 1
_ROUNDING = 1.0  # gray levels that rounding adds to a difference

_BLANK_DEVIATION = 2  # gray levels; JPEG's noise on one color stays below 1, photographs taken in the dark above 5
_SCALE = 4
_SMALLEST_SIDE = 64  # a smaller picture has too few pixels for the test of detail
# Least detail of a picture that was not enlarged, relative to its contrast. Measured at 112x112: of 80 ORL faces none
# has less, of 284 reduced photographs two, of 142 soft cuttings from photographs five. Enlarged from 20x20 or 28x28,
# bilinear or bicubic, and saved as JPEG, all ORL faces and 82 to 94 % of the photographs have less. Enlarging without
# smoothing leaves blocks, which count as detail.
_LEAST_DETAIL = 0.065


class Checked(NamedTuple):
    """What the pixels of one picture tell.

    Attributes
    ----------
    header : Header or None
        None if the picture is broken.
    fault : str or None
        Why the picture is broken.
    digest : bytes
        A hash of size and pixels; empty if the picture is broken.
    is_blank : bool
        Whether the picture has one color.
    is_enlarged : bool
        Whether the picture has no more detail than one of a quarter of its size.
    coarse : bytes
        Its 8 x 8 gray levels, by which pictures are found that may be nearly the same; empty if the picture is broken.
    """

    header: Header | None
    fault: str | None
    digest: bytes = b""
    is_blank: bool = False
    is_enlarged: bool = False
    coarse: bytes = b""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a set.

    Attributes
    ----------
    count : int
        The number of pictures, including broken ones.
    sizes, formats : dict of str to int
        The number of pictures per size, such as "112x96" (width x height), and per format, such as "JPEG"; the most
        frequent comes first.
    broken : list of str
        The pictures that cannot be read, with the reasons.
    blank, enlarged : list of str
        The pictures of one color, and those that are blurred or enlarged from less than a quarter of their size.
    copies : list of list of str
        The pictures with equal pixels, group by group.
    """

    count: int
    sizes: dict[str, int]
    formats: dict[str, int]
    broken: list[str]
    blank: list[str]
    enlarged: list[str]
    copies: list[list[str]]


class Tally:
    """Collects the checks of all pictures of a set, in their order.

    Attributes
    ----------
    broken : dict of int to str
        By index, why pictures are broken.
    blank, enlarged : list of int
        The indices of such pictures.
    """

    def __init__(self) -> None:
        self.broken: dict[int, str] = {}
        self.blank: list[int] = []
        self.enlarged: list[int] = []
        self._digests: list[bytes] = []
        self._coarse: list[bytes] = []
        self._sizes: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()

    def add(self, checked: Checked) -> None:
        """Add the next picture."""
        index = len(self._digests)
        self._digests.append(checked.digest)
        self._coarse.append(checked.coarse)
        if checked.header is None:
            self.broken[index] = checked.fault or ""
            return
        self._sizes[f"{checked.header.width}x{checked.header.height}"] += 1
        self._formats[checked.header.format] += 1
        if checked.is_blank:
            self.blank.append(index)
        if checked.is_enlarged:
            self.enlarged.append(index)

    def copies(self) -> list[list[int]]:
        """Return the indices of pictures with equal pixels, group by group, in the order of the first ones."""
        _, groups, counts = np.unique(np.array(self._digests, "S16"), return_inverse=True, return_counts=True)
        members: dict[int, list[int]] = {}
        for index in np.flatnonzero(counts[groups] > 1).tolist():
            if self._digests[index]:
                members.setdefault(int(groups[index]), []).append(index)
        return list(members.values())

    def near_copies(self, owners: np.ndarray, is_near: Callable[[int, int], bool]) -> list[tuple[int, int]]:
        """Find pictures that are nearly the same as an earlier one of their person, but not equal.

        Parameters
        ----------
        owners : ndarray of int
            The person of each picture; -1 for nobody.
        is_near : callable
            Whether two pictures are nearly the same, by their indices; asked only where they seem to be.

        Returns
        -------
        list of (int, int)
            The indices of the earlier and the later picture.
        """
        found = []
        usable = np.array([index for index, coarse in enumerate(self._coarse) if coarse and owners[index] >= 0], int)
        usable = usable[np.argsort(owners[usable], kind="stable")]
        for person in np.split(usable, _changes(owners[usable])):
            coarse = b"".join(self._coarse[index] for index in person.tolist())
            levels = np.frombuffer(coarse, np.uint8).reshape(-1, _COARSE_SIDE**2).astype(np.int16)
            for later in range(1, len(person)):
                differences = np.abs(levels[:later] - levels[later]).mean(axis=1)
                for earlier in np.flatnonzero(differences <= _MOST_DIFFERENCE + _ROUNDING).tolist():
                    one, other = int(person[earlier]), int(person[later])
                    if self._digests[one] != self._digests[other] and is_near(one, other):
                        found.append((one, other))
                        break
        return found

    def pictures(self, name: Callable[[int], str]) -> Pictures:
        """Return all there is; ``name`` returns the name of a picture by its index."""
        return Pictures(
            count=len(self._digests),
            sizes=dict(self._sizes.most_common()),
            formats=dict(self._formats.most_common()),
            broken=list(self.broken.values()),
            blank=list(map(name, self.blank)),
            enlarged=list(map(name, self.enlarged)),
            copies=[list(map(name, group)) for group in self.copies()],
        )


def check_picture(payload: bytes) -> Checked:
    """Decode a picture and look at its pixels."""
    try:
        header = read_header(payload)
        pixels = decode(payload)
    except InputError as error:
        return Checked(None, str(error))
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    gray = Image.fromarray(pixels).convert("L")
    is_blank = _deviation(pixels) < _BLANK_DEVIATION
    is_enlarged = not is_blank and _detail(gray) < _LEAST_DETAIL * _deviation(gray)
    return Checked(header, None, digest.digest(), is_blank, is_enlarged, _shrunk(gray, _COARSE_SIDE).tobytes())


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Return the gray levels of a picture reduced to 32 x 32, float32."""
    return np.asarray(_shrunk(Image.fromarray(pixels).convert("L"), _SIDE), np.float32)


def are_near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures, as `reduced` returns them, are nearly the same, as one that was encoded again is."""
    return float(np.abs(one - other).mean()) <= _MOST_DIFFERENCE


def _shrunk(gray: Image.Image, side: int) -> Image.Image:
    return gray.resize((side, side), Image.Resampling.BOX)


def _changes(values: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(values)) + 1


def _detail(gray: Image.Image) -> float:
    """Return the deviation of what a picture loses if it is reduced to a quarter of its size."""
    width, height = gray.size
    if min(width, height) < _SMALLEST_SIDE:
        return np.inf
    small = gray.resize((width // _SCALE, height // _SCALE), Image.Resampling.LANCZOS)
    return _deviation(ImageChops.subtract(gray, small.resize(gray.size, Image.Resampling.BICUBIC), offset=128))


def _deviation(picture: Image.Image) -> float:
    """Return the standard deviation of a picture's pixels, the largest of its channels."""
    return float(np.asarray(picture).std(axis=(0, 1), dtype=np.float32).max())
