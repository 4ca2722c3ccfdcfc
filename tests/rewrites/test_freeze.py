"""A frozen network: the same function as the plain one, with less to compute."""

import dataclasses
import zlib

import numpy as np
import pytest

from denseface.models import families
from denseface.models.graph import Graph
from denseface.rewrites.freeze import freeze
from support.helpers import relative_error
from support.tiny_models import as_model
from symbol_utils import HEADS

import mxnet as mx

S = mx.sym
DATA = S.Variable("data")
SHAPE = (2, 4, 6, 6)


def run(symbol, arguments, auxiliary, data):
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
    for own, given in ((executor.arg_dict, arguments), (executor.aux_dict, auxiliary)):
        for name in own.keys() - {"data"}:
            own[name][:] = given[name]
    return executor.forward(is_train=False, data=mx.nd.array(data))[0].asnumpy()


def with_strange_scales(model):
    """Half of the scales of its normalizations are negative, and some are 0."""

    def changed(name, array):
        if not name.endswith("_gamma"):
            return array
        random = np.random.RandomState(zlib.crc32(name.encode()))
        return array * random.choice([-1, 0, 1], array.shape, p=[0.4, 0.2, 0.4]).astype(np.float32)

    return dataclasses.replace(model, arguments={name: changed(name, a) for name, a in model.arguments.items()})


def frozen_of(symbol, arguments, auxiliary):
    """The symbol, parameters and moving averages of a network after it is frozen."""
    graph = Graph(symbol)
    values = freeze(graph, {**arguments, **auxiliary})
    frozen = graph.symbol()
    states = {*frozen.list_auxiliary_states()}
    kinds = [{name: array for name, array in values.items() if (name in states) == kept} for kept in (False, True)]
    return frozen, *kinds


def assert_same(model, shape, high=3.0):
    """The frozen network computes what the plain one does; return its nodes."""
    before = {name: array.copy() for name, array in {**model.arguments, **model.auxiliary}.items()}
    frozen = frozen_of(model.symbol, model.arguments, model.auxiliary)
    data = np.random.RandomState(1).uniform(-high if high < 255 else 0, high, shape).astype(np.float32)
    expected = run(model.symbol, model.arguments, model.auxiliary, data)
    assert np.abs(expected).max() > 1e-3
    assert relative_error(run(*frozen, data), expected) < 1e-4
    for name, array in {**model.arguments, **model.auxiliary}.items():
        np.testing.assert_array_equal(array, before[name])
    return Graph(frozen[0]).nodes


def ops(nodes):
    return [node.op for node in nodes if node.op != "null"]


def frozen_ops(symbol, shape=SHAPE):
    return ops(assert_same(as_model(symbol, shape), shape))


@pytest.mark.parametrize("head", [head for head in HEADS if head != "GDC"])
def test_every_head(configured, head):
    config = configured(net_output=head, emb_size=64)
    model = with_strange_scales(as_model(families.embedding_symbol(config), (1, 3, 32, 32)))
    assert "Dropout" not in ops(assert_same(model, (2, 3, 32, 32), 255))


def test_the_head_whose_kernel_covers_the_picture(configured):
    config = configured(net_output="GDC", image_shape=[32, 32, 3])
    assert_same(as_model(families.embedding_symbol(config), (1, 3, 32, 32)), (2, 3, 32, 32), 255)


@pytest.mark.parametrize(
    "activation",
    ["relu", "prelu", "leaky", "elu", "selu", "gelu", "sigmoid", "tanh", "softrelu", "softsign"],
)
def test_every_activation(configured, activation):
    config = configured(net_act=activation, net_output="GAP")
    assert_same(with_strange_scales(as_model(families.embedding_symbol(config), (1, 3, 32, 32))), (2, 3, 32, 32), 255)


DEEPER = [pytest.param(network, marks=pytest.mark.torture) for network in ("d161", "d169", "d201", "y2")]


@pytest.mark.parametrize("network", ["d121", "r18", "r50v1", "y1", *DEEPER])
def test_every_depth_and_family(configured, network):
    side = 112 if network.startswith("y") else 32
    config = configured(network, net_output="GDC" if side == 112 else "GAP")
    assert_same(as_model(families.embedding_symbol(config), (1, 3, side, side)), (1, 3, side, side), 255)


def test_a_densenet_keeps_only_what_it_needs(configured):
    config = configured(net_act="prelu", net_output="E")
    plain = families.embedding_symbol(config)
    nodes = assert_same(as_model(plain, (1, 3, 32, 32)), (1, 3, 32, 32), 255)
    left, before = ops(nodes), ops(Graph(plain).nodes)
    layers = 3 + 6 + 12 + 8
    # Behind a convolution: the stem's, and the second of every layer; behind the fully connected layer: the last.
    assert before.count("BatchNorm") - left.count("BatchNorm") == layers + 2
    assert left.count("Convolution") == before.count("Convolution")
    assert "Dropout" not in left
    assert {node.attrs["act_type"] for node in nodes if node.op == "LeakyReLU"} == {"leaky"}
    operators = [node for node in nodes if node.op != "null"]
    assert [node.name for node in operators[:2]] == ["_minusscalar0", "_mulscalar0"]
    assert operators[-1].name == "fc1"
    assert [node.inputs[0][0].op for node in nodes if node.op == "Convolution"].count("Pooling") == 3


@pytest.mark.parametrize("fix_gamma", [True, False])
@pytest.mark.parametrize("no_bias", [True, False])
def test_a_normalization_is_merged_into_the_layer_before_it(fix_gamma, no_bias):
    conv = S.Convolution(DATA, num_filter=6, kernel=(3, 3), pad=(1, 1), num_group=2, no_bias=no_bias, name="conv")
    fc = S.FullyConnected(S.BatchNorm(conv, fix_gamma=fix_gamma, name="bn"), num_hidden=5, no_bias=no_bias, name="fc")
    symbol = S.BatchNorm(fc, fix_gamma=fix_gamma, eps=2e-5, name="last")
    nodes = assert_same(with_strange_scales(as_model(symbol, SHAPE)), SHAPE)
    assert [(node.op, node.name) for node in nodes if node.op != "null"] == [
        ("Convolution", "bn"),
        ("FullyConnected", "last"),
    ]


def test_what_has_another_use_keeps_its_normalization():
    conv = S.Convolution(DATA, num_filter=4, kernel=(1, 1), name="conv")
    assert frozen_ops(S.BatchNorm(conv, name="bn") + conv).count("BatchNorm") == 1
    weight = S.Variable("shared_weight")
    twice = [S.Convolution(DATA, weight, num_filter=4, kernel=(1, 1), no_bias=True, name=name) for name in "ab"]
    assert frozen_ops(S.BatchNorm(twice[0], name="bn") + twice[1]).count("BatchNorm") == 1
    over_columns = S.FullyConnected(DATA, num_hidden=6, flatten=False, name="fc")
    assert frozen_ops(S.BatchNorm(over_columns, name="bn")).count("BatchNorm") == 1
    taken = S.broadcast_add(S.BatchNorm(conv, name="bn"), S.Variable("bn_bias", shape=(1, 4, 1, 1)))
    assert frozen_ops(taken).count("BatchNorm") == 1


def test_normalizations_of_another_axis_stay():
    # They are not run: MXNet takes them for normalizations of channels.
    symbol = S.BatchNorm(S.Convolution(DATA, num_filter=6, kernel=(1, 1), name="conv"), axis=2, name="bn")
    model = as_model(symbol, SHAPE)
    assert ops(Graph(frozen_of(symbol, model.arguments, model.auxiliary)[0]).nodes) == ["Convolution", "BatchNorm"]


def pooled(pool, conv=None):
    conv = S.Convolution(DATA, num_filter=3, name="conv", **{"kernel": (1, 1), **(conv or {})})
    return S.Pooling(conv, **{"kernel": (2, 2), "stride": (2, 2), "pool_type": "avg", **pool})


@pytest.mark.parametrize("kernel, stride", [((2, 2), (2, 2)), ((3, 3), (1, 1)), ((4, 2), (3, 2))])
def test_an_average_comes_before_a_pointwise_convolution(kernel, stride):
    assert frozen_ops(pooled({"kernel": kernel, "stride": stride})) == ["Pooling", "Convolution"]


@pytest.mark.parametrize(
    "pool, conv",
    [
        ({"pool_type": "max"}, {}),
        ({"pad": (1, 1)}, {}),
        ({"pooling_convention": "full", "kernel": (4, 4), "stride": (3, 3)}, {}),
        ({"global_pool": True}, {}),
        ({}, {"kernel": (3, 3)}),
        ({}, {"stride": (2, 2)}),
        ({}, {"pad": (1, 1)}),
    ],
)
def test_other_poolings_stay_where_they_are(pool, conv):
    assert frozen_ops(pooled(pool, conv)) == ["Convolution", "Pooling"]


def test_an_average_of_what_has_another_use_stays():
    conv = S.Convolution(DATA, num_filter=3, kernel=(1, 1), name="conv")
    average = S.Pooling(conv, kernel=(2, 2), stride=(2, 2), pool_type="avg")
    assert frozen_ops(S.Concat(S.Flatten(average), S.Flatten(conv)))[:2] == ["Convolution", "Pooling"]


@pytest.mark.parametrize("slopes", [[0.25], [-0.3], [0], [1.7], [0.1] * 4])
def test_one_slope_is_a_constant(slopes):
    model = as_model(S.LeakyReLU(DATA, S.Variable("alpha", shape=(len(slopes),)), act_type="prelu"), SHAPE)
    model.arguments["alpha"][:] = slopes
    nodes = assert_same(model, SHAPE)
    assert [node.attrs["act_type"] for node in nodes if node.op == "LeakyReLU"] == ["leaky"]
    assert "alpha" not in [node.name for node in nodes]


def test_several_slopes_stay():
    prelu = S.LeakyReLU(DATA, S.Variable("alpha", shape=(4,)), act_type="prelu")
    nodes = assert_same(as_model(prelu, SHAPE), SHAPE)
    assert [node.attrs["act_type"] for node in nodes if node.op == "LeakyReLU"] == ["prelu"]


def test_dropout_that_inference_needs_stays():
    always = S.Dropout(DATA, p=0.0, mode="always")
    assert frozen_ops(S.Activation(always, act_type="relu")) == ["Dropout", "Activation"]
    halves = S.SliceChannel(DATA, num_outputs=2)
    assert frozen_ops(S.Dropout(halves[0], p=0.4) - S.Dropout(halves[1], p=0.4)).count("Dropout") == 1


def test_values_that_are_missing_or_do_not_fit_are_left_to_others():
    symbol = S.BatchNorm(S.Convolution(DATA, num_filter=4, kernel=(1, 1), name="conv"), name="bn")
    model = as_model(symbol, SHAPE)
    for name, array in {"bn_beta": None, "bn_gamma": np.ones(3, np.float32)}.items():
        arguments = {key: value for key, value in {**model.arguments, name: array}.items() if value is not None}
        frozen, found, _ = frozen_of(symbol, arguments, model.auxiliary)
        assert ops(Graph(frozen).nodes) == ["Convolution", "BatchNorm"]
        assert found == arguments
