"""docs/migrating.md: a gallery that MXNet filled is searched with the ONNX file, without MXNet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from denseface.cli import main
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.galleries.gallery import Gallery
from support.bent_onnx import healthy
from support.refusals import refused
from support.tiny_models import pictures, save_model, tiny_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("people").mkdir()
    for number, picture in enumerate(pictures(6)):
        Image.fromarray(picture).save(f"people/{number}.png")
    save_model(tiny_model(), "model")
    size = ["--image-size", "16,16"]
    assert main(["embed", "people", "--model", "model", "-o", "gallery.npz", *size]) == 0
    assert main(["export", "--model", "model", "-o", "face.onnx", *size]) == 0
    return tmp_path


def test_a_gallery_of_mxnet_is_searched_without_it(folder):
    code = "import sys; sys.modules['mxnet'] = None; from denseface.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["search", "--model", "face.onnx", "gallery.npz", "people/3.png", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)[0]["found"][0]
    assert best["name"] == "people/3.png" and best["score"] == pytest.approx(1, abs=1e-6)


def test_embeddings_and_fingerprint_are_those_of_the_model(folder):
    before, after = Embedder.load("model", image_shape=(16, 16, 3)), Embedder.load("face.onnx")
    assert after.fingerprint == before.fingerprint
    assert np.abs(after.embed(pictures(6)) - before.embed(pictures(6))).max() < 1e-6
    gallery = Gallery("gallery.npz")
    gallery.require_same(after.describe())


def test_weights_in_other_files_are_put_into_one_as_the_error_says(folder):
    onnx.save(onnx.load("face.onnx"), "parts.onnx", save_as_external_data=True, size_threshold=0)
    with refused("onnx.save(onnx.load(FILE), FILE)", path="parts.onnx"):
        read_onnx("parts.onnx")
    onnx.save(onnx.load("parts.onnx"), "parts.onnx")
    assert read_onnx("parts.onnx").emb_size == 8


def test_one_of_several_outputs_is_taken_out_as_the_error_says(tmp_path):
    model = healthy(0)
    model.graph.output.append(onnx.helper.make_tensor_value_info("fc", onnx.TensorProto.FLOAT, ["N", 8]))
    path, one = tmp_path / "two.onnx", tmp_path / "one.onnx"
    path.write_bytes(model.SerializeToString())
    with refused("fc1_output (2, 8), fc (2, 8)", "onnx.utils.extract_model", path=path):
        read_onnx(path)
    onnx.utils.extract_model(str(path), str(one), ["data"], ["fc1_output"])
    assert read_onnx(one).emb_size == 8
