"""Networks from elsewhere get their pixels as they were trained: by their own layers, as is said, or with a warning."""

import dataclasses
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from denseface.cli import main
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.embedding.scaling import Scaling, make_scaling, scaled
from denseface.galleries.bulk import embed_all
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, as_model, encode, pictures, save_model, tiny_model

import mxnet as mx

SCALING = {"input_mean": 127.5, "input_scale": 0.0078125}


def unscaled_model():
    """The network of tiny_model, with the same parameters, without its scaling."""
    body = mx.sym.Convolution(mx.sym.var("data"), num_filter=4, kernel=(4, 4), stride=(4, 4), name="conv0")
    fc = mx.sym.FullyConnected(mx.sym.Activation(body, act_type="relu"), num_hidden=8, name="pre_fc1")
    return as_model(mx.sym.BatchNorm(fc, name="fc1", fix_gamma=True, eps=2e-5), (1, 3, 16, 16))


def bgr_first(model):
    weight = np.ascontiguousarray(model.arguments["conv0_weight"][:, ::-1])
    return dataclasses.replace(model, arguments={**model.arguments, "conv0_weight": weight})


def embedded(model, engine=None):
    return Embedder(model, engine=engine, image_shape=TINY_SHAPE, normalize=False).embed(pictures(3))


def foreign(path, names=("first", "second"), scale=False, input_name="input.1", opset=13, shape=("N", 3, 16, 16)):
    """An ONNX file as PyTorch writes it, of tiny_model's parameters."""
    model = tiny_model()
    gain = 1 / np.sqrt(model.auxiliary["fc1_moving_var"] + 2e-5)
    bias = (model.arguments["pre_fc1_bias"] - model.auxiliary["fc1_moving_mean"]) * gain + model.arguments["fc1_beta"]
    arrays = {
        **model.arguments,
        "w": (model.arguments["pre_fc1_weight"] * gain[:, None]).astype(np.float32),
        "b": bias.astype(np.float32),
        "mean": np.float32(127.5),
        "scale": np.float32(0.0078125),
        "zero": np.array(0),
        "minus": np.array([-1]),
        "axis": np.array([0]),
    }
    node = helper.make_node
    nodes = [
        node("Sub", [input_name, "mean"], ["shifted"], names[0]),
        node("Mul", ["shifted", "scale"], ["ready"], names[1]),
    ]
    nodes = nodes if scale else [node("Identity", [input_name], ["ready"], "nothing")]
    nodes += [
        node("Conv", ["ready", "conv0_weight", "conv0_bias"], ["c"], "c", kernel_shape=[4, 4], strides=[4, 4]),
        node("Relu", ["c"], ["r"], "r"),
        node("Shape", ["r"], ["size"], "s"),
        node("Gather", ["size", "zero"], ["n"], "g", axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"], "u"),
        node("Concat", ["n1", "minus"], ["codes"], "k", axis=0),
        node("Reshape", ["r", "codes"], ["flat"], "f"),
        node("Gemm", ["flat", "w", "b"], ["683"], "e", transB=1),
    ]
    used = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [shape[0], 8])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return str(path)


def test_a_scaling_that_is_given_becomes_part_of_the_network():
    given = scaled(unscaled_model(), make_scaling(127.5, 0.0078125, False))
    np.testing.assert_array_equal(embedded(given), embedded(tiny_model()))
    np.testing.assert_allclose(embedded(given, "onnxruntime"), embedded(tiny_model()), rtol=1e-4, atol=1e-4)
    assert given.fingerprint["sha256"] != unscaled_model().fingerprint["sha256"]
    assert scaled(unscaled_model(), Scaling()).fingerprint == unscaled_model().fingerprint


def test_blue_comes_first_where_it_is_said():
    given = scaled(bgr_first(unscaled_model()), make_scaling(127.5, 0.0078125, True))
    np.testing.assert_allclose(embedded(given), embedded(tiny_model()), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(embedded(given, "onnxruntime"), embedded(tiny_model()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inside", ["scaled", "normalized", "after a cast", "not", "after a layer"])
def test_a_network_without_scaling_is_warned_of(caplog, inside):
    data = mx.sym.var("data")
    body = {
        "scaled": lambda: data * 0.5,
        "normalized": lambda: mx.sym.BatchNorm(data, name="bn_data"),
        "after a cast": lambda: mx.sym.Cast(data, dtype="float32") - 127.5,
        "not": lambda: data,
        "after a layer": lambda: mx.sym.Convolution(data, kernel=(1, 1), num_filter=2, name="c") * 0.5,
    }[inside]()
    model = as_model(mx.sym.FullyConnected(body, num_hidden=3, name="fc1"), (1, 3, 16, 16))
    with caplog.at_level(logging.WARNING, "denseface"):
        assert scaled(model, None) is model
    warned = "tiny,1: it does not scale its pictures before its first layer; " in caplog.text
    assert warned == (inside in ("not", "after a layer"))
    caplog.clear()
    scaled(model, Scaling())
    assert not caplog.text


class TestForeignFiles:
    """Files that denseface did not write, by the rule of the insightface package."""

    @pytest.fixture
    def expected(self):
        return embedded(tiny_model())

    def embed(self, path, engine="onnxruntime", **scaling):
        return Embedder.load(path, engine=engine, normalize=False, **scaling).embed(pictures(3))

    def test_found_inside(self, tmp_path, caplog, expected):
        for number, names in enumerate((("Sub_0", "Mul_1"), ("_minusscalar0", "_mulscalar0"))):
            path = foreign(tmp_path / f"{number}.onnx", names, scale=True)
            np.testing.assert_allclose(self.embed(path), expected, rtol=1e-4, atol=1e-4)
        assert not caplog.text

    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_given(self, tmp_path, caplog, expected, engine):
        for name in ("input.1", "data"):
            path = foreign(tmp_path / f"{name}.onnx", input_name=name)
            np.testing.assert_allclose(self.embed(path, engine, **SCALING), expected, rtol=1e-4, atol=1e-4)
        assert not caplog.text

    def test_by_default(self, tmp_path, caplog):
        path = foreign(tmp_path / "a.onnx")
        np.testing.assert_array_equal(self.embed(path), self.embed(path, input_mean=127.5, input_scale=1 / 127.5))
        rule = "scaled to (pixel - 127.5) / 127.5 by the insightface package's rule"
        reason = "because it does not scale its pictures itself; --input-mean and --input-scale say otherwise"
        assert caplog.messages == [f"{path}: {rule}, {reason}"]

    def test_a_rule_that_seems_wrong_is_warned_of(self, tmp_path, caplog):
        path = foreign(tmp_path / "a.onnx", scale=True)
        self.embed(path)
        assert "scaled to (pixel - 127.5) / 127.5 by the insightface package's rule, although it" in caplog.text
        model = onnx.load(foreign(tmp_path / "b.onnx"))
        model.graph.node[1].name, model.graph.node[2].name = "Sub_0", "Mul_0"
        (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
        self.embed(str(tmp_path / "b.onnx"))
        assert "not scaled by the insightface package's rule, although it seems not to scale" in caplog.text

    def test_the_fingerprint_is_that_of_file_and_scaling(self, tmp_path):
        path = foreign(tmp_path / "a.onnx")
        loaded = [Embedder.load(path, **scaling).fingerprint["sha256"] for scaling in ({}, SCALING, {}, {"bgr": True})]
        assert loaded[0] == loaded[2] and len(set(loaded)) == 3

    def test_shapes_are_checked(self, tmp_path):
        with refused("Gemm e", path=tmp_path / "a.onnx"):
            path = foreign(tmp_path / "a.onnx")
            model = onnx.load(path)
            model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
            (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
            Embedder.load(path)

    def test_gray_pictures_have_no_order_of_colors(self, tmp_path):
        data = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 2, 2])
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
        graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"], "f")], "g", [data], [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        with refused("gray", path=tmp_path / "a.onnx", option="bgr"):
            Embedder.load(str(tmp_path / "a.onnx"), bgr=True)

    def test_files_of_export_are_not_scaled_again(self, tmp_path):
        save_model(tiny_model(), tmp_path / "model")
        path = str(tmp_path / "model.onnx")
        assert main(["export", "--model", str(tmp_path / "model"), "-o", path, "--image-size", "16,16"]) == 0
        with refused("scales its pictures itself", path=path):
            Embedder.load(path, **SCALING)


def test_commands_scale_alike(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(unscaled_model(), tmp_path / "model")
    (tmp_path / "faces").mkdir()
    for number, picture in enumerate(pictures(3)):
        (tmp_path / "faces" / f"{number}.png").write_bytes(encode(picture))
    options = ["--model", "model", "--image-size", "16,16"]
    scaling = ["--input-mean", "127.5", "--input-scale", "0.0078125"]
    assert main(["embed", "faces", *options, *scaling, "-o", "faces.npz"]) == 0
    with np.load("faces.npz") as file, Sources(["faces"]) as sources:
        embed_all(Embedder(tiny_model(), image_shape=TINY_SHAPE), sources, tmp_path / "expected.npz")
        np.testing.assert_array_equal(file["embeddings"], np.load("expected.npz")["embeddings"])
    # A search scales as the gallery says, and so does an exported file.
    assert main(["export", *options, *scaling, "-o", "model.onnx"]) == 0
    capsys.readouterr()
    for model in ("model", "model.onnx"):
        assert main(["search", "faces.npz", "faces/1.png", "--model", model, "-k", "1"]) == 0
        out, err = capsys.readouterr()
        assert "1.0000  faces/1.png" in out and not err
    assert main(["search", "faces.npz", "faces/1.png", *options, "--input-mean", "0"]) == 1
    assert "its network took (pixel - 127.5) * 0.0078125; search with this scaling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ((float("nan"), 1, False), "input_mean"),
        ((0, 0, False), "input_scale"),
        ((0, float("inf"), False), "input_scale"),
    ],
)
def test_scalings_that_lose_the_picture_are_refused(values, option):
    with refused(option=option):
        make_scaling(*values)
