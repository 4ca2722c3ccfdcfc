"""Starting from another model: by name, by shape and position, or with its own network."""

import logging

import numpy as np
import pytest

from denseface.models.checkpoint import Model
from denseface.training.pretrained import adopt, pretrained_network, renamed, roles
from support import class_losses
from support.learners import learner_of
from support.refusals import refused
from support.tiny_models import as_model

import mxnet as mx

SHAPE = (2, 3, 8, 8)


def network(names=("conv", "bn", "pre_fc1", "fc1"), emb_size=5, extra=None):
    """A convolution, a normalization, a fully connected layer and a normalization, under these names."""
    conv, norm, fc, last = names
    body = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name=conv)
    body = mx.sym.BatchNorm(body, fix_gamma=False, name=norm)
    if extra:
        body = mx.sym.Convolution(body, num_filter=4, kernel=(1, 1), name=extra)
    return mx.sym.BatchNorm(mx.sym.FullyConnected(body, num_hidden=emb_size, name=fc), name=last)


def make_learner(embedding, emb_size=5):
    symbol = class_losses.margin_softmax(embedding, emb_size, 3, s=8)
    learner = learner_of(symbol, SHAPE, [mx.cpu()], momentum=0.9, wd=0.0)
    learner.state.initialize(mx.init.Xavier(), seed=1)
    return learner


def found(own, given):
    def of(symbol):
        model = as_model(symbol, SHAPE)
        return roles(symbol, {n: a.shape for n, a in {**model.arguments, **model.auxiliary}.items()})

    return renamed(of(own), of(given))


def test_other_names_are_known_by_shape_and_position(caplog):
    caplog.set_level(logging.INFO, "denseface")
    given = as_model(network(("conv", "bn", "fc1", "fc1_bn")), SHAPE)
    learner = make_learner(network())
    adopt(learner, network(), given)
    arguments, auxiliary = learner.state.parameters()
    np.testing.assert_array_equal(arguments["pre_fc1_weight"], given.arguments["fc1_weight"])
    np.testing.assert_array_equal(arguments["fc1_beta"], given.arguments["fc1_bn_beta"])
    np.testing.assert_array_equal(auxiliary["fc1_moving_var"], given.auxiliary["fc1_bn_moving_var"])
    np.testing.assert_array_equal(arguments["conv_weight"], given.arguments["conv_weight"])
    assert "6 have other names there: pre_fc1_weight is fc1_weight, pre_fc1_bias is fc1_bias" in caplog.text
    assert "1 start fresh: fc7_weight" in caplog.text and "not used" not in caplog.text


def test_a_network_all_of_whose_names_are_others_is_known_if_every_layer_is_the_same():
    names = found(network(), network(("a", "b", "c", "d")))
    assert names["a_weight"] == "conv_weight" and names["d_moving_mean"] == "fc1_moving_mean" and len(names) == 12


def test_another_head_is_not_taken_for_ours():
    assert found(network(), network(("conv", "bn", "other", "others"), emb_size=7)) == {}


def test_where_it_is_in_doubt_which_is_which_the_names_are_told():
    with refused("pre_fc1_weight", "dense_weight"):
        found(network(), network(("conv", "bn", "dense", "last"), extra="more"))
    learner, given = make_learner(network()), as_model(network(("conv", "bn", "dense", "last"), extra="more"), SHAPE)
    with refused("tiny,1", "pre_fc1_weight", option="pretrained"):
        adopt(learner, network(), given)


def test_the_network_of_a_model_ends_at_its_embedding(tmp_path):
    whole = class_losses.margin_softmax(network(("a", "b", "c", "fc1")), 5, 3, s=8)
    whole.save(str(tmp_path / "model-symbol.json"))
    symbol = pretrained_network(f"{tmp_path / 'model'},7", pytest.fail)
    assert symbol.list_outputs() == ["fc1_output"]
    assert symbol.list_inputs() == network(("a", "b", "c", "fc1")).list_inputs()


def test_centers_of_a_whole_network_are_adopted_by_name():
    learner = make_learner(network())
    arguments, auxiliary = learner.state.parameters()
    centers = {"fc7_weight": arguments["fc7_weight"] + 1}
    adopt(learner, network(), Model(learner.symbol, {**arguments, **centers}, auxiliary, "whole", 1))
    np.testing.assert_array_equal(learner.state.parameters()[0]["fc7_weight"], centers["fc7_weight"])
