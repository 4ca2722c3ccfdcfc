import csv

import numpy as np
import pytest
from PIL import Image

from denseface import cli
from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.galleries import clusters
from denseface.galleries.clusters import cluster
from support.galleries import made
from support.refusals import refused

SIZE = 128


def alike(random, count, similarity, size=SIZE):
    """Embeddings of one person whose mean similarity to each other is about this."""
    return similarity**0.5 * normalize(random.normal(size=(1, size))) + (1 - similarity) ** 0.5 * normalize(
        random.normal(size=(count, size))
    )


def grouped(tmp_path, rows, names=None, threshold=0.5, **options):
    names = names or [f"{number}.jpg" for number in range(len(rows))]
    return cluster(made(tmp_path / "g.npz", names, rows), threshold, **options).tolist()


def by_trying_all(rows, threshold):
    """Average linkage: merge the two most similar groups again and again."""
    groups, scores = [[row] for row in range(len(rows))], normalize(rows) @ normalize(rows).T
    while len(groups) > 1:
        means = [
            (scores[np.ix_(one, other)].mean(), i, j)
            for j, other in enumerate(groups)
            for i, one in enumerate(groups[:j])
        ]
        best, one, other = max(means)
        if best < threshold:
            break
        groups[one] += groups.pop(other)
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("cells", [1 << 22, 100])
def test_groups_are_those_of_average_linkage(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(clusters, "_SCORES", cells)
    random = np.random.default_rng(0)
    rows = np.concatenate([alike(random, count, 0.5, 12) for count in (9, 7, 5, 3, 2, 1, 1)]) * 3
    rows = rows[random.permutation(len(rows))]
    for threshold in (0.2, 0.4, 0.6):
        labels = np.array(grouped(tmp_path, rows, threshold=threshold, smallest=2))
        found = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels[labels >= 0].tolist())}
        assert found == {group for group in by_trying_all(rows, threshold) if len(group) > 1}
        sizes = np.bincount(labels[labels >= 0])
        assert sizes.tolist() == sorted(sizes, reverse=True)


def test_copies_of_one_picture_are_one_group(tmp_path):
    assert grouped(tmp_path, np.tile(np.random.default_rng(0).normal(size=(1, SIZE)), (8, 1))) == [0] * 8


def test_one_person_among_strangers_is_one_group(tmp_path):
    random = np.random.default_rng(0)
    rows = np.concatenate([alike(random, 20, 0.7), random.normal(size=(20, SIZE))])
    assert grouped(tmp_path, rows) == [0] * 20 + [-1] * 20


def test_people_with_copies_are_not_split(tmp_path):
    random = np.random.default_rng(0)
    people = [alike(random, 10, 0.7) for _ in range(30)]
    rows = np.concatenate([np.concatenate([person, person[:1], person[:1]]) for person in people])
    labels = np.array(grouped(tmp_path, rows)).reshape(30, 12)
    assert (labels == labels[:, :1]).all() and sorted(labels[:, 0]) == list(range(30))


def test_copies_weigh_as_much_as_one(tmp_path):
    """The third is like the first two with 0.525 on average; with 0.36, if the second counted fifty times."""
    rows = np.linalg.cholesky([[1, 0.9, 0.7], [0.9, 1, 0.35], [0.7, 0.35, 1]])
    assert grouped(tmp_path, rows) == [0] * 3
    assert grouped(tmp_path, np.concatenate([rows, np.tile(rows[1], (49, 1))])) == [0] * 52


def test_two_faces_of_one_photograph_are_two_people(tmp_path):
    random = np.random.default_rng(0)
    rows = alike(random, 8, 0.9)
    names = ["group.jpg#1", "group.jpg#2", "twins/#1", *[f"{number}.jpg" for number in range(5)]]
    labels = grouped(tmp_path, rows, names, smallest=2)
    assert labels[0] != labels[1] and set(labels[2:]) <= {0, labels[0], labels[1]}
    assert grouped(tmp_path, rows, names, same_picture=True) == [0] * 8
    photograph = [f"photo.jpg#{number}" for number in range(8)]
    assert grouped(tmp_path, rows, photograph, smallest=2) == [-1] * 8


def test_many_photographs_of_two_people_are_two_groups(tmp_path):
    """Siblings: alike enough to be one person, were they not seen side by side."""
    random = np.random.default_rng(0)
    one, other = (alike(random, 1, 0.0)[0] for _ in range(2))
    base = 3 * alike(random, 1, 0.0)[0]
    rows = [base + face + 0.3 * normalize(random.normal(size=(1, SIZE)))[0] for _ in range(6) for face in (one, other)]
    names = [f"{number // 2}.jpg#{number % 2 + 1}" for number in range(12)]
    labels = np.array(grouped(tmp_path, rows, names))
    assert set(labels[::2]) == {labels[0]} != set(labels[1::2]) == {labels[1]}
    assert grouped(tmp_path, rows, names, same_picture=True) == [0] * 12


def test_what_cannot_be_grouped_is_refused(tmp_path, monkeypatch):
    gallery = made(tmp_path / "g.npz", ["a", "b"], np.eye(2))
    for options, option in (({"smallest": 1}, "smallest"), ({"threshold": 1.5}, "threshold")):
        with pytest.raises(InputError) as caught:
            cluster(gallery, **options)
        assert caught.value.option == option
    assert cluster(gallery).tolist() == [-1, -1]
    monkeypatch.setattr(clusters, "MOST", 1)
    with refused(2, 1, path=gallery.path):
        cluster(gallery)


def test_the_command_writes_a_table_and_a_sheet(tmp_path, capsys):
    random = np.random.default_rng(0)
    rows = np.concatenate([alike(random, count, 0.8) for count in (5, 4, 1)])
    # A name that is not UTF-8, and one that no file has.
    names = [*(str(tmp_path / f"{number}.png") for number in range(8)), str(tmp_path / "\udcff.png"), "\ud800"]
    gallery = made(tmp_path / "g.npz", names, rows)
    for name in names[:6]:  # the others are missing, and drawn as crossed boxes
        Image.new("RGB", (8, 8), "green").save(name)
    out, sheet = tmp_path / "groups.csv", tmp_path / "sheet.png"
    command = ["cluster", str(gallery.path), "-o", str(out), "--sheet", str(sheet), "--threshold", "0.6"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"{out}: 10 faces in 2 groups, 1 in none; threshold 0.6000\n"
    with open(out, newline="", encoding="utf-8", errors="surrogateescape") as table:
        assert [(row["picture"], row["group"]) for row in csv.DictReader(table)] == [
            *zip(names[:9], ["0"] * 5 + ["1"] * 4), (r"\ud800", ""),
        ]  # fmt: skip
    with Image.open(sheet) as drawn:
        assert drawn.height > 2 * 112
    assert cli.main([*command[:-1], "0.9999"]) == 0
    assert "0 groups" in capsys.readouterr().out
    with Image.open(sheet) as drawn:
        assert drawn.height < 2 * 112  # not that of the groups before
    assert cli.main([*command[:4], "--sheet", "a.jpg"]) == 1
    assert capsys.readouterr().err == "denseface: error: --sheet: a.jpg: the name must end in .png\n"
    assert cli.main([*command[:4], "--far", "1e-3"]) == 1
    assert capsys.readouterr().err.startswith("denseface: error: --far: ")
