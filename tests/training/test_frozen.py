"""What is frozen stays, and is used as in evaluation."""

import re
from symbol.fdensenet import DenseNet

import numpy as np
import pytest

from denseface.data.loader import Batch
from denseface.rewrites.native import load_operators
from denseface.training.frozen import fix_statistics, frozen_names, matching, set_rates
from support import class_losses
from support.learners import learner_of
from support.refusals import refused
from support.symbols import accelerated, rewritten

import mxnet as mx

CLASSES, SHAPE = 4, (8, 3, 6, 6)
CPU = (mx.cpu(),)


def embedding_symbol():
    body = mx.sym.Variable("data") * (1 / 255)
    for part in ("stage1", "stage2"):
        body = mx.sym.Convolution(body, num_filter=4, kernel=(3, 3), pad=(1, 1), name=f"{part}_conv")
        body = mx.sym.BatchNorm(body, fix_gamma=False, name=f"{part}_bn")
    return mx.sym.FullyConnected(body, num_hidden=5, name="fc1")


def dense_embedding():
    with mx.name.NameManager():
        body = DenseNet(32, 16, (1, 2, 3), act_type="relu", dropout=0.0, bn_mom=0.9, prefix="densenet0_")
        pooled = mx.sym.Pooling(body(mx.sym.Variable("data") * (1 / 255)), global_pool=True, pool_type="avg")
        return mx.sym.FullyConnected(pooled, num_hidden=16, name="fc1")


def make_learner(frozen=(), contexts=CPU, rates=(), symbol=None, shape=SHAPE):
    if symbol is None:
        symbol = class_losses.margin_softmax(embedding_symbol(), 5, CLASSES, s=8, m2=0.2)
    symbol = rewritten(rewritten(symbol, fix_statistics, names=frozen), set_rates, rates=rates)
    learner = learner_of(symbol, shape, contexts, momentum=0.9, wd=0.01, frozen=frozen)
    learner.state.initialize(mx.init.Xavier(), seed=3)
    rng = np.random.default_rng(1)
    _, auxiliary = learner.state.parameters()
    learner.state.set_parameters(
        {}, {name: rng.uniform(0.5, 2, a.shape).astype(np.float32) for name, a in auxiliary.items()}
    )
    return learner


def make_batch(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    data = rng.uniform(0, 255, shape).astype(np.float32)
    return Batch(data, rng.integers(0, CLASSES, shape[0]).astype(np.float32))


def values(learner):
    arguments, auxiliary = learner.state.parameters()
    momenta = {f"{name} momentum": array for name, array in learner.state.momenta().items()}
    return {name: array.copy() for name, array in {**arguments, **auxiliary, **momenta}.items()}


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("devices", [1, 2])
def test_frozen_parameters_and_statistics_stay_and_the_others_learn(devices):
    frozen = frozen_names(["stage1_*"], embedding_symbol())
    assert frozen == {
        "stage1_conv_weight", "stage1_conv_bias", "stage1_bn_gamma", "stage1_bn_beta", "stage1_bn_moving_mean",
        "stage1_bn_moving_var",
    }  # fmt: skip
    learner = make_learner(frozen, tuple(map(mx.cpu, range(devices))))
    before = values(learner)
    for step in range(3):
        learner.step([make_batch(step)], 0.1, step)
    assert changed(before, values(learner)) == before.keys() - frozen
    assert not {*learner.state.momenta()} & frozen


def test_a_frozen_network_is_used_as_in_evaluation():
    learner = make_learner(frozen_names(["*"], embedding_symbol()))
    batch = make_batch()
    embeddings = learner.embed(batch.data)
    learner.step([batch], 0.1, 0)
    trained = learner._executors[0].outputs[0].asnumpy()  # in the forward pass of training
    np.testing.assert_allclose(trained, embeddings, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not load_operators(), reason="no C++ compiler")
@pytest.mark.parametrize(
    "patterns", [["*_conv0_*", "*_stage1_*"], ["*_stage2_conv?_weight"], ["*_stage3_batchnorm[45]_*"]]
)
def test_a_frozen_part_of_a_dense_network_is_the_same_in_compiled_blocks(patterns):
    shape, embedding = (4, 3, 32, 32), dense_embedding()
    plain = class_losses.margin_softmax(embedding, 16, CLASSES, s=8, m2=0.2)
    frozen = frozen_names(patterns, embedding)
    fixed = rewritten(plain, fix_statistics, names=frozen)
    fast = accelerated(fixed, shape)
    assert "denseface_dense_block" in fast.tojson()
    one, other = (make_learner(frozen, symbol=symbol, shape=shape) for symbol in (fixed, fast))
    other.state.set_parameters(*one.state.parameters())
    before = values(one)
    batch = make_batch(shape=shape)
    assert one.step([batch], 0.01, 0).loss == pytest.approx(other.step([batch], 0.01, 0).loss, rel=1e-4)
    for name, array in values(one).items():
        change = np.abs(array - before[name]).max()
        np.testing.assert_allclose(values(other)[name], array, rtol=1e-5, atol=0.05 * change + 1e-6, err_msg=name)
    assert not changed(before, values(other)) & frozen


def test_a_rate_is_multiplied_and_the_last_pattern_counts():
    rates = [("*_weight", 3.0), ("fc1_*", 0.0), ("fc7_weight", 0.5)]
    plain, learner = make_learner(), make_learner(rates=rates)
    before = values(plain)
    for one in (plain, learner):
        one.step([make_batch()], 0.1, 0)
    factors = {"stage1_conv_weight": 3, "stage2_conv_weight": 3, "fc1_weight": 0, "fc1_bias": 0, "fc7_weight": 0.5}
    for name in plain.state.parameters()[0]:
        expected = before[name] + factors.get(name, 1) * (values(plain)[name] - before[name])
        np.testing.assert_allclose(values(learner)[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_pattern_that_matches_nothing_is_answered_by_near_names():
    assert matching("stage?_conv*", ["stage1_conv_weight", "stage12_conv_weight"], "freeze") == {"stage1_conv_weight"}
    with refused("stage3_bn*", option="freeze") as caught:
        frozen_names(["stage1*", "stage3_bn*"], embedding_symbol())
    nearest = caught.value.reason.split("nearest: ")[1].split(", ")
    assert re.fullmatch(r"stage\d_bn_\w+", nearest[0]) and len(nearest) > 1
    symbol = class_losses.margin_softmax(embedding_symbol(), 5, CLASSES, s=8)
    with refused("fc7_wight", "nearest: fc7_weight", option="lr_mult"):
        rewritten(symbol, set_rates, rates=[("fc7_wight", 2)])
