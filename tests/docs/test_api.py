"""docs/api.md: its examples run as they stand."""

import doctest
from pathlib import Path

import numpy as np
import pytest

import denseface
from denseface import cli
from denseface.data.pairs import write_pairs
from support.tiny_models import as_model, encode, pictures

import mxnet as mx

PAGE = Path(denseface.__file__).parents[1] / "docs" / "api.md"
FACES = ("anna-1", "anna-2", "bert-1", "bert-2")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model of 128 values, four pictures, their embeddings, and four pairs of them."""
    monkeypatch.chdir(tmp_path)
    pooled = mx.sym.Pooling(mx.sym.Variable("data") / 255 - 0.5, kernel=(14, 14), stride=(14, 14), pool_type="avg")
    model = as_model(mx.sym.FullyConnected(pooled, num_hidden=128, name="fc1"), (1, 3, 112, 112))
    arrays = ({name: mx.nd.array(a) for name, a in part.items()} for part in (model.arguments, model.auxiliary))
    mx.model.save_checkpoint("model", 800, model.symbol, *arrays)
    anna, bert = pictures(2, (112, 112, 3))
    noise = np.random.default_rng(0).integers(0, 60, anna.shape, np.uint8)
    faces = dict(zip(FACES, (anna, np.maximum(anna, noise), bert, np.maximum(bert, noise))))
    for name, face in faces.items():
        Path(f"{name}.jpg").write_bytes(encode(face, "JPEG"))
    encoded = [encode(face) for face in faces.values()]
    write_pairs(Path("pairs.bin"), [encoded[i] for i in (0, 1, 0, 2, 2, 3, 1, 3)], [True, False] * 2)
    paths = [f"{name}.jpg" for name in FACES]
    assert cli.main(["embed", *paths, "--model", "model", "-o", "people.npz"]) == 0


def test_the_examples_run(folder):
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert tried > 15 and not failed


def test_every_public_name_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in denseface.__all__)
