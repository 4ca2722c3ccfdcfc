"""The commands of docs/walkthrough.md, from pictures to an exported model, with training cut short."""

import logging
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import train
from denseface import cli
from denseface.data.cropping import Cropper
from denseface.embedding import embedder as embedding

PAGE = (Path(__file__).parents[2] / "docs" / "walkthrough.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
SHORT = ["--max-steps", "2", "--per-batch-size", "8"]


@pytest.fixture
def _log_level():
    logger = logging.getLogger("denseface")
    level = logger.level
    yield
    logger.setLevel(level)


def run(command):
    program, *arguments = shlex.split(command)
    assert program == "python"
    if arguments[0] == "train.py":
        return train.main([*arguments[1:], *SHORT])
    assert arguments[:2] == ["-m", "denseface"]
    one_process = ["--processes", "1"] if arguments[2:4] == ["dataset", "folder"] else []
    return cli.main([*arguments[2:], *one_process])


def leave_three_of_each(people):
    for person in people.iterdir():
        for picture in sorted(person.iterdir())[3:]:
            picture.unlink()


@pytest.mark.usefixtures("configured", "_log_level")
def test_the_walkthrough_leads_to_a_model_in_production(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        assert run(command) == 0, command
        assert "error" not in capsys.readouterr().err
        if "unpack" in command:
            leave_three_of_each(tmp_path / "photos")
    for model, names in (("d15-arcface-mine", ("people.npz", "people-onnx.npz")), ("gray/d15-arcface-mine", ())):
        options = {} if names else {"image_shape": (96, 96, 1), "crop": Cropper(aligned=True)}
        saved = embedding.Embedder.load(f"models/{model}/model,2", **options)
        expected = saved.embed(sorted(map(str, Path("photos").rglob("*.jpg")))[:8])
        for name in names or ("gray.npz",):
            with np.load(name) as file:
                assert file["embeddings"].shape == (90, 128)
                assert np.abs(file["embeddings"][:8] - expected).max() < 1e-4
    pictures = [Path(name).read_bytes() for name in ("mine.png", "run.png", "roc.png")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
