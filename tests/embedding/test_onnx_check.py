"""ONNX files from elsewhere: what an engine would choke on is refused in one line, in bounded time and memory."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from denseface.core.errors import InputError
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import onnx_check
from denseface.embedding.engines.onnx_model import read_onnx
from support.bent_onnx import healthy

ENGINES = [
    name for name in ("onnxruntime", "openvino", "openvino-bf16") if importlib.util.find_spec(name.split("-")[0])
]
PER_PROCESS = 500


def refused(tmp_path, model):
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        read_onnx(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def model():
    return healthy(0)


def node_of(model, op):
    return next(node for node in model.graph.node if node.op_type == op)


def attribute_of(model, op, name):
    return next(attribute for attribute in node_of(model, op).attribute if attribute.name == name)


def tensor_of(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def test_a_healthy_file_is_computed(tmp_path, model):
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    found = read_onnx(path)
    assert (found.batch_size, found.input_shape, found.emb_size, found.precision) == (None, (3, 16, 16), 8, "int8")
    picture = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    embeddings = [Embedder(found, engine=engine).embed(picture)[0] for engine in ENGINES]
    assert all(np.abs(embedding - embeddings[0]).max() < 0.05 for embedding in embeddings)


@pytest.mark.parametrize("op", ["Loop", "If", "Scan", "Resize", "ImageDecoder"])
def test_operators_that_image_networks_do_not_need_are_refused(tmp_path, model, op):
    node_of(model, "Transpose").op_type = op
    assert refused(tmp_path, model) == f"refused: the operator {op} is not one that image networks need"


def test_graphs_within_nodes_are_refused(tmp_path, model):
    node_of(model, "Add").attribute.append(helper.make_attribute("body", healthy(1).graph))
    assert "Add sum: body is of a kind that image networks do not need" in refused(tmp_path, model)


def test_operators_of_other_domains_are_refused(tmp_path, model):
    node_of(model, "Add").domain = "com.microsoft"
    assert "the operator com.microsoft.Add is not one" in refused(tmp_path, model)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "the operator com.microsoft.Add is not one" in refused(tmp_path, model)


def written(tmp_path, model):
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("domain", ["ai.onnx.ml", "com.microsoft", "ai.onnx"])
def test_operator_sets_that_no_node_uses_are_dropped(tmp_path, model, domain):
    """tf2onnx and ONNX Runtime's optimizer list them."""
    model.opset_import.append(helper.make_opsetid(domain, model.opset_import[0].version))
    read = onnx.load_from_string(read_onnx(written(tmp_path, model)).content)
    assert [entry.domain for entry in read.opset_import] == [""]


def test_without_one_version_of_the_operators_a_file_is_refused(tmp_path, model):
    model.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    assert "it does not name one version of ONNX's operators" in refused(tmp_path, model)
    del model.opset_import[:]
    assert "it does not name one version of ONNX's operators" in refused(tmp_path, model)


def test_a_size_that_the_file_leaves_open_is_given(tmp_path, model):
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[2].dim_param, sizes[3].dim_param = "height", "width"
    assert "it leaves the size of its pictures open; give their height and width (image_shape)" in refused(
        tmp_path, model
    )
    path = written(tmp_path, model)
    assert read_onnx(path, input_shape=(3, 16, 16)).input_shape == (3, 16, 16)
    picture = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    found = [Embedder.load(str(path), engine=engine, image_shape=(16, 16, 3)).embed(picture) for engine in ENGINES[:2]]
    assert np.abs(found[0] - found[1]).max() < 0.05


def test_of_two_outputs_the_embedding_is_kept(tmp_path, model):
    """AdaFace's networks return the length of an embedding beside it."""
    model.graph.output.insert(0, helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N", 1]))
    model.graph.output.append(helper.make_tensor_value_info("bytes", TensorProto.UINT8, None))
    found = read_onnx(written(tmp_path, model))
    assert found.emb_size == 8
    assert [output.name for output in onnx.load_from_string(found.content).graph.output] == ["fc1_output"]


def test_of_two_embeddings_none_is_chosen(tmp_path, model):
    model.graph.output.append(helper.make_tensor_value_info("fc", TensorProto.FLOAT, ["N", 8]))
    assert "which of its outputs is the embedding is not clear: fc1_output (2, 8), fc (2, 8)" in refused(
        tmp_path, model
    )


@pytest.mark.parametrize("opset", [-1, 0, 6, 999])
def test_operator_sets_out_of_bounds_are_refused(tmp_path, model, opset):
    model.opset_import[0].version = opset
    assert "its opset is not between 7 and " in refused(tmp_path, model)


@pytest.mark.parametrize(
    ("op", "name", "value"),
    [
        ("Conv", "strides", [0, 1]),
        ("Conv", "pads", [0, 0, 1 << 40, 0]),
        ("Conv", "kernel_shape", [-3, 3]),
        ("MaxPool", "kernel_shape", [3, 1 << 62]),
        ("Concat", "axis", 1 << 62),
        ("Transpose", "perm", [0] * 100),
        ("BatchNormalization", "epsilon", float("nan")),
    ],
)
def test_attributes_out_of_bounds_are_refused(tmp_path, model, op, name, value):
    attribute_of(model, op, name).CopyFrom(helper.make_attribute(name, value))
    assert f"{name} is not between " in refused(tmp_path, model)


@pytest.mark.parametrize("dims", [[-1], [1 << 62], [0], [1 << 40, 1 << 40], [17], [15]])
def test_tensors_of_other_sizes_than_they_say_are_refused(tmp_path, model, dims):
    tensor = tensor_of(model, "gamma")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    assert "the tensor gamma " in refused(tmp_path, model)


def test_parameters_that_are_not_finite_are_refused(tmp_path, model):
    for value in (np.nan, np.inf):
        values = np.ones(16, np.float32)
        values[3] = value
        tensor_of(model, "gamma").CopyFrom(numpy_helper.from_array(values, "gamma"))
        assert "the tensor gamma contains NaN or infinity" in refused(tmp_path, model)


def test_a_window_larger_than_the_picture_is_refused(tmp_path, model):
    """In the slice behind it, the package onnx ends the process."""
    attribute_of(model, "AveragePool", "kernel_shape").ints[0] = 8
    assert refused(tmp_path, model) == "refused: mean2 has the shape (2, 8, -1, 2), so it has no values"


def test_tensors_that_do_not_fit_each_other_are_refused(tmp_path, model):
    tensor_of(model, "halves").CopyFrom(numpy_helper.from_array(np.array([8, 9]), "halves"))
    assert "it is not consistent: " in refused(tmp_path, model)


@pytest.mark.parametrize("bound", ["_MAX_COMPUTED", "_MAX_PRODUCTS"])
def test_a_network_that_computes_too_much_is_refused(tmp_path, model, monkeypatch, bound):
    monkeypatch.setattr(onnx_check, bound, 1000)
    assert refused(tmp_path, model) == "refused: it computes more than any network for faces does"


def test_a_tensor_that_needs_all_memory_is_refused(tmp_path, model):
    nodes, tiled = model.graph.node, node_of(model, "Tile").output[0]
    nodes.append(helper.make_node("Tile", [tiled, "often"], ["huge"], "huge"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1 << 40]), "often"))
    assert "it computes more than any network for faces does" in refused(tmp_path, model)


def test_values_within_a_graph_are_not_believed(tmp_path, model):
    model.graph.value_info.append(helper.make_tensor_value_info("sum", TensorProto.INT64, [7, 1 << 62]))
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert not onnx.load_from_string(read_onnx(path).content).graph.value_info


@pytest.mark.parametrize("shape", [["N", 5], ["N", 1 << 62], ["N", 8, 1], ["N"], ["N", -1]])
def test_an_output_that_is_not_what_is_computed_is_refused(tmp_path, model, shape):
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("fc1_output", TensorProto.FLOAT, shape))
    refused(tmp_path, model)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "null", '{"prefix": "a", "epoch": "b", "sha256": "c"}'])
def test_metadata_that_export_does_not_write_are_refused(tmp_path, model, text):
    model.metadata_props[0].value = text
    assert refused(tmp_path, model) == "refused: what it says about its model is damaged; export the network again"


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        *((engine, 60) for engine in (*ENGINES[:2], "mxnet")),
        *(pytest.param(engine, 2_000, marks=pytest.mark.torture) for engine in (*ENGINES, "mxnet")),
    ],
)
def test_bent_files_end_in_one_line(tmp_path, engine, count):
    """In other processes, which may not die, print anything else, or take more than `bent_onnx` allows."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    outcomes = []
    for first in range(0, count, PER_PROCESS):
        share = min(PER_PROCESS, count - first)
        command = [sys.executable, "-m", "support.bent_onnx", engine, str(first), str(share), str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
        outcomes += done.stdout.splitlines()
    assert len(outcomes) == count
    assert outcomes[0] == "0 computed"
    print(f"{engine}: of {count} files, {sum(line.endswith(' computed') for line in outcomes)} are computed")
