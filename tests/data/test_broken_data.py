"""A training set that a bad disk has changed: the run goes on with what is left, or says what to do."""

import random

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, PictureReader
from denseface.data.records import FaceRecords, write_face_records
from support.refusals import refused
from support.tiny_models import encode, pictures

SHAPE, CLASSES, PICTURES = (16, 16, 3), 4, 32


def epochs(folder, count=2, **options):
    """Batches of some epochs, and what the loader says of broken pictures."""
    with FaceRecords(folder) as records:
        loader = BatchLoader(PictureReader(records, SHAPE, threads=1, **options), 8, Augmentation())
        stream = loader.batches()
        try:
            return [next(stream) for _ in range(count * loader.batches_per_epoch)], loader.reader.bad
        finally:
            stream.close()


@pytest.fixture
def faces(tmp_path):
    write_face_records(
        tmp_path, [(i * CLASSES // PICTURES, encode(face)) for i, face in enumerate(pictures(PICTURES))], SHAPE[:2]
    )
    return tmp_path


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.torture)])
def test_flipped_bits_cost_pictures_but_no_run(faces, count):
    path = faces / "train.rec"
    whole = path.read_bytes()
    place = random.Random(count)
    counts = {"all pictures used": 0, "some replaced": 0, "refused": 0}
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(place.choice([1, 3, 20])):
            data[place.randrange(len(data))] ^= 1 << place.randrange(8)
        path.write_bytes(data)
        try:
            batches, bad = epochs(faces)
        except InputError as error:
            assert str(path) in str(error) and str(error).isprintable()
            counts["refused"] += 1
        else:
            assert {int(label) for batch in batches for label in batch.label} <= set(range(CLASSES))
            assert all(np.isfinite(batch.data).all() for batch in batches)
            assert all(str(path) in reason and f"key {key}" in reason for key, reason in bad.items())
            counts["some replaced" if bad else "all pictures used"] += 1
    print(counts)
    assert counts["some replaced"]


@pytest.mark.parametrize("cut", [0, 1, 50, 1000])
def test_a_cut_file_is_named(faces, cut):
    path = faces / "train.rec"
    path.write_bytes(path.read_bytes()[: -cut - 1] if cut else b"")
    with pytest.raises(InputError) as caught:
        epochs(faces)
    assert caught.value.path in (str(path), str(path.with_suffix(".idx")))


def test_max_bad_ends_a_run_whose_pictures_break(faces):
    path = faces / "train.rec"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"IHDR", b"XXXX", 5))
    batches, bad = epochs(faces, max_bad=5)
    assert len(bad) == 5 and len(batches) == 8
    with refused(path, "5 pictures", "max_bad = 4"):
        epochs(faces, max_bad=4)
