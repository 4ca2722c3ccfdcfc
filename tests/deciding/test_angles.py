"""Pictures that a run finds far from the center of their class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.data.pairs import write_pairs
from denseface.data.records import FaceRecords, write_face_records
from denseface.deciding.angles import angles_to_dominant, measure_angles
from denseface.embedding.embedder import Embedder
from denseface.models import checkpoint
from support import class_losses
from support.refusals import refused
from support.tiny_models import encode, pictures
from support.tiny_runs import SIZE, make_run

SUBCENTER = {"loss": class_losses.margin_softmax, "margins": {"s": 8, "m2": 0.2, "k": 2}}


@pytest.fixture
def run(records, tmp_path):
    """The prefix of a run with two centers per class."""
    assert make_run(records, tmp_path / "model", **SUBCENTER).fit()
    (tmp_path / "model-config.json").write_text(json.dumps({"config": {"image_shape": [SIZE, SIZE, 3]}}))
    return str(tmp_path / "model")


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def audited(folder, tmp_path, run, *options):
    """Exit code of an audit by angles to `audit`, applied to `out`."""
    arguments = [
        "dataset",
        "audit",
        folder,
        "-o",
        tmp_path / "audit",
        "--run",
        run,
        "--apply",
        tmp_path / "out",
        *options,
    ]
    return cli.main([*map(str, arguments)])


def test_angles_are_those_to_the_center_that_most_faces_are_nearest_to():
    centers = np.array([[[2.0, 0, 0], [0, 3, 0]], [[0, 0, 1], [0, 1, 1]]])
    degrees = np.radians([80, 85, 90, 10])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees), 0 * degrees], axis=1)
    embeddings = np.concatenate([5 * embeddings, [[0, 0, 1], [0, -1, 0], [0, 0, 0]]])
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    expected = [10, 5, 0, 80, 0, 90, 90]
    np.testing.assert_allclose(angles_to_dominant(embeddings, labels, centers), expected, atol=1e-5)
    alone = centers[:, :1]
    np.testing.assert_allclose(angles_to_dominant(embeddings, labels, alone)[:4], [80, 85, 90, 10], atol=1e-5)


def test_a_run_measures_its_pictures_as_they_are(records, run):
    found = measure_angles(run, records)
    assert list(found) == records.keys.tolist()
    centers = checkpoint.Checkpoint.newest(run).load().arguments["fc7_weight"]
    read = [records.read_image(key) for key in found]
    embedder = Embedder.load(run, image_shape=(SIZE, SIZE, 3), flip=False)
    labels = np.array([label for label, _ in read])
    expected = angles_to_dominant(embedder.embed([payload for _, payload in read]), labels, centers)
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-3)


def test_the_command_drops_what_is_far_and_lists_it(records, run, tmp_path, capsys):
    found = measure_angles(run, records)
    limit = float(np.median(list(found.values())))
    write_pairs(Path(records.folder, "lfw.bin"), [encode(face) for face in pictures(4)], [True, False])
    assert audited(records.folder, tmp_path, run, "--angle", limit) == 0
    output = capsys.readouterr().out
    assert f"{tmp_path}/out: 9 pictures, 9 left out" in output
    assert (tmp_path / "out" / "lfw.bin").read_bytes() == Path(records.folder, "lfw.bin").read_bytes()
    heading, *rows = read_table(tmp_path / "audit" / "suspects.csv")
    assert heading == ["picture", "kind", "angle", "reason"]
    assert [row[1:] for row in rows] == [
        ["far from its person", f"{found[int(row[0].rpartition('/')[2])]:.2f}", "far from the dominant center"]
        for row in rows
    ]
    with Image.open(tmp_path / "audit" / "suspects.png") as sheet:
        assert sheet.format == "PNG"
    heading, *rows = read_table(tmp_path / "out" / "dropped.csv")
    assert heading == ["key", "label", "angle", "reason", "file"]
    far = [key for key, angle in found.items() if angle > limit]
    assert [int(row[0]) for row in rows] == far
    for key, label, angle, reason, file in rows:
        assert int(label) == records.read_image(int(key))[0] and float(angle) == pytest.approx(
            found[int(key)], abs=0.01
        )
        assert (reason, file) == ("far from the dominant center", "")
    with FaceRecords(tmp_path / "out") as kept:
        payloads = [kept.read_image(key) for key in kept.keys]
    expected = [records.read_image(key) for key in records.keys if key not in far]
    assert [payload for _, payload in payloads] == [payload for _, payload in expected]
    assert [label for label, _ in payloads] == np.unique([label for label, _ in expected], return_inverse=True)[
        1
    ].tolist()


def test_a_picture_that_cannot_be_read_is_dropped_with_the_reason(run, tmp_path, capsys):
    faces = [encode(face) for face in pictures(6, (SIZE, SIZE, 3))]
    faces[2] = b"not a picture"
    write_face_records(tmp_path / "set", [(n // 2, face) for n, face in enumerate(faces)], (SIZE, SIZE))
    assert audited(tmp_path / "set", tmp_path, run, "--angle", 180) == 0
    assert "5 pictures, 1 left out" in capsys.readouterr().out
    (row,) = read_table(tmp_path / "out" / "dropped.csv")[1:]
    assert row[:3] == ["3", "1", ""] and "not a JPEG" in row[3]


def test_only_a_run_on_the_set_can_measure_it(records, run, tmp_path):
    with refused("class centers", path=f"{tmp_path}/none", option="run"):
        measure_angles(f"{tmp_path}/none", records)
    write_face_records(tmp_path / "set", [(n, encode(face)) for n, face in enumerate(pictures(2))])
    with (
        FaceRecords(tmp_path / "set") as other,
        refused("3 classes", tmp_path / "set", path=run, option="run"),
    ):
        measure_angles(run, other)
    config = tmp_path / "model-config.json"
    for content in ("{}", "[", '{"config": {"image_shape": [8, 8, 2]}}', '{"config": {"image_shape": [1e400, 8, 3]}}'):
        config.write_text(content)
        with refused("image_shape", path=config):
            measure_angles(run, records)


def test_a_run_measures_its_own_pictures_only(records, run, tmp_path, capsys):
    (tmp_path / "people" / "anna").mkdir(parents=True)
    (tmp_path / "people" / "anna" / "1.png").write_bytes(encode(pictures(1)[0]))
    assert audited(tmp_path / "people", tmp_path, run) == 1
    assert "--run: " in capsys.readouterr().err
    assert audited(records.folder, tmp_path, run, "--held-out", "lfw.bin") == 1
    assert "--held-out: " in capsys.readouterr().err
    assert cli.main(["dataset", "audit", str(records.folder), "-o", str(tmp_path / "audit")]) == 1
    assert "--model: " in capsys.readouterr().err
