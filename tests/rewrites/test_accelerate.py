"""The accelerated symbol: the same parameters, outputs and gradients as the plain one."""

import functools
import logging

import numpy as np
import pytest

from denseface.models import families
from denseface.models.graph import Graph, Node
from denseface.options.names import Names
from denseface.rewrites import accelerate as acceleration
from denseface.rewrites.compiled import copy_where_gradients_are_added
from denseface.rewrites.native import bfloat16_instructions, load_operators
from denseface.rewrites.prelu import compile_slopes
from support.symbols import accelerated, operators

import mxnet as mx

SHAPE = (4, 3, 32, 32)

needs_compiler = pytest.mark.skipif(not load_operators(), reason="no compiler for the operators")
needs_bfloat16 = pytest.mark.skipif(
    not bfloat16_instructions(), reason="this processor has no instructions for bfloat16"
)


def run(symbol, seed=0, grad_req="write", times=1):
    """Outputs, gradients and moving averages of a training step, or of several of the same pictures, by name."""
    executor = symbol.simple_bind(mx.cpu(), data=SHAPE, softmax_label=SHAPE[:1], grad_req=grad_req)
    rng = np.random.default_rng(seed)
    for name in sorted(executor.arg_dict):
        array = executor.arg_dict[name]
        if name == "data":
            array[:] = rng.uniform(0, 255, array.shape)
        elif name == "softmax_label":
            array[:] = rng.integers(0, 30, array.shape)
        elif name.endswith(("gamma", "alpha")):
            array[:] = rng.uniform(0.2, 1.2, array.shape)
        elif name.endswith("weight"):
            array[:] = rng.normal(0, np.sqrt(2 / np.prod(array.shape[1:])), array.shape)
        else:
            array[:] = rng.normal(0, 0.1, array.shape)
    for name, array in executor.aux_dict.items():
        array[:] = 1.0 if name.endswith("var") else 0.0
    for _ in range(times):
        executor.forward(is_train=True)
        executor.backward()
    outputs = {f"output {index}": array for index, array in enumerate(executor.outputs)}
    found = {**outputs, **executor.grad_dict, **{f"aux {k}": v for k, v in executor.aux_dict.items()}}
    return {name: array.asnumpy() for name, array in found.items() if name != "softmax_label"}


def with_slow_slopes(symbol):
    """PReLU as where(x > 0, x, a x): MXNet's own gives gradients of its slopes that depend on its memory planner."""
    graph = Graph(symbol)
    graph.infer_shapes(data=SHAPE)

    def change(node):
        if node.op != "LeakyReLU" or node.text("act_type") != "prelu":
            return node
        data, slope = node.inputs
        slope[0].attrs["__shape__"] = str(graph.shapes[slope])
        column = Node("Reshape", f"{node.name}_column", {"shape": "(1, -1, 1, 1)"}, [slope])
        product = Node("broadcast_mul", f"{node.name}_product", {}, [data, (column, 0)])
        positive = Node("_greater_scalar", f"{node.name}_positive", {"scalar": "0"}, [data])
        return Node("where", node.name, {}, [(positive, 0), data, (product, 0)])

    graph.rewrite(change)
    return graph.symbol()


def assert_same_function(fast, plain):
    assert fast.list_arguments() == plain.list_arguments()
    assert fast.list_auxiliary_states() == plain.list_auxiliary_states()
    expected, found = run(with_slow_slopes(plain)), run(fast)
    assert found.keys() == expected.keys()
    for name in expected:
        error = np.linalg.norm(found[name] - expected[name]) / (np.linalg.norm(expected[name]) + 1e-2)
        assert error < 5e-3, (name, error)  # sums of large terms that nearly cancel, in the stem


@pytest.mark.parametrize(
    "network, activation", [("d63", "elu"), ("d63", "prelu"), ("d121", "elu"), ("r18", "prelu"), ("y1", "prelu")]
)
def test_accelerated_and_plain_are_the_same_function(network, activation):
    # At the kink of a ReLU a rounding error can turn a gradient on or off, so the blocks get smoother activations.
    config = families.configure(
        Names(network, "orl", "arcface"), [f"net_act={activation}", "net_output=J", "emb_size=16"]
    )
    plain = families.training_symbol(config, families.embedding_symbol(config))
    assert_same_function(accelerated(plain, SHAPE), plain)


@needs_bfloat16
def test_a_residual_network_in_bfloat16_is_close(caplog):
    caplog.set_level(logging.INFO)
    config = families.configure(Names("r18", "orl", "arcface"), ["net_act=prelu", "net_output=J", "emb_size=16"])
    plain = families.training_symbol(config, families.embedding_symbol(config))
    fast = accelerated(plain, SHAPE, bfloat16=True)
    assert "20 convolutions compute in bfloat16" in caplog.text
    ops = operators(fast)
    assert ops.count("denseface_convolution") == 20 and "LeakyReLU" not in ops
    assert fast.list_arguments() == plain.list_arguments()
    assert fast.list_auxiliary_states() == plain.list_auxiliary_states()
    expected, found = run(with_slow_slopes(plain)), run(fast)
    errors = {}
    for name, array in expected.items():
        # Later normalizations cancel some shifts' gradients, so the scale's are what they are compared with.
        sizes = np.linalg.norm(array), np.linalg.norm(expected[name.replace("beta", "gamma")])
        errors[name] = np.linalg.norm(found[name] - array) / (sum(sizes) + 1e-2)
    assert max(errors.values()) < 0.3 and np.median(list(errors.values())) < 0.03, errors
    assert np.median(list(errors.values())) > 1e-4  # or nothing was rounded


@functools.cache
def small(network):
    config = families.configure(Names(network, "orl", "arcface"), ["net_act=prelu", "net_output=J", "emb_size=16"])
    return families.training_symbol(config, families.embedding_symbol(config))


ALL_OPERATORS = pytest.mark.parametrize(
    ("network", "bfloat16"),
    [
        pytest.param("d63", False, marks=needs_compiler),
        pytest.param("d63", True, marks=needs_bfloat16),
        pytest.param("y1", True, marks=needs_bfloat16),
    ],
)


@ALL_OPERATORS
def test_gradients_are_the_same_without_the_copies_that_accumulation_needs(network, bfloat16):
    one, other = (
        accelerated(small(network), SHAPE, bfloat16=bfloat16, accumulates=accumulates) for accumulates in (False, True)
    )
    assert operators(one).count("_copy") < operators(other).count("_copy")
    found, expected = run(one), run(other)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@ALL_OPERATORS
def test_gradients_are_added_if_asked_for(network, bfloat16):
    symbol = accelerated(small(network), SHAPE, bfloat16=bfloat16)
    once, twice = run(symbol, grad_req="add"), run(symbol, grad_req="add", times=2)
    for name in set(symbol.list_arguments()) - {"softmax_label"}:
        np.testing.assert_array_equal(twice[name], 2 * once[name], err_msg=name)


@needs_compiler
@pytest.mark.parametrize("readers", [7, 8, 9])
def test_gradients_of_many_readers_are_summed(readers):
    """From eight readers on, MXNet adds gradients in place."""
    data = mx.sym.Variable("data") * 2
    blocks = [mx.sym.LeakyReLU(data, mx.sym.Variable(f"slope{i}"), act_type="prelu") for i in range(readers)]
    graph = Graph(mx.sym.MakeLoss(mx.sym.add_n(*blocks)))
    graph.infer_shapes(data=SHAPE)
    compile_slopes(graph)
    copy_where_gradients_are_added(graph, accumulates=False)
    executor = graph.symbol().simple_bind(mx.cpu(), data=SHAPE)
    for name, array in executor.arg_dict.items():
        array[:] = -1 if name == "data" else 0.5
    executor.forward(is_train=True)
    executor.backward()
    np.testing.assert_array_equal(executor.grad_dict["data"].asnumpy(), np.float32(readers))


def test_the_number_of_readers_from_which_mxnet_adds_in_place_is_a_setting_of_mxnet(monkeypatch):
    def copies():
        data = mx.sym.Variable("data") * 2
        graph = Graph(mx.sym.Group([mx.sym.LeakyReLU(data, act_type="prelu") for _ in range(2)]))
        graph.infer_shapes(data=SHAPE)
        compile_slopes(graph)
        copy_where_gradients_are_added(graph, accumulates=False)
        return graph.count("_copy")

    assert copies() == 0
    monkeypatch.setenv("MXNET_EXEC_INPLACE_GRAD_SUM_CAP", "2")
    assert copies() == 2


@needs_bfloat16
@pytest.mark.parametrize("accumulates", [False, True])
@pytest.mark.parametrize(
    "frozen", [("data",), ("conv_weight",), ("norm_gamma", "slope"), ("conv_weight", "data")], ids=str
)
def test_what_is_frozen_leaves_the_other_gradients_as_they_are(frozen, accumulates):
    shape = (2, 16, 8, 8)
    symbol = mx.sym.Convolution(
        mx.sym.Variable("data"), num_filter=16, kernel=(3, 3), pad=(1, 1), no_bias=True, name="conv"
    )
    symbol = mx.sym.BatchNorm(symbol, fix_gamma=False, name="norm")
    symbol = mx.sym.LeakyReLU(symbol, mx.sym.Variable("slope"), act_type="prelu")
    symbol = accelerated(mx.sym.MakeLoss(mx.sym.square(symbol)), shape, bfloat16=True, accumulates=accumulates)
    gradients = []
    for without in ((), frozen):
        requests = {name: "null" if name in without else "write" for name in symbol.list_arguments()}
        executor = symbol.simple_bind(mx.cpu(), data=shape, grad_req=requests)
        rng = np.random.default_rng(0)
        for array in executor.arg_dict.values():
            array[:] = rng.normal(size=array.shape)
        executor.forward(is_train=True)
        executor.backward()
        gradients.append({name: array.asnumpy() for name, array in executor.grad_dict.items() if array is not None})
    assert gradients[0].keys() - gradients[1].keys() == set(frozen)
    for name, array in gradients[1].items():
        np.testing.assert_array_equal(array, gradients[0][name])


@needs_bfloat16
def test_what_stays_in_float32_is_said(caplog):
    symbol = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2), name="softmax")
    accelerated(symbol, SHAPE, bfloat16=True)
    assert "training in float32: this network has no dense blocks and no convolutions for bfloat16" in caplog.text


@pytest.mark.parametrize("compiled", [True, False])
def test_everything_that_trains_on_a_compiler_trains_without(monkeypatch, compiled):
    monkeypatch.setattr(acceleration, "load_operators", lambda: compiled and load_operators())
    config = families.configure(Names("d121", "orl", "arcface"), ["net_act=relu"])
    plain = families.training_symbol(config, families.embedding_symbol(config))
    found = operators(accelerated(plain, SHAPE))
    assert found.count("denseface_dense_block") == (4 if compiled and load_operators() else 0)


def test_a_loss_without_labels_is_accelerated_too():
    config = families.configure(Names("d63", "orl", "triplet"))
    plain = families.training_symbol(config, families.embedding_symbol(config))
    assert len(Graph(accelerated(plain, (6, 3, 32, 32))).nodes) != len(Graph(plain).nodes)
