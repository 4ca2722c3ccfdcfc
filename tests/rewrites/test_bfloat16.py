"""Networks in bfloat16: which layers use it, and how close their embeddings are."""

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.core.vectors import similarity
from denseface.embedding.engines.mxnet_engine import MXNetEngine
from denseface.models import families
from denseface.rewrites.bfloat16 import in_bfloat16
from denseface.rewrites.graph import nodes_of
from support.tiny_models import as_model
from symbol_utils import HEADS

import mxnet as mx

S = mx.sym
SHAPE = (3, 32, 32)


def assert_near(model, shape=SHAPE):
    batch = np.random.RandomState(0).randint(0, 256, (2, *shape)).astype(np.float32)
    expected = MXNetEngine(model, shape, 2)(batch)
    found = MXNetEngine(model, shape, 2, bf16=True)(batch)
    assert found.dtype == np.float32
    assert np.diag(similarity(found, expected)).min() > 0.999
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("head", [head for head in HEADS if head not in ("GDC", "Z")])
def test_every_head(configured, head):
    config = configured(net_output=head, emb_size=64)
    assert_near(as_model(families.embedding_symbol(config), (1, *SHAPE)))


@pytest.mark.parametrize(
    "activation", ["prelu", "leaky", "elu", "selu", "gelu", "sigmoid", "tanh", "softrelu", "softsign"]
)
def test_every_activation(configured, activation):
    config = configured(net_act=activation, net_output="GAP")
    assert_near(as_model(families.embedding_symbol(config), (1, *SHAPE)))


@pytest.mark.parametrize("network", ["r18", "y1"])
def test_other_families(configured, network):
    side = 112 if network == "y1" else 32
    config = configured(network, net_output="GDC" if network == "y1" else "GAP")
    assert_near(as_model(families.embedding_symbol(config), (1, 3, side, side)), (3, side, side))


def test_all_but_the_first_convolution_is_bfloat16(configured):
    config = configured(net_output="E")
    symbol = in_bfloat16(families.embedding_symbol(config), (1, *SHAPE))
    types = dict(zip(symbol.list_arguments(), symbol.infer_type(data="float32")[0]))
    layers = [name for name in types if name.endswith("_weight") and "batchnorm" not in name]
    assert [name for name in layers if types[name] == np.float32] == [layers[0]] == ["densenet0_conv0_weight"]
    assert types["densenet0_batchnorm0_gamma"] == np.float32
    nodes = nodes_of(symbol)
    casts = [node for node in nodes if node.op == "amp_cast"]
    assert len(casts) < 8  # at the start and the end only
    concats = [node for node in nodes if node.op == "Concat"]
    assert [source.op for source, _ in concats[0].inputs] == ["Convolution", "Convolution"]  # in oneDNN's layout


def test_a_gpu_is_refused():
    model = as_model(S.FullyConnected(S.Variable("data"), num_hidden=3, name="fc1"), (1, *SHAPE))
    with pytest.raises(InputError, match="mxnet-bf16 computes on the CPU"):
        MXNetEngine(model, SHAPE, 2, mx.gpu(0), bf16=True)
