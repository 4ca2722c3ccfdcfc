"""The programs of docs/embeddings.md do what it says."""

import contextlib
import http.client
import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"


def program(word):
    """Return the program with this word in it."""
    return next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in code)


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A folder with people.npz and its pictures, and a small network where the page has the demo's."""
    embedder = Embedder(tiny_model(), image_shape=TINY_SHAPE)
    monkeypatch.setattr(Embedder, "load", lambda text: embedder)
    monkeypatch.chdir(tmp_path)
    for name, picture in zip(("anna.jpg", "bert.jpg", "carl.jpg", "dora.jpg"), pictures(4)):
        Path(name).write_bytes(encode(picture))
    with Sources([Path(".")]) as sources:
        embed_all(embedder, sources, "people.npz")
    return tmp_path


def test_a_gallery_is_searched(faces, capsys):
    exec(program("require_same(embedder.describe())\nfor"), {})
    first, *_ = lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert first.startswith("anna.jpg 1.0") or first.startswith("anna.jpg 0.9999")


def test_people_of_a_gallery_are_searched(faces, capsys):
    for name in ("anna", "bert", "carl"):
        Path("people", name).mkdir(parents=True)
        Path("people", name, "1.jpg").write_bytes(Path(f"{name}.jpg").read_bytes())
    with Sources(["people"]) as sources:
        embed_all(Embedder.load("model"), sources, "people.npz")
    Path("someone.jpg").write_bytes(Path("bert.jpg").read_bytes())
    exec(program("Templates"), {})
    names, scores = zip(*(line.split() for line in capsys.readouterr().out.splitlines()))
    assert (names[0], sorted(names)) == ("bert", ["anna", "bert", "carl"])
    assert float(scores[0]) == pytest.approx(1)


def test_a_gallery_is_an_ordinary_file(faces):
    found = {}
    exec(program("np.load"), found)
    assert found["embeddings"].shape == (4, 8)
    assert found["names"].tolist() == ["anna.jpg", "bert.jpg", "carl.jpg", "dora.jpg"]
    assert found["model"]["precision"] == "float32"


def test_the_service_answers(faces):
    found = {}
    code, last, _ = program("ThreadingHTTPServer").partition("server.serve_forever()")
    assert last
    exec(code.replace("8000", "0"), found)
    server = found["server"]
    found["Search"].log_message = lambda *arguments: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(url, Path("carl.jpg").read_bytes(), timeout=30) as answer:
            assert json.load(answer)[0]["name"] == "carl.jpg"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, b"not a picture", timeout=30)
        with caught.value as refused:
            assert refused.code == 400
            assert "picture 0: " in json.load(refused)["error"]
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)) as client:
            client.putrequest("POST", "/")
            client.putheader("Transfer-Encoding", "chunked")  # a body of unknown length
            client.endheaders()
            assert client.getresponse().status == 411
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
