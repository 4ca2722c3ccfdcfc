"""Measure a model on a verification set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from denseface.core.errors import InputError
from denseface.data.pairs import PairSet
from denseface.embedding.embedder import Embedder, PictureError
from denseface.evaluation.metrics import FOLDS, VerificationResult, pair_scores, score_pairs


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
    """

    name: str
    flip: VerificationResult | None
    plain: VerificationResult

    def to_dict(self) -> dict:
        """Return all metrics but the ROC curves, in types that JSON knows."""
        return {
            "name": self.name,
            "flip": self.flip and self.flip.to_dict(),
            "plain": self.plain.to_dict(),
        }


def verify(
    embedder: Embedder,
    pair_set: PairSet,
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
    pair_set : PairSet
        The verification set, as :func:`denseface.read_pairs` returns it.
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
    shown = tqdm(pictures, pair_set.name, unit="picture", leave=False, disable=None if progress else True)
    try:
        plain, summed = _embed(embedder, shown)
        return VerificationReport(
            name=pair_set.name,
            flip=None if summed is None else _measure(summed, pairs, pair_set, folds, thresholds),
            plain=_measure(plain, pairs, pair_set, folds, thresholds),
        )
    except PictureError as error:
        pair = int(np.argwhere(pairs == error.position)[0, 0])
        raise InputError(f"{pair_set.name}: pair {pair}: {error.reason}") from error
    except InputError as error:
        raise InputError(f"{pair_set.name}: {error.args[0]}", option=error.option) from error


def _measure(embeddings, pairs, pair_set, folds, thresholds):
    return score_pairs(pair_scores(embeddings, pairs), pair_set.issame, folds, thresholds=thresholds)


def _embed(embedder: Embedder, pictures: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
    plain, mirrored = zip(*embedder.batches(pictures))
    plain = np.concatenate(plain)
    return plain, plain + np.concatenate(mirrored) if embedder.flip else None
