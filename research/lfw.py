"""``python -m research.lfw VIEW1 [MODEL ...]``: models on people whom they never saw, of LFW and of ORL.

VIEW1 is the set of View 1 as docs/lfw.md makes it. Each model is measured on the pairs of DevTest, at the threshold
that is best on those of DevTrain, and on all pairs of pictures of the people of ORL. Without a model, Fisherfaces are:
their setting is chosen on three splits of the people of DevTrain, and they are then trained on all of them.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from denseface import Embedder
from denseface.data.pairs import PairSet, read_pairs
from denseface.data.pictures import decode
from denseface.data.records import FaceRecords
from denseface.evaluation.metrics import VerificationResult, pair_scores, score_pairs
from research.fisherfaces import align_faces, discriminants

SIDES = (28, 40, 56)
COMPONENTS = (100, 200, 400, 800)
SHRINKAGES = (0.1, 0.3, 1.0, 3.0)
SPLITS = 3
_PICTURES = 10  # of each of ORL's people
_ORL = {"ORL 31-40": range(31, 41), "ORL 1-40": range(1, 41)}

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]  # pictures of shape (112, 112, 3), uint8, to embeddings


class Fisherfaces(NamedTuple):
    """A linear embedding of standardized gray pictures, to which the mirror image is added."""

    side: int
    mean: np.ndarray
    projection: np.ndarray

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        flat = _flat(pictures, self.side)
        return (flat + _mirrored(flat, self.side) - 2 * self.mean) @ self.projection


def main() -> None:
    """Print a line of JSON for each model."""
    folder, *models = sys.argv[1:]
    if not models:
        fisherfaces, setting = train_fisherfaces(Path(folder))
        print(json.dumps({"model": "Fisherfaces", **setting, **measure(fisherfaces, Path(folder))}))
    for model in models:
        embedder = Embedder.load(model, batch_size=16)
        embed = lambda pictures, embedder=embedder: embedder.embed(list(pictures))  # noqa: E731
        print(json.dumps({"model": model, **measure(embed, Path(folder))}), flush=True)


def measure(embed: Embed, folder: Path) -> dict[str, float]:
    """Measure an embedding on the pairs of DevTest and on ORL's people."""
    chosen = _verify(embed, read_pairs(folder / "pairsDevTrain.bin"))
    tested = _verify(embed, read_pairs(folder / "pairsDevTest.bin"))
    accepted = tested.scores.genuine >= chosen.balanced_threshold, tested.scores.impostor >= chosen.balanced_threshold
    metrics = {
        "DevTest accuracy": (accepted[0].mean() + 1 - accepted[1].mean()) / 2,
        "DevTest best": tested.balanced_accuracy,
        "DevTest AUC": tested.auc,
    }
    embeddings = embed([np.asarray(face.convert("RGB")) for face in align_faces()])
    for name, people in _ORL.items():
        rows = np.concatenate([np.arange(_PICTURES) + _PICTURES * (person - 1) for person in people])
        result = _score_all(embeddings[rows], np.repeat(people, _PICTURES))
        metrics |= {f"{name} best": result.balanced_accuracy, f"{name} TAR 1e-2": result.tar[1e-2]}
    return {name: round(float(value), 4) for name, value in metrics.items()}


def train_fisherfaces(folder: Path) -> tuple[Fisherfaces, dict[str, float]]:
    """Choose the setting of Fisherfaces on splits of the people, and train them on all."""
    with FaceRecords(folder) as records:
        read = [records.read_image(int(key)) for key in records.keys]
    labels = np.array([label for label, _ in read])
    pictures = [decode(payload) for _, payload in read]
    split_of = np.random.default_rng(0).integers(SPLITS, size=labels.max() + 1)[labels]
    found: dict[tuple[int, int, float], list[float]] = {}
    for side, split in itertools.product(SIDES, range(SPLITS)):
        flat, held = _flat(pictures, side), split_of == split
        for components, shrinkage, fisherfaces in _trained(flat[~held], labels[~held], side):
            projected = (flat[held] + _mirrored(flat[held], side) - 2 * fisherfaces.mean) @ fisherfaces.projection
            result = _score_all(projected, labels[held])
            found.setdefault((side, components, shrinkage), []).append(result.balanced_accuracy)
    best = max(found, key=lambda setting: np.mean(found[setting]))
    setting = {"side": best[0], "components": best[1], "shrinkage": best[2], "splits": round(np.mean(found[best]), 4)}
    for components, shrinkage, fisherfaces in _trained(_flat(pictures, best[0]), labels, best[0]):
        if (components, shrinkage) == best[1:]:
            return fisherfaces, setting
    raise AssertionError(best)


def _trained(flat: np.ndarray, labels: np.ndarray, side: int) -> Iterator[tuple[int, float, Fisherfaces]]:
    """Train with every number of components and every shrinkage, on the pictures and their mirror images."""
    both = np.concatenate([flat, _mirrored(flat, side)])
    mean = both.mean(axis=0)
    _, axes = np.linalg.eigh((both - mean).T @ (both - mean))
    axes = axes[:, ::-1]
    _, classes = np.unique(np.concatenate([labels, labels]), return_inverse=True)
    for components, shrinkage in itertools.product(COMPONENTS, SHRINKAGES):
        if components <= len(mean):
            kept = axes[:, :components]
            projection = kept @ discriminants((both - mean) @ kept, classes, shrinkage)
            yield components, shrinkage, Fisherfaces(side, mean, projection)


def _flat(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Reduce pictures to gray ones of mean 0 and standard deviation 1, as float64 of shape (n, side * side)."""
    rows = []
    for picture in pictures:
        gray = Image.fromarray(picture).convert("L").resize((side, side), Image.Resampling.BOX)
        face = np.asarray(gray, np.float64).ravel()
        rows.append((face - face.mean()) / face.std())
    return np.array(rows)


def _mirrored(flat: np.ndarray, side: int) -> np.ndarray:
    return flat.reshape(-1, side, side)[:, :, ::-1].reshape(len(flat), -1)


def _verify(embed: Embed, pairs: PairSet) -> VerificationResult:
    images, indices = pairs.unique()
    return score_pairs(pair_scores(embed([decode(image) for image in images]), indices), pairs.issame)


def _score_all(embeddings: np.ndarray, people: np.ndarray) -> VerificationResult:
    pairs = np.stack(np.triu_indices(len(people), 1), axis=1)
    issame = people[pairs[:, 0]] == people[pairs[:, 1]]
    return score_pairs(pair_scores(embeddings, pairs), issame, 2, (1e-2,))


if __name__ == "__main__":
    main()
