"""PReLU, compiled and composed of other operators: the same values and gradients as in NumPy."""

import numpy as np
import pytest

from denseface.rewrites.native import load_operators
from denseface.rewrites.prelu import compile_slopes, compose_slopes
from support.symbols import operators, rewritten, run

import mxnet as mx

SHAPE = (2, 32, 5, 7)


def prelu(**settings):
    """A PReLU whose slopes have the given settings."""
    return mx.sym.LeakyReLU(mx.sym.Variable("data"), mx.sym.Variable("a", **settings), act_type="prelu", name="prelu")


needs_compiler = pytest.mark.skipif(not load_operators(), reason="no compiler for them")
both = pytest.mark.parametrize(
    "change", [compose_slopes, pytest.param(compile_slopes, marks=needs_compiler)], ids=["composed", "compiled"]
)


@both
@pytest.mark.parametrize("slopes", [1, 32])
def test_values_and_gradients(slopes, change):
    fast = rewritten(prelu(shape=(slopes,)), change, SHAPE)
    assert "LeakyReLU" not in operators(fast)
    assert fast.list_arguments() == ["data", "a"] and not fast.list_auxiliary_states()
    rng = np.random.default_rng(0)
    x, slope, y_grad = rng.normal(size=SHAPE), rng.uniform(-0.5, 1.5, slopes), rng.normal(size=SHAPE)
    executor = fast.simple_bind(mx.cpu(), data=SHAPE)
    (y,) = executor.forward(is_train=True, data=x, a=slope)
    executor.backward(mx.nd.array(y_grad))
    by_channel = slope.reshape(1, -1, 1, 1)
    np.testing.assert_allclose(y.asnumpy(), np.where(x > 0, x, by_channel * x), atol=1e-6)
    np.testing.assert_allclose(
        executor.grad_dict["data"].asnumpy(), np.where(x > 0, y_grad, by_channel * y_grad), atol=1e-6
    )
    sums = (np.minimum(x, 0) * y_grad).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(executor.grad_dict["a"].asnumpy(), sums if slopes > 1 else [sums.sum()], rtol=1e-4)


@both
def test_a_slope_of_unknown_shape_gets_one_for_every_channel(change):
    fast = rewritten(prelu(), change, SHAPE)
    assert fast.infer_shape(data=SHAPE)[0] == [SHAPE, (32,)]


def test_other_inputs_than_pictures_are_left_alone():
    assert operators(rewritten(prelu(), compose_slopes, (2, 32))) == [
        "null",
        "null",
        "LeakyReLU",
    ]


@both
def test_what_is_read_elsewhere_gets_the_sum_of_gradients(change):
    data = mx.sym.tanh(mx.sym.Variable("data"))
    symbol = mx.sym.MakeLoss(mx.sym.LeakyReLU(data, mx.sym.Variable("a"), act_type="prelu") + data)
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    _, gradients = run(rewritten(symbol, change, SHAPE), data=x, a=np.full(SHAPE[1], 0.25))
    np.testing.assert_allclose(gradients["data"], np.where(x > 0, 2, 1.25) * (1 - np.tanh(x) ** 2), atol=1e-5)


def test_layers_of_one_name_keep_their_own_numbers_of_channels():
    wide = mx.sym.LeakyReLU(mx.sym.Variable("data"), mx.sym.Variable("a"), act_type="prelu", name="same")
    narrow = mx.sym.Convolution(wide, num_filter=8, kernel=(1, 1), name="conv")
    symbol = mx.sym.LeakyReLU(narrow, mx.sym.Variable("b"), act_type="prelu", name="same")
    shapes = dict(zip(symbol.list_arguments(), rewritten(symbol, compose_slopes, SHAPE).infer_shape(data=SHAPE)[0]))
    assert (shapes["a"], shapes["b"]) == ((32,), (8,))
