"""Galleries of given embeddings, without a network."""

import numpy as np

from denseface.galleries.gallery import Gallery, write_gallery

MODEL = {"sha256": "x", "engine": "mxnet", "precision": "float32", "flip": True, "image_shape": [4, 4, 3]}


def made(path, names, rows, **model):
    rows = np.asarray(rows, "<f4")
    write_gallery(path, [rows], rows.shape, names, max(map(len, names)), {**MODEL, **model})
    return Gallery(path)
