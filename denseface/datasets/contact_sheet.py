"""Draw contact sheets: many small pictures of a set in one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from denseface.core.errors import InputError
from denseface.core.text import counted, printable
from denseface.data.pairs import PairSet
from denseface.data.pictures import Picture, load_picture
from denseface.data.recordio import RecordError
from denseface.data.records import FaceRecords
from denseface.datasets.face_list import ListedFace
from denseface.datasets.manifest import read_manifest

if TYPE_CHECKING:
    from denseface.datasets.manifest import Entry

_ROWS = 12
_COLUMNS = 8
_CELL = 112
_TEXT = 16
_GAP = 4
_WIDE_GAP = 20
_MARGIN = 12
_WIDEST = 4096  # pixels of a caption
_ROW_HEIGHT = _TEXT + 2 * _GAP + _CELL + _MARGIN


class _Row(NamedTuple):
    """A caption, and the groups of pictures below it."""

    caption: str
    groups: Sequence[Sequence[Picture]]


def sheet_of_records(records: FaceRecords) -> Image.Image:
    """Draw up to 8 pictures of each of up to 12 people, evenly spread over a training set; RGB.

    People are called by the names in ``manifest.csv``, or by their labels if there is none.
    """
    people = list(_keys_by_person(records))
    chosen = [people[index] for index in _spread(len(people), _ROWS)]
    manifest = read_manifest(records.folder, (int(keys[0]) for keys in chosen))
    return _draw(_person_row(records, keys, manifest.get(int(keys[0]))) for keys in chosen)


def sheet_of_pairs(pair_set: PairSet) -> Image.Image:
    """Draw up to 24 genuine and 24 impostor pairs, evenly spread over a verification set; RGB."""
    rows = []
    for same, caption in ((True, "genuine"), (False, "impostor")):
        indices = np.flatnonzero(pair_set.issame == same)
        indices = indices[_spread(len(indices), _ROWS // 2 * (_COLUMNS // 2))]
        for start in range(0, len(indices), _COLUMNS // 2):
            chosen = indices[start : start + _COLUMNS // 2].tolist()
            pairs = [pair_set.images[2 * index : 2 * index + 2] for index in chosen]
            rows.append(_Row(f"{caption} pairs {', '.join(map(str, chosen))}", pairs))
    return _draw(rows)


def sheet_of_faces(faces: Iterable[ListedFace]) -> Image.Image:
    """Draw faces, eight in a row, below the names of their pictures and the scores; RGB."""
    rows = []
    remaining = iter(faces)
    while chosen := list(itertools.islice(remaining, _COLUMNS)):
        names = (PurePosixPath(face.name).name for face in chosen)
        named = [f"{printable(name)} {face.score:.2f}" for name, face in zip(names, chosen)]
        pictures = [b"" if face.pixels is None else face.pixels for face in chosen]
        rows.append(_Row(_shortened(", ".join(named), _COLUMNS * (_CELL + _GAP)), [pictures]))
    return _draw(rows)


def sheet_of_groups(rows: Iterable[tuple[str, Sequence[Sequence[Picture]]]]) -> Image.Image:
    """Draw groups of pictures, some side by side in each row below what is said of them; RGB."""
    width = _COLUMNS * (_CELL + _GAP)
    return _draw(_Row(_shortened(printable(said), width), groups) for said, groups in rows)


def _shortened(text: str, width: int) -> str:
    """Leave out the end of a text that is wider than so many pixels."""
    font = _font()
    if len(text) <= width and font.getbbox(text)[2] <= width:
        return text
    least, most = 0, min(len(text), width)  # characters that fit; each has a pixel at least
    while least < most:
        middle = (least + most + 1) // 2
        if font.getbbox(text[:middle] + "...")[2] <= width:
            least = middle
        else:
            most = middle - 1
    return text[:least] + "..."


def _keys_by_person(records: FaceRecords) -> Iterable[np.ndarray]:
    """Return the keys of each person's pictures."""
    if records.identities is not None:
        return (np.arange(start, end) for start, end in records.identities.tolist())
    labels = np.array([_label(records, key) for key in records.keys.tolist()])
    order = np.argsort(labels, kind="stable")
    return np.split(records.keys[order], np.flatnonzero(np.diff(labels[order])) + 1)


def _label(records: FaceRecords, key: int) -> float:
    try:
        return records.reader.read_labels(key)[0]
    except RecordError:
        return -1


def _person_row(records: FaceRecords, keys: np.ndarray, entry: Entry | None) -> _Row:
    payloads, name = [], "label unknown"
    for key in keys[_spread(len(keys), _COLUMNS)].tolist():
        try:
            record = records.reader.read(key)
        except RecordError:
            payloads.append(b"")
        else:
            payloads.append(record.payload)
            label = f"{record.labels[0]:.9g}"
            # A manifest with another label belongs to other records.
            name = entry.person if entry and entry.label == label and _can_be_drawn(entry.person) else f"label {label}"
    return _Row(f"{name}: {counted(len(keys), 'picture')}, keys {keys[0]} to {keys[-1]}", [payloads])


def _spread(count: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` of the indices 0 to ``count`` - 1, evenly spread, with the first one."""
    return [index * count // min(count, wanted) for index in range(min(count, wanted))]


def _draw(rows: Iterable[_Row]) -> Image.Image:
    rows = [row._replace(caption=_shortened(row.caption, _WIDEST)) for row in rows] or [_Row("none", [])]
    font = _font()
    width = max(max(_width(row), int(font.getbbox(row.caption)[2])) for row in rows)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, len(rows) * _ROW_HEIGHT + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        left, top = _MARGIN, _MARGIN + index * _ROW_HEIGHT
        draw.text((left, top), row.caption, fill="black", font=font)
        for group in row.groups:
            for picture in group:
                sheet.paste(_cell(picture), (left, top + _TEXT + 2 * _GAP))
                left += _CELL + _GAP
            left += _WIDE_GAP - _GAP
    return sheet


def _width(row: _Row) -> int:
    return sum(len(group) * (_CELL + _GAP) - _GAP + _WIDE_GAP for group in row.groups) - _WIDE_GAP


def _cell(picture: Picture) -> Image.Image:
    """Return a picture of the size of a cell, or a crossed box for a broken one."""
    try:
        return Image.fromarray(load_picture(picture, (_CELL, _CELL, 3)))
    except InputError:
        box = Image.new("RGB", (_CELL, _CELL), "lightgray")
        ImageDraw.Draw(box).line([(0, 0), (_CELL, _CELL), (0, _CELL), (_CELL, 0)], "red", 2)
        return box


def _can_be_drawn(name: str) -> bool:
    """Whether the font has all characters of a name."""
    font = _font()
    if not isinstance(font, ImageFont.FreeTypeFont):
        return name.isascii() and name.isprintable()
    missing = bytes(font.getmask("\U0010ffff"))
    return name.isprintable() and all(c == " " or bytes(font.getmask(c)) != missing for c in name)


@functools.cache
def _font() -> Any:
    try:
        return ImageFont.load_default(_TEXT)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
