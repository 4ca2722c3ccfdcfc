"""Every reader, with files that are damaged at random: it gives a value or an InputError of one line, and soon."""

import contextlib
import json
import math
import re
import resource
import time
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denseface.core.errors import InputError
from denseface.data.align import REFERENCE_POINTS
from denseface.data.detection import Faces
from denseface.data.landmarks import LandmarkFile, face_lines, heading, reason_line
from denseface.data.pairs import read_pairs, write_pairs
from denseface.data.pictures import decode
from denseface.data.records import FaceRecords, write_face_records
from denseface.data.template_set import read_templates
from denseface.datasets.pair_list import read_pair_list
from denseface.datasets.people import read_names
from denseface.deciding.thresholds import find_threshold
from denseface.galleries.gallery import Gallery, write_gallery
from denseface.models import checkpoint, families
from denseface.models.checkpoint import TrainingState
from denseface.models.params_file import read_arrays, write_arrays
from denseface.models.symbol_file import read_symbol
from denseface.options.names import Names
from denseface.options.networks_file import read_networks
from denseface.options.spec import BY_KEY
from denseface.verification.groups import read_groups
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_symbol

CPU_SECONDS = 5.0
GROWTH = 1 << 30
INPUTS = [200, pytest.param(10_000, marks=pytest.mark.torture)]
INTERESTING = [b"", b"\0", b"\xff", b"-1", b"0", b"nan", b"1e999", b"9" * 30, b",", b"\n", b"\t", b"\xff" * 8]
INTERESTING += [number.to_bytes(size, "little") for size in (4, 8) for number in (1, 127, (1 << 31) - 1, 1 << 31)]


@st.composite
def damaged(draw, whole):
    """A file with up to four places cut, overwritten, doubled or filled with something else."""
    return damage(draw(st.sampled_from(whole)), draw(st.randoms(use_true_random=False)))


def damage(whole, random):
    """Cut, overwrite, double or fill up to four places of a file."""
    data = bytearray(whole)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice([0, 1, 2, 4, 8, 100]))
        kind = random.randint(0, 4)
        if kind == 0 and start < len(data):
            data[start] ^= 1 << random.randint(0, 7)
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            data[start:end] = random.choice(INTERESTING)
        elif kind == 3:
            data[start:end] = [random.randint(0, 255) for _ in range(random.randint(0, 16))]
        else:
            data[start:start] = data[start:end]
    return bytes(data)


def evolved(whole, count):
    """Damaged files from a seed; what was refused for a new reason is damaged further.

    Hypothesis takes a millisecond for each of its inputs, five times what a reader takes.  These come beside them.
    """
    numbers, corpus, reasons = Random(count), list(whole), {None}
    for _ in range(count):
        data = damage(numbers.choice(whole if numbers.random() < 0.5 else corpus), numbers)
        reason = yield data
        kind = reason and re.sub(r"\W*\d+\W*|'.*'", " ", reason)[:200]
        if kind not in reasons and len(corpus) < 1000:
            reasons.add(kind)
            corpus.append(data[: 4 * len(max(whole, key=len))])


class Limits:
    """Calls of a reader, held to what it may raise, take and last."""

    def __init__(self, read):
        self.read = read
        self.count, self.refused, self.slowest = 0, 0, 0.0
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __call__(self, data):
        """Read once; give the reason where it is refused."""
        started = time.process_time()
        reason = None
        try:
            self.read(data)
        except InputError as error:
            reason = str(error)
            assert reason and reason.isprintable(), data
        except BaseException as error:
            raise AssertionError(f"{error!r} for {data!r}") from error
        self.count += 1
        self.refused += reason is not None
        self.slowest = max(self.slowest, time.process_time() - started)
        return reason

    def check(self):
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before) * 1024
        print(f"{self.count} inputs, {self.refused} refused; the slowest took {self.slowest:.2f} s; "
              f"memory grew by {grown >> 20} MiB")  # fmt: skip
        assert self.slowest < CPU_SECONDS and grown < GROWTH


def hold(strategy, read, count):
    """Give many inputs to a reader."""
    settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )(given(strategy)(lambda data: read(data) and None))()


def hold_files(whole, read, count):
    """Give a reader as many damaged files as ``count``, and a tenth of that from hypothesis."""
    read = Limits(read)
    files = evolved(whole, count)
    data = next(files)
    with contextlib.suppress(StopIteration):
        while True:
            data = files.send(read(data))
    assert read.count == count
    hold(damaged(whole), read, count // 10)
    read.check()


def records(folder, file):
    faces = [encode(picture, "JPEG") for picture in pictures(6)]
    write_face_records(folder, [(i // 2, face) for i, face in enumerate(faces)], (16, 16))
    return folder / file


def read_records(path):
    with FaceRecords(path.parent, images_filter=2) as found:
        for key in found.keys[:20].tolist():
            found.read_image(key)


def pair_list(folder):
    path = folder / "pairs.txt"
    for name in "ab":
        (folder / name).mkdir()
        for number in (1, 2):
            (folder / name / f"{name}_{number:04d}.jpg").touch()
    path.write_bytes(b"a 1 2\na 1 b 2\n\na/a_0001.jpg b/b_0001.jpg 0\n")
    return path


def landmarks(folder):
    path = folder / "landmarks.txt"
    path.write_text("a/1.jpg 38 51 73 51 56 71 41 92 70 92\na b/2.jpg 38.5 51 73 51 56 71 41 92 70 92\n")
    return path


def detected_faces(folder):
    path = folder / "faces.txt"
    faces = Faces(np.array([[1.0, 2, 90, 99]]), np.array([0.9]), REFERENCE_POINTS[None])
    lines = face_lines("a/1.jpg", faces, (112, 112)), reason_line("a b/2.jpg", "no face")
    path.write_text("".join([heading({"name": "centerface.onnx", "sha256": "0" * 64}), *lines]))
    return path


def read_landmarks(path):
    landmarks = LandmarkFile(path)
    for picture in ("a/1.jpg", "a b/2.jpg"):
        with contextlib.suppress(InputError):
            located = landmarks.locate(path.parent / picture)
            assert all(np.isfinite(array).all() for array in located.faces)


def parameters(folder):
    path = folder / "model-0001.params"
    with open(path, "wb") as file:
        write_arrays(file, {"arg:a": np.ones((2, 3), np.float32), "aux:b": np.ones(4, np.int64)})
    return path


def symbol(folder):
    path = folder / "model-symbol.json"
    path.write_text(tiny_symbol().tojson())
    return path


def state(folder):
    arrays = {name: np.ones(2, np.float32) for name in ("conv0_weight", "fc7_weight")}
    checkpoint.save(folder / "model", tiny_symbol(), TrainingState(1, arrays, {}, arrays, {"best": {}}))
    return folder / "model-0001.json"


def read_state(path):
    checkpoint.Checkpoint.newest(path.parent / "model").load()


def pairs(folder):
    write_pairs(folder / "set.bin", [encode(picture) for picture in pictures(4, (4, 4, 3))], [True, False])
    return folder / "set.bin"


def gallery(folder):
    rows = np.eye(3, 4, dtype="<f4")
    model = {"sha256": "00", "engine": "mxnet", "precision": "float32", "flip": True, "image_shape": [16, 16, 3]}
    write_gallery(folder / "out.npz", [rows], rows.shape, ["a", "bb", "c"], 2, model)
    return folder / "out.npz"


def read_gallery(path):
    found = Gallery(path)
    query = np.ones((1, found.shape[1] if found.shape[1] < 99 else 4), np.float32)
    places = found.nearest(query, 2).numbers
    found.names(places.flat)


def figures(folder):
    path = folder / "model-0001.verification.json"
    point = {"threshold": 0.25, "fmr": 0.1, "fmr_interval": [0.0, 0.4]}
    way = {"n_genuine": 10, "n_impostor": 10, "threshold": 0.25, "operating_points": {"0.1": point}}
    ways = {"flip": way, "plain": way}
    path.write_text(json.dumps({"model": {"sha256": "0"}, "sets": {"orl": ways, "lfw": ways}}))
    return path


def read_figures(path):
    mark = {"prefix": "model", "epoch": 1, "sha256": "0"}
    model = SimpleNamespace(metrics_path=path, metrics={}, fingerprint=mark, name="model,1")
    threshold = find_threshold(SimpleNamespace(model=model, flip=True)).value
    assert -math.inf < threshold < math.inf


def network_file(folder):
    path = folder / "networks.json"
    path.write_text(json.dumps({"w": {"net_name": "fdensenet", "num_layers": 63, "net_blocks": [1, 2], "bn_mom": 0.5}}))
    return path


def written(name, text):
    """What makes a file of this name, in folders of its own, below a folder."""

    def make(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return make


def templates(folder):
    written("meta/x_name_5pts_score.txt", "".join(f"{n}.jpg 1 2 3 4 5 6 7 8 9 10 0.9\n" for n in range(4)))(folder)
    written("meta/x_template_pair_label.txt", "1 2 1\n1 3 0\n")(folder)
    return written("meta/x_face_tid_mid.txt", "0.jpg 1 1\n1.jpg 1 2\n2.jpg 2 3\n3.jpg 3 4\n")(folder)


READERS = {
    "records": (lambda folder: records(folder, "train.rec"), read_records),
    "index": (lambda folder: records(folder, "train.idx"), read_records),
    "property": (lambda folder: records(folder, "property"), read_records),
    "pairs": (pairs, read_pairs),
    "parameters": (parameters, read_arrays),
    "symbol": (symbol, read_symbol),
    "manifest": (state, read_state),
    "pair list": (pair_list, lambda path: read_pair_list(path, path.parent)),
    "landmarks": (landmarks, read_landmarks),
    "detected faces": (detected_faces, read_landmarks),
    "gallery": (gallery, read_gallery),
    "figures": (figures, read_figures),
    "networks": (network_file, read_networks),
    "people": (written("a.txt", "3\nanna/ 3\nbo*\n\ncarl\n"), lambda path: read_names(path, ["anna", "bob", "carl"])),
    "groups": (written("a.csv", 'person,sex\nanna,f\n"bo,b",m\n'), read_groups),
    "templates": (templates, lambda path: read_templates(path.parent.parent)),
}


@pytest.mark.parametrize("count", INPUTS)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_an_input_error_of_one_line(tmp_path, name, count):
    make, read = READERS[name]
    path = make(tmp_path)

    def read_damaged(data):
        path.write_bytes(data)
        read(path)

    hold_files([path.read_bytes()], read_damaged, count)


@pytest.mark.parametrize("count", INPUTS)
@pytest.mark.parametrize("upright", [False, True])
def test_a_damaged_picture_is_an_input_error_of_one_line(upright, count):
    kinds = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
    whole = [encode(picture, kind) for kind, picture in zip(kinds, pictures(len(kinds)))]
    hold_files(whole, lambda data: decode(data, TINY_SHAPE, upright=upright), count)


@pytest.mark.parametrize("count", INPUTS)
def test_anything_after_set_is_an_input_error_of_one_line(configured, count):
    keys = sorted(BY_KEY)
    numbers = st.one_of(st.integers(), st.floats()).map(str)
    values = st.one_of(st.text(), numbers, st.lists(numbers, max_size=4).map(",".join), st.sampled_from(["9" * 5000]))
    assignments = st.one_of(st.text(), st.builds("{}={}".format, st.sampled_from(keys), values))
    read = Limits(lambda text: families.configure(Names("d63", "orl", "arcface"), [text]))
    hold(assignments, read, count)
    read.check()
