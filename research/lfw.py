"""``python -m research.lfw VIEW1 MODEL|SET ...``: what grows with the number of people in training.

VIEW1 is the set of View 1 as docs/lfw.md makes it. Each model is measured on the pairs of DevTest, at the threshold
that is best on those of DevTrain and, over ten folds, at the one that is best on the other nine; and on all pairs of
pictures of people of ORL. For the folder of a training set, Fisherfaces are trained on it: their setting is chosen on
three splits of its people.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from denseface import Embedder
from denseface.data.pairs import PairSet, read_pairs
from denseface.data.pictures import decode
from denseface.data.records import FaceRecords
from denseface.evaluation.metrics import VerificationResult, pair_scores, score_pairs
from denseface.report.plotting import COLORS, new_figure, save_figure
from research.fisherfaces import align_faces, discriminants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = (28, 40)
COMPONENTS = (100, 200, 400, 700)
SHRINKAGES = (0.01, 0.03, 0.1, 1.0)
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
    """Print a line of JSON for each model, and draw them all."""
    args = _arguments()
    rows = []
    for path in args.measured:
        row = {"model": path, "people": 0}
        if (Path(path) / "train.rec").exists():
            fisherfaces, row["people"], setting = train_fisherfaces(Path(path))
            row |= {"model": "Fisherfaces", **setting, **measure(fisherfaces, args.view1)}
        else:
            embedder = Embedder.load(path, batch_size=16)
            config = Path(f"{path}-config.json")
            if config.exists():
                row |= {"people": json.loads(config.read_text(encoding="utf-8"))["config"]["num_classes"]}
            row |= measure(lambda pictures: embedder.embed(list(pictures)), args.view1)  # noqa: B023
        print(json.dumps(row), flush=True)
        rows.append(row)
    if args.draw:
        save_figure(draw([row for row in rows if row["people"]]), args.draw)


def measure(embed: Embed, folder: Path) -> dict[str, float]:
    """Measure an embedding on the pairs of DevTest and on ORL's people."""
    chosen = _verify(embed, read_pairs(folder / "pairsDevTrain.bin"))
    tested = _verify(embed, read_pairs(folder / "pairsDevTest.bin"))
    accepted = tested.scores.genuine >= chosen.balanced_threshold, tested.scores.impostor >= chosen.balanced_threshold
    metrics = {
        "DevTest accuracy": (accepted[0].mean() + 1 - accepted[1].mean()) / 2,
        "DevTest folds": tested.accuracy,
        "DevTest best": tested.balanced_accuracy,
        "DevTest AUC": tested.auc,
    }
    embeddings = embed([np.asarray(face.convert("RGB")) for face in align_faces()])
    for name, people in _ORL.items():
        rows = np.concatenate([np.arange(_PICTURES) + _PICTURES * (person - 1) for person in people])
        result = _score_all(embeddings[rows], np.repeat(people, _PICTURES))
        metrics |= {f"{name} best": result.balanced_accuracy, f"{name} TAR 1e-2": result.tar[1e-2]}
    return {name: round(float(value), 4) for name, value in metrics.items()}


def train_fisherfaces(folder: Path) -> tuple[Fisherfaces, int, dict[str, float]]:
    """Choose the setting of Fisherfaces on splits of the people, and train them on all, who are counted."""
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
            return fisherfaces, len(np.unique(labels)), setting
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


def draw(rows: list[dict]) -> Figure:
    """Draw accuracy against the number of people in training: a point per model, a line through the means."""
    figure = new_figure(8, 3.2)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    titles = {
        "DevTest accuracy": "LFW's DevTest: balanced accuracy",
        "ORL 31-40 best": "ORL, 10 people: best balanced accuracy",
    }
    for axes, (metric, title) in zip(figure.subplots(1, len(titles)), titles.items()):
        for kind, color in zip(("network", "Fisherfaces"), COLORS):
            points = sorted(
                (row["people"], row[metric]) for row in rows if (row["model"] == "Fisherfaces") == (kind != "network")
            )
            means = {
                people: np.mean([value for _, value in group]) for people, group in itertools.groupby(points, _people)
            }
            if points:
                axes.plot(*zip(*points), "o", color=color, markersize=3)
                axes.plot(list(means), list(means.values()), color=color, linewidth=1, label=kind)
        axes.set(xscale="log", xlabel="people in training")
        axes.set_xticks(sorted({row["people"] for row in rows}))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, frameon=False)
    return figure


def _people(point: tuple[int, float]) -> int:
    return point[0]


def _verify(embed: Embed, pairs: PairSet) -> VerificationResult:
    images, indices = pairs.unique()
    return score_pairs(pair_scores(embed([decode(image) for image in images]), indices), pairs.issame)


def _score_all(embeddings: np.ndarray, people: np.ndarray) -> VerificationResult:
    pairs = np.stack(np.triu_indices(len(people), 1), axis=1)
    issame = people[pairs[:, 0]] == people[pairs[:, 1]]
    return score_pairs(pair_scores(embeddings, pairs), issame, 2, (1e-2,))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m research.lfw", description=__doc__.partition(": ")[2].partition("\n")[0]
    )
    parser.add_argument("view1", type=Path, metavar="VIEW1")
    parser.add_argument("measured", nargs="+", metavar="MODEL|SET")
    parser.add_argument("--draw", type=Path, metavar="FILE.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
