"""Networks in int8: near what they were, and files like any other export."""

import importlib.util
import json
from collections import Counter

import numpy as np
import onnx
import pytest

from denseface.cli import main
from denseface.core.onnx_session import open_session
from denseface.core.vectors import similarity
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import make_engine
from denseface.embedding.engines.onnx_model import converted, read_onnx
from denseface.export import int8
from denseface.export.insightface import is_known_to_scale
from denseface.export.int8 import quantize
from denseface.models import families
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, as_model, encode, pictures, save_model, tiny_model

SHAPE = (4, 3, 32, 32)


def batches(shape=SHAPE, count=4):
    random = np.random.RandomState(0)
    return [random.randint(0, 256, shape).astype(np.float32) for _ in range(count)]


def embedding_network(config):
    """A network of these settings with random parameters, as an ONNX file."""
    return converted(as_model(families.embedding_symbol(config), (1, *SHAPE[1:])), SHAPE).content


def opened(content):
    """A graph, its tensors, and the node that makes each output."""
    graph = onnx.load_from_string(content).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return graph, tensors, {output: node for node in graph.node for output in node.output}


def origin(name, makers):
    """The node that makes a tensor, before those that pass its bytes on."""
    while makers[name].op_type in ("Flatten", "MaxPool"):
        name = makers[name].input[0]
    return makers[name]


@pytest.fixture(params=["relu", "prelu"])
def quantized(request, configured):
    content, cosine = quantize(embedding_network(configured(net_act=request.param, net_output="E")), batches())
    assert 0.99 < cosine < 0.999999
    return opened(content)


def test_all_layers_compute_with_int8(quantized):
    graph, tensors, makers = quantized
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 63 - 1 + 1  # depth counts a classifier, here it is the embedding
    for layer in layers:
        inputs, weights = origin(layer.input[0], makers), makers[layer.input[1]]
        assert inputs.op_type == weights.op_type == "DequantizeLinear"
        whole, scales, zeros = (tensors[name] for name in weights.input)
        assert (whole.dtype, scales.shape, zeros.any()) == (np.int8, whole.shape[:1], False)
        assert (np.abs(whole).reshape(len(whole), -1).max(axis=1) == 127).all()


def test_features_are_rounded_where_they_are_made_and_not_again(quantized):
    graph, _, makers = quantized
    joined = [origin(name, makers) for node in graph.node if node.op_type == "Concat" for name in node.input]
    features = [node for node in joined if node.op_type != "Concat"]
    assert len(features) == 29 + 4  # one of each unit, and what each block begins with
    assert {node.op_type for node in features} == {"DequantizeLinear"}
    averaged = [makers[node.input[0]] for node in graph.node if node.op_type == "AveragePool"]
    assert [node.op_type for node in averaged] == ["DequantizeLinear"] * 3
    # Besides, only what layers read is rounded.
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] == len(features) + len(averaged) + kinds["Conv"] + kinds["Gemm"]


def test_the_first_layer_reads_pixels_as_they_are(quantized):
    graph, tensors, makers = quantized
    inputs = makers[next(node for node in graph.node if node.op_type == "Conv").input[0]]
    scale, zero = (tensors[name] for name in inputs.input[1:])
    assert (float(scale), zero.dtype, int(zero)) == (2**-7, np.int8, 0)
    subtracted = next(node for node in graph.node if node.op_type == "Sub").input[1]
    assert int(tensors[subtracted]) == 128
    assert is_known_to_scale([node.name for node in graph.node])


def test_the_bias_makes_up_for_whole_pixels():
    content = converted(tiny_model(), (1, 3, 16, 16)).content
    model = onnx.load_from_string(content)
    assert int8._whole_pixels(model.graph, opened(content)[1]) == {model.graph.node[1].output[0]: (-1, 127 / 128)}
    (batch,) = batches((1, 3, 16, 16), 1)
    shifted, expected = (open_session(c).run(None, {"data": batch})[0] for c in (model.SerializeToString(), content))
    assert model.SerializeToString() != content
    np.testing.assert_allclose(shifted, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("middle", [127, [127.5, 127.5, 127]])
def test_other_scalings_stay(middle):
    content = converted(tiny_model(), (1, 3, 16, 16)).content
    model = onnx.load_from_string(content)
    values = {**opened(content)[1], model.graph.node[0].input[1]: np.reshape(middle, (-1, 1, 1))}
    assert int8._whole_pixels(model.graph, values) == {}
    assert model.SerializeToString() == content


def test_a_network_that_int8_spoils_is_refused(monkeypatch):
    content = converted(tiny_model(), (1, 3, 16, 16)).content
    with refused("pictures", option="int8"):
        quantize(content, [])
    monkeypatch.setattr(int8, "LEAST_COSINE", 1.1)
    with refused("minimum 1.1", option="int8"):
        quantize(content, batches((1, 3, 16, 16)))


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    save_model(model, tmp_path / "model")
    (tmp_path / "faces").mkdir()
    for number, picture in enumerate(pictures(5)):
        (tmp_path / "faces" / f"{number}.png").write_bytes(encode(picture))
    return tmp_path


@pytest.mark.parametrize("batch", [None, 2, 8])
def test_the_command_writes_a_file_for_the_engines(saved, capsys, batch):
    out = saved / "int8.onnx"
    size = ",".join(map(str, TINY_SHAPE))
    options = [] if batch is None else ["--batch", str(batch)]
    command = ["export", "--model", f"{saved}/model,1", "--image-size", size, "--int8", str(saved / "faces")]
    assert main([*command, "-o", str(out), "--json", *options]) == 0
    said, error = capsys.readouterr()
    figures = json.loads(said)
    assert (figures["path"], error) == (str(out), "")
    assert figures["int8_cosine"] > 0.99
    assert [path.name for path in saved.glob("*.onnx*")] == ["int8.onnx"]
    model = read_onnx(out)
    assert model.fingerprint["prefix"] == f"{saved}/model"
    assert Embedder(model).precision == "int8"
    assert Embedder(model, engine="openvino-bf16").precision == "int8 and bfloat16"
    batch = pictures(model.batch_size or 3).transpose(0, 3, 1, 2).astype(np.float32)
    expected = make_engine("mxnet", tiny_model(), len(batch), (3, 16, 16))(batch)
    for name in ("onnxruntime", "openvino", "openvino-bf16"):
        if importlib.util.find_spec(name.split("-")[0]):
            found = make_engine(name, model, len(batch))(batch)
            assert np.diag(similarity(found, expected)).min() > 0.99


def test_without_a_picture_nothing_is_written(saved, capsys):
    (saved / "empty").mkdir()
    command = ["export", "--model", f"{saved}/model,1", "-o", f"{saved}/out.onnx", "--int8", f"{saved}/empty"]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith(f"denseface: error: {saved}/empty: ")
    assert not (saved / "out.onnx").exists()
