"""Commands that take a model take an ONNX file from elsewhere, too."""

import json

import numpy as np
import pytest
from onnx import numpy_helper

from denseface import cli
from denseface.embedding.embedder import Embedder
from denseface.report import comparison
from support.tiny_models import pictures
from support.torch_like import mobilefacenet

SCALING = {"input_mean": 127.5, "input_scale": 0.0078125}


@pytest.fixture
def face(tmp_path):
    path = tmp_path / "face.onnx"
    path.write_bytes(mobilefacenet(True).SerializeToString())
    return str(path)


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    out = capsys.readouterr().out
    assert code == 0
    return out


def test_its_layers_are_summed_up(capsys, face):
    found = json.loads(run(capsys, "summary", "--model", face, "--json"))
    assert [layer["kind"] for layer in found["layers"]].count("conv 3x3, 32 depthwise") == 2
    values = [
        array for array in map(numpy_helper.to_array, mobilefacenet(True).graph.initializer) if array.dtype == "f4"
    ]
    assert found["total"]["parameters"] + found["total"]["auxiliary"] == sum(array.size for array in values)
    assert found["total"]["auxiliary"] == 32 and not found["unknown_operators"]
    assert found["layers"][-1]["output"] == [16]


def test_it_is_drawn(capsys, face, tmp_path):
    run(capsys, "plot", "--model", face, "-o", tmp_path / "face.svg")
    assert (tmp_path / "face.svg").stat().st_size > 1000


def test_it_is_compared(capsys, face, monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0)
    (row,) = json.loads(run(capsys, "compare", "--models", face, "--json"))
    assert row["name"] == face and row["training"] > 0


def test_it_is_exported_with_the_scaling_that_is_given(capsys, face, tmp_path):
    out = tmp_path / "mine.onnx"
    scaling = ["--input-mean", "127.5", "--input-scale", "0.0078125"]
    report = json.loads(run(capsys, "export", "--model", face, "-o", out, *scaling, "--json"))
    assert report["emb_size"] == 16
    before, after = Embedder.load(face, **SCALING), Embedder.load(str(out))
    assert after.fingerprint["sha256"] == before.fingerprint["sha256"]
    faces = pictures(3, (32, 32, 3))
    assert np.abs(after.embed(faces) - before.embed(faces)).max() < 1e-5
