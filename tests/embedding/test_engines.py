import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from denseface.core.vectors import similarity
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import ENGINES, make_engine, mxnet_engine
from denseface.embedding.engines.mxnet_engine import MXNetEngine
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.export.onnx import export
from denseface.models import families
from denseface.models.symbol_file import embedding_output
from denseface.rewrites.native import load_operators
from support.helpers import output
from support.refusals import refused
from support.tiny_models import as_model, tiny_model, tiny_symbol

import mxnet as mx

SHAPE = (3, 16, 16)
INSTALLED = [name for name in ENGINES[1:] if importlib.util.find_spec(name.split("-")[0])]


def batch_of(size, shape=SHAPE, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (size, *shape)).astype(np.float32)


def test_it_computes_what_mxnet_computes():
    engine = MXNetEngine(tiny_model(), SHAPE, 4)
    batch = batch_of(4)
    found = engine(batch)
    assert found.dtype == np.float32
    assert found.shape == (4, engine.emb_size) == (4, 8)
    np.testing.assert_allclose(found, output(tiny_symbol(), batch), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not load_operators(), reason="there is no compiler for them")
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("net_act", ["relu", "prelu"])
def test_compiled_blocks_compute_what_mxnet_computes(configured, monkeypatch, net_act, batch_size):
    config = configured(net_act=net_act, net_output="E")
    shape = (3, 112, 112)
    model = as_model(families.embedding_symbol(config), (1, *shape))
    batch = batch_of(batch_size, shape)
    found = MXNetEngine(model, shape, batch_size)(batch)
    monkeypatch.setattr(mxnet_engine, "load_operators", lambda: False)
    expected = MXNetEngine(model, shape, batch_size)(batch)
    assert (found != expected).any()  # another way was taken
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("head", ["E", "GNAP"])
def test_an_embedding_does_not_depend_on_its_batch(configured, head):
    config = configured(net_output=head)
    engine = MXNetEngine(as_model(families.embedding_symbol(config), (1, 3, 112, 112)), (3, 112, 112), 4)
    others = batch_of(4, (3, 112, 112))
    expected = engine(others)
    for row in range(4):
        alone = np.zeros_like(others)
        alone[row] = others[0]
        np.testing.assert_array_equal(engine(alone)[row], expected[0])


def test_of_a_whole_training_symbol_the_embedding_is_computed():
    fc7 = mx.sym.FullyConnected(tiny_symbol(), num_hidden=5, name="fc7")
    model = tiny_model()
    expected = MXNetEngine(model, SHAPE, 2)(batch_of(2))
    whole = mx.sym.Group([mx.sym.BlockGrad(fc7), mx.sym.SoftmaxOutput(fc7, name="softmax")])
    found = MXNetEngine(dataclasses.replace(model, symbol=whole), SHAPE, 2)(batch_of(2))
    np.testing.assert_array_equal(found, expected)


def test_without_fc1_the_first_output_is_the_embedding():
    first = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="first")
    assert embedding_output(mx.sym.Group([first, first * 2])).list_outputs() == ["first_output"]


def test_training_statistics_stay_as_they_are():
    engine = MXNetEngine(tiny_model(), SHAPE, 2)
    np.testing.assert_array_equal(engine(batch_of(2)), engine(batch_of(2)))


def test_fully_connected_layers_after_a_convolution_work_more_than_once():
    depthwise = mx.sym.Convolution(
        mx.sym.Variable("data"), num_filter=16, num_group=16, kernel=(4, 4), no_bias=True, name="conv_6dw7_7"
    )
    symbol = mx.sym.FullyConnected(depthwise, num_hidden=8, name="fc1")
    model = as_model(symbol, (1, 16, 4, 4))
    batch = batch_of(2, (16, 4, 4))
    engine = MXNetEngine(model, (16, 4, 4), 2)
    engine(batch)
    np.testing.assert_allclose(engine(batch), output(symbol, batch), rtol=1e-5)


def test_a_size_that_does_not_fit_is_answered_with_sizes_that_do():
    model = tiny_model((112, 96, 3))
    with refused("tiny,1", "112,112,3", "112,96"):
        MXNetEngine(model, (3, 112, 112), 2)
    model = tiny_model((64, 64, 1))
    with refused("112,112,3", "64,64,1"):
        MXNetEngine(model, (3, 112, 112), 2)
    with refused("112,112,3", "belong together"):
        MXNetEngine(tiny_model((20, 20, 3)), (3, 112, 112), 2)


def test_missing_parameters_are_named():
    model = tiny_model()
    del model.arguments["conv0_bias"], model.auxiliary["fc1_moving_var"]
    with refused("tiny,1", "conv0_bias, fc1_moving_var"):
        MXNetEngine(model, SHAPE, 2)


def test_a_network_that_gives_no_embeddings_is_refused():
    model = dataclasses.replace(tiny_model(), symbol=tiny_symbol().get_internals()["conv0_output"])
    with refused("list of embeddings"):
        MXNetEngine(model, SHAPE, 2)


def test_a_gpu_that_is_not_there_is_named():
    with refused("tiny,1", "gpu(77)", cause=RuntimeError):
        MXNetEngine(tiny_model(), SHAPE, 2, mx.gpu(77))


def test_every_engine_computes_the_same(configured):
    config = configured(net_output="GDC")
    model = as_model(families.embedding_symbol(config), (1, 3, 112, 112))
    batch = batch_of(2, (3, 112, 112))
    expected = make_engine("mxnet", model, 2)(batch)
    for name in INSTALLED:
        engine = make_engine(name, model, 2)
        found = engine(batch)
        assert (engine.input_shape, engine.batch_size, engine.emb_size) == ((3, 112, 112), 2, 512)
        assert (found.dtype, found.shape) == (np.float32, (2, 512))
        assert np.diag(similarity(found, expected)).min() > (0.999 if name.endswith("bf16") else 0.99999)


def exported(tmp_path, **options):
    path = tmp_path / "tiny.onnx"
    export(tiny_model(), (2, *SHAPE), path, **options)
    return path


@pytest.mark.parametrize("name", [name for name in INSTALLED if not name.startswith("mxnet")])
def test_an_exported_file_is_a_model(tmp_path, name):
    model = read_onnx(exported(tmp_path))
    assert model.fingerprint == tiny_model().fingerprint
    batch = batch_of(4)
    engine = make_engine(name, model, 4)
    assert (engine.input_shape, engine.batch_size, engine.emb_size) == (SHAPE, 4, 8)
    similar = similarity(engine(batch), MXNetEngine(tiny_model(), SHAPE, 4)(batch))
    assert np.diag(similar).min() > (0.999 if name.endswith("bf16") else 0.99999)


def test_a_file_exported_for_one_batch_size_keeps_to_it(tmp_path):
    assert make_engine("onnxruntime", read_onnx(exported(tmp_path, dynamic_batch=False)), 8).batch_size == 2


def test_other_onnx_files_are_refused(tmp_path):
    path = tmp_path / "other.onnx"
    with refused(path=path, cause=FileNotFoundError):
        read_onnx(path)
    path.write_bytes(b"no such thing")
    with refused("not an ONNX file", path=path):
        read_onnx(path)


def test_engines_refuse_what_they_cannot_do(tmp_path):
    model = read_onnx(exported(tmp_path))
    with refused("torch", "mxnet", "onnxruntime", option="engine"):
        make_engine("torch", model, 2)
    with refused("ONNX", option="engine"):
        make_engine("mxnet", model, 2)
    with refused("provider", option="engine"):
        make_engine("onnxruntime", model, 2, context=mx.gpu(0))
    with refused(option="provider"):
        make_engine("openvino", model, 2, provider="cuda")
    for unknown in ("", "CPU", "a\x1b[2J", "\udcff"):
        with refused("cpu, cuda", option="provider") as caught:
            Embedder(model, provider=unknown)
        assert str(caught.value).isprintable()
    with refused("tiny.onnx", "(3, 16, 16)"):
        make_engine("onnxruntime", model, 2, (3, 112, 112))


AFTER_TWO_ENGINES = """
import os, signal
from support.tiny_models import tiny_model
from denseface.embedding.engines import make_engine
engines = [make_engine("openvino", tiny_model(), 2, (3, 16, 16)) for _ in range(2)]
while engines:
    del engines[0]
signal.signal(signal.SIGINT, lambda number, frame: print("interrupted"))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.skipif("openvino" not in INSTALLED, reason="OpenVINO is not installed")
def test_an_interrupt_after_two_of_openvino_is_no_crash():
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    command = [sys.executable, "-c", AFTER_TWO_ENGINES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.parametrize(
    ("package", "engine"),
    [("onnx", "onnxruntime"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")],
)
def test_a_missing_package_is_named(monkeypatch, package, engine):
    monkeypatch.setitem(sys.modules, package, None)
    with refused(f"pip install {package}", cause=ImportError):
        make_engine(engine, tiny_model(), 2, SHAPE)


def test_the_identity_is_the_parameters_that_the_embedding_depends_on():
    model = tiny_model()
    known = model.fingerprint
    assert (known["prefix"], known["epoch"], len(known["sha256"])) == ("tiny", 1, 64)
    fc7 = mx.sym.FullyConnected(tiny_symbol(), num_hidden=5, name="fc7")
    whole = dataclasses.replace(
        model, symbol=fc7, arguments={**model.arguments, "fc7_weight": np.ones((5, 8))}, prefix="elsewhere"
    )
    assert whole.fingerprint["sha256"] == known["sha256"]
    changed = {**model.arguments, "conv0_bias": model.arguments["conv0_bias"] + np.float32(1e-6)}
    assert dataclasses.replace(model, arguments=changed).fingerprint["sha256"] != known["sha256"]
