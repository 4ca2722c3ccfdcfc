import hashlib
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.core.errors import InputError
from denseface.core.vectors import similarity
from denseface.data.align import REFERENCE_POINTS
from denseface.data.cropping import Cropper, Detector, LandmarkFile
from denseface.data.sources import Sources
from denseface.embedding.bulk import embed_all
from denseface.embedding.embedder import Embedder
from support.tiny_models import as_ndarrays, encode, tiny_model

import mxnet as mx

SIZE = 32
SHAPE = (SIZE, SIZE, 3)
POINTS = REFERENCE_POINTS * (SIZE / 112)


def face(seed):
    """A smooth picture of the network's size."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def photo(seed, left=20, top=9):
    """The face on its side, its top to the left, in a larger picture; and its landmarks there."""
    picture = np.full((60, 80, 3), 100, np.uint8)
    picture[top : top + SIZE, left : left + SIZE] = np.rot90(face(seed))
    return picture, np.column_stack([left + POINTS[:, 1], top + SIZE - 1 - POINTS[:, 0]])


def as_line(name, points):
    return f"{name} {' '.join(str(value) for value in points.ravel())}\n"


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model(SHAPE), image_shape=SHAPE)


@pytest.fixture
def model(tmp_path):
    tiny = tiny_model(SHAPE)
    mx.model.save_checkpoint(str(tmp_path / "tiny"), 1, tiny.symbol, *as_ndarrays(tiny))
    return ("--model", f"{tmp_path}/tiny,1", "--image-size", f"{SIZE},{SIZE}")


@pytest.fixture
def photos(tmp_path):
    """Three pictures in folders, and landmarks of the first two."""
    lines = ""
    for seed, name in enumerate(("p/a.png", "p/b.png", "c.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture, points = photo(seed, left=20 + seed)
        path.write_bytes(encode(picture))
        lines += "" if name == "c.png" else as_line(name, points)
    (tmp_path / "landmarks.txt").write_text(lines)
    return tmp_path / "photos"


class StubModel:
    """What insightface's get_model gives, with faces of the test's choice."""

    taskname = "detection"
    use_kps = True

    def __init__(self, faces):
        self.faces = faces
        self.seen = []
        self.context = None

    def prepare(self, ctx_id):
        self.context = ctx_id

    def detect(self, picture):
        self.seen.append(picture)
        boxes = np.array([[*box, 0.9] for box, _ in self.faces], np.float32).reshape(-1, 5)
        return boxes, np.array([points for _, points in self.faces]).reshape(-1, 5, 2)


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Put a package insightface there whose models find these faces, and a detector file in the pack buffalo_l."""

    def install(*faces, get_model=None):
        stub = StubModel(faces)
        zoo = SimpleNamespace(get_model=get_model or (lambda path, providers: stub))
        monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace(model_zoo=zoo))
        monkeypatch.setenv("HOME", str(tmp_path))
        pack = tmp_path / ".insightface" / "models" / "buffalo_l"
        pack.mkdir(parents=True)
        for name in ("det_10g.onnx", "w600k_r50.onnx"):
            (pack / name).write_bytes(name.encode())
        return stub

    return install


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def test_a_face_on_its_side_is_cropped_upright(photos, tmp_path):
    crop = Cropper(LandmarkFile(tmp_path / "landmarks.txt", photos), SHAPE)
    made = crop(f"{photos}/p/b.png", (photos / "p" / "b.png").read_bytes())
    assert (made.shape, made.dtype) == (SHAPE, np.uint8)
    np.testing.assert_allclose(made.astype(int), face(1), atol=1)


def test_landmarks_count_in_the_upright_picture(tmp_path):
    picture, points = photo(0)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    Image.fromarray(picture[::-1, ::-1]).save(buffer, "PNG", exif=exif)
    (tmp_path / "landmarks.txt").write_text(as_line("a.png", points))
    made = Cropper(LandmarkFile(tmp_path / "landmarks.txt"), SHAPE)("a.png", buffer.getvalue())
    np.testing.assert_allclose(made.astype(int), face(0), atol=1)


def test_embed_by_landmarks(capsys, caplog, model, photos, tmp_path, embedder):
    landmarks, out_path = tmp_path / "landmarks.txt", tmp_path / "out.npz"
    code, out, _ = run(capsys, "embed", photos, *model, "--landmarks", landmarks, "-o", out_path)
    assert (code, out) == (1, f"{out_path}: 2 embeddings of 8 values, 1 picture skipped\n")
    assert f"skipped: {photos}/c.png: it has no landmarks" in caplog.text
    with np.load(out_path) as file:
        assert file["names"].tolist() == [f"{photos}/p/a.png", f"{photos}/p/b.png"]
        assert (np.diag(similarity(file["embeddings"], embedder.embed([face(0), face(1)]))) > 0.999).all()
        crop = json.loads(str(file["model"]))["crop"]
    assert crop == {"landmarks": "landmarks.txt", "sha256": hashlib.sha256(landmarks.read_bytes()).hexdigest()}


def test_a_list_names_pictures_below_its_folder(capsys, model, photos, tmp_path):
    (photos / "list.txt").write_text("p/b.png\n./p/a.png\n")
    landmarks = tmp_path / "landmarks.txt"
    command = ("embed", photos / "list.txt", *model, "--landmarks", landmarks, "-o", tmp_path / "out.npz")
    assert run(capsys, *command)[0] == 0
    code, _, err = run(capsys, "embed", photos, tmp_path, *command[2:])
    assert (code, err) == (1, "denseface: error: --landmarks: its paths are relative to one PATH; give one\n")


def test_another_crop_takes_nothing_over(photos, tmp_path, embedder):
    _, points = photo(0)
    out = tmp_path / "out.npz"

    def embed(crop, on_progress=lambda done: None):
        with Sources([photos / "p"]) as sources:
            return embed_all(embedder, sources, out, crop=crop, on_progress=on_progress)

    def interrupt(done):
        raise KeyboardInterrupt

    crops = []
    for number in range(2):
        path = tmp_path / f"{number}.txt"
        path.write_text(as_line("a.png", points + number) + as_line("b.png", points))
        crops.append(Cropper(LandmarkFile(path, photos / "p"), SHAPE))
    for crop, taken_over in ((crops[0], 2), (crops[1], 0), (None, 0)):
        with pytest.raises(KeyboardInterrupt):
            embed(crops[0], interrupt)
        assert embed(crop).taken_over == taken_over


def test_the_largest_face_is_taken(install):
    picture, points = photo(0)
    model = install(((0, 0, 9, 9), points + 3), ((20, 9, 52, 41), points), ((0, 0, 60, 4), points - 2))
    crop = Cropper(Detector(), SHAPE)
    np.testing.assert_allclose(crop("a.png", encode(picture)).astype(int), face(0), atol=1)
    np.testing.assert_array_equal(model.seen[0], picture[:, :, ::-1])
    assert model.context == -1
    assert crop.description == {"detector": "det_10g.onnx", "sha256": hashlib.sha256(b"det_10g.onnx").hexdigest()}


def test_embed_match_and_search_detect(capsys, caplog, model, photos, tmp_path, install):
    _, points = photo(0)
    stub = install(((20, 9, 52, 41), points))
    code, _, _ = run(capsys, "embed", photos / "p" / "a.png", *model, "--detect", "-o", tmp_path / "out.npz")
    assert code == 0
    (tmp_path / "upright.png").write_bytes(encode(face(0)))
    command = ("search", tmp_path / "out.npz", photos / "p" / "a.png", *model, "--json")
    assert json.loads(run(capsys, *command, "--detect")[1])[0]["found"][0]["score"] == pytest.approx(1)
    code, _, err = run(capsys, *command)
    assert code == 1
    assert "out.npz: its faces were cut out of larger pictures; do the same" in err
    pair = (photos / "p" / "a.png", photos / "p" / "b.png")
    scores = [
        json.loads(run(capsys, "match", *pair, *model, "--threshold", "0", "--json", *options)[1])["score"]
        for options in (["--detect"], [])
    ]
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
    stub.faces = ()
    code, _, err = run(capsys, "match", *pair, *model, "--threshold", "0", "--detect")
    assert (code, err) == (1, f"denseface: error: {pair[0]}: no face is found in it\n")
    code, _, _ = run(capsys, "embed", photos, *model, "--detect", "-o", tmp_path / "none.npz")
    assert code == 1
    assert f"skipped: {photos}/c.png: no face is found in it" in caplog.text


def test_match_by_landmarks_takes_paths_as_typed(capsys, model, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    command = ("match", "p/a.png", "./p/a.png", *model, "--threshold", "0.9")
    code, out, _ = run(capsys, *command, "--landmarks", tmp_path / "landmarks.txt")
    assert (code, out) == (0, "same person: score 1.0000, threshold 0.9000 (--threshold)\n")


def test_what_the_detector_fails_at_is_no_traceback(install):
    stub = install()
    stub.detect = raising(ValueError("resize"))
    with pytest.raises(InputError, match="the detector cannot take a picture of this shape"):
        Detector()("a.png", photo(0)[0])


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(InputError, match=r"needs the package insightface: pip install insightface"):
        Detector()


def test_without_the_detector_it_says_where_to_put_it(install, tmp_path):
    install()
    with pytest.raises(InputError, match=r"there is no det_.*put insightface's model pack antelopev2"):
        Detector("antelopev2")
    with pytest.raises(InputError, match=r"absent\.onnx: it cannot be read"):
        Detector(str(tmp_path / "absent.onnx"))


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


@pytest.mark.parametrize(
    ("get_model", "message"),
    [
        (raising(RuntimeError("protobuf")), r"det_10g\.onnx: insightface cannot load it"),
        (lambda path, providers: None, r"det_10g\.onnx: it is no face detector"),
        (lambda path, providers: SimpleNamespace(taskname="recognition"), r"det_10g\.onnx: it is no face detector"),
        (
            lambda path, providers: SimpleNamespace(taskname="detection", use_kps=False),
            r"det_10g\.onnx: it is no face detector",
        ),
    ],
)
def test_what_is_no_detector_is_refused(install, get_model, message):
    install(get_model=get_model)
    with pytest.raises(InputError, match=message):
        Detector()


def test_faces_are_squares(tmp_path):
    (tmp_path / "landmarks.txt").write_text("")
    with pytest.raises(InputError, match="pictures of 112 x 96; faces are only cropped to squares"):
        Cropper(LandmarkFile(tmp_path / "landmarks.txt"), (112, 96, 3))


def test_a_detector_needs_detect(capsys, model, photos, tmp_path):
    code, _, err = run(capsys, "embed", photos, *model, "--detector", "buffalo_s", "-o", tmp_path / "out.npz")
    assert (code, err) == (1, "denseface: error: --detector says what --detect finds faces with; give both\n")
