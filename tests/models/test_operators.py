"""Networks of an older MXNet or of another recipe of training: opened, computed and exported as those of today."""

import ctypes

import numpy as np
import pytest

from denseface.core.files import replacing
from denseface.embedding.embedder import Embedder
from denseface.export.onnx import export
from denseface.models.checkpoint import load_model
from denseface.models.operators import for_inference, present_name
from denseface.models.params_file import write_arrays
from denseface.models.symbol_file import _OPERATORS, embedding_output, parse_symbol
from support.tiny_models import TINY_SHAPE, as_model, pictures

import mxnet as mx
from mxnet.base import _LIB

S = mx.sym
SHAPE = (1, 3, 16, 16)


def save(prefix, text, arrays):
    with replacing(f"{prefix}-symbol.json") as file:
        file.write(text.encode())
    with replacing(f"{prefix}-0001.params") as file:
        write_arrays(file, arrays)
    return str(prefix)


def arrays_of(model, dtype=np.float32):
    kinds = (("arg", model.arguments), ("aux", model.auxiliary))
    return {f"{kind}:{name}": array.astype(dtype) for kind, arrays in kinds for name, array in arrays.items()}


def network(normalized=lambda data, **options: S.BatchNorm(data, **options)):
    body = S.Convolution((S.var("data") - 127.5) * 0.0078125, num_filter=4, kernel=(4, 4), stride=(4, 4), name="conv0")
    body = normalized(body, fix_gamma=False, eps=2e-5, name="bn0")
    body = S.maximum(body, body * 0.25) + S.Activation(body, act_type="relu")
    body = S.add_n(body, body + 1, body)
    return S.FullyConnected(S.flatten(body), num_hidden=8, name="fc1")


def embed(prefix, tmp_path):
    """Embeddings by MXNet and by ONNX Runtime, which have to agree."""
    model = load_model(prefix)
    options = {"image_shape": TINY_SHAPE, "normalize": False}
    ours = Embedder(model, **options).embed(pictures(3))
    export(model, (2, 3, 16, 16), tmp_path / "a.onnx")
    found = Embedder.load(str(tmp_path / "a.onnx"), normalize=False).embed(pictures(3))
    np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-4)
    return ours


def expected_of(model):
    return Embedder(model, image_shape=TINY_SHAPE, normalize=False).embed(pictures(3))


def names_in_mxnet():
    count, names = ctypes.c_uint(), ctypes.POINTER(ctypes.c_char_p)()
    _LIB.MXListAllOpNames(ctypes.byref(count), ctypes.byref(names))
    return [names[i].decode() for i in range(count.value)]


def test_every_other_name_of_an_operator_on_the_list_is_known():
    others = {name for name in names_in_mxnet() if present_name(name) != name and present_name(name) in _OPERATORS}
    assert {"_Maximum", "_Plus", "_PlusScalar", "ElementWiseSum", "flatten", "concat", "crop", "Softmax"} <= others
    assert len(others) > 150


@pytest.mark.parametrize("name", ["null", "NoSuchOperator", "Custom", "", "a" * 1000])
def test_names_that_mxnet_does_not_have_stay(name):
    assert present_name(name) == name


def test_old_names_are_computed_and_exported(tmp_path):
    model = as_model(network(), SHAPE)
    text = model.symbol.tojson()
    old = {
        "elemwise_add": "_Plus",
        "_plus_scalar": "_PlusScalar",
        "_minus_scalar": "_MinusScalar",
        "_mul_scalar": "_MulScalar",
        "_maximum": "_Maximum",
        "add_n": "ElementWiseSum",
        "Flatten": "flatten",
    }
    for today, then in old.items():
        assert f'"{today}"' in text
        text = text.replace(f'"{today}"', f'"{then}"')
    prefix = save(tmp_path / "old", text, arrays_of(model))
    np.testing.assert_array_equal(embed(prefix, tmp_path), expected_of(model))


def test_normalization_over_several_gpus_is_normalization(tmp_path):
    def over_several(data, **options):
        return S.contrib.SyncBatchNorm(data, ndev=4, key="bn0", **options)

    model = as_model(network(), SHAPE)
    prefix = save(tmp_path / "several", network(over_several).tojson(), arrays_of(model))
    assert '"op": "BatchNorm"' in load_model(prefix).symbol.tojson()
    np.testing.assert_array_equal(embed(prefix, tmp_path), expected_of(model))


def test_half_precision_is_computed_in_float32(tmp_path):
    def body(data):
        scaled = (data - 127.5) * 0.0078125
        return S.Convolution(scaled, num_filter=4, kernel=(4, 4), stride=(4, 4), name="conv0")

    half = S.Cast(S.Flatten(body(S.Cast(S.identity(S.var("data")), dtype="float16"))), dtype="float32")
    half = S.FullyConnected(half, num_hidden=8, name="fc1")
    plain = as_model(S.FullyConnected(S.Flatten(body(S.var("data"))), num_hidden=8, name="fc1"), SHAPE)
    prefix = save(tmp_path / "half", half.tojson(), arrays_of(plain, np.float16))
    rounded = {name: array.astype(np.float16).astype(np.float32) for name, array in plain.arguments.items()}
    expected = expected_of(plain.__class__(plain.symbol, rounded, {}, "tiny", 1))
    assert load_model(prefix).arguments["conv0_weight"].dtype == np.float32
    np.testing.assert_allclose(embed(prefix, tmp_path), expected, rtol=1e-5, atol=1e-5)


def test_variables_of_half_precision_are_float32():
    assert for_inference("null", {"__dtype__": "2", "__shape__": "(3,)"}) == (
        "null",
        {"__dtype__": "0", "__shape__": "(3,)"},
    )
    assert for_inference("mean", {"dtype": "float16", "axis": "1"})[1] == {"dtype": "float32", "axis": "1"}


class TestWhatTheEmbeddingDoesNotNeed:
    @pytest.fixture
    def model(self):
        return as_model(network(), SHAPE)

    @pytest.mark.parametrize("label", ["softmax_label", "target"])
    def test_a_classifier_is_not_asked_for(self, model, tmp_path, label):
        whole = S.SoftmaxOutput(S.FullyConnected(model.symbol, num_hidden=5, name="fc7"), S.var(label), name="softmax")
        prefix = save(tmp_path / "whole", whole.tojson(), arrays_of(model))
        np.testing.assert_array_equal(embed(prefix, tmp_path), expected_of(model))
        assert load_model(prefix).fingerprint["sha256"] == model.fingerprint["sha256"]

    @pytest.mark.parametrize("loss", ["SoftmaxOutput", "softmax"])
    def test_features_are_found_by_the_graph(self, model, tmp_path, loss):
        features = parse_symbol(model.symbol.tojson().replace('"fc1', '"features'), "a")
        arrays = {name.replace("fc1", "features"): array for name, array in arrays_of(model).items()}
        classes = S.FullyConnected(features, num_hidden=5, name="classes")
        whole = getattr(S, loss)(classes, name="softmax")
        assert embedding_output(whole).list_outputs() == ["features_output"]
        prefix = save(tmp_path / "whole", whole.tojson(), arrays)
        np.testing.assert_array_equal(embed(prefix, tmp_path), expected_of(model))

    def test_the_picture_may_have_any_name(self, model, tmp_path):
        text = model.symbol.tojson().replace('"data"', '"image"')
        prefix = save(tmp_path / "image", text, arrays_of(model))
        np.testing.assert_array_equal(embed(prefix, tmp_path), expected_of(model))

    def test_parameters_may_have_no_prefix(self, model, tmp_path):
        arrays = {name[4:]: array for name, array in arrays_of(model).items()}
        prefix = save(tmp_path / "bare", model.symbol.tojson(), arrays)
        np.testing.assert_array_equal(embed(prefix, tmp_path), expected_of(model))
