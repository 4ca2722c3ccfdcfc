"""The engine that computes if nobody names one."""

from symbol.fdensenet import DenseNet

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.embedding import embedder as embedder_module
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import choice
from denseface.embedding.engines.choice import default_engines
from denseface.rewrites import native
from support.tiny_models import TINY_SHAPE, as_model, pictures, tiny_model

import mxnet as mx

SHAPE = (3, 112, 112)


@pytest.fixture
def installed(monkeypatch):
    """The packages that are installed."""
    modules = {"openvino", "onnxruntime", "onnx"}
    monkeypatch.setattr(choice, "find_spec", lambda module: module if module in modules else None)
    return modules


def dense_model(layers):
    """A model with a dense block of so many layers."""
    with mx.name.NameManager():
        body = DenseNet(32, 16, (layers,), act_type="relu", dropout=0.0, bn_mom=0.9, prefix="net_")
        pooled = mx.sym.Pooling(body(mx.sym.Variable("data")), global_pool=True, pool_type="avg", kernel=(1, 1))
        symbol = mx.sym.FullyConnected(pooled, num_hidden=8, name="fc1")
    return as_model(symbol, (1, *SHAPE))


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), ("openvino", "onnxruntime", "mxnet")),
        (("openvino",), ("onnxruntime", "mxnet")),
        (("openvino", "onnxruntime"), ("mxnet",)),
        (("onnx",), ("mxnet",)),
    ],
)
def test_the_first_that_is_installed(installed, missing, expected):
    installed -= set(missing)
    assert default_engines(tiny_model(), (TINY_SHAPE[2], *TINY_SHAPE[:2])) == expected


@pytest.mark.parametrize(
    ("layers", "compiled", "best"), [(20, True, "mxnet"), (20, False, "openvino"), (6, True, "openvino")]
)
def test_large_dense_networks_are_left_to_compiled_operators(installed, monkeypatch, layers, compiled, best):
    monkeypatch.setattr(native, "are_compiled", lambda: compiled)
    assert default_engines(dense_model(layers), SHAPE)[0] == best


def test_a_gpu_is_left_to_mxnet(installed):
    assert default_engines(tiny_model(), SHAPE, mx.gpu(0)) == ("mxnet",)


def test_the_default_computes_what_mxnet_computes():
    model = tiny_model()
    default, mxnet = (Embedder(model, image_shape=TINY_SHAPE, engine=engine) for engine in (None, "mxnet"))
    assert default.describe()["engine"] == default.engine in default_engines(model, (3, *TINY_SHAPE[:2]))
    np.testing.assert_allclose(default.embed(pictures(3)), mxnet.embed(pictures(3)), atol=1e-5)


def test_a_network_that_cannot_be_exported_is_computed_by_mxnet(installed):
    flat = mx.sym.erfinv(mx.sym.Flatten(mx.sym.Variable("data")) / 512)
    symbol = mx.sym.FullyConnected(flat, num_hidden=8, name="fc1")
    embedder = Embedder(as_model(symbol, (1, 3, *TINY_SHAPE[:2])), image_shape=TINY_SHAPE)
    assert embedder.engine == "mxnet"
    assert np.isfinite(embedder.embed(pictures(1))).all()


def test_a_named_engine_is_the_only_one_tried(monkeypatch):
    tried = []

    def refuse(name, *_):
        tried.append(name)
        raise InputError("not today")

    monkeypatch.setattr(embedder_module, "make_engine", refuse)
    with pytest.raises(InputError):
        Embedder(tiny_model(), image_shape=TINY_SHAPE, engine="openvino")
    assert tried == ["openvino"]
