import numpy as np
import pytest
from PIL import ImageDraw

from denseface.data.pairs import PairSet
from denseface.data.records import FaceRecords, write_face_records
from denseface.datasets.contact_sheet import sheet_of_faces, sheet_of_groups, sheet_of_pairs, sheet_of_records
from denseface.datasets.face_list import ListedFace
from denseface.datasets.manifest import write_manifest
from support.picture_folders import face
from support.record_sets import write_entries
from support.tiny_models import encode

CELL = 112


def boxes(sheet):
    """The colors at the upper edge of each picture of a sheet, row by row, found on the white between them."""
    pixels = np.asarray(sheet).astype(int)
    rows = [start for start, end in runs(pixels[:, 40] != 255) if end - start >= CELL - 2]
    return [[tuple(pixels[top + 5, (start + end) // 2]) for start, end in runs(pixels[top + 5] != 255)] for top in rows]


def runs(filled):
    """Where lines of filled pixels start and end."""
    edges = np.flatnonzero(np.diff(np.r_[0, filled.any(axis=-1), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def people_in(row):
    return [round(red / 40) - 1 + 6 * (round(green / 40) - 1) for red, green, _ in row]


def images(counts):
    return [(person, encode(face(person, n + 1, CELL))) for person, count in enumerate(counts) for n in range(count)]


def open_records(folder, counts):
    write_face_records(folder, images(counts), (CELL, CELL))
    return FaceRecords(folder)


def test_each_row_is_a_person(tmp_path):
    with open_records(tmp_path, [3, 9, 1]) as records:
        sheet = sheet_of_records(records)
    assert sheet.mode == "RGB"
    assert [people_in(row) for row in boxes(sheet)] == [[0] * 3, [1] * 8, [2]]


def test_people_are_spread_over_the_set(tmp_path):
    with open_records(tmp_path, [1] * 30) as records:
        assert [people_in(row)[0] for row in boxes(sheet_of_records(records))] == [
            0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27,
        ]  # fmt: skip


def test_a_plain_set_is_sorted_by_person(tmp_path):
    entries = [(key, person, encode(face(person, key))) for key, person in enumerate((2, 0, 2, 1, 0), 5)]
    write_entries(tmp_path, entries, 3, CELL)
    with FaceRecords(tmp_path) as records:
        assert [people_in(row) for row in boxes(sheet_of_records(records))] == [[0, 0], [1], [2, 2]]


def test_captions_are_written_and_differ(tmp_path):
    with open_records(tmp_path, [1, 2]) as records:
        pixels = np.asarray(sheet_of_records(records).convert("L"))
    captions = [pixels[top : top + 20, 12:300] for top in (12, 12 + 148)]
    for caption in captions:
        assert (caption < 64).sum() > 100  # black on white
    assert (captions[0] != captions[1]).any()


@pytest.fixture
def captions(monkeypatch):
    """The captions of the sheets that are drawn."""
    drawn = []
    draw_text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, **how: drawn.append(text) or draw_text(self, at, text, **how),
    )
    return drawn


def test_people_are_called_by_their_names(tmp_path, captions):
    with open_records(tmp_path, [1, 2, 1, 1]) as records:
        with write_manifest(tmp_path) as table:
            table.writerows(
                [(1, 0, "Anna Lee", "a"), (2, 1, "b\x1b", "b"), (4, 7, "stale", "c"), (5, 3, "\U000f0000", "d")]
            )
        sheet_of_records(records)
    assert captions == [
        "Anna Lee: 1 picture, keys 1 to 1",
        "label 1: 2 pictures, keys 2 to 3",
        "label 2: 1 picture, keys 4 to 4",
        "label 3: 1 picture, keys 5 to 5",
    ]


def test_people_without_names_are_called_by_their_labels(tmp_path, captions):
    with open_records(tmp_path, [1, 2]) as records:
        sheet_of_records(records)
    assert captions == ["label 0: 1 picture, keys 1 to 1", "label 1: 2 pictures, keys 2 to 3"]


def test_broken_pictures_are_crossed(tmp_path):
    write_face_records(tmp_path, [*images([1]), (0, b"broken"), (1, b"")], (CELL, CELL))
    with open(tmp_path / "train.rec", "r+b") as file:
        file.write(b"\0\0\0\0")
    with FaceRecords(tmp_path) as records:
        assert boxes(sheet_of_records(records)) == [[(211, 211, 211)] * 2, [(211, 211, 211)]]


def test_pairs_stand_side_by_side_one_person_first():
    pictures = [encode(face(person, n, CELL)) for person in range(3) for n in (1, 2)]
    issame = [False, True, True]
    pair_set = PairSet([pictures[0], pictures[2], *pictures[2:6]], np.array(issame), "a")
    sheet = sheet_of_pairs(pair_set)
    assert [people_in(row) for row in boxes(sheet)] == [[1, 1, 2, 2], [0, 1]]
    gaps = [start for start, _ in runs(np.asarray(sheet)[60] != 255)]
    assert np.diff(gaps).tolist() == [116, 132, 116]


def test_many_pairs_are_thinned_out():
    pictures = [encode(face(person, 1, CELL)) for person in range(30)]
    pair_set = PairSet([p for picture in pictures for p in (picture, picture)] * 2, np.arange(60) % 2 == 0, "a")
    rows = boxes(sheet_of_pairs(pair_set))
    assert [len(row) for row in rows] == [8] * 12


@pytest.mark.parametrize("name", ["", "a\udcff", "$^$\x1b[2J\n\0", "\u202eabc", "\u540d", " " * 300, "x" * 100_000])
def test_any_name_is_drawn_within_bounds(name):
    pixels = face(0, 1)
    for sheet in (sheet_of_faces([ListedFace(name, 0.5, pixels)]), sheet_of_groups([(name, [[encode(pixels)]])])):
        assert sheet.size[0] < 5000
