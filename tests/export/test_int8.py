"""Networks in int8: near what they were, and files like any other export."""

import importlib.util
import json
from collections import Counter

import numpy as np
import onnx
import pytest

from denseface.cli import main
from denseface.core.errors import InputError
from denseface.core.vectors import similarity
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import make_engine
from denseface.embedding.engines.onnx_model import converted, read_onnx
from denseface.export import int8
from denseface.export.int8 import quantize
from denseface.models import families
from support.tiny_models import TINY_SHAPE, as_model, encode, pictures, save_model, tiny_model

SHAPE = (4, 3, 32, 32)


def batches(shape=SHAPE, count=4):
    random = np.random.RandomState(0)
    return [random.randint(0, 256, shape).astype(np.float32) for _ in range(count)]


def input_names(layers):
    return [name for layer in layers for name in layer.input]


def test_all_but_the_first_layers_are_quantized_and_embeddings_stay_near(configured):
    config = configured(net_act="prelu", net_output="E")
    model = as_model(families.embedding_symbol(config), (1, *SHAPE[1:]))
    content, cosine = quantize(converted(model, SHAPE).content, batches())
    assert 0.99 < cosine < 0.999999
    graph = onnx.load_from_string(content).graph
    makers = {output: node for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 63 - 1 + 1  # depth counts a classifier, here it is the embedding
    assert not any(name in makers and makers[name].op_type == "DequantizeLinear" for name in input_names(layers[:3]))
    assert {makers[name].op_type for name in input_names(layers[3:])} == {"DequantizeLinear"}
    assert Counter(node.op_type for node in graph.node)["QuantizeLinear"] == len(layers) - 3


def test_a_network_that_int8_spoils_is_refused(monkeypatch):
    content = converted(tiny_model(), (1, 3, 16, 16)).content
    with pytest.raises(InputError, match="int8: the ranges of values are measured on pictures"):
        quantize(content, [])
    monkeypatch.setattr(int8, "LEAST_COSINE", 1.1)
    with pytest.raises(InputError, match=r"^int8: would lower similarity to \d.\d{3} \(minimum 1.1\); export"):
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
