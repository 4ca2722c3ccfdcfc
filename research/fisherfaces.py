"""``python -m research.fisherfaces``: Fisherfaces on the demo's faces, tuned as its network was.

On splits of people 1-30, then measured on 31-40.

Principal components of the pictures, then linear discriminant analysis of the people with a shrunk within-class
covariance; an embedding is the projection of the picture plus that of its mirror image.

References
----------
Belhumeur, Hespanha and Kriegman, "Eigenfaces vs. Fisherfaces", IEEE TPAMI 19(7), 1997.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from denseface.data.cropping import Cropper
from denseface.data.detection import load_detector
from denseface.data.pictures import load_picture
from denseface.datasets.orl import find_faces
from denseface.evaluation.metrics import pair_scores, score_pairs

TRAINING, HELD_OUT = range(1, 31), range(31, 41)
SPLITS = (range(21, 31), range(1, 11), range(11, 21))  # each in turn is measured, the others of 1-30 are trained on
SIDES = (28, 56)
CONTRASTS = ("as it is", "equalized", "standardized")
COMPONENTS = (60, 120, 199, 299)
SHRINKAGES = (0.01, 0.1, 1.0)
_PICTURES = 10  # per person


class Metrics(NamedTuple):
    """Best balanced accuracy, and true accept rates at false accept rates of 1e-2 and 1e-3."""

    balanced_accuracy: float
    tar_2: float
    tar_3: float


def main() -> None:
    """Print the metrics of each way to prepare pictures, then the best setting on people held out, as JSON."""
    rows = []
    aligned = align_faces()
    for side, contrast in itertools.product(SIDES, CONTRASTS):
        faces = prepare(aligned, side, contrast)
        found = [grid(faces, [person for person in TRAINING if person not in split], split) for split in SPLITS]
        for setting in found[0]:
            means = Metrics(*np.mean([metrics[setting] for metrics in found if setting in metrics], axis=0))
            rows.append((side, contrast, *setting, means))
        print(f"{side} x {side}, {contrast}: {max(row[-1] for row in rows if row[:2] == (side, contrast))}", flush=True)
    side, contrast, components, shrinkage, on_splits = max(rows, key=lambda row: row[-1].balanced_accuracy)
    held_out = grid(prepare(aligned, side, contrast), TRAINING, HELD_OUT)[components, shrinkage]
    setting = {"side": side, "contrast": contrast, "components": components, "shrinkage": shrinkage}
    result = {"setting": setting, "splits": on_splits._asdict(), "held out": held_out._asdict()}
    print(json.dumps(result))


def align_faces() -> list[Image.Image]:
    """Align the pictures of all 40 people, in order, as ``denseface dataset orl`` does; they are gray."""
    crop = Cropper(detector=load_detector())
    paths = [find_faces() / f"s{person}" / f"{number}.pgm" for person in range(1, 41) for number in range(1, 11)]
    return [Image.fromarray(crop(load_picture(path), (112, 112, 3))[0].pixels[:, :, 0]) for path in paths]


def prepare(aligned: list[Image.Image], side: int, contrast: str) -> np.ndarray:
    """Reduce aligned faces, and treat their contrast, to float64 of shape (40, 10, side, side)."""
    faces = []
    for picture in aligned:
        if contrast == "equalized":
            picture = ImageOps.equalize(picture)
        face = np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float64)
        faces.append((face - face.mean()) / face.std() if contrast == "standardized" else face)
    return np.array(faces).reshape(40, _PICTURES, side, side)


def grid(faces: np.ndarray, trained: Iterable[int], measured: Iterable[int]) -> dict[tuple[int, float], Metrics]:
    """Train on some people and measure on others, with every number of components and every shrinkage.

    Parameters
    ----------
    faces : ndarray of shape (40, 10, side, side)
        Pictures by person.
    trained, measured : iterable of int
        People, counted from 1.

    Returns
    -------
    dict of (int, float) to Metrics
        By number of components and shrinkage.
    """
    training, probes = (faces[np.array(list(people)) - 1] for people in (trained, measured))
    labels = np.repeat(np.arange(len(training)), 2 * _PICTURES)
    flat = np.concatenate([training, training[..., ::-1]], axis=1).reshape(len(labels), -1)
    mean = flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat - mean, full_matrices=False)
    learned = (flat - mean) @ axes.T
    # The projection is linear, so the embeddings of picture and mirror image add up before it.
    both = (probes + probes[..., ::-1]).reshape(len(probes) * _PICTURES, -1)
    projected = (both - 2 * mean) @ axes.T
    people = np.repeat(np.arange(len(probes)), _PICTURES)
    pairs = np.stack(np.triu_indices(len(people), 1), axis=1)
    issame = people[pairs[:, 0]] == people[pairs[:, 1]]
    found = {}
    for components, shrinkage in itertools.product(COMPONENTS, SHRINKAGES):
        if components > len(axes):
            continue
        matrix = discriminants(learned[:, :components], labels, shrinkage)
        result = score_pairs(pair_scores(projected[:, :components] @ matrix, pairs), issame, 2, (1e-2, 1e-3))
        found[components, shrinkage] = Metrics(result.balanced_accuracy, *result.tar.values())
    return found


def discriminants(vectors: np.ndarray, labels: np.ndarray, shrinkage: float) -> np.ndarray:
    """Compute the projection of linear discriminant analysis.

    Parameters
    ----------
    vectors : ndarray of shape (n, d)
        Training vectors, with a mean of zero.
    labels : ndarray of int, shape (n,)
        Classes from 0.
    shrinkage : float
        Multiple of the mean variance that is added to the diagonal of the within-class covariance.

    Returns
    -------
    ndarray of shape (d, classes - 1)
    """
    means = np.array([vectors[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    within = (vectors - means[labels]).T @ (vectors - means[labels])
    within += shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    variances, directions = np.linalg.eigh(within)
    whitening = directions / np.sqrt(variances)
    _, between = np.linalg.eigh(whitening.T @ means.T @ means @ whitening)
    return whitening @ between[:, : -len(means) : -1]


if __name__ == "__main__":
    main()
