"""People found by their templates, against a plain computation of all similarities."""

import tracemalloc

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.galleries.people import FUSIONS, PeopleFolders, Templates, compare
from support.galleries import made
from support.refusals import refused


def named(sizes):
    return [f"all/p{person:03}/{number}.png" for person, size in enumerate(sizes) for number in range(size)]


def blocks_of(monkeypatch, cells):
    for module in ("galleries.gallery", "galleries.people"):
        monkeypatch.setattr(f"denseface.{module}._CELLS", cells)
    monkeypatch.setattr("denseface.galleries.nearest._CELLS", 100)
    monkeypatch.setattr("denseface.galleries.nearest._SCORES", 50)
    monkeypatch.setattr("denseface.galleries.nearest._GROUP", 3)


def plainly(sizes, rows, queries, fusion, count):
    """The nearest people and their scores, from all similarities."""
    units, ends = normalize(rows), np.cumsum(sizes)
    people = [units[end - size : end] for size, end in zip(sizes, ends)]
    if fusion == "mean":
        means = normalize(np.stack([person.mean(axis=0) for person in people]))
        scores = normalize(queries) @ means.T
    else:
        scores = np.stack([(normalize(queries) @ person.T).max(axis=1) for person in people], axis=1)
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(scores, order, 1)


KINDS = {
    "few pictures": [1, 3, 2, 5, 1, 1, 4, 2, 3, 1] * 3,
    "one picture": [1] * 40,
    "one of many": [2, 1, 50, 3, 1, 1],
    "one person": [30],
}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_people_are_found_as_by_all_similarities(tmp_path, monkeypatch, fusion, kind):
    random, sizes = np.random.default_rng(0), KINDS[kind]
    rows = (random.normal(size=(sum(sizes), 6)) * 10 ** random.uniform(-3, 3, (sum(sizes), 1))).astype(np.float32)
    queries = 5 * random.normal(size=(7, 6))
    gallery, found = made(tmp_path / "g.npz", named(sizes), rows), {}
    for cells in (1 << 20, 60, 6):  # blocks of all pictures, of ten, and of one
        blocks_of(monkeypatch, cells)
        templates = Templates(gallery, fusion)
        for count in (1, 4, 200):
            numbers, scores, _ = found[cells, count] = templates.nearest(queries, count)
            expected, expected_scores = plainly(sizes, rows, queries, fusion, count)
            np.testing.assert_array_equal(numbers, expected)
            np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=2e-7)
            np.testing.assert_array_equal(numbers, found[1 << 20, count][0])
            np.testing.assert_array_equal(scores, found[1 << 20, count][1])  # bit by bit
        alone = [templates.nearest(query[None], 4)[1] for query in queries]
        np.testing.assert_array_equal(np.concatenate(alone), found[cells, 4][1])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("cells", [1 << 20, 18])
def test_equal_people_come_in_the_order_of_the_file(tmp_path, monkeypatch, fusion, cells):
    blocks_of(monkeypatch, cells)
    rows = np.tile(np.random.default_rng(1).normal(size=(4, 6)), (9, 1))
    templates = Templates(made(tmp_path / "g.npz", named([4] * 9), rows), fusion)
    numbers, scores, _ = templates.nearest(rows[:2], 5)
    assert numbers.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert len(np.unique(scores[0])) == len(np.unique(scores[1])) == 1


@pytest.fixture
def odd_picture(tmp_path):
    """Anna looks like the query; one picture of Bert's does even more, and his others do not at all."""
    names = ["all/anna/1.png", "all/anna/2.png", "all/bert/1.png", "all/bert/2.png", "all/bert/3.png", "all/carl/1.png"]
    rows = [[0.9, 0.3, 0], [0.9, -0.3, 0], [1, 0.05, 0], [-1, 0.5, 0], [-1, 0, 0.5], [0, 0, 1]]
    return made(tmp_path / "g.npz", names, rows)


def test_a_person_is_another_answer_than_a_picture(odd_picture):
    query = np.array([1.0, 0, 0])
    pictures = [match.name for match in odd_picture.search(query, 3)[0]]
    assert pictures == ["all/bert/1.png", "all/anna/1.png", "all/anna/2.png"]
    mean, highest = (Templates(odd_picture, fusion).search(query, 3)[0] for fusion in FUSIONS)
    # The mean of Anna's pictures is the query itself, and that of Bert's turns away from it.
    assert [match.name for match in mean] == ["anna", "carl", "bert"]
    assert [match.score for match in mean][:2] == [pytest.approx(1), pytest.approx(0, abs=1e-6)]
    assert [match.name for match in highest] == ["bert", "anna", "carl"]
    assert highest[1].score == pytest.approx(0.9 / np.sqrt(0.9))
    assert Templates(odd_picture).search(query[None], 1) == [mean[:1]]


def test_pictures_that_cancel_out_are_like_nobody(tmp_path):
    gallery = made(tmp_path / "g.npz", named([2, 1]), [[1, 0], [-1, 0], [-1, 0]])
    assert [match.score for match in Templates(gallery).search(np.array([1.0, 0]))[0]] == [0, -1]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_memory_grows_neither_with_the_gallery_nor_with_a_person(tmp_path, monkeypatch, fusion):
    for module in ("galleries.gallery", "galleries.nearest", "galleries.people"):
        monkeypatch.setattr(f"denseface.{module}._CELLS", 1 << 12)
    rows = np.random.default_rng(2).normal(size=(40_000, 32))  # 5 MB
    templates = Templates(made(tmp_path / "g.npz", named([1, 39_998, 1]), rows), fusion)
    tracemalloc.start()
    try:
        templates.nearest(rows[:2], 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5e6


@pytest.mark.parametrize("fusion", FUSIONS)
def test_templates_are_compared_as_a_gallery_compares_them(tmp_path, fusion):
    random = np.random.default_rng(3)
    rows, other = random.normal(size=(5, 6)), 3 * random.normal(size=(1, 6))
    ((match,),) = Templates(made(tmp_path / "g.npz", named([5]), rows), fusion).search(other)
    assert compare(rows, other, fusion) == pytest.approx(match.score, abs=1e-6)
    assert compare(other, rows, fusion) == pytest.approx(compare(rows, other, fusion))
    both = random.normal(size=(3, 6))
    all_scores = normalize(rows) @ normalize(both).T
    means = [normalize(normalize(part).mean(axis=0)[None])[0] for part in (rows, both)]
    expected = {"max": all_scores.max(), "mean": means[0] @ means[1]}
    assert compare(rows, both, fusion) == pytest.approx(expected[fusion])


def test_what_tells_no_person_is_refused(tmp_path):
    def refused(names, **model):
        with pytest.raises(InputError) as caught:
            Templates(made(tmp_path / "g.npz", names, np.ones((len(names), 2)), **model))
        return str(caught.value)

    # Subfolders of two people, whose pictures stand together: one person by the name of the folder.
    assert "all/anna/2020 and all/bert/2020 have one name" in refused(["all/anna/2020/1", "all/bert/2020/1"])
    assert "x/anna and y/anna have one name" in refused(["x/anna/1", "x/bert/1", "y/anna/1"])
    assert "the pictures of x/a are apart" in refused(["x/a/1", "x/b/1", "x/a/2"])
    for name in ("1.png", "../1.png", "/1.png"):
        assert f"{name}: in no folder" in refused([name])
    for name in ("orl/train.rec:7", "orl/orl.bin:0"):
        assert f"{name}: in a file, which has no folder per person" in refused([name])
    group = ["x/anna/1.png#1", "x/anna/1.png#2"]
    assert "x/anna/1.png#2 is one of several faces, and its folder names one person" in refused(
        group, crop={"by": "detector", "face": "all"}
    )
    assert PeopleFolders([]).person(group[0]) == "anna"


def test_what_cannot_be_searched_is_refused(odd_picture):
    templates = Templates(odd_picture)
    with refused("3 values", "(1, 4)", path=odd_picture.path):
        templates.search(np.ones(4))
    with refused("query"):
        templates.search(np.full(3, np.nan))
    with refused("median", option="fuse"):
        Templates(odd_picture, "median")
    with refused("median", option="fuse"):
        compare(np.ones((1, 3)), np.ones((1, 3)), "median")
    with refused("no picture"):
        compare(np.ones((1, 3)), np.ones((0, 3)))


def test_the_first_folder_below_the_one_searched_is_the_persons(tmp_path):
    names = ["gal/anna/2011/1.jpg", "gal/anna/2013/2.jpg", "gal/bo/2013/3.jpg", "gal/cy/4.jpg"]
    for roots, expected in ((["gal"], ["anna", "bo", "cy"]), (["gal/anna", "gal"], ["2011", "2013", "bo", "cy"])):
        gallery = made(tmp_path / "g.npz", names, np.eye(4), roots=roots)
        templates = Templates(gallery)
        assert (templates.find(expected) >= 0).all() and templates.count == len(expected)
    assert PeopleFolders(["."]).person("anna/2011/1.jpg") == "anna"
    assert PeopleFolders(["gal"]).person("galaxy/1.jpg") == "galaxy"  # elsewhere


def test_several_folders_of_pictures_are_a_person_each(tmp_path):
    names = ["gal/anna/1.jpg", "gal/bo/1.jpg", "gal/bo/2.jpg"]
    templates = Templates(made(tmp_path / "g.npz", names, np.ones((3, 2)), roots=["gal/anna", "gal/bo"]))
    assert templates.find(["anna", "bo", "gal"]).tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    "names", [["gal/1.jpg", "gal/2.jpg"], ["gal/1.jpg", "gal/anna/2.jpg"], ["gal/anna/2.jpg", "gal/z.jpg"]]
)
def test_pictures_beside_folders_of_people_are_refused(tmp_path, names):
    gallery = made(tmp_path / "g.npz", names, np.ones((2, 2)), roots=["gal"])
    beside = next(name for name in names if "anna" not in name)
    with refused(beside, "person in gal"):
        Templates(gallery)
