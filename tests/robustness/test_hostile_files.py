"""Files made to harm: nothing outside of them is read, nothing in them is run, and no memory is taken for them."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from denseface.core.errors import InputError
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.export.metadata import write_metadata
from denseface.galleries.gallery import Gallery
from support.refusals import refused

HOW = {"sha256": "0", "engine": "mxnet", "precision": "float32", "flip": True, "image_shape": [16, 16, 3]}
MODEL = json.dumps(HOW)


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(descr, shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def gallery(path, **members):
    usual = {"embeddings": npy(np.eye(2, 4, dtype="<f4")), "names": npy(np.array(["a", "b"])), "model": npy(MODEL)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**usual, **members}.items():
            archive.writestr(f"{name}.npy", content)
    return path


def search(path):
    found = Gallery(path)
    places = found.nearest(np.ones((1, found.shape[1]), np.float32), 5).numbers
    return found.names(places.flat)


def test_a_gallery_of_these_parts_is_read(tmp_path):
    assert search(gallery(tmp_path / "a.npz")) == {0: "a", 1: "b"}


@pytest.mark.parametrize("name", ["embeddings", "names", "model"])
def test_no_pickle_in_a_gallery_is_run(tmp_path, name):
    planted = npy(np.array([Runs(tmp_path / "owned")], object))
    with pytest.raises(InputError):
        search(gallery(tmp_path / "a.npz", **{name: planted}))
    assert not (tmp_path / "owned").exists()
    pickle.loads(pickle.dumps(Runs(tmp_path / "owned")))
    assert (tmp_path / "owned").exists()  # so would it have been


@pytest.mark.parametrize(
    "members",
    [
        {"embeddings": header("<f4", (1 << 40, 4))},
        {"embeddings": header("<f4", (2, 1 << 40))},
        {"embeddings": header("<f4", (-2, 4))},
        {"embeddings": header("<f4", (2, 0))},
        {"embeddings": header("<f4", (1 << 40, 4)), "names": header("<U1", (1 << 40,))},
        {"names": header("<U1", (2,))},
        {"names": header(f"<U{1 << 28}", (2,))},
        {"names": header("<U1", (2,)) + b"\xff" * 8},
        {"model": header(f"<U{1 << 28}", ())},
        {"model": header("<U1", (1 << 40,))},
        {"model": npy("[" * 100_000)},
        {"model": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535},
        {"model": bytes(1 << 22)},
    ],
)  # fmt: skip
def test_sizes_that_a_gallery_does_not_have_are_refused(tmp_path, members):
    with refused(path=tmp_path / "a.npz"):
        search(gallery(tmp_path / "a.npz", **members))


def external(name, location="/etc/passwd"):
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def exported(path, node):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 16, 16][: 4 if name == "data" else 2])
             for name in ("data", "out")]  # fmt: skip
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]))
    helper.set_model_props(model, write_metadata({"prefix": "p", "epoch": 1, "sha256": "0"}))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "weights.bin"])
def test_onnx_files_that_take_values_from_others_are_refused(tmp_path, location):
    path = exported(tmp_path / "a.onnx", helper.make_node("Constant", [], ["out"], value=external("a", location)))
    with refused("other files", path=path):
        read_onnx(path)


def test_they_do_not_hide_in_a_branch(tmp_path):
    inner = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [], [external("a")])
    path = exported(tmp_path / "a.onnx", helper.make_node("If", ["data"], ["out"], then_branch=inner))
    with refused("operator If", path=path):
        read_onnx(path)


def test_values_of_its_own_are_no_reason_to_refuse(tmp_path):
    own = onnx.numpy_helper.from_array(np.zeros((2, 3), np.float32), "a")
    path = exported(tmp_path / "a.onnx", helper.make_node("Constant", [], ["out"], value=own))
    assert read_onnx(path).input_shape == (3, 16, 16)
