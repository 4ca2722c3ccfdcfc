"""A training set without the pictures that a run finds far from the center of their class."""

import csv
import json

import numpy as np
import pytest

from denseface import cli
from denseface.core.errors import InputError
from denseface.data.records import FaceRecords, write_face_records
from denseface.datasets.drop import write_without
from denseface.datasets.manifest import read_manifest, write_manifest
from denseface.embedding.embedder import Embedder
from denseface.models import checkpoint, losses
from denseface.training.subcenters import angles_to_dominant, measure_angles
from support.tiny_models import encode, pictures
from support.tiny_runs import SIZE, make_run

SUBCENTER = {"loss": losses.margin_softmax, "margins": {"s": 8, "m2": 0.2, "k": 2}}


@pytest.fixture
def run(records, tmp_path):
    """The prefix of a run with two centers per class."""
    assert make_run(records, tmp_path / "model", **SUBCENTER).fit()
    (tmp_path / "model-config.json").write_text(json.dumps({"config": {"image_shape": [SIZE, SIZE, 3]}}))
    return str(tmp_path / "model")


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


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
    arguments = ["dataset", "drop", str(records.folder), str(tmp_path / "out"), "--run", run, "--angle", str(limit)]
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert f"{tmp_path}/out: 9 pictures of " in output and f"{tmp_path}/out/dropped.csv: 9 pictures dropped" in output
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


def test_people_without_pictures_lose_their_label_and_others_keep_their_files(tmp_path):
    write_face_records(tmp_path / "set", [(n // 2, encode(face)) for n, face in enumerate(pictures(6))])
    with write_manifest(tmp_path / "set") as manifest:
        manifest.writerows((n + 1, n // 2, f"p{n // 2}", f"{n}.png") for n in range(6))
    with FaceRecords(tmp_path / "set") as records:
        made = write_without(records, {1: ("80.00", "far"), 3: ("", "broken"), 4: ("90.00", "far")}, tmp_path / "out")
        assert made == (3, 2, 1)
        with pytest.raises(InputError, match=r"set: no picture would be left"):
            write_without(records, dict.fromkeys(range(1, 7), ("", "")), tmp_path / "none")
    with FaceRecords(tmp_path / "out") as kept:
        assert kept.num_classes == 2
        assert [kept.read_image(key) for key in kept.keys] == [
            (label, encode(pictures(6)[n])) for label, n in ((0, 1), (1, 4), (1, 5))
        ]
        assert [entry[1:] for entry in read_manifest(tmp_path / "out", kept.keys).values()] == [
            ("p0", "1.png"), ("p2", "4.png"), ("p2", "5.png")
        ]  # fmt: skip
    assert read_table(tmp_path / "out" / "dropped.csv")[1:] == [
        ["1", "0", "80.00", "far", "0.png"], ["3", "1", "", "broken", "2.png"], ["4", "1", "90.00", "far", "3.png"],
    ]  # fmt: skip


def test_a_picture_that_cannot_be_read_is_dropped_with_the_reason(run, tmp_path, capsys):
    faces = [encode(face) for face in pictures(6, (SIZE, SIZE, 3))]
    faces[2] = b"not a picture"
    write_face_records(tmp_path / "set", [(n // 2, face) for n, face in enumerate(faces)], (SIZE, SIZE))
    arguments = ["dataset", "drop", str(tmp_path / "set"), str(tmp_path / "out"), "--run", run, "--angle", "180"]
    assert cli.main(arguments) == 0
    assert "5 pictures of 3 people" in capsys.readouterr().out
    (row,) = read_table(tmp_path / "out" / "dropped.csv")[1:]
    assert row[:3] == ["3", "1", ""] and "not a JPEG" in row[3]


def test_only_a_run_on_the_set_can_measure_it(records, run, tmp_path):
    with pytest.raises(InputError, match=r"run: .*none: a run with class centers is needed"):
        measure_angles(f"{tmp_path}/none", records)
    write_face_records(tmp_path / "set", [(n, encode(face)) for n, face in enumerate(pictures(2))])
    with (
        FaceRecords(tmp_path / "set") as other,
        pytest.raises(InputError, match=r"centers of 3 classes, and .*set has 2"),
    ):
        measure_angles(run, other)
    config = tmp_path / "model-config.json"
    for content in ("{}", "[", '{"config": {"image_shape": [8, 8, 2]}}', '{"config": {"image_shape": [1e400, 8, 3]}}'):
        config.write_text(content)
        with pytest.raises(InputError, match=r"model-config.json: its image_shape is not that of a run"):
            measure_angles(run, records)
