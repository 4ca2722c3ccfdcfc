"""A network of two layers, and the state of a run of it."""

from __future__ import annotations

import numpy as np

from denseface.models.checkpoint import TrainingState

import mxnet as mx


def embedding_symbol():
    body = mx.sym.BatchNorm(mx.sym.Flatten(mx.sym.Variable("data")), name="bn")
    return mx.sym.FullyConnected(body, num_hidden=3, name="fc1")


def make_state(step, seed=0):
    rng = np.random.default_rng(seed + step)
    arguments = {
        "bn_gamma": rng.normal(size=12),
        "bn_beta": rng.normal(size=12),
        "fc1_weight": rng.normal(size=(3, 12)),
        "fc1_bias": rng.normal(size=3),
        "fc7_weight": rng.normal(size=(5, 3)),
    }
    arguments = {name: array.astype(np.float32) for name, array in arguments.items()}
    auxiliary = {"bn_moving_mean": np.zeros(12, np.float32), "bn_moving_var": np.ones(12, np.float32)}
    momenta = {name: array * 2 for name, array in arguments.items()}
    averages = {name: array / 2 for name, array in arguments.items() if name != "fc7_weight"}, auxiliary
    return TrainingState(step, arguments, auxiliary, momenta, {"best": {"step": 1, "score": 0.5}}, averages)


def assert_equal_arrays(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
