"""The PyPI package insightface and OpenCV load an exported model as it is, and compute our embeddings with it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from denseface.cli import main
from denseface.core.vectors import similarity
from denseface.embedding.embedder import Embedder
from denseface.export.insightface import why_not_for_insightface
from denseface.models import families
from denseface.options.names import Names
from support.tiny_models import as_model, save_model, tiny_model

import mxnet as mx

S = mx.sym
NEEDS_INSIGHTFACE = pytest.mark.skipif(sys.version_info < (3, 10), reason="insightface needs Python 3.10")


def convolved(data, name="conv0"):
    body = S.Convolution(data, num_filter=4, kernel=(4, 4), stride=(4, 4), name=name)
    return S.FullyConnected(S.Activation(body, act_type="relu"), num_hidden=8, name="fc1")


def densenet():
    config = families.configure(Names("d63", "orl", "arcface"), ["emb_size=64"])
    return families.embedding_symbol(config)


def late(data):
    """Ten nodes before anything is subtracted."""
    for number in range(10):
        data = S.Activation(data, act_type="relu", name=f"first{number}")
    return convolved((data - 127.5) * 0.0078125)


NETWORKS = {
    "DenseNet": densenet,
    "pixels as they are": lambda: convolved(S.var("data")),
    "normalized": lambda: convolved(S.BatchNorm(S.var("data"), fix_gamma=True, name="bn_data")),
    "other names": lambda: convolved(S._internal._mul_scalar(S.var("data"), scalar=1 / 255, name="to_one")),
    "half": lambda: convolved((S.var("data") - 127.5), "Mul"),
    "late": lambda: late(S.var("data")),
    "misleading": lambda: convolved(S.Activation(S.var("data"), act_type="relu", name="Sub_1")),
}
# In a process of its own: beside OpenVINO, what the package brings along ends a process that gets a signal.
FEATURES = """
import json, sys

import cv2
import numpy as np
from insightface.model_zoo import get_model
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

pictures = [picture[:, :, ::-1] for picture in np.load(sys.argv[1])]  # they take BGR
for number, path in enumerate(sys.argv[2:]):
    recognizer = get_model(path, providers=["CPUExecutionProvider"])
    assert isinstance(recognizer, ArcFaceONNX)
    # It has recognized that the network scales its pictures itself.
    assert (recognizer.input_mean, recognizer.input_std) == (0.0, 1.0)
    assert recognizer.input_size == (112, 112)
    np.save(f"{path}.insightface.npy", recognizer.get_feat(pictures))
    network = cv2.dnn.readNetFromONNX(path)
    rows = []
    for picture in pictures:
        network.setInput(cv2.dnn.blobFromImage(picture, swapRB=True))
        rows.append(network.forward())
    np.save(f"{path}.opencv.npy", np.concatenate(rows))
"""


@NEEDS_INSIGHTFACE
def test_both_compute_the_embedders_numbers(tmp_path):
    pictures = np.random.RandomState(0).randint(0, 256, (3, 112, 112, 3)).astype(np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    expected = {}
    for number, network in enumerate(NETWORKS.values()):
        prefix, path = tmp_path / f"model{number}", str(tmp_path / f"{number}.onnx")
        save_model(as_model(network(), (1, 3, 112, 112)), prefix)
        assert main(["export", "--model", str(prefix), "-o", path]) == 0
        expected[path] = Embedder.load(str(prefix), flip=False, normalize=False).embed(pictures)
    command = [sys.executable, "-c", FEATURES, str(tmp_path / "pictures.npy"), *expected]
    subprocess.run(command, check=True, timeout=300)
    for (path, ours), name in zip(expected.items(), NETWORKS):
        for library in ("insightface", "opencv"):
            theirs = np.load(f"{path}.{library}.npy")
            assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max(), (name, library)
            assert np.diag(similarity(theirs, ours)).min() > 0.99999


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((None, 3, 112, 112), ""),
        ((1, 3, 160, 160), ""),
        ((None, 1, 112, 112), "it takes gray pictures"),
        ((None, 3, 112, 96), "it takes pictures of 112 x 96"),
        ((None, 3, 96, 96), "it takes pictures of 96 x 96"),
        ((None, 3, 120, 120), "it takes pictures of 120 x 120"),
        ((None, 3, 192, 192), "it takes pictures of 192 x 192"),
        ((4, 3, 112, 112), "it takes exactly 4 pictures"),
    ],
)
def test_what_the_package_cannot_compute_is_said(shape, reason):
    assert why_not_for_insightface(["Sub_0", "Mul_1"], shape) == reason
    assert why_not_for_insightface(["Sub_0"], shape)


def test_the_command_says_what_it_does_not_promise(tmp_path, capsys):
    save_model(tiny_model(), tmp_path / "model")
    command = ["export", "--model", str(tmp_path / "model"), "-o", str(tmp_path / "a.onnx"), "--image-size", "16,16"]
    assert main(command) == 0
    assert "not for the insightface package: it takes pictures of 16 x 16" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_for_insightface"] == "it takes pictures of 16 x 16"
