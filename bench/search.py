"""Contenders that find the rows of a gallery which are nearest to queries, exactly, on one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.race import Contender

_ROWS, _VALUES, _FOUND, _BLOCK = 1_000_000, 128, 5, 10_000
_ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_MODEL = {"sha256": "0", "engine": "mxnet", "precision": "float32", "flip": True, "image_shape": [112, 112, 3]}
_BY_PRODUCT = 20  # queries from which faiss multiplies matrices: its documented value; its wheel may have another


def contenders(path: Path, queries: int, loaded: bool) -> list[Contender]:
    """faiss-cpu with its two ways to compare many queries, NumPy, and this project.

    They search the file of :func:`make_gallery`. With `loaded`, opening it is left out.
    """
    task = (str(path), queries, loaded)
    return [
        Contender("faiss-cpu IndexFlatIP", with_faiss, (*task, None), _ONE_CORE),
        Contender("faiss-cpu IndexFlatIP, by matrix products", with_faiss, (*task, _BY_PRODUCT), _ONE_CORE),
        Contender("NumPy, one product and argpartition", with_numpy, task, _ONE_CORE),
        Contender("denseface", with_gallery, task, _ONE_CORE),
    ]


def with_gallery(path, queries, loaded):
    """This project's Gallery."""
    from denseface.galleries.gallery import Gallery

    wanted = _queries(queries)
    return _searching(lambda: Gallery(path), lambda gallery: gallery.nearest(wanted, _FOUND)[1], loaded)


def with_faiss(path, queries, loaded, threshold):
    """faiss-cpu's exact index of inner products."""
    import faiss

    if threshold is not None:
        faiss.cvar.distance_compute_blas_threshold = threshold
    wanted = _queries(queries)

    def load():
        index = faiss.IndexFlatIP(_VALUES)
        with np.load(path) as file:
            index.add(file["embeddings"])
        return index

    return _searching(load, lambda index: index.search(wanted, _FOUND)[0], loaded)


def with_numpy(path, queries, loaded):
    """What a few lines of NumPy do."""
    wanted = _queries(queries)

    def load():
        with np.load(path) as file:
            return file["embeddings"]

    def search(rows):
        scores = wanted @ rows.T
        best = np.argpartition(scores, -_FOUND, axis=1)[:, -_FOUND:]
        return -np.sort(-np.take_along_axis(scores, best, axis=1), axis=1)

    return _searching(load, search, loaded)


def _searching(load, search, loaded):
    if not loaded:
        return lambda: search(load())
    opened = load()
    return lambda: search(opened)


def make_gallery(folder: str) -> Path:
    """Write random embeddings of length 1."""
    from denseface.galleries.gallery import write_gallery

    random = np.random.default_rng(0)
    path = Path(folder, "gallery.npz")
    blocks = (_unit(random.standard_normal((_BLOCK, _VALUES), dtype=np.float32)) for _ in range(0, _ROWS, _BLOCK))
    write_gallery(path, blocks, (_ROWS, _VALUES), (f"{row:07d}.jpg" for row in range(_ROWS)), 11, _MODEL)
    return path


def _queries(count):
    return _unit(np.random.default_rng(1).standard_normal((count, _VALUES), dtype=np.float32))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
