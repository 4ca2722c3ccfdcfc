import csv

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.galleries import clusters
from denseface.galleries.clusters import cluster
from denseface.galleries.gallery import Gallery, write_gallery

MODEL = {"sha256": "x", "engine": "mxnet", "precision": "float32", "flip": True, "image_shape": [4, 4, 3]}


@pytest.fixture
def faces(tmp_path):
    """Five people with 12, 10, 8, 6 and 4 pictures, and six people with one."""
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(11), [12, 10, 8, 6, 4, 1, 1, 1, 1, 1, 1])
    centers = normalize(random.normal(size=(11, 64)))
    rows = normalize(centers[people] + random.normal(0, 0.04, (len(people), 64))) * random.uniform(
        0.5, 2, (len(people), 1)
    )
    order = random.permutation(len(people))
    names = [str(tmp_path / f"{index:02}.png") for index in range(len(people))]
    content = rows[order].astype("<f4")
    write_gallery(tmp_path / "g.npz", [content], content.shape, names, len(names[0]), MODEL)
    return Gallery(tmp_path / "g.npz"), people[order]


def test_people_are_groups_the_largest_first(faces):
    gallery, people = faces
    found = cluster(gallery)
    assert found[people < 5].tolist() == people[people < 5].tolist()
    assert np.count_nonzero(found[people >= 5] == -1) >= 4  # HDBSCAN adds a few that are alone to a group
    assert set(cluster(gallery, 7).tolist()) == {0, 1, 2, -1}


def test_what_cannot_be_grouped_is_refused(faces, monkeypatch):
    gallery, _ = faces
    with pytest.raises(InputError, match="smallest: must be at least 2, not 1"):
        cluster(gallery, 1)
    assert (cluster(gallery, 100) == -1).all()
    monkeypatch.setattr(clusters, "MOST", 10)
    with pytest.raises(InputError, match="46 embeddings are more than 10"):
        cluster(gallery)


def test_the_command_writes_a_table_and_a_sheet(faces, tmp_path, capsys):
    gallery, _ = faces
    for name in list(gallery.names(range(20)).values()):  # the others are missing, and drawn as crossed boxes
        Image.new("RGB", (8, 8), "green").save(name)
    out, sheet = tmp_path / "groups.csv", tmp_path / "sheet.png"
    assert cli.main(["cluster", str(gallery.path), "-o", str(out), "--sheet", str(sheet)]) == 0
    groups = cluster(gallery)
    assert capsys.readouterr().out == f"{out}: 46 faces in 5 groups, {np.count_nonzero(groups < 0)} in none\n"
    with open(out, newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["group"] for row in rows] == [str(group) if group >= 0 else "" for group in groups.tolist()]
    with Image.open(sheet) as drawn:
        assert drawn.height > 5 * 112
    assert cli.main(["cluster", str(gallery.path), "-o", str(out), "--sheet", "a.jpg"]) == 1
    assert capsys.readouterr().err == "denseface: error: --sheet: a.jpg: the name must end in .png\n"
