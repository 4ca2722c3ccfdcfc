"""Compiled normalizations: the values, gradients and moving averages of MXNet's own."""

import numpy as np
import pytest

from denseface.rewrites.native import load_operators
from denseface.rewrites.norms import compile_norms
from denseface.rewrites.prelu import compose_slopes
from support.again import call_again, other_threads
from support.symbols import operators, rewritten

import mxnet as mx

pytestmark = pytest.mark.skipif(not load_operators(), reason="no compiler for them")

SHAPE = (3, 5, 7, 6)
SHAPES = [SHAPE, (1, 3, 1, 5), (2, 4, 80, 70)]  # the last has sums of several parts
ACTIVATIONS = ["none", "relu", "prelu"]


def norm(data, activation="none", shape=None, **settings):
    """A normalization with its activation, whose slopes have a shape, or MXNet's: one for every channel."""
    settings = {"fix_gamma": False, "eps": 1e-2, "momentum": 0.7, **settings}
    found = mx.sym.BatchNorm(data, **settings)
    if activation == "prelu":
        return mx.sym.LeakyReLU(found, mx.sym.Variable("slope", shape=shape), act_type="prelu")
    return found if activation == "none" else mx.sym.Activation(found, act_type=activation)


def steps(symbol, shape=SHAPE, count=2):
    """Outputs, gradients and moving averages after steps, and the output of an evaluation after them, by name."""
    symbol = rewritten(symbol, compose_slopes, shape)  # MXNet's own PReLU computes wrong gradients of slopes
    executor = symbol.simple_bind(mx.cpu(), data=shape)
    rng = np.random.default_rng(0)
    for name, array in executor.arg_dict.items():
        array[:] = rng.normal(5 if name == "data" else 0.5, 1, array.shape)
    for _ in range(count):
        executor.forward(is_train=True)
        executor.backward(mx.nd.array(rng.normal(size=executor.outputs[0].shape)))
    found = {**executor.grad_dict, **executor.aux_dict, "output": executor.outputs[0]}
    found = {name: array.asnumpy() for name, array in found.items()}
    return {**found, "evaluation": executor.forward(is_train=False)[0].asnumpy()}


def assert_same(symbol, shape=SHAPE):
    fast = rewritten(symbol, compile_norms, shape)
    assert fast.list_arguments() == symbol.list_arguments()
    assert fast.list_auxiliary_states() == symbol.list_auxiliary_states()
    found, expected = steps(fast, shape), steps(symbol, shape)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-5 * np.abs(array).max() + 1e-6, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_steps_and_evaluation(activation, shape):
    symbol = norm(mx.sym.Variable("data"), activation)
    assert operators(rewritten(symbol, compile_norms, shape)).count("denseface_norm") == 1
    assert "LeakyReLU" not in operators(rewritten(symbol, compile_norms, shape))
    assert_same(symbol, shape)


def test_one_slope_for_all_channels():
    assert_same(norm(mx.sym.Variable("data"), "prelu", shape=(1,)))


def test_what_is_read_elsewhere_gets_the_sum_of_gradients():
    data = mx.sym.tanh(mx.sym.Variable("data"))
    residual = norm(data, "prelu", name="first") + data + norm(data, "relu", name="second")
    assert operators(rewritten(residual, compile_norms, SHAPE)).count("denseface_norm") == 2
    assert_same(residual)


def test_an_activation_of_what_is_read_elsewhere_stays_apart():
    normalized = norm(mx.sym.Variable("data"))
    symbol = mx.sym.Activation(normalized, act_type="relu") + normalized
    assert operators(rewritten(symbol, compile_norms, SHAPE)).count("Activation") == 1
    assert_same(symbol)


def test_a_large_mean_costs_no_digits():
    values = np.random.default_rng(0).normal(1000, 0.1, SHAPE).astype(np.float32)
    executor = rewritten(norm(mx.sym.Variable("data"), eps=1e-5), compile_norms, SHAPE).simple_bind(
        mx.cpu(), data=SHAPE
    )
    for name, array in executor.arg_dict.items():
        array[:] = values if name == "data" else float(name.endswith("gamma"))
    found = executor.forward(is_train=True)[0].asnumpy()
    exact = values.astype(np.float64)
    axes = (0, 2, 3)
    expected = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # the mean itself has a step of 6e-5


@pytest.mark.parametrize(
    "settings", [{"fix_gamma": True}, {"use_global_stats": True}, {"axis": 2}, {"output_mean_var": True}], ids=str
)
def test_other_normalizations_are_left_alone(settings):
    symbol = norm(mx.sym.Variable("data"), **settings)[0]
    assert "denseface_norm" not in operators(rewritten(symbol, compile_norms, SHAPE))


def test_vectors_are_left_alone():
    assert "denseface_norm" not in operators(rewritten(norm(mx.sym.Variable("data")), compile_norms, (3, 5)))


@pytest.mark.parametrize("threads", other_threads("1", "3"))
def test_any_number_of_threads(threads):
    cases = [(activation, shape) for activation in ACTIVATIONS for shape in SHAPES]
    call_again(test_steps_and_evaluation, cases, OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="passive")
