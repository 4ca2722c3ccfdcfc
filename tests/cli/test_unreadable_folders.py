"""A folder that may not be read, such as lost+found, is named and left out by every command alike."""

import os

import numpy as np
import pytest

from denseface.cli import main
from denseface.embedding.embedder import Embedder
from support.tiny_models import TINY_SHAPE, encode, pictures, save_model, tiny_model

NAME = "lost+found"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model, and people with a folder that root could read, too, were it not for this."""
    save_model(tiny_model(), tmp_path / "model")
    for number, picture in enumerate(pictures(12)):
        folder = tmp_path / ("people", "probes")[number % 2] / f"p{number // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(picture))
    photos = sorted((tmp_path / "people").rglob("*.png"))
    embedder = Embedder.load(str(tmp_path / "model"), image_shape=TINY_SHAPE)
    np.save(tmp_path / "old.npy", embedder.embed(map(str, photos)))
    (tmp_path / "old.txt").write_text("".join(f"{path.relative_to(tmp_path / 'people')}\n" for path in photos))
    for folder in (tmp_path / "people", tmp_path / "people" / "p0"):
        (folder / NAME).mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith(NAME):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = ["--model", "model", "--image-size", "16,16"]
COMMANDS = {
    "embed": ["embed", "people", "-o", "out.npz", *MODEL],
    "detect": ["detect", "people", "-o", "faces.txt", "--processes", "1"],
    "identify": ["identify", "--gallery", "people", "--probes", "probes", *MODEL],
    "match": ["match", "people/p0", "people/p1", "--threshold", "0.9", *MODEL],
    "import": ["gallery", "import", "old.npy", "--names", "old.txt", "--check", "people", "-o", "new.npz", *MODEL],
    "audit": ["dataset", "audit", "people", "-o", "audit", *MODEL],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_named_and_left_out(place, capsys, name):
    code = main(COMMANDS[name])
    printed = capsys.readouterr()
    where = os.path.join("people", *["p0"][: name == "match"], NAME)
    assert f"denseface: error: {where}: cannot be read (Permission denied); the folder is left out" in printed.err
    assert code == 1 and printed.out
