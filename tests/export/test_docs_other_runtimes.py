"""The OpenCV program of docs/other-runtimes.md scores as the embedder does."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseface.embedding.embedder import Embedder
from denseface.export.onnx import export
from support.tiny_models import pictures, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "other-runtimes.md"
FACE = (112, 112, 3)


def test_opencv_scores_as_the_embedder_does(tmp_path, monkeypatch, capsys):
    pytest.importorskip("cv2", reason="OpenCV comes with insightface, which needs Python 3.10")
    monkeypatch.chdir(tmp_path)
    export(tiny_model(FACE), (1, 3, 112, 112), "model.onnx")
    names = ["face.jpg", "other.jpg"]
    for name, picture in zip(names, pictures(2, FACE)):
        Image.fromarray(picture).save(name, "PNG")  # without loss, whatever the name says
    program = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "cv2" in code)
    exec(program, {})
    first, second = Embedder.load("model.onnx", flip=False).embed(names)
    assert float(capsys.readouterr().out) == pytest.approx(float(np.dot(first, second)), abs=1e-6)
