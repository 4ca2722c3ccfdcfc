"""Models whose parameters do not fit: the reason is MXNet's own, or the parameter with both shapes."""

import dataclasses

import numpy as np
import pytest

from denseface.models import families
from denseface.models.embedding_network import checked_embedding
from denseface.options.names import Names
from support.refusals import refused
from support.tiny_models import as_model, tiny_model, tiny_symbol

import mxnet as mx


def test_a_parameter_of_another_shape_is_named_with_both():
    model = tiny_model()
    wrong = dataclasses.replace(model, arguments={**model.arguments, "conv0_bias": np.ones(5, np.float32)})
    with refused("conv0_bias", "(5,)", "(4,)"):
        checked_embedding(wrong, (1, 3, 16, 16))


def test_mxnets_reason_is_kept():
    symbol = mx.sym.Flatten(mx.sym.Pooling(tiny_symbol().get_internals()["conv0_output"], kernel=(99, 99)), name="fc1")
    model = as_model(tiny_symbol(), (1, 3, 16, 16))
    with refused("kernel size (99) exceeds input"):
        checked_embedding(dataclasses.replace(model, symbol=symbol), (1, 3, 16, 16))


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(("head", "name"), [("GDC", "conv_6dw7_7_conv2d_weight"), ("SFC", "convf_weight")])
def test_insightfaces_heads_that_are_not_depthwise_are_explained(head, name):
    settings = [f"net_output={head}", "image_shape=32,32,3", "emb_size=8", "net_act=relu"]
    config = families.configure(Names("d63", "emore", "arcface"), settings)
    model = as_model(families.embedding_symbol(config), (1, 3, 32, 32))
    theirs = np.ones((512, 2, 2, 2), np.float32)
    with refused(name, "(512, 2, 2, 2)", f"InsightFace's {head}"):
        checked_embedding(dataclasses.replace(model, arguments={**model.arguments, name: theirs}), (1, 3, 32, 32))
