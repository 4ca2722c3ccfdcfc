"""A run of a few layers on pictures of 8 x 8: what tests of training, and of what happens around it, share."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, PictureReader
from denseface.data.records import write_face_records
from denseface.models.distillation import with_teacher
from denseface.training.assembly import make_averages
from denseface.training.frozen import fix_statistics
from denseface.training.plan import Keep, Plan
from denseface.training.run import Run
from denseface.training.schedule import Schedule
from support import class_losses
from support.learners import learner_of
from support.symbols import rewritten

import mxnet as mx

CLASSES, BATCH, SIZE = 3, 4, 8


def write_records(folder):
    """Write 18 pictures of noise, of 3 identities."""
    rng = np.random.default_rng(0)

    def picture():
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    write_face_records(folder, [(label, picture()) for label in range(CLASSES) for _ in range(6)], (SIZE, SIZE))


def embedding_symbol():
    body = mx.sym.Convolution(mx.sym.Variable("data") * (1 / 255), num_filter=4, kernel=(3, 3), name="conv")
    body = mx.sym.Dropout(mx.sym.BatchNorm(body, name="bn"), p=0.3)
    return mx.sym.FullyConnected(body, num_hidden=5, name="fc1")


def make_run(
    records, prefix, verify=lambda arguments, auxiliary: {}, accumulate=1, whole=False, ema=0, teacher=None, freeze=(),
    clip_norm=0, loss=class_losses.margin_softmax, margins=None, learner=None, **changes,
):  # fmt: skip
    steps, rate = changes.pop("steps", 10), changes.pop("learning_rate", 0.1)
    settings = {
        "steps": steps,
        "schedule": Schedule("step", rate, steps, 2, [8]),
        "frequent": 2,
        "verbose": 4,
        "keep": Keep.BEST,
        "accumulate": accumulate,
        "seed": 5,
    }
    if teacher:
        settings["options"] = {"teacher": teacher.identity}
    plan = Plan(str(prefix), **{**settings, **changes})
    loader = BatchLoader(PictureReader(records, (SIZE, SIZE, 3)), BATCH, Augmentation(color=1), seed=5)
    embedding = embedding_symbol()
    symbol = loss(embedding, 5, CLASSES, **(margins or {"s": 8, "m2": 0.2}))
    if teacher:
        symbol = with_teacher(embedding, 5, teacher.emb_size, weight=2.0, class_loss=symbol)
    learner = learner or learner_of(
        rewritten(symbol, fix_statistics, names=freeze), (BATCH, 3, SIZE, SIZE), [mx.cpu()], momentum=0.9, wd=1e-3,
        accumulate=accumulate, clip_norm=clip_norm, teacher=teacher, frozen=freeze,
    )  # fmt: skip
    learner.state.initialize(mx.init.Xavier(), seed=5)
    averages = make_averages(ema, learner, embedding_symbol()) if ema else None
    return Run(learner, loader, plan, symbol if whole else embedding_symbol(), verify, averages)


def assert_same_state(one, other):
    for ours, theirs in zip(
        (*one.learner.state.parameters(), one.learner.state.momenta()),
        (*other.learner.state.parameters(), other.learner.state.momenta()),
    ):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
