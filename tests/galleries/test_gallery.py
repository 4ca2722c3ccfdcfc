import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.galleries import nearest
from denseface.galleries.array_file import ArrayFile
from denseface.galleries.gallery import Gallery, write_gallery
from support.refusals import refused

MODEL = {
    "prefix": "p",
    "epoch": 1,
    "sha256": "ab",
    "engine": "mxnet",
    "precision": "float32",
    "flip": True,
    "normalize": True,
    "image_shape": [16, 16, 3],
}
DETECTED = {"by": "detector", "detector": {"name": "d.onnx", "sha256": "ab"}, "face": "largest"}


def unit_rows(count, size=8, seed=0):
    rows = np.random.RandomState(seed).standard_normal((count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(path, rows, names=None, model=MODEL):
    names = names or [f"face{i}" for i in range(len(rows))]
    write_gallery(path, np.array_split(rows, len(rows) // 8192 + 1), rows.shape, names, max(map(len, names)), model)
    return path


def test_numpy_reads_it(tmp_path):
    rows, names = unit_rows(3), ["a", "b\N{GREEK SMALL LETTER ALPHA}" * 20, "odd\udcff"]
    with np.load(write(tmp_path / "g.npz", rows, names)) as file:
        assert set(file) == {"embeddings", "names", "model"}
        np.testing.assert_array_equal(file["embeddings"], rows)
        assert file["embeddings"].dtype == np.float32
        assert file["names"].tolist() == names
        assert '"sha256": "ab"' in str(file["model"])


def test_the_same_embeddings_give_the_same_file(tmp_path):
    first, second = (write(tmp_path / name, unit_rows(3)).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second


def test_the_nearest_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("denseface.galleries.gallery._CELLS", 64)  # 8 embeddings at a time
    rows, queries = unit_rows(100), unit_rows(7, seed=1)
    gallery = Gallery(write(tmp_path / "g.npz", rows * 3))
    assert (len(gallery), gallery.shape, gallery.model) == (100, (100, 8), MODEL)
    places, scores, _ = gallery.nearest(queries, 4)
    expected = np.argsort(-(queries @ rows.T), axis=1)[:, :4]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ rows.T, expected, 1), atol=1e-6)
    assert gallery.names(places[0]) == {int(place): f"face{place}" for place in expected[0]}


def expected_nearest(rows, queries, count):
    scores = (normalize(queries) @ normalize(rows).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(scores, order, 1)


@pytest.mark.parametrize("cells", [8, 200, 1 << 20])
@pytest.mark.parametrize("kind", ["unit", "other lengths", "extreme lengths", "equal"])
@pytest.mark.parametrize("way", ["as written", "compressed", "at an odd byte"])
def test_blocks_give_the_answer_of_the_whole(tmp_path, monkeypatch, cells, kind, way):
    monkeypatch.setattr("denseface.galleries.gallery._CELLS", cells)
    monkeypatch.setattr("denseface.galleries.nearest._CELLS", 100)
    monkeypatch.setattr("denseface.galleries.nearest._SCORES", 50)
    monkeypatch.setattr("denseface.galleries.nearest._GROUP", 3)
    rows, queries = unit_rows(90), 5 * unit_rows(8, seed=1)
    rows[40:80] = rows[20:60]  # each of these twice
    if kind == "other lengths":
        rows *= np.random.RandomState(2).uniform(0.5, 2, (90, 1)).astype(np.float32)
    if kind == "extreme lengths":
        rows *= (10.0 ** np.random.RandomState(2).randint(-35, 38, (90, 1))).astype(np.float32)
        rows[[3, 50]], queries[2] = 0, 0
    if kind == "equal":
        rows[:] = rows[0]
    path = write(tmp_path / "g.npz", rows, ["x" * (99 if way == "compressed" else 1)] * 90)
    if way != "as written":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if way == "compressed" else zipfile.ZIP_STORED) as archive:
            archive.writestr("o", b"")
            for name, content in members.items():
                archive.writestr(name, content)
    gallery = Gallery(path)
    for count in (1, 5, 200):
        expected, expected_scores = expected_nearest(rows, queries, count)
        for _ in range(2):  # the second search relies on what the first has checked
            found, scores, _ = gallery.nearest(queries, count)
            np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-7)
            np.testing.assert_array_equal(found, expected)
            for query, one, score in zip(queries, found, scores):
                alone, alone_scores, _ = gallery.nearest(query[np.newaxis], count)
                np.testing.assert_array_equal((alone[0], alone_scores[0]), (one, score))


def test_a_gallery_stays_what_it_was_when_opened(tmp_path):
    path = write(tmp_path / "g.npz", unit_rows(9), [f"old{i}" for i in range(9)])
    gallery = Gallery(path)
    write(path, unit_rows(4, seed=3), [f"new{i}" for i in range(4)])
    assert gallery.search(unit_rows(9)[7], 1)[0][0] == ("old7", pytest.approx(1))
    assert Gallery(path).search(unit_rows(4, seed=3)[2], 1)[0][0].name == "new2"


def test_a_gallery_that_is_cut_off_while_it_is_open_ends_in_one_line(tmp_path):
    gallery = Gallery(write(tmp_path / "g.npz", unit_rows(5000)))
    os.truncate(gallery.path, 8192)
    with refused("broken", path=gallery.path):
        gallery.nearest(unit_rows(1), 1)


def test_a_changed_bit_is_found(tmp_path):
    path = write(tmp_path / "g.npz", unit_rows(50))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with refused("broken", path=path):
        Gallery(path).nearest(unit_rows(1), 1)


def test_a_query_that_is_not_finite_is_refused(tmp_path):
    with refused("query"):
        Gallery(write(tmp_path / "g.npz", unit_rows(3))).nearest(np.full((1, 8), np.nan, np.float32), 1)


def test_search_gives_names_and_scores(tmp_path):
    rows = unit_rows(20)
    gallery = Gallery(write(tmp_path / "g.npz", rows))
    found = gallery.search(rows[[3, 8]] * 7, 2)
    assert [matches[0].name for matches in found] == ["face3", "face8"]
    assert found[0][0].score == pytest.approx(1)
    assert found[0][1].score == pytest.approx(np.sort(rows @ rows[3])[-2], abs=1e-6)
    assert gallery.search(rows[3], 2) == gallery.search(rows[[3]], 2)


def test_queries_of_another_length_are_refused(tmp_path):
    path = write(tmp_path / "g.npz", unit_rows(3))
    with refused("8 values", "(2, 9)", path=path):
        Gallery(path).search(unit_rows(2, 9))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"sha256": "cd"}, ["another model", "p,1"]),
        ({"flip": False}, ["flip True", "not False"]),
        ({"image_shape": [16, 16, 1]}, ["image_shape [16, 16, 3]", "not [16, 16, 1]"]),
        ({"precision": "bfloat16", "engine": "openvino-bf16"}, ["precision float32", "not bfloat16"]),
        ({"crop": DETECTED}, ["aligned pictures", "the detector d.onnx"]),
    ],
)
def test_embeddings_computed_otherwise_are_refused(tmp_path, change, facts):
    gallery = Gallery(write(tmp_path / "g.npz", unit_rows(3)))
    with refused(*facts, path=gallery.path):
        gallery.require_same({**MODEL, **change})


def test_what_changes_no_embedding_may_differ(tmp_path):
    gallery = Gallery(write(tmp_path / "g.npz", unit_rows(3)))
    gallery.require_same({**MODEL, "engine": "openvino", "prefix": "q", "normalize": False})


def test_faces_are_cut_out_for_a_gallery_of_such_faces(tmp_path):
    gallery = Gallery(write(tmp_path / "g.npz", unit_rows(3), model={**MODEL, "crop": DETECTED}))
    gallery.require_same({**MODEL, "crop": {**DETECTED, "face": "all", "min_size": 5}})
    ways = {
        "aligned pictures": {"by": "aligned"},
        "landmarks from a file": {"by": "landmarks", "landmarks": "l.txt", "sha256": "cd"},
        "the detector e.onnx": {"by": "detector", "detector": {"name": "e.onnx", "sha256": "cd"}},
    }
    for way, description in ways.items():
        with refused("the detector d.onnx", way, path=gallery.path):
            gallery.require_same({**MODEL, "crop": description})


@pytest.mark.parametrize("crop", [None, 3, [], {}, {"by": 3}, {"by": "detector", "detector": 3}])
def test_what_an_odd_file_says_of_its_faces_is_not_believed(tmp_path, crop):
    gallery = Gallery(write(tmp_path / "g.npz", unit_rows(3), model={**MODEL, "crop": crop}))
    with refused("cuts faces differently", path=gallery.path):
        gallery.require_same({**MODEL, "crop": {"by": "landmarks"}})


def test_more_than_there_are_gives_all(tmp_path):
    places, scores, _ = Gallery(write(tmp_path / "g.npz", unit_rows(3))).nearest(unit_rows(2, seed=1), 9)
    assert places.shape == scores.shape == (2, 3)
    assert set(places[0]) == {0, 1, 2}


def test_memory_does_not_grow_with_the_number_of_embeddings(tmp_path, monkeypatch):
    for module in ("gallery", "nearest"):
        monkeypatch.setattr(f"denseface.galleries.{module}._CELLS", 1 << 14)
    gallery = Gallery(write(tmp_path / "g.npz", np.ones((500_000, 16), np.float32)))  # 32 MB
    mapped, peaks = file_memory(), []
    with monkeypatch.context() as patch:
        patch.setattr(nearest._Nearest, "add", lambda *arguments, **options: peaks.append(file_memory()) or False)
        gallery.nearest(unit_rows(1, 16), 3)
    assert len(peaks) > 100 and max(peaks) - mapped < 4e6
    tracemalloc.start()
    try:
        places = gallery.nearest(unit_rows(1, 16), 3).numbers
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert gallery.names(places[0])[int(places[0, 0])] == f"face{places[0, 0]}"
    assert peak < 2e6


def file_memory():
    """Bytes of files that this process has mapped and touched."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def broken_gallery(path, damage):
    rows = unit_rows(4)
    if damage == "missing":
        return "read"
    if damage == "text":
        path.write_text("no zip")
        return "not a file that denseface embed wrote"
    if damage == "cut":
        write(path, rows)
        path.write_bytes(path.read_bytes()[:200])
        return "not a file that denseface embed wrote"
    if damage == "other arrays":
        np.savez(path, a=rows)
        return "not a file that denseface embed wrote"
    if damage == "pickle":
        np.savez(path, embeddings=rows, names=np.array(["a"] * 4), model=np.array({}, object))
        return "not a file that denseface embed wrote"
    if damage == "pipe":
        os.mkfifo(path)
        return "a pipe or a device"
    if damage == "zeros":
        path.symlink_to("/dev/zero")
        return "a pipe or a device"
    if damage in ("lzma", "long header"):
        write(path, rows)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        if damage == "long header":
            members["names.npy"] = b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 99
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if damage == "lzma" else zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return "not a file that denseface embed wrote"
    arrays = {"embeddings": rows, "names": np.array(["a"] * 4), "model": np.array('{"prefix": "p"}')}
    changes = {
        "float64": ("embeddings", rows.astype(np.float64), "float32 (N, emb_size)"),
        "flat": ("embeddings", rows.ravel(), "float32 (N, emb_size)"),
        "Fortran": ("embeddings", np.asfortranarray(rows), "not a file that denseface embed wrote"),
        "numbers for names": ("names", np.arange(4), "names text"),
        "too few names": ("names", np.array(["a"]), "4 embeddings need as many names"),
        "no model": ("model", np.array("[]"), "does not say how"),
        "huge pictures": ("model", np.array(json.dumps({**MODEL, "image_shape": [1e9, 1, 3]})), "not say how"),
        "no precision": ("model", np.array(json.dumps({**MODEL, "precision": None})), "not say how"),
    }
    name, value, message = changes[damage]
    np.savez(path, **{**arrays, name: value})
    return message


@pytest.mark.parametrize(
    "damage",
    ["missing", "text", "cut", "other arrays", "pickle", "float64", "flat", "Fortran", "numbers for names"]
    + ["too few names", "no model", "huge pictures", "no precision", "pipe", "zeros", "lzma", "long header"],
)
def test_other_files_are_refused(tmp_path, damage):
    path = tmp_path / "g.npz"
    message = broken_gallery(path, damage)
    with refused(message, path=path):
        Gallery(path)


def test_a_lack_of_memory_is_not_told_as_damage(tmp_path, monkeypatch):
    def lacking(file, name):
        raise InputError("not enough memory", path=file.path)

    path = write(tmp_path / "g.npz", unit_rows(3))
    monkeypatch.setattr(ArrayFile, "text", lacking)
    with refused("not enough memory", path=path):
        Gallery(path)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    rows = unit_rows(4)
    rows[2, 3] = np.nan
    with refused("finite", path=tmp_path / "g.npz"):
        Gallery(write(tmp_path / "g.npz", rows)).nearest(unit_rows(1), 1)


def test_a_file_is_never_half_written(tmp_path):
    path = write(tmp_path / "g.npz", unit_rows(2))
    before = path.read_bytes()

    def names():
        yield "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gallery(path, [unit_rows(2)], (2, 8), names(), 1, MODEL)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["g.npz"]
    assert zipfile.is_zipfile(path)
