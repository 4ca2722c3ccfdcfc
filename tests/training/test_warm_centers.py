"""Class centers that start at the mean embeddings of their pictures."""

import numpy as np
import pytest

from denseface.core.vectors import normalize
from denseface.data.faces import PictureError
from denseface.data.loader import PictureReader
from denseface.data.records import FaceRecords, write_face_records
from denseface.embedding.embedder import Embedder
from denseface.models import losses
from denseface.models.checkpoint import Model
from denseface.training.warm_centers import warm_centers
from support import class_losses
from support.class_losses import adaface
from support.learners import learner_of
from support.refusals import refused
from support.tiny_models import encode, pictures
from support.tiny_runs import BATCH, SIZE, embedding_symbol

import mxnet as mx

CLASSES = 7
SHAPE = (SIZE, SIZE, 3)


@pytest.fixture
def faces(tmp_path):
    """Pictures of seven people, all those of the last one broken."""
    encoded = [(i % CLASSES, encode(face)) for i, face in enumerate(pictures(3 * CLASSES, SHAPE))]
    encoded = sorted((label, b"no picture" if label == CLASSES - 1 else content) for label, content in encoded)
    write_face_records(tmp_path, encoded, (SIZE, SIZE))
    with FaceRecords(tmp_path) as records:
        yield records


def make_learner(classes=CLASSES, loss=class_losses.margin_softmax, loss_settings=None, **settings):
    symbol = loss(embedding_symbol(), 5, classes, s=8, **(loss_settings or {}))
    learner = learner_of(symbol, (BATCH, 3, SIZE, SIZE), [mx.cpu()], momentum=0.9, wd=0.0, **settings)
    learner.state.initialize(mx.init.Xavier(), seed=1)
    return learner


def test_a_center_is_the_normalized_mean_of_its_pictures(faces, caplog):
    caplog.set_level("INFO", "denseface")
    learner = make_learner()
    before = {name: array.copy() for name, array in learner.state.parameters()[0].items()}
    warm_centers(learner, PictureReader(faces, SHAPE), BATCH)
    model = Model(embedding_symbol(), *learner.state.parameters(), "model", 1)
    embedder = Embedder(model, image_shape=SHAPE, batch_size=1)
    expected = before["fc7_weight"].copy()
    people = pictures(3 * CLASSES, SHAPE)
    for label in range(CLASSES - 1):
        embeddings = [normalize(embedder.embed([people[i]]))[0] for i in range(label, 3 * CLASSES, CLASSES)]
        expected[label] = normalize([np.mean(embeddings, axis=0)])[0]
    after = learner.state.parameters()[0]
    np.testing.assert_allclose(after["fc7_weight"], expected, rtol=1e-4, atol=1e-6)
    assert all(np.array_equal(after[name], before[name]) for name in before if name != "fc7_weight")
    assert "1 of 7 have no readable picture and start fresh" in caplog.text


def test_sampled_centers_are_those_of_the_full_layer(faces):
    full, sampled = make_learner(), make_learner(BATCH, sampled_from=CLASSES)
    for learner in (full, sampled):
        warm_centers(learner, PictureReader(faces, SHAPE), BATCH)
    one, other = (learner.state.parameters()[0]["fc7_weight"][: CLASSES - 1] for learner in (full, sampled))
    np.testing.assert_array_equal(one, other)


def test_of_several_centers_per_class_the_first_starts_there(faces):
    one, three = make_learner(), make_learner(loss_settings={"k": 3})
    before = three.state.parameters()[0]["fc7_weight"].copy()
    for learner in (one, three):
        warm_centers(learner, PictureReader(faces, SHAPE), BATCH)
    first, centers = (learner.state.parameters()[0]["fc7_weight"] for learner in (one, three))
    np.testing.assert_array_equal(centers[: CLASSES - 1, 0], first[: CLASSES - 1])
    np.testing.assert_array_equal(centers[:, 1:], before[:, 1:])


def test_the_statistics_of_a_loss_stay_as_they_are(faces):
    learner = make_learner(loss=adaface)
    _, before = learner.state.parameters()
    warm_centers(learner, PictureReader(faces, SHAPE), BATCH)
    _, after = learner.state.parameters()
    assert "adaface_norm_mean" in before and all(np.array_equal(after[name], before[name]) for name in before)


def test_a_loss_without_centers_and_a_network_that_computes_no_numbers_are_refused(faces):
    triplets = learner_of(
        losses.triplet(embedding_symbol(), alpha=0.3), (6, 3, SIZE, SIZE), [mx.cpu()], momentum=0, wd=0
    )
    with refused("loss", option="warm_centers"):
        warm_centers(triplets, PictureReader(faces, SHAPE), 6)
    learner = make_learner()
    learner.state.set_parameters({"fc1_bias": np.full(5, np.nan, np.float32)}, {})
    with refused("pretrained network", option="warm_centers", kind=PictureError):
        warm_centers(learner, PictureReader(faces, SHAPE), BATCH)
