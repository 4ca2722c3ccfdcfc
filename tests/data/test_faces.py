"""From pictures to batches of faces: order, threads and names, and every part of the library that goes this way."""

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from denseface import cli
from denseface.cli.faces import embed_pictures
from denseface.data.align import REFERENCE_POINTS
from denseface.data.augment import Augmentation
from denseface.data.cropping import Cropper
from denseface.data.faces import (
    CutPicture,
    Face,
    PictureError,
    check_finite,
    compute_batches,
    cut_ahead,
    cut_source,
    usable,
)
from denseface.data.loader import PictureReader
from denseface.data.pairs import PairSet
from denseface.data.records import FaceRecords, write_face_records
from denseface.data.sources import Source, Sources
from denseface.data.template_set import TemplateSet
from denseface.deciding.angles import measure_angles
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from denseface.models import checkpoint, losses
from denseface.training.triplets import SQUARED_EUCLIDEAN, Mining, StepShape, TripletLoader
from denseface.training.warm_centers import warm_centers
from denseface.verification.verify import verify
from denseface.verification.verify_templates import verify_templates
from support.class_losses import margin_softmax
from support.learners import learner_of
from support.tiny_models import TINY_SHAPE, as_model, encode, pictures, save_model

import mxnet as mx

COUNT, BAD, BATCH, PER_CLASS = 16, 9, 3, 4


def cut(number):
    """Make a picture of one face, with the number as its pixels; every fifth one has none."""
    name = f"picture {number}"
    if number % 5 == 4:
        return CutPicture(number, [Face(name, None, "no face is found in it")])
    return CutPicture(number, [Face(name, np.full(TINY_SHAPE, number, np.uint8))])


def test_pictures_come_in_order_whatever_the_number_of_threads():
    for threads in (0, 1, 3, None):
        with cut_ahead(cut, range(30), ahead=7, threads=threads) as cuts:
            assert [picture.key for picture in cuts] == list(range(30))


@pytest.mark.parametrize("threads", [0, 2])
def test_pictures_are_taken_as_they_are_needed(threads):
    endless = itertools.count()
    with cut_ahead(cut, endless, ahead=4, threads=threads) as cuts:
        batches = compute_batches(len, usable(cuts, lambda key, face: None), 2, TINY_SHAPE)
        for _ in range(10):
            next(batches)
    assert next(endless) < 35


def test_batches_are_full_without_what_cannot_be_used():
    bad = []
    with cut_ahead(cut, range(12), ahead=3) as cuts:
        readable = usable(cuts, lambda key, face: bad.append((key, face.message)))
        batches = list(compute_batches(lambda batch: batch[:, 0, 0, 0].tolist(), readable, 4, TINY_SHAPE))
    assert [[picture.key for picture in batch] for batch, _ in batches] == [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11]]
    assert [computed for _, computed in batches] == [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11]]
    assert bad == [(4, "picture 4: no face is found in it"), (9, "picture 9: no face is found in it")]


def test_without_leaving_out_a_batch_has_all_pictures_and_computes_their_faces():
    with cut_ahead(cut, range(6), ahead=3) as cuts:
        batches = list(compute_batches(lambda batch: batch.shape, cuts, 5, TINY_SHAPE))
    assert [[picture.key for picture in batch] for batch, _ in batches] == [[0, 1, 2, 3, 4], [5]]
    assert [computed for _, computed in batches] == [(4, 3, 16, 16), (1, 3, 16, 16)]


def test_who_leaves_nothing_out_learns_the_first_that_cannot_be_used():
    with pytest.raises(PictureError) as caught, cut_ahead(cut, range(12), ahead=3) as cuts:
        list(compute_batches(len, usable(cuts), 2, TINY_SHAPE))
    assert (caught.value.name, caught.value.position) == ("picture 4", 4)


def test_a_face_among_several_of_a_picture_is_named():
    def several(number):
        return CutPicture(number, [Face(f"{number}#{i}", np.full(TINY_SHAPE, i, np.uint8)) for i in (1, 2)])

    def compute(batch):
        check_finite(np.where(batch[:, 0, 0, :1] == 2, np.nan, 0), "look")

    with pytest.raises(PictureError) as caught:
        list(compute_batches(compute, map(several, range(3)), 2, TINY_SHAPE))
    assert (caught.value.name, caught.value.position) == ("0#2", 0)


def test_a_file_is_named_once(tmp_path):
    for path in (tmp_path / "absent.png", "./absent.png"):
        (face,) = cut_source(Source.of_file(path), Cropper(), TINY_SHAPE).faces
        assert face.name == str(path)
        assert face.message.count("absent.png") == 1


def overflowing():
    """A network whose embedding is not finite if a pixel is above 250."""
    data = mx.sym.Variable("data")
    bright = mx.sym.Activation(data - 250, act_type="relu") * 3e38
    return mx.sym.FullyConnected(data * 0.01 + bright, num_hidden=8, name="fc1")


class Pictures:
    """Sixteen pictures in every form; one of them cannot be decoded, or its embedding is not finite."""

    def __init__(self, folder, fault):
        self.folder = folder
        self.payloads = [encode(picture) for picture in pictures(COUNT) // 2]
        white = encode(np.full(TINY_SHAPE, 255, np.uint8))
        self.payloads[BAD] = b"broken" if fault == "broken" else white
        self.paths = [str(folder / f"{i:02d}.png") for i in range(COUNT)]
        for path, payload in zip(self.paths, self.payloads):
            Path(path).write_bytes(payload)
        model = as_model(overflowing(), (1, 3, *TINY_SHAPE[:2]))
        self.embedder = Embedder(model, batch_size=BATCH, image_shape=TINY_SHAPE, crop=Cropper(aligned=True))

    @contextlib.contextmanager
    def training(self, loss):
        """A learner, a reader of the pictures as records, and the name of the bad one."""
        labels = np.arange(COUNT) // PER_CLASS
        write_face_records(self.folder, list(zip(labels.tolist(), self.payloads)), TINY_SHAPE[:2])
        learner = learner_of(loss, (BATCH, 3, *TINY_SHAPE[:2]), [mx.cpu()], momentum=0.9, wd=0.0)
        learner.state.initialize(mx.init.Xavier(), seed=1)
        with FaceRecords(self.folder) as records:
            yield learner, PictureReader(records, TINY_SHAPE), f"{self.folder}/train.rec: key {records.keys[BAD]}"


# Each of these embeds all pictures; it yields the name of the bad one first, and then what is returned about it.


def by_embed(given):
    yield f"picture {BAD}: {given.paths[BAD]}"
    given.embedder.embed(given.paths)


def in_bulk(given):
    yield given.paths[BAD]
    (given.folder / "list.txt").write_text("\n".join(given.paths))
    with Sources([given.folder / "list.txt"]) as sources:
        embed_all(given.embedder, sources, given.folder / "out.npz")


def by_commands(given):
    yield given.paths[BAD]
    assert embed_pictures(given.embedder, given.paths, SimpleNamespace(face=None)).num_failures == 1


def by_verification(given):
    yield f"set: pair {BAD // 2}"
    verify(given.embedder, PairSet(given.payloads, np.arange(COUNT // 2) % 2 == 0, "set"))


def by_templates(given):
    yield given.paths[BAD]
    owners = np.arange(COUNT) // PER_CLASS
    landmarks = np.repeat([REFERENCE_POINTS * (TINY_SHAPE[0] / 112)], COUNT, axis=0).astype(np.float32)
    pairs = np.array(list(itertools.combinations_with_replacement(range(owners[-1] + 1), 2)))
    found = {field.name: None for field in dataclasses.fields(TemplateSet)}
    found.update(
        name="set", folder=given.folder, files=[Path(path).name for path in given.paths], landmarks=landmarks,
        scores=np.ones(COUNT, np.float32), templates=owners, media=np.arange(COUNT), num_templates=owners[-1] + 1,
        pairs=pairs, issame=pairs[:, 0] == pairs[:, 1],
    )  # fmt: skip
    verify_templates(given.embedder, TemplateSet(**found), folds=2)


def by_warm_centers(given):
    with given.training(margin_softmax(overflowing(), 8, COUNT // PER_CLASS, s=8)) as (learner, reader, name):
        yield name
        warm_centers(learner, reader, BATCH)


def by_triplets(given):
    with given.training(losses.triplet(overflowing(), alpha=0.5)) as (learner, reader, name):
        yield name
        mining = Mining(SQUARED_EUCLIDEAN, alpha=1e9, bag_size=COUNT, images_per_identity=PER_CLASS)
        next(TripletLoader(reader, learner.embed, mining, StepShape(3), Augmentation()).batches())


def by_subcenters(given):
    with given.training(margin_softmax(overflowing(), 8, COUNT // PER_CLASS, s=8)) as (learner, reader, name):
        yield name
        prefix = str(given.folder / "model")
        state = checkpoint.TrainingState(1, *learner.state.parameters(), {}, {})
        checkpoint.save(prefix, overflowing(), state)
        Path(f"{prefix}-config.json").write_text(json.dumps({"config": {"image_shape": TINY_SHAPE}}))
        yield from (found for found in measure_angles(prefix, reader.records).values() if isinstance(found, str))


def by_calibration(given):
    yield given.paths[BAD]
    (given.folder / "list.txt").write_text("\n".join(given.paths))
    size, prefix = ",".join(map(str, TINY_SHAPE)), str(given.folder / "tiny")
    save_model(given.embedder.model, prefix)
    arguments = ["export", "--model", prefix, "--int8", str(given.folder / "list.txt"), "--image-size", size]
    assert cli.main([*arguments, "-o", str(given.folder / "out.onnx")]) == 1


EMBEDDERS = [by_embed, in_bulk, by_commands, by_verification, by_templates, by_warm_centers, by_triplets, by_subcenters]


@pytest.mark.parametrize(
    ("embed", "fault"),
    [*itertools.product(EMBEDDERS, ["broken", "not finite"]), (by_calibration, "broken")],
)
def test_a_picture_that_cannot_be_used_is_named_wherever_it_is(embed, fault, tmp_path, caplog, capsys):
    """It is neither in the first batch nor in the last one."""
    steps = embed(Pictures(tmp_path, fault))
    name = next(steps)
    try:
        told = list(steps)
    except PictureError as error:
        assert error.name == name
    else:
        assert fault == "broken"
        told += [caplog.text, capsys.readouterr().err]
        assert sum(text.count(f"{name}: not a JPEG") for text in told) == 1
