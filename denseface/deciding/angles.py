"""How far the pictures of a training set are from the centers of their own classes."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.core.vectors import normalize
from denseface.data.faces import compute_batches, usable
from denseface.data.loader import LabeledKey, PictureReader
from denseface.data.pictures import PictureShape
from denseface.data.records import FaceRecords
from denseface.embedding.embedder import Embedder
from denseface.models.checkpoint import Checkpoint, load_model

_BATCH = 8
_MAX_CONFIG = 1 << 20  # bytes
_MAX_SIDE = 4096


def angles_to_dominant(embeddings: np.ndarray, labels: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Measure the angle between each face and the dominant center of its class.

    The dominant center of a class is the one that is nearest to most of its faces (Deng et al. 2020, Sub-center
    ArcFace). Of two with the same number, the first counts.

    Parameters
    ----------
    embeddings : ndarray of shape (N, D)
        Any length; an embedding of zeros is at a right angle to everything.
    labels : ndarray of shape (N,), int
        Classes, 0 to C - 1.
    centers : ndarray of shape (C, K, D)
        K centers per class.

    Returns
    -------
    ndarray of shape (N,), float64
        In degrees, 0 to 180.
    """
    directions = normalize(centers.reshape(-1, centers.shape[2])).reshape(centers.shape)
    cosines = np.einsum("nd,nkd->nk", normalize(embeddings), directions[labels])
    votes = np.zeros(centers.shape[:2], int)
    np.add.at(votes, (labels, cosines.argmax(axis=1)), 1)
    dominant = cosines[np.arange(len(labels)), votes.argmax(axis=1)[labels]]
    return np.degrees(np.arccos(np.clip(dominant, -1, 1)))


def measure_angles(
    prefix: str,
    records: FaceRecords,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[int, float | str]:
    """Measure the angles of a training set's pictures by a run that was trained on it.

    Parameters
    ----------
    prefix : str
        Prefix of the run; its newest checkpoint is used. PREFIX-config.json says of what shape its pictures are.
    records : FaceRecords
        The training set.
    on_progress : callable
        Called with the number of pictures that are done, and of all.

    Returns
    -------
    dict of int to float or str
        The angle of each picture by key, as of `angles_to_dominant`; or why the picture cannot be read.

    Raises
    ------
    InputError
        If the run does not exist, has no class centers, or not as many classes as the set.
    """
    newest = Checkpoint.newest(prefix)
    weight = newest.load().arguments.get("fc7_weight") if newest else None
    if newest is None or weight is None:
        raise InputError("a run with class centers is needed, as train.py saves it", path=prefix, option="run")
    if len(weight) != records.num_classes:
        raise InputError(
            f"it has centers of {len(weight)} classes, and {records.folder} has {records.num_classes}; name "
            "the set that it was trained on",
            path=prefix,
            option="run",
        )
    image_shape = _image_shape(f"{prefix}-config.json")
    reader = PictureReader(records, image_shape)
    model = load_model(prefix, newest.step)
    embedder = Embedder(model, engine="mxnet", image_shape=image_shape, batch_size=_BATCH, flip=False)

    found: dict[int, float | str] = {}
    keys: list[LabeledKey] = []
    embeddings = []
    with reader.cut_ahead(records.keys, ahead=2 * _BATCH) as pictures:
        readable = usable(pictures, lambda key, face: found.update({key.key: face.message}))
        for batch, computed in compute_batches(embedder.compute, readable, _BATCH, image_shape):
            keys += [picture.key for picture in batch]
            embeddings.append(computed.plain)
            on_progress(len(found) + len(keys), len(records))
    if keys:
        labels = np.array([key.label for key in keys])
        centers = weight.reshape(len(weight), -1, weight.shape[-1])
        angles = angles_to_dominant(np.concatenate(embeddings), labels, centers)
        found.update(zip((key.key for key in keys), angles.tolist()))
    return found


def _image_shape(path: str) -> PictureShape:
    """Read the shape of a run's pictures from the configuration that train.py saves with it."""
    content = read_input(path, _MAX_CONFIG)
    try:
        height, width, channels = map(int, json.loads(content)["config"]["image_shape"])
        if 1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE and channels in (1, 3):
            return PictureShape(height, width, channels)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    raise InputError("its image_shape is not that of a run; restore the file from a copy", path=path)
