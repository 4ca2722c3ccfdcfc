"""The PyPI package insightface loads an exported model as it is, and computes our embeddings with it."""

import subprocess
import sys

import numpy as np
import pytest

from denseface.cli import main
from denseface.core.files import replacing
from denseface.core.vectors import similarity
from denseface.embedding.embedder import Embedder
from denseface.models import families
from denseface.models.params_file import write_arrays
from support.helpers import value_of

pytestmark = pytest.mark.skipif(sys.version_info < (3, 10), reason="the package insightface needs Python 3.10")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The prefix of a saved DenseNet-63, its parameters drawn by their names."""
    prefix = str(tmp_path_factory.mktemp("model") / "model")
    config, _ = families.configure("d63", "orl", "arcface", ["emb_size=64"])
    symbol = families.embedding_symbol(config)
    shapes, _, auxiliary = symbol.infer_shape(data=(1, 3, 112, 112))
    arrays = {f"arg:{n}": value_of(n, s) for n, s in zip(symbol.list_arguments(), shapes) if n != "data"}
    arrays.update({f"aux:{n}": value_of(n, s) for n, s in zip(symbol.list_auxiliary_states(), auxiliary)})
    with replacing(f"{prefix}-0001.params") as file:
        write_arrays(file, arrays)
    symbol.save(f"{prefix}-symbol.json")
    return prefix


# In a process of its own: beside OpenVINO, what the package brings along ends a process that gets a signal.
FEATURES = """
import sys

import numpy as np
from insightface.model_zoo import get_model
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

recognizer = get_model(sys.argv[1], providers=["CPUExecutionProvider"])
assert isinstance(recognizer, ArcFaceONNX)
# It has recognised that the network scales its pictures itself.
assert (recognizer.input_mean, recognizer.input_std) == (0.0, 1.0)
assert recognizer.input_size == (112, 112)
pictures = np.load(sys.argv[2])
np.save(sys.argv[3], recognizer.get_feat([picture[:, :, ::-1] for picture in pictures]))  # it takes BGR
"""


def test_insightface_computes_the_embedders_numbers(model, tmp_path):
    exported, given, found = (str(tmp_path / name) for name in ("model.onnx", "pictures.npy", "features.npy"))
    assert main(["export", "--model", model, "-o", exported]) == 0
    pictures = np.random.RandomState(0).randint(0, 256, (3, 112, 112, 3)).astype(np.uint8)
    np.save(given, pictures)
    subprocess.run([sys.executable, "-c", FEATURES, exported, given, found], check=True, timeout=120)
    theirs = np.load(found)
    ours = Embedder.load(model, flip=False, normalize=False).embed(pictures)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4 * np.abs(ours).max())
    assert np.diag(similarity(theirs, ours)).min() > 0.99999
