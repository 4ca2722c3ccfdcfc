"""ONNX's messages without the package onnx: the same fields, bytes and values."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2
from onnx import helper, numpy_helper

from denseface.core import onnx_format
from support.bent_onnx import healthy

NESTED = {"TensorTypeProto": "TypeProto.Tensor", "DimensionProto": "TensorShapeProto.Dimension"}


def fields_of(message):
    """Name, kind and whether there are many, by number; enumerations are whole numbers."""
    described = descriptor_pb2.DescriptorProto()
    message.DESCRIPTOR.CopyToProto(described)
    return {
        field.number: (field.name, {field.TYPE_ENUM: field.TYPE_INT32}.get(field.type, field.type), field.label)
        for field in described.field
    }


@pytest.mark.parametrize("name", onnx_format._MESSAGES)
def test_fields_are_those_of_onnx(name):
    theirs = onnx
    for part in NESTED.get(name, name).split("."):
        theirs = getattr(theirs, part)
    theirs = fields_of(theirs)
    for number, (field, kind, label) in fields_of(onnx_format._classes()[name]).items():
        only_noticed = field in ("training_info", "functions", "sparse_initializer", "external_data")
        assert (field, label) == theirs[number][::2]
        assert only_noticed or kind == theirs[number][1]


def test_a_file_is_read_and_written_as_onnx_does():
    content = healthy(0).SerializeToString()
    assert onnx_format.read_model(content).SerializeToString() == content


def test_unknown_fields_are_dropped():
    model = healthy(0)
    model.graph.doc_string = "a comment"
    model.graph.value_info.append(helper.make_tensor_value_info("sum", 7, [7]))
    content = onnx_format.read_model(model.SerializeToString()).SerializeToString()
    assert content == healthy(0).SerializeToString()


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i1", "i4", "i8", "?"])
@pytest.mark.parametrize("raw", [True, False])
def test_values_are_those_of_onnx(dtype, raw):
    values = np.array([[0, 1, 2], [3, 100, 7]]).astype(dtype)
    tensor = numpy_helper.from_array(values, "a")
    if not raw:
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = helper.make_tensor("a", kind, values.shape, values.ravel())
    found = onnx_format.to_array(tensor)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_tensors_are_made_as_onnx_does():
    for values in (np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, -1]), np.float32(0.5)):
        values = np.asarray(values)
        ours = onnx_format.from_array(values, "a").SerializeToString()
        np.testing.assert_array_equal(numpy_helper.to_array(onnx.TensorProto.FromString(ours)), values)


def test_it_needs_neither_onnx_nor_a_network(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(healthy(0).SerializeToString())
    code = (
        "import sys; sys.modules.update(onnx=None, mxnet=None); from denseface import Embedder; "
        f"print(Embedder.load({str(path)!r}).emb_size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("8\n", "")
