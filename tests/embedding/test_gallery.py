import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.embedding.gallery import Gallery, write_gallery

MODEL = {"prefix": "p", "epoch": 1, "sha256": "ab", "engine": "mxnet", "flip": True, "image_shape": [16, 16, 3]}


def unit_rows(count, size=8, seed=0):
    rows = np.random.RandomState(seed).standard_normal((count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(path, rows, names=None, model=MODEL):
    names = names or [f"face{i}" for i in range(len(rows))]
    write_gallery(path, io.BytesIO(rows.tobytes()), rows.shape, names, max(map(len, names)), model)
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
    monkeypatch.setattr("denseface.embedding.gallery._CELLS", 64)  # 8 embeddings at a time
    rows, queries = unit_rows(100), unit_rows(7, seed=1)
    gallery = Gallery(write(tmp_path / "g.npz", rows * 3))
    assert (len(gallery), gallery.shape, gallery.model) == (100, (100, 8), MODEL)
    places, scores = gallery.nearest(queries, 4)
    expected = np.argsort(-(queries @ rows.T), axis=1)[:, :4]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ rows.T, expected, 1), atol=1e-6)
    assert gallery.names(places[0]) == {int(place): f"face{place}" for place in expected[0]}


def test_more_than_there_are_gives_all(tmp_path):
    places, scores = Gallery(write(tmp_path / "g.npz", unit_rows(3))).nearest(unit_rows(2, seed=1), 9)
    assert places.shape == scores.shape == (2, 3)
    assert set(places[0]) == {0, 1, 2}


def test_memory_does_not_grow_with_the_number_of_embeddings(tmp_path, monkeypatch):
    monkeypatch.setattr("denseface.embedding.gallery._CELLS", 1 << 14)
    gallery = Gallery(write(tmp_path / "g.npz", np.ones((100_000, 16), np.float32)))  # 6.4 MB
    tracemalloc.start()
    try:
        places, _ = gallery.nearest(unit_rows(1, 16), 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert gallery.names(places[0])[int(places[0, 0])] == f"face{places[0, 0]}"
    assert peak < 2e6


def broken_gallery(path, damage):
    rows = unit_rows(4)
    if damage == "missing":
        return "there is no such file"
    if damage == "text":
        path.write_text("no zip")
        return "it is not a file that denseface embed wrote"
    if damage == "cut":
        write(path, rows)
        path.write_bytes(path.read_bytes()[:200])
        return "it is not a file that denseface embed wrote"
    if damage == "other arrays":
        np.savez(path, a=rows)
        return "it is not a file that denseface embed wrote"
    if damage == "pickle":
        np.savez(path, embeddings=rows, names=np.array(["a"] * 4), model=np.array({}, object))
        return "it is not a file that denseface embed wrote"
    arrays = {"embeddings": rows, "names": np.array(["a"] * 4), "model": np.array('{"prefix": "p"}')}
    changes = {
        "float64": ("embeddings", rows.astype(np.float64), r"must be float32 \(N, emb_size\)"),
        "flat": ("embeddings", rows.ravel(), r"must be float32 \(N, emb_size\)"),
        "Fortran": ("embeddings", np.asfortranarray(rows), "not a file that denseface embed wrote"),
        "numbers for names": ("names", np.arange(4), "names text"),
        "too few names": ("names", np.array(["a"]), "4 embeddings need as many names"),
        "no model": ("model", np.array("[]"), "does not say how"),
        "huge pictures": ("model", np.array('{"sha256": "", "flip": true, "image_shape": [1e9, 1, 3]}'), "not say how"),
    }
    name, value, message = changes[damage]
    np.savez(path, **{**arrays, name: value})
    return message


@pytest.mark.parametrize(
    "damage",
    ["missing", "text", "cut", "other arrays", "pickle", "float64", "flat", "Fortran", "numbers for names"]
    + ["too few names", "no model", "huge pictures"],
)
def test_other_files_are_refused(tmp_path, damage):
    path = tmp_path / "g.npz"
    message = broken_gallery(path, damage)
    with pytest.raises(InputError, match=f"^{path}: .*({message})"):
        Gallery(path)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    rows = unit_rows(4)
    rows[2, 3] = np.nan
    with pytest.raises(InputError, match="broken behind embedding 0"):
        Gallery(write(tmp_path / "g.npz", rows)).nearest(unit_rows(1), 1)


def test_a_file_is_never_half_written(tmp_path):
    path = write(tmp_path / "g.npz", unit_rows(2))
    before = path.read_bytes()

    def names():
        yield "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gallery(path, io.BytesIO(unit_rows(2).tobytes()), (2, 8), names(), 1, MODEL)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["g.npz"]
    assert zipfile.is_zipfile(path)
