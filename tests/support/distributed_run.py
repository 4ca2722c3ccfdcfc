"""A tiny run, in a process of its own: ``python distributed_run.py RECORDS PREFIX '{"batch": 4, ...}'``.

Under ``denseface launch`` it is one of several workers, a server or the scheduler.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from denseface.core.errors import InputError
from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, Part, PictureReader
from denseface.data.records import FaceRecords
from denseface.distributed.workers import connect
from denseface.models import losses
from denseface.models.adaface import adaface_margin
from denseface.models.distillation import with_teacher
from denseface.models.graph import Graph
from denseface.training.assembly import make_averages
from denseface.training.descent import Descent
from denseface.training.frozen import fix_statistics
from denseface.training.learner import Devices, Learner, Task
from denseface.training.plan import Keep, Plan
from denseface.training.run import Run
from denseface.training.schedule import Schedule
from denseface.training.teacher import Teacher
from denseface.training.triplets import METRICS, Mining, StepShape, TripletLoader

import mxnet as mx

CLASSES, SIZE = 12, 8
CLASS_LOSSES = {
    "arcface": lambda embedding: losses.combined_margin(m2=0.2),
    "adaface": lambda embedding: adaface_margin(embedding, t_alpha=0.3),
}


def with_fixed_statistics(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Let batch normalization use its moving averages, so that no picture's result depends on the others beside it."""
    graph = Graph(symbol)
    fix_statistics(graph, symbol.list_auxiliary_states())
    return graph.symbol()


def embedding_symbol(dropout: float) -> mx.sym.Symbol:
    body = mx.sym.Convolution(mx.sym.Variable("data") * (1 / 255), num_filter=4, kernel=(3, 3), name="conv")
    body = mx.sym.BatchNorm(body, fix_gamma=False, name="bn")
    body = mx.sym.Dropout(body, p=dropout) if dropout else body
    return mx.sym.FullyConnected(body, num_hidden=5, name="fc1")


def main(
    records_folder: str,
    prefix: str,
    batch: int = 4,
    steps: int = 20,
    devices: int = 1,
    kvstore: str = "dist_sync",
    loss: str = "arcface",
    dropout: float = 0.0,
    fixed: bool = False,
    sample: int | None = None,
    accumulate: int = 1,
    resume: bool = False,
    signal_at: int | None = None,
    diverge_at: int | None = None,
    max_bad: int | None = None,
    verbose: int = 1000,
    clip_norm: float = 0,
    ema: float = 0,
    teacher: str | None = None,
    freeze: tuple[str, ...] = (),
) -> int:
    """Train to the end, and give the exit code; signals and divergence come to the last worker alone, at a step."""
    with connect(kvstore) as workers, FaceRecords(records_folder) as records:
        embedding = embedding_symbol(dropout)
        reader = PictureReader(records, (SIZE, SIZE, 3), max_bad=max_bad)
        settings = (Augmentation(color=1), 5)
        if loss in CLASS_LOSSES:
            centers = losses.ClassCenters(sample or CLASSES, 5)
            symbol = losses.cosine_softmax(embedding, centers, s=8, margin=CLASS_LOSSES[loss](embedding))
            loader = BatchLoader(reader, batch, *settings, part=Part(workers.rank, workers.size))
        else:
            symbol = losses.triplet(embedding, alpha=0.3)
            loader = TripletLoader(
                reader, lambda data: learner.embed(data), Mining(METRICS["triplet"], 0.3, 16, 4),
                StepShape(batch, devices, accumulate, workers), *settings,
            )  # fmt: skip
        teaches = Teacher(teacher, (SIZE, SIZE, 3), batch, mx.cpu()) if teacher else None
        if teaches:
            symbol = with_teacher(embedding, 5, teaches.emb_size, weight=2.0, class_loss=symbol)
        task = Task(
            with_fixed_statistics(symbol) if fixed else symbol, freeze, teaches, CLASSES if sample else None
        )  # fmt: skip
        contexts = tuple(map(mx.cpu, range(devices)))
        learner = Learner(
            task,
            (batch, 3, SIZE, SIZE),
            Descent(0.9, 1e-3, clip_norm, accumulate),
            Devices(contexts, "device", workers),
        )
        schedule = Schedule("step", 0.05, steps, 2, [15])
        plan = Plan(prefix, steps, schedule, 1, verbose, Keep.BEST, accumulate, 5)
        averages = make_averages(ema, learner, embedding) if ema and workers.is_first else None
        run = Run(learner, loader, plan, embedding, lambda arguments, auxiliary: {}, averages)
        if not (resume and run.resume()):
            learner.state.initialize(mx.init.Xavier(), seed=5)
            learner.state.broadcast()
        last = workers.rank == workers.size - 1
        take_step = learner.step

        def step(*args, **kwargs):
            with contextlib.suppress(BrokenPipeError):
                print(f"taking step {run.step + 1}", flush=True)
            if last and run.step + 1 == signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            result = take_step(*args, **kwargs)
            return result._replace(loss=float("nan")) if last and run.step + 1 == diverge_at else result

        learner.step = step
        return 0 if run.fit() else 128 + run.stopped_by


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:3], **json.loads(sys.argv[3])))
    except InputError as error:
        sys.exit(f"error: {error}")
