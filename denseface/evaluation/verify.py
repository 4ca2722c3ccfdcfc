"""Measure a model on a verification set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from denseface.core.errors import InputError
from denseface.data.pairs import PairSet
from denseface.embedding.embedder import Embedder, PictureError
from denseface.evaluation.metrics import VerificationResult, pair_scores, score_pairs


@dataclass(frozen=True)
class VerificationReport:
    """The figures of one set.

    Attributes
    ----------
    name : str
        The set's.
    flip : VerificationResult or None
        With the embeddings of picture and mirror image summed, InsightFace's convention; None if the embedder has no
        `flip`.
    plain : VerificationResult
        With the embedding of the picture alone.
    """

    name: str
    flip: VerificationResult | None
    plain: VerificationResult

    def to_dict(self) -> dict:
        """Every figure but the ROC curves, in types that JSON knows."""
        return {
            "name": self.name,
            "flip": self.flip and self.flip.to_dict(),
            "plain": self.plain.to_dict(),
        }


def verify(embedder: Embedder, pair_set: PairSet, progress: bool = False) -> VerificationReport:
    """Measure how well a model tells whether two pictures show the same person.

    Each distinct picture is embedded once, and its mirror image with it, so that one pass gives the figures both with
    and without flip.

    Parameters
    ----------
    embedder : Embedder
        What to measure.
    pair_set : PairSet
        What to measure it on.
    progress : bool
        Show a progress bar if stderr is a terminal.

    Raises
    ------
    InputError
        If a picture is broken, an embedding is not finite, or the set has fewer pairs than folds or pairs of one kind
        only; the message begins with the set's name.
    """
    pictures, pairs = pair_set.unique()
    shown = tqdm(pictures, pair_set.name, unit="picture", leave=False, disable=None if progress else True)
    try:
        plain, summed = _embed(embedder, shown)
        return VerificationReport(
            name=pair_set.name,
            flip=None if summed is None else score_pairs(pair_scores(summed, pairs), pair_set.issame),
            plain=score_pairs(pair_scores(plain, pairs), pair_set.issame),
        )
    except PictureError as error:
        pair = int(np.argwhere(pairs == error.position)[0, 0])
        raise InputError(f"{pair_set.name}: pair {pair}: {error.reason}") from error
    except InputError as error:
        raise InputError(f"{pair_set.name}: {error}") from error


def _embed(embedder: Embedder, pictures: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
    plain, mirrored = zip(*embedder.batches(pictures))
    plain = np.concatenate(plain)
    return plain, plain + np.concatenate(mirrored) if embedder.flip else None
