"""A run on triplets of a few layers, on pictures of 8 x 8."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from denseface.data.augment import Augmentation
from denseface.data.loader import PictureReader
from denseface.data.records import write_face_records
from denseface.models import losses
from denseface.training.plan import Keep, Plan
from denseface.training.run import Run
from denseface.training.schedule import Schedule
from denseface.training.triplets import ANGLE, SQUARED_EUCLIDEAN, Mining, StepShape, TripletLoader
from support.learners import learner_of

import mxnet as mx

CLASSES, SIZE = 8, 8
SHAPE = (SIZE, SIZE, 3)
CPU = (mx.cpu(),)


def write_faces(folder):
    """Write 40 pictures of 8 identities; those of one share a pattern under noise."""
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 256, (CLASSES, *SHAPE))

    def picture(label):
        noisy = np.clip(patterns[label] + rng.normal(0, 90, SHAPE), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "PNG")
        return file.getvalue()

    write_face_records(folder, [(label, picture(label)) for label in range(CLASSES) for _ in range(5)], SHAPE[:2])


def embedding_symbol():
    body = mx.sym.Convolution(mx.sym.Variable("data") * (1 / 255), num_filter=4, kernel=(3, 3), name="conv")
    body = mx.sym.Dropout(mx.sym.BatchNorm(body, fix_gamma=False, name="bn"), p=0.3)
    return mx.sym.FullyConnected(body, num_hidden=5, name="fc1")


def make_run(records, prefix, loss=losses.triplet, contexts=CPU, accumulate=1, batch_size=12, **changes):
    steps, rate = changes.pop("steps", 8), changes.pop("learning_rate", 0.05)
    settings = {
        "steps": steps, "schedule": Schedule("step", rate, steps), "frequent": 2, "verbose": 4,
        "keep": Keep.BEST, "accumulate": accumulate, "seed": 5,
    }  # fmt: skip
    symbol = loss(embedding_symbol(), alpha=0.5)
    learner = learner_of(symbol, (batch_size, 3, SIZE, SIZE), contexts, momentum=0.9, wd=1e-3, accumulate=accumulate)
    learner.state.initialize(mx.init.Xavier(), seed=5)
    metric = SQUARED_EUCLIDEAN if loss is losses.triplet else ANGLE
    loader = TripletLoader(
        PictureReader(records, SHAPE), learner.embed, Mining(metric, alpha=0.5, bag_size=10, images_per_identity=5),
        StepShape(batch_size, len(contexts), accumulate), Augmentation(color=1), seed=5,
    )  # fmt: skip
    plan = Plan(str(prefix), **{**settings, **changes})
    return Run(learner, loader, plan, embedding_symbol(), lambda arguments, auxiliary: {})
