"""The accelerated symbol: the same parameters, outputs and gradients as the plain one."""

import numpy as np
import pytest

from denseface import networks
from denseface.acceleration import accelerate
from denseface.rewrite import nodes_of

import mxnet as mx

SHAPE = (4, 3, 32, 32)


def run(symbol, seed=0):
    """Outputs, gradients and moving averages of one training step, by name."""
    executor = symbol.simple_bind(mx.cpu(), data=SHAPE, softmax_label=SHAPE[:1], grad_req="write")
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
    executor.forward(is_train=True)
    executor.backward()
    outputs = {f"output {index}": array for index, array in enumerate(executor.outputs)}
    found = {**outputs, **executor.grad_dict, **{f"aux {k}": v for k, v in executor.aux_dict.items()}}
    return {name: array.asnumpy() for name, array in found.items() if name != "softmax_label"}


@pytest.mark.parametrize("network, activation", [("d63", "elu"), ("d63", "prelu"), ("d121", "elu")])
def test_accelerated_and_plain_are_the_same_function(network, activation):
    # At the kink of a ReLU a rounding error can turn a gradient on or off, so the blocks get smoother activations.
    networks.configure(network, "orl", "arcface", [f"net_act={activation}", "net_output=H", "emb_size=16"])
    plain = networks.training_symbol(networks.embedding_symbol())
    fast = accelerate(plain, SHAPE)
    assert fast.list_arguments() == plain.list_arguments()
    assert fast.list_auxiliary_states() == plain.list_auxiliary_states()
    expected, found = run(plain), run(fast)
    assert found.keys() == expected.keys()
    for name in expected:
        error = np.linalg.norm(found[name] - expected[name]) / (np.linalg.norm(expected[name]) + 1e-6)
        assert error < 5e-3, (name, error)  # sums of large terms that nearly cancel, in the stem


def test_only_normalisations_between_two_layouts_are_touched():
    def added(network):
        networks.configure(network, "orl", "arcface", ["net_act=relu"])
        plain = networks.training_symbol(networks.embedding_symbol())
        return len(nodes_of(accelerate(plain, SHAPE))) - len(nodes_of(plain))

    assert added("d121") == 0
    assert added("d63") > 0


def test_a_loss_whose_labels_tell_no_shape_is_accelerated_too():
    networks.configure("d63", "orl", "triplet")
    plain = networks.training_symbol(networks.embedding_symbol())
    assert len(nodes_of(accelerate(plain, (6, 3, 32, 32)))) > len(nodes_of(plain))
