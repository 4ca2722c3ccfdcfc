"""Measure a model on a verification set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.progress_bar import ProgressBar
from denseface.data.faces import PictureError, compute_batches, cut_ahead, cut_source, usable
from denseface.data.pairs import PairSet
from denseface.data.sources import Source
from denseface.data.template_set import TemplateSet
from denseface.embedding.embedder import Embedder
from denseface.evaluation.calibration import Calibration, Check, check_on_others, fit
from denseface.evaluation.influence import Intervals, measure_intervals, order_people
from denseface.evaluation.intervals import SharedPeople
from denseface.evaluation.metrics import FOLDS, Pairs, VerificationResult, pair_scores, score_pairs
from denseface.evaluation.operating_points import OperatingPoint, operating_points
from denseface.evaluation.people import PairPeople, find_people
from denseface.verification.cross_pairs import CrossPairs


@dataclass(frozen=True)
class VerificationReport:
    """The metrics of a model on one set.

    Attributes
    ----------
    name : str
        The name of the set.
    flip : VerificationResult or None
        With the embeddings of the picture and its mirror image summed, as InsightFace does; None if the embedder does
        not `flip`.
    plain : VerificationResult
        With the embedding of the picture alone.
    pair_set : PairSet, CrossPairs or TemplateSet
        The set.
    """

    name: str
    flip: VerificationResult | None
    plain: VerificationResult
    pair_set: PairSet | CrossPairs | TemplateSet = field(repr=False, compare=False)

    @cached_property
    def people(self) -> PairPeople:
        """Who is in the pairs.

        Raises
        ------
        InputError
            If the table of people beside the set is of another set, or contradicts it.
        """
        if isinstance(self.pair_set, TemplateSet):
            return find_people(self.pair_set.pairs, self.pair_set.issame)
        pictures, pairs = self.pair_set.unique()
        try:
            return find_people(pairs, self.pair_set.issame, self.pair_set.people_of(pictures))
        except InputError as error:
            raise InputError(f"{error}; correct it, or remove it", path=f"{self.name}.people.csv") from error

    @cached_property
    def shared(self) -> SharedPeople:
        """Which pairs share people, on which intervals depend."""
        return order_people(self.people.numbers, self.pair_set.issame)

    @cached_property
    def intervals(self) -> dict[str, Intervals]:
        """The 95 % intervals, by way."""
        return {way: measure_intervals(result, self.shared) for way, result in self.ways.items()}

    @cached_property
    def points(self) -> dict[str, dict[float, OperatingPoint]]:
        """The thresholds at false accept rates that the set has enough impostor pairs for, by way."""
        return {way: operating_points(result, self.shared, result.tar) for way, result in self.ways.items()}

    @property
    def way(self) -> str:
        """The name of the result that counts: with mirror images, if there is one."""
        return next(iter(self.ways))

    @property
    def result(self) -> VerificationResult:
        """The result that counts."""
        return self.ways[self.way]

    @cached_property
    def ways(self) -> dict[str, VerificationResult]:
        """The results that there are, by their names."""
        return {way: result for way, result in (("flip", self.flip), ("plain", self.plain)) if result is not None}

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """The probability of a score, fitted on all pairs, by way."""
        return {way: fit(*result.scores) for way, result in self.ways.items()}

    @cached_property
    def checks(self) -> dict[str, Check | None]:
        """How true such probabilities are for people whose pairs they were not fitted on, by way."""
        issame, numbers = self.pair_set.issame, self.people.numbers
        people = Pairs(numbers[issame], numbers[~issame])
        return {way: check_on_others(result.scores, people) for way, result in self.ways.items()}

    def check(self) -> None:
        """Raise InputError if the people of the set contradict its pairs."""
        _ = self.people

    def to_dict(self) -> dict:
        """Return all metrics but the ROC curves, in types that JSON knows."""
        ways = {way: {**result.to_dict(), **self._certainty(way)} for way, result in self.ways.items()}
        people = {"count": self.shared.count, "source": self.people.source}
        return {"name": self.name, "pairs": self._digest(), "flip": None, **ways, "people": people}

    def _digest(self) -> str:
        """Return what tells whether two measurements are of the same pairs."""
        content = hashlib.sha256(self.pair_set.issame.tobytes())
        if isinstance(self.pair_set, TemplateSet):
            pairs = self.pair_set.pairs
        else:
            pictures, pairs = self.pair_set.unique()
            for picture in pictures:
                content.update(picture)
        content.update(pairs.tobytes())
        return content.hexdigest()[:16]

    def _certainty(self, way: str) -> dict:
        checked = self.checks[way]
        return {
            "intervals": self.intervals[way].to_dict(),
            "operating_points": {f"{far:g}": point._asdict() for far, point in self.points[way].items()},
            "probability": {**self.calibrations[way]._asdict(), "brier_on_others": checked and checked.brier},
        }


def verify(
    embedder: Embedder,
    pair_set: PairSet | CrossPairs,
    *,
    folds: int = FOLDS,
    thresholds: str = "scores",
    progress: bool = False,
) -> VerificationReport:
    """Measure how well a model tells whether two pictures show the same person.

    Each distinct picture is embedded once, together with its mirror image, so that one pass yields the metrics with and
    without `flip`.

    Parameters
    ----------
    embedder : Embedder
        The model.
    pair_set : PairSet or CrossPairs
        The verification set, as :func:`denseface.read_pairs` returns it, or all pairs of its pictures.
    folds, thresholds
        See :func:`denseface.evaluation.metrics.score_pairs`.
    progress : bool
        Show a progress bar if stderr is a terminal.

    Returns
    -------
    VerificationReport

    Raises
    ------
    InputError
        If a picture is broken, an embedding is not finite, or the set has fewer pairs than folds or pairs of one kind
        only; the message begins with the name of the set.
    """
    pictures, pairs = pair_set.unique()
    try:
        plain, summed = _embed(embedder, pair_set.name, pictures, pairs, progress)
        return VerificationReport(
            name=pair_set.name,
            flip=_measure(summed, pairs, pair_set, folds, thresholds) if embedder.flip else None,
            plain=_measure(plain, pairs, pair_set, folds, thresholds),
            pair_set=pair_set,
        )
    except PictureError:  # it names the set already
        raise
    except InputError as error:
        raise InputError(f"{pair_set.name}: {error.args[0]}", option=error.option) from error


def _measure(
    embeddings: np.ndarray, pairs: np.ndarray, pair_set: PairSet | CrossPairs, folds: int, thresholds: str
) -> VerificationResult:
    scores = pair_scores(embeddings, pairs)
    scores[pair_set.failed] = -1  # the least there is: who is not enrolled never matches
    return score_pairs(scores, pair_set.issame, folds, thresholds=thresholds)


def _embed(
    embedder: Embedder, name: str, pictures: list[bytes], pairs: np.ndarray, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Embed the pictures of a set, each named by its first pair: alone, and with their mirror images added."""
    _, firsts = np.unique(pairs, return_index=True)
    bar = ProgressBar(
        zip(firsts.tolist(), pictures), name, len(pictures), unit="picture", leave=False, disable=not progress
    )
    sources = (
        Source(f"{name}: pair {first // 2}", Path(name), partial(bytes, picture), is_aligned=True)
        for first, picture in bar
    )
    cut = partial(cut_source, crop=embedder.crop, image_shape=embedder.image_shape)
    plain, summed = ([np.empty((0, embedder.emb_size), np.float32)] for _ in range(2))
    with cut_ahead(cut, sources, ahead=2 * embedder.batch_size) as cuts:
        batches = compute_batches(embedder.compute, usable(cuts), embedder.batch_size, embedder.image_shape)
        for _, embeddings in batches:
            plain.append(embeddings.plain)
            summed.append(embeddings.summed)
    return np.concatenate(plain), np.concatenate(summed)
