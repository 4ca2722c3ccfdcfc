"""Dense blocks as one operator: the same outputs, gradients and moving averages as from MXNet's operators."""

import os
import re
from symbol.fdensenet import DenseNet

import numpy as np
import pytest

from denseface.models.graph import Graph
from denseface.rewrites.dense_blocks import fuse_dense_blocks, fuse_dense_blocks_for_inference
from denseface.rewrites.native import bfloat16_instructions, load_operators
from denseface.rewrites.prelu import compose_slopes
from support.again import call_again, compiler_without, other_threads
from support.symbols import operators, rewritten

import mxnet as mx

pytestmark = pytest.mark.skipif(not load_operators(), reason="no compiler for them")


def network(act_type="prelu", channels=32, growth=16, blocks=(2, 3), channelwise=False, **settings):
    settings = {"dropout": 0.0, "bn_mom": 0.8, **settings}
    with mx.name.NameManager():
        body = DenseNet(channels, growth, blocks, act_type=act_type, prefix="net_", **settings)
        symbol = mx.sym.MakeLoss(mx.sym.square(body(mx.sym.Variable("data"))), name="loss")
    return rewritten(symbol, free_shapes) if channelwise else symbol


def free_shapes(graph):
    """Let MXNet infer the slopes' shape: one per channel."""
    for name, variable in graph.variables.items():
        if name.endswith("alpha"):
            variable.attrs.pop("__shape__")


def bind(symbol, shape, grad_req="write", slopes=(0.3, 1.2)):
    executor = symbol.simple_bind(mx.cpu(), data=shape, grad_req=grad_req)
    rng = np.random.default_rng(0)
    for name in sorted(executor.arg_dict):
        array = executor.arg_dict[name]
        if name.endswith(("gamma", "alpha")):
            array[:] = rng.uniform(*(slopes if name.endswith("alpha") else (0.3, 1.2)), array.shape)
        elif name.endswith("weight"):
            array[:] = rng.normal(0, np.sqrt(2 / np.prod(array.shape[1:])), array.shape)
        else:
            array[:] = rng.normal(0, 0.5, array.shape)
    for name in sorted(executor.aux_dict):
        array = executor.aux_dict[name]
        array[:] = rng.uniform(0.5, 1.5, array.shape)
    return executor


def arrays(executor):
    mx.nd.waitall()
    found = {
        "output": executor.outputs[0],
        **executor.grad_dict,
        **{f"moving {name}": array for name, array in executor.aux_dict.items()},
    }
    return {name: array.asnumpy() for name, array in found.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        error = np.linalg.norm(found[name] - array) / (np.linalg.norm(array) + 1e-6)
        assert error < 2e-3, (name, error)


def assert_close(found, expected):
    """The same up to 8 significant bits, of which most are lost in sums that nearly cancel."""
    assert found.keys() == expected.keys()
    errors = {}
    for name, array in expected.items():
        # Later normalizations cancel most of a shift's gradient, so the scale's is what it is compared with.
        scale = expected.get(re.sub("prelu(.*)_(alpha)|batchnorm(.*)_(beta)", r"batchnorm\1\3_gamma", name), array)
        size = np.linalg.norm(array) + np.linalg.norm(scale)
        errors[name] = np.linalg.norm(found[name] - array) / size
        assert errors[name] < 0.3, (name, errors[name])
    assert errors["output"] < 2**-7
    assert np.median(list(errors.values())) < 2**-6


NETWORKS = {
    "several blocks": ((2, 3, 32, 32), {}),
    "unequal strips": ((3, 3, 30, 60), {"act_type": "relu"}),  # and tiles: 15 x 30, then 7 x 15
    "several strips": ((1, 3, 64, 128), {"blocks": (2,)}),
    "odd blocks": ((2, 3, 20, 20), {"channels": 96, "growth": 48}),  # of 16 channels
    "strips of a transition": ((1, 3, 80, 64), {"blocks": (2, 1)}),
    "slopes per channel": ((2, 3, 12, 12), {"channels": 32, "blocks": (2, 1), "channelwise": True}),
    "one pixel wide": ((2, 3, 6, 2), {"blocks": (1,)}),
    "one pixel high": ((2, 3, 2, 6), {"blocks": (1,)}),  # fewer parts than threads
    "padded": ((3, 3, 20, 20), {"channels": 40}),  # half a block of 16 channels, then a quarter
    "one padded block": ((2, 3, 12, 12), {"channels": 10, "act_type": "relu"}),
    "padded slopes": ((2, 3, 12, 12), {"channels": 24, "channelwise": True}),
}
networks = pytest.mark.parametrize("shape, settings", NETWORKS.values(), ids=NETWORKS)


@networks
def test_training_step(shape, settings):
    plain = network(**settings)
    fast = rewritten(plain, fuse_dense_blocks, shape)
    assert operators(fast).count("denseface_dense_block") == len(settings.get("blocks", (2, 3)))
    assert "Concat" not in operators(fast)
    channels, (height, width) = settings.get("channels", 32), (size // 2 for size in shape[2:])
    has_transition = settings.get("blocks", (2, 3))[1:] and channels % 16 == height % 2 == width % 2 == 0
    assert operators(fast).count("Pooling") == (1 if has_transition else len(settings.get("blocks", (2, 3))))
    assert fast.list_arguments() == plain.list_arguments()
    assert fast.list_auxiliary_states() == plain.list_auxiliary_states()
    slopes = [array for name, array in bind(fast, shape).arg_dict.items() if name.endswith("alpha")]
    assert all((array.size > 1) == settings.get("channelwise", False) for array in slopes)
    results = []
    for symbol in (plain, fast):
        executor = bind(
            rewritten(symbol, compose_slopes, shape), shape
        )  # MXNet's own PReLU computes wrong gradients of slopes
        for _ in range(2):  # the second starts from the first's moving averages
            executor.forward(is_train=True)
            executor.backward()
        results.append(arrays(executor))
    assert_same(*results)


@networks
def test_training_step_in_bfloat16(shape, settings):
    # At the kink of a steeper activation, a rounding error would change gradients by more than its size.
    plain = network(**{**settings, "act_type": "prelu"})
    results = []
    for bfloat16 in (False, True):
        fast = rewritten(rewritten(plain, fuse_dense_blocks, shape, bfloat16=bfloat16), compose_slopes, shape)
        executor = bind(fast, shape, slopes=(0.5, 0.52))
        for _ in range(2):
            executor.forward(is_train=True)
            executor.backward()
        results.append(arrays(executor))
    assert_close(results[1], results[0])
    is_rounded = not np.allclose(results[1]["output"], results[0]["output"], rtol=1e-5)
    assert is_rounded == bool(os.environ.get("INSTRUCTIONS", bfloat16_instructions()))


@pytest.mark.parametrize("absent, instructions", [("amx-bf16", "AVX-512"), ("avx512bf16", "")])
def test_bfloat16_without_some_instructions(absent, instructions, compiled):
    cases = [NETWORKS[name] for name in ("unequal strips", "odd blocks", "one pixel high")]
    call_again(test_training_step_in_bfloat16, cases, INSTRUCTIONS=instructions, **compiler_without(absent, compiled))


def test_evaluation_uses_moving_averages_and_keeps_them():
    shape = (2, 3, 16, 16)
    results = []
    for symbol in (network(), rewritten(network(), fuse_dense_blocks, shape)):
        executor = bind(symbol, shape)
        before = {name: array.asnumpy() for name, array in executor.aux_dict.items()}
        executor.forward(is_train=False)
        results.append(executor.outputs[0].asnumpy())
        for name, array in before.items():
            np.testing.assert_array_equal(executor.aux_dict[name].asnumpy(), array)
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-5)


@networks
def test_inference(shape, settings):
    plain = network(**settings)
    fast = rewritten(plain, fuse_dense_blocks_for_inference, shape)
    blocks = settings.get("blocks", (2, 3))
    assert operators(fast).count("denseface_dense_block_inference") == len(blocks)
    assert "Concat" not in operators(fast)
    has_transition = blocks[1:] and all(size % 4 == 0 for size in shape[2:])
    assert operators(fast).count("Pooling") == (1 if has_transition else len(blocks))
    before = bind(plain, shape)
    expected = before.forward(is_train=False)[0].asnumpy()
    executor = fast.simple_bind(mx.cpu(), data=shape, grad_req="null")
    given = {**before.arg_dict, **before.aux_dict}
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        array[:] = given[name]
    for _ in range(2):  # the first packs the weights
        found = executor.forward(is_train=False)[0].asnumpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("threads", other_threads("1", "3"))  # whole pictures per thread, and parts of them
@pytest.mark.parametrize("check", [test_inference, test_training_step, test_training_step_in_bfloat16])
def test_any_number_of_threads(check, threads):
    call_again(check, list(NETWORKS.values()), OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="passive")


def test_what_differs_from_such_a_block_is_left_alone():
    def same(symbol):
        assert operators(rewritten(symbol, fuse_dense_blocks, (2, 3, 16, 16))) == operators(symbol)

    same(network(act_type="elu"))
    same(network(dropout=0.1))
    same(network(growth=24, blocks=(1,)))  # a block and a half of 16 channels
    inside = network(blocks=(2,)).get_internals()
    concat = next(name for name in inside.list_outputs() if name.endswith("concat0_output"))
    tapped = rewritten(mx.sym.Group([inside["loss_output"], inside[concat]]), fuse_dense_blocks, (2, 3, 16, 16))
    assert "Concat" in operators(tapped)


@pytest.mark.parametrize(
    "settings",
    [
        {"pool_type": "max"}, {"kernel": (3, 3)}, {"stride": (1, 1)}, {"pad": (1, 1)}, {"num_filter": 24},
        {"eps": 1e-4}, {"act_type": "sigmoid"}, {"no_bias": False},
    ],
    ids=str,
)  # fmt: skip
def test_other_transitions_are_left_alone(settings):
    def pools(pool_type="avg", kernel=(2, 2), stride=(2, 2), pad=(0, 0), num_filter=32, eps=1e-3, act_type="relu",
              no_bias=True):  # fmt: skip
        symbol = layer(mx.sym.Convolution(mx.sym.Variable("data"), num_filter=32, kernel=(1, 1)), "layer")
        symbol = mx.sym.BatchNorm(symbol, fix_gamma=False, eps=eps)
        symbol = mx.sym.Activation(symbol, act_type=act_type)
        symbol = mx.sym.Convolution(symbol, num_filter=num_filter, kernel=(1, 1), no_bias=no_bias)
        symbol = mx.sym.Pooling(symbol, pool_type=pool_type, kernel=kernel, stride=stride, pad=pad)
        return operators(rewritten(mx.sym.MakeLoss(symbol), fuse_dense_blocks, (2, 3, 8, 8))).count("Pooling")

    assert pools() == 0
    assert pools(**settings) == 1


def layer(data, name, eps=(1e-3, 1e-3), momentum=0.9, kernel=3, swapped=False, act_type="relu", **settings):
    """One layer of a dense block, of MXNet's own operators; further settings are of its last convolution."""

    def unit(data, kernel, channels, eps, **settings):
        part = f"{name}_{kernel}"
        norm = mx.sym.BatchNorm(data, fix_gamma=False, eps=eps, momentum=momentum, name=f"{part}_bn")
        active = mx.sym.Activation(norm, act_type=act_type, name=f"{part}_act")
        options = {"pad": (kernel // 2,) * 2, "no_bias": True, "name": f"{part}_conv", **settings}
        return mx.sym.Convolution(active, num_filter=channels, kernel=(kernel, kernel), **options)

    appended = unit(unit(data, 1, 64, eps[0]), kernel, 16, eps[1], **settings)
    return mx.sym.Concat(*((appended, data) if swapped else (data, appended)), name=name)


def blocks(*layers):
    """Numbers of layers of the operators that stand for a chain of layers."""
    symbol = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=32, kernel=(1, 1), name="stem")
    for index, settings in enumerate(layers):
        symbol = layer(symbol, f"layer{index}", **settings)
    nodes = Graph(rewritten(mx.sym.MakeLoss(symbol), fuse_dense_blocks, (2, 3, 8, 8))).nodes
    return [node.integer("layers") for node in nodes if node.op == "denseface_dense_block"]


def test_layers_of_equal_settings_are_one_block():
    assert blocks({}, {}, {}) == [3]
    assert blocks({}, {"eps": (1e-4, 1e-4)}, {"eps": (1e-4, 1e-4)}) == [1, 2]
    assert blocks({"momentum": 0.8}, {}) == [1, 1]
    assert blocks({}, {"act_type": "tanh"}, {}) == [1, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": (1e-3, 1e-4)},
        {"kernel": 5},
        {"swapped": True},
        {"act_type": "sigmoid"},
        {"no_bias": False},
        {"num_group": 2},
        {"dilate": (2, 2), "pad": (2, 2)},
    ],
)
def test_other_layers_are_left_alone(settings):
    assert blocks(settings) == []
