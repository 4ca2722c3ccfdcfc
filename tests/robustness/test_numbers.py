"""Numbers at the edge: sets with hardly anything in them, and values that no longer are numbers."""

import contextlib
import math

import numpy as np
import pytest

from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, PictureReader
from denseface.data.records import FaceRecords, write_face_records
from denseface.models import checkpoint
from denseface.training.plan import Keep, Plan
from denseface.training.run import Run
from denseface.training.schedule import Schedule
from support import class_losses
from support.learners import learner_of
from support.record_sets import write_property
from support.refusals import refused
from support.tiny_models import encode, pictures
from support.tiny_runs import BATCH, SIZE, embedding_symbol

import mxnet as mx


@contextlib.contextmanager
def run_on(folder, labels, num_classes=None, rate=0.1, loss=class_losses.margin_softmax, **margins):
    """A run of 6 steps on a picture for each label."""
    faces = pictures(len(labels), (SIZE, SIZE, 3))
    write_face_records(folder, [(label, encode(face)) for label, face in zip(labels, faces)], (SIZE, SIZE))
    if num_classes:
        write_property(folder, num_classes, SIZE, SIZE)
    with FaceRecords(folder) as records:
        symbol = loss(embedding_symbol(), 5, records.num_classes, **margins)
        learner = learner_of(symbol, (BATCH, 3, SIZE, SIZE), [mx.cpu()], momentum=0.9, wd=0.0)
        learner.state.initialize(mx.init.Xavier(), seed=1)
        loader = BatchLoader(PictureReader(records, (SIZE, SIZE, 3)), BATCH, Augmentation())
        plan = Plan(str(folder / "model"), 6, Schedule("step", rate, 6), 1, 3, Keep.BEST, 1, 0)
        yield Run(learner, loader, plan, embedding_symbol(), lambda arguments, auxiliary: {})


@pytest.mark.parametrize(
    "labels, num_classes",
    [
        pytest.param([0] * 8, None, id="one class"),
        pytest.param([0], None, id="one picture"),
        pytest.param([0, 1, 1, 1, 1, 1], None, id="a class of one picture"),
        pytest.param([0, 0, 1, 1], 1000, id="more classes than labels"),
        pytest.param([0, 1], None, id="a batch larger than the data"),
    ],
)
def test_little_data_train_to_numbers(tmp_path, labels, num_classes):
    with run_on(tmp_path, labels, num_classes, s=8.0, m2=0.5) as run:
        assert run.fit()
    state = checkpoint.Checkpoint.newest(tmp_path / "model").load()
    assert all(np.isfinite(array).all() for array in (*state.arguments.values(), *state.momenta.values()))
    assert state.arguments["fc7_weight"].shape == (num_classes or len({*labels}), 5)


def test_fewer_classes_than_labels_is_an_error_that_names_both(tmp_path):
    with (
        run_on(tmp_path, [0, 1, 2, 3], 3, s=8.0) as run,
        refused("label 3", "3 classes", tmp_path / "property", path=tmp_path / "train.rec"),
    ):
        run.fit()


def test_a_rate_that_is_too_high_ends_in_advice_and_no_checkpoint(tmp_path):
    softmax = run_on(tmp_path, [0, 0, 1, 1], rate=1e30, loss=class_losses.softmax)
    with softmax as run, refused("finite", "1e+29"):
        run.fit()
    assert checkpoint.complete_steps(tmp_path / "model") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_parameter_that_is_no_number_is_never_saved(tmp_path, value):
    with run_on(tmp_path, [0, 0, 1, 1], s=8.0) as run:
        arguments, auxiliary = run.learner.state.parameters()
        arguments["fc7_weight"][0, 0] = value
        run.learner.state.set_parameters(arguments, auxiliary)
        with refused("finite"):
            run.fit()
    assert checkpoint.complete_steps(tmp_path / "model") == []
