"""Contenders that bring a sample of class centers up to date: weights out, gradients in, momentum kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

import denseface  # noqa: F401  makes MXNet importable
from bench.race import Contender

CLASSES, SAMPLE, _EMBEDDING = 200_000, 10_000, 512
_MOMENTUM, _DECAY, _RATE = 0.9, 5e-4, 0.1


def contenders() -> list[Contender]:
    """Everyone who can; the first is this project."""
    return [
        Contender("denseface", lazy_update),
        Contender("rows copied out and back", copied_rows),
        Contender("row_sparse_pull and push, kvstore local", key_value_store),
    ]


def lazy_update():
    """What the learner does: a lazy update of all classes with a gradient that has the rows of the sample."""
    from denseface.training.partial_fc import Centers

    import mxnet as mx

    optimizer, gradient = _optimizer(mx), _gradient(mx)
    centers = Centers(CLASSES, {"fc7_weight": gradient.shape}, momentum=True)
    bound, update = {"fc7_weight": gradient.copy()}, partial(optimizer.update, 0)

    def step(classes):
        centers.load(classes, bound)
        centers.update("fc7_weight", classes, gradient, update)
        return centers.weights["fc7_weight"][classes[0]]

    return _runs(step)


def copied_rows():
    """Weights and momenta of the sample to arrays of its size and back, with an ordinary update in between."""
    import mxnet as mx

    optimizer, gradient = _optimizer(mx), _gradient(mx)
    tables = [np.zeros((CLASSES, _EMBEDDING), np.float32) for _ in range(2)]
    bound, rows = [gradient.copy(), gradient.copy()], np.empty(gradient.shape, np.float32)

    def step(classes):
        for table, array in zip(tables, bound):
            array[:] = np.take(table, classes, axis=0, out=rows, mode="clip")
        optimizer.update(0, bound[0], gradient, bound[1])
        for table, array in zip(tables, bound):
            table[classes] = array.asnumpy()
        return tables[0][classes[0]]

    return _runs(step)


def key_value_store():
    """A row_sparse weight in a store of this process, whose optimizer keeps the momenta."""
    import mxnet as mx

    gradient, shape = _gradient(mx), (CLASSES, _EMBEDDING)
    store, bound = mx.kv.create("local"), gradient.copy()
    store.set_optimizer(_optimizer(mx))
    every = mx.nd.arange(CLASSES, dtype="int64")
    store.init(0, mx.nd.sparse.row_sparse_array((mx.nd.zeros(shape), every), shape=shape))
    pulled = mx.nd.sparse.zeros("row_sparse", shape)

    def step(classes):
        rows = mx.nd.array(classes, dtype="int64")
        store.row_sparse_pull(0, out=pulled, row_ids=rows)
        pulled.data.copyto(bound)
        store.push(0, mx.nd.sparse.row_sparse_array((gradient, rows), shape=shape))
        store.row_sparse_pull(0, out=pulled, row_ids=rows[:1])
        return pulled.data[0].asnumpy()

    return _runs(step)


def _optimizer(mx):
    return mx.optimizer.SGD(momentum=_MOMENTUM, wd=_DECAY, learning_rate=_RATE, lazy_update=True)


def _gradient(mx):
    return mx.nd.array(np.random.default_rng(0).standard_normal((SAMPLE, _EMBEDDING)).astype(np.float32))


def _runs(step) -> Callable[[], np.ndarray]:
    """Steps on one sample after another, the same for everyone."""
    random = np.random.default_rng(1)
    return lambda: step(np.sort(random.choice(CLASSES, SAMPLE, replace=False)))
