"""Dense blocks in one operator: the same outputs, gradients and moving averages as in MXNet's operators."""

from symbol.fdensenet import DenseNet

import numpy as np
import pytest

from denseface.dense_blocks import with_dense_blocks
from denseface.native import load_operators
from denseface.rewrite import nodes_of

import mxnet as mx

pytestmark = pytest.mark.skipif(not load_operators(), reason="there is no compiler for them")


def network(act_type="prelu", channels=32, growth=16, blocks=(2, 3), **settings):
    settings = {"dropout": 0.0, "bn_mom": 0.8, **settings}
    with mx.name.NameManager():
        body = DenseNet(channels, growth, blocks, act_type=act_type, prefix="net_", **settings)
        return mx.sym.MakeLoss(mx.sym.square(body(mx.sym.Variable("data"))), name="loss")


def ops(symbol):
    return [node.op for node in nodes_of(symbol)]


def bind(symbol, shape, grad_req="write"):
    executor = symbol.simple_bind(mx.cpu(), data=shape, grad_req=grad_req)
    rng = np.random.default_rng(0)
    for name in sorted(executor.arg_dict):
        array = executor.arg_dict[name]
        if name.endswith(("gamma", "alpha")):
            array[:] = rng.uniform(0.3, 1.2, array.shape)
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


@pytest.mark.parametrize(
    "shape, settings",
    [
        ((2, 3, 32, 32), {}),
        ((3, 3, 30, 60), {"act_type": "relu"}),  # strips and tiles of unequal sizes: 15 x 30, then 7 x 15
        ((1, 3, 64, 128), {"blocks": (2,)}),  # several strips of rows
        ((2, 3, 20, 20), {"channels": 96, "growth": 48}),  # an odd number of blocks of 16 channels
        ((2, 3, 6, 2), {"blocks": (1,)}),  # a picture one pixel wide
    ],
)
def test_training_step(shape, settings):
    plain = network(**settings)
    fast = with_dense_blocks(plain, shape)
    assert ops(fast).count("denseface_dense_block") == len(settings.get("blocks", (2, 3)))
    assert "Concat" not in ops(fast)
    assert fast.list_arguments() == plain.list_arguments()
    assert fast.list_auxiliary_states() == plain.list_auxiliary_states()
    results = []
    for symbol in (plain, fast):
        executor = bind(symbol, shape)
        for _ in range(2):  # the second starts from the first's moving averages
            executor.forward(is_train=True)
            executor.backward()
        results.append(arrays(executor))
    assert_same(*results)


def test_evaluation_uses_moving_averages_and_leaves_them():
    shape = (2, 3, 16, 16)
    results = []
    for symbol in (network(), with_dense_blocks(network(), shape)):
        executor = bind(symbol, shape)
        before = {name: array.asnumpy() for name, array in executor.aux_dict.items()}
        executor.forward(is_train=False)
        results.append(executor.outputs[0].asnumpy())
        for name, array in before.items():
            np.testing.assert_array_equal(executor.aux_dict[name].asnumpy(), array)
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-5)


def test_gradients_are_added_where_they_are_to_be():
    shape = (2, 3, 16, 16)
    executor = bind(with_dense_blocks(network(), shape), shape, grad_req="add")
    totals = []
    for _ in range(2):
        executor.forward(is_train=True)
        executor.backward()
        totals.append({name: array.asnumpy() for name, array in executor.grad_dict.items()})
    for name, once in totals[0].items():
        np.testing.assert_allclose(totals[1][name], 2 * once, rtol=1e-4, atol=1e-5 * np.abs(once).max())


def test_what_differs_from_such_a_block_is_left_alone():
    def same(symbol):
        assert ops(with_dense_blocks(symbol, (2, 3, 16, 16))) == ops(symbol)

    same(network(act_type="elu"))
    same(network(dropout=0.1))
    same(network(channels=24, blocks=(1,)))  # half a block of 16 channels
    inside = network(blocks=(2,)).get_internals()
    concat = next(name for name in inside.list_outputs() if name.endswith("concat0_output"))
    tapped = with_dense_blocks(mx.sym.Group([inside["loss_output"], inside[concat]]), (2, 3, 16, 16))
    assert "Concat" in ops(tapped)
