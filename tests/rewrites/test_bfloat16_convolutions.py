"""1x1 and 3x3 convolutions in bfloat16: what they compute is exact as long as its terms are."""

import numpy as np
import pytest

from denseface.models.graph import Graph
from denseface.rewrites.bfloat16_convolutions import CONVOLUTION_OPERATOR, convolve_in_bfloat16, keep_in_bfloat16
from denseface.rewrites.native import bfloat16_instructions
from denseface.rewrites.norms import compile_norms
from support.again import call_again, compiler_without, other_threads
from support.symbols import operators, rewritten

import mxnet as mx

pytestmark = pytest.mark.skipif(not bfloat16_instructions(), reason="this processor has no instructions for bfloat16")


def convolution(data, outputs, **settings):
    settings = {"kernel": (3, 3), "pad": (1, 1), "no_bias": True, **settings}
    return mx.sym.Convolution(data, num_filter=outputs, **settings)


def count(symbol):
    return operators(symbol).count(CONVOLUTION_OPERATOR)


def step(symbol, shape, seed=0):
    """The output, and the gradients for a gradient of small integers, of small integers."""
    executor = symbol.simple_bind(mx.cpu(), data=shape, grad_req="write")
    rng = np.random.default_rng(seed)
    for array in executor.arg_dict.values():
        array[:] = rng.integers(-3, 4, array.shape)
    for _ in range(2):  # the second finds memory in use
        executor.forward(is_train=True)
        executor.backward(mx.nd.array(rng.integers(-3, 4, executor.outputs[0].shape)))
    return [array.asnumpy() for array in (*executor.outputs, *executor.grad_arrays)]


SHAPES = [
    ((2, 32, 8, 8), 32),
    ((1, 16, 5, 3), 48),  # odd numbers of blocks of 16 channels; one picture for two threads
    ((3, 48, 1, 1), 16),
    ((2, 16, 1, 6), 16),
    ((2, 16, 6, 1), 16),
    ((1, 32, 60, 20), 16),  # several strips, the last one shorter
    ((2, 16, 3, 600), 16),  # a row longer than a strip
    ((8, 32, 7, 7), 64),  # several pictures in a strip
    ((5, 16, 6, 7), 16),  # the last strip has fewer
    ((4, 64, 14, 14), 32),
]
shapes = pytest.mark.parametrize("shape, outputs", SHAPES)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@shapes
def test_step_is_exact(shape, outputs, kernel, stride):
    size = {"kernel": (kernel, kernel), "pad": (kernel // 2, kernel // 2), "stride": (stride, stride)}
    plain = convolution(mx.sym.Variable("data"), outputs, **size)
    fast = rewritten(plain, convolve_in_bfloat16, shape)
    assert count(fast) == 1
    assert fast.list_arguments() == plain.list_arguments()
    for found, expected in zip(step(fast, shape), step(plain, shape)):
        np.testing.assert_array_equal(found, expected)


STEPS = [(*case, kernel, stride) for case in SHAPES for kernel in (1, 3) for stride in (1, 2)]


@pytest.mark.parametrize("threads", other_threads("1", "3"))
def test_any_number_of_threads(threads):
    call_again(test_step_is_exact, STEPS, OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="passive")


def test_without_amx(compiled):
    call_again(test_step_is_exact, STEPS, **compiler_without("amx-bf16", compiled))


def test_what_is_read_is_rounded_to_bfloat16():
    shape = (2, 16, 8, 8)
    plain = convolution(mx.sym.Variable("data"), 16)
    rng = np.random.default_rng(0)
    data, weight = (rng.normal(size=size).astype(np.float32) for size in (shape, (16, 16, 3, 3)))

    def output(symbol, *arrays):
        executor = symbol.simple_bind(mx.cpu(), data=shape, grad_req="null")
        for array, values in zip(executor.arg_arrays, arrays):
            array[:] = values
        return executor.forward(is_train=True)[0].asnumpy()

    def rounded(values):
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)

    found = output(rewritten(plain, convolve_in_bfloat16, shape), data, weight)
    np.testing.assert_allclose(found, output(plain, rounded(data), rounded(weight)), rtol=1e-5, atol=1e-4)
    assert np.abs(found - output(plain, data, weight)).max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": (3, 3)}, {"stride": (1, 2)}, {"pad": (0, 0)}, {"dilate": (2, 2)}, {"num_group": 16},
        {"no_bias": False}, {"kernel": (5, 5), "pad": (2, 2)}, {"outputs": 24},
    ],
    ids=str,
)  # fmt: skip
def test_other_convolutions_are_left_alone(settings):
    symbol = convolution(mx.sym.Variable("data"), **{"outputs": 16, **settings})
    assert count(rewritten(symbol, convolve_in_bfloat16, (2, 16, 8, 8))) == 0


def test_what_is_read_elsewhere_gets_the_sum_of_gradients():
    shape = (2, 16, 8, 8)
    data = mx.sym.Activation(mx.sym.Variable("data"), act_type="relu")
    plain = convolution(data, 16, name="first") + data + convolution(data, 16, name="second")
    fast = rewritten(plain, convolve_in_bfloat16, shape)
    assert count(fast) == 2
    for found, expected in zip(step(fast, shape), step(plain, shape)):
        np.testing.assert_array_equal(found, expected)


def apart(graph):
    convolve_in_bfloat16(graph)
    compile_norms(graph)


def together(graph):
    apart(graph)
    keep_in_bfloat16(graph)


def unit(data, name, stride=1, outputs=32):
    """BN - PReLU - convolution, as in residual networks."""
    norm = mx.sym.BatchNorm(data, fix_gamma=False, name=f"{name}_norm")
    norm = mx.sym.LeakyReLU(norm, mx.sym.Variable(f"{name}_slope"), act_type="prelu")
    return convolution(norm, outputs, stride=(stride, stride), name=name)


def random_step(symbol, shape, **given):
    """Output and gradients by name, of random parameters and others that are given."""
    executor = symbol.simple_bind(mx.cpu(), data=shape)
    rng = np.random.default_rng(0)
    for name in sorted(executor.arg_dict):
        array = executor.arg_dict[name]
        array[:] = given.get(name, rng.normal(0.5, 0.3, array.shape))
    output = executor.forward(is_train=True)[0]
    executor.backward(mx.nd.array(rng.normal(size=output.shape)))
    return {"output": output.asnumpy(), **{name: array.asnumpy() for name, array in executor.grad_dict.items()}}


SHAPE = (4, 16, 13, 9)


def test_rounding_what_a_convolution_reads_changes_nothing():
    """The convolution would round it as well."""
    symbol = unit(mx.sym.Variable("data"), "a")
    (fast, slow) = (rewritten(symbol, change, SHAPE) for change in (together, apart))
    np.testing.assert_array_equal(random_step(fast, SHAPE)["output"], random_step(slow, SHAPE)["output"])


@pytest.mark.parametrize("stride", [1, 2])
def test_units_that_pass_bfloat16_to_each_other_compute_nearly_the_same(stride):
    symbol = unit(unit(unit(mx.sym.Variable("data"), "a"), "b", stride), "c")
    found, expected = (random_step(rewritten(symbol, change, SHAPE), SHAPE) for change in (together, apart))
    for name, array in expected.items():
        error = np.linalg.norm(found[name] - array) / np.linalg.norm(array)
        assert 1e-6 < error < 5e-2, (name, error)  # terms of the gradients of scales nearly cancel


def test_what_two_read_stays_in_float32():
    """MXNet adds its gradients, which it takes for float16."""
    data = unit(mx.sym.Variable("data"), "a")
    symbol = unit(data, "b") + unit(data, "c")
    graph = Graph(rewritten(symbol, together, SHAPE))
    passed = {node.name for node in graph.nodes if "bfloat16_output" in node.attrs}
    readers = {node.name for node in graph.nodes if "bfloat16_input" in node.attrs}
    assert "a" not in passed and readers == {"a", "b", "c"}  # the convolutions read their normalizations'


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex)
def test_what_is_no_number_stays_none(bits):
    nan = np.full(16, bits, np.uint32).view(np.float32)
    symbol = rewritten(unit(unit(mx.sym.Variable("data"), "a"), "b"), together, SHAPE)
    assert np.isnan(random_step(symbol, SHAPE, a_norm_beta=nan)["output"]).all()


@pytest.mark.parametrize("threads", other_threads("1", "3"))
def test_passing_by_any_number_of_threads(threads):
    check = test_units_that_pass_bfloat16_to_each_other_compute_nearly_the_same
    call_again(check, [[1], [2]], OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="passive")
