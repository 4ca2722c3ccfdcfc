"""Face verification: are the two faces of a pair the same person, and how often is the answer right.

A pair is scored by the cosine similarity of its two embeddings and accepted as the same person when

    score >= threshold.

On embeddings of length 1 the squared distance is ``d**2 = 2 - 2 * cos``, so InsightFace's rule "squared distance <
threshold" puts the pairs in the same order and gives the same ROC curve, a distance threshold ``t`` being the score
threshold ``1 - t / 2``.

References
----------
Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments", 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

_CHUNK = 1024


@dataclass(frozen=True)
class VerificationResult:
    """What `score_pairs` measures.

    Attributes
    ----------
    accuracy, accuracy_std : float
        Mean and standard deviation (of the population, as InsightFace prints it) of the accuracy over the folds.
    threshold : float
        The score threshold of best accuracy over all pairs: the one to use in production.
    balanced_accuracy, balanced_threshold : float
        The best mean of the rates at which genuine pairs are accepted and impostors rejected, over all pairs, and
        where it is reached. Unlike `accuracy` it does not depend on how many pairs there are of each kind.
    auc : float
        Area under the ROC curve: the chance that a genuine pair scores above an impostor pair, ties counting half.
    tar : dict of float to (float or None)
        For each false accept rate asked for, the true accept rate at the largest rate not above it that a threshold
        reaches, without interpolation. None where the impostor pairs are too few to measure that rate, that is where
        ``n_impostor * far < 1``.
    n_genuine, n_impostor : int
        How many pairs there are of the same person, and of two persons.
    roc : tuple of two ndarray of shape (n_thresholds,)
        False and true accept rates, from the strictest threshold (0, 0) to the most lenient (1, 1).
    scores : tuple of two ndarray, of shape (n_genuine,) and (n_impostor,)
        The scores themselves, of genuine and of impostor pairs.
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    balanced_accuracy: float
    balanced_threshold: float
    auc: float
    tar: dict[float, float | None]
    n_genuine: int
    n_impostor: int
    roc: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False)
    scores: tuple[np.ndarray, np.ndarray] = field(repr=False, compare=False)

    def to_dict(self) -> dict:
        """Every single figure, in types that JSON knows; the keys of ``tar`` become text such as "1e-06"."""
        figures = {name: value for name, value in vars(self).items() if name not in ("roc", "scores")}
        return {**figures, "tar": {f"{far:g}": tar for far, tar in self.tar.items()}}


def pair_scores(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosine similarity of each pair of embeddings.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
        Normalised or not.
    pairs : ndarray of int, shape (m, 2)
        The rows of `embeddings` that make up each pair, 0 to n - 1.

    Returns
    -------
    ndarray of shape (m,), float64
        -1 (opposite) to 1 (same direction); 0 where an embedding is all zeros.

    Raises
    ------
    InputError
        If a shape does not fit, a pair points outside the embeddings, or an embedding is not finite.
    """
    embeddings, pairs = np.asarray(embeddings), np.asarray(pairs)
    if embeddings.ndim != 2:
        raise InputError(f"embeddings must have the shape (n, d), not {embeddings.shape}")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise InputError(f"pairs must be integers of shape (m, 2), not {pairs.dtype} of shape {pairs.shape}")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= len(embeddings)):
        raise InputError(
            f"pairs must point at embeddings 0 to {len(embeddings) - 1}, not {pairs.min()} to {pairs.max()}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise InputError(f"embedding {np.argmin(finite)} holds NaN or infinity; check the model that made it")

    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        left, right = (normalize(embeddings[side]) for side in pairs[start : start + _CHUNK].T)
        scores[start : start + _CHUNK] = np.einsum("ij,ij->i", left, right)
    return scores.clip(-1, 1)


def score_pairs(
    scores: np.ndarray, issame: np.ndarray, folds: int = 10, fars: tuple[float, ...] = FARS
) -> VerificationResult:
    """Measure verification by the LFW protocol, with every distinct score tried as threshold.

    The pairs are cut, in their order, into `folds` folds of equal size (the first ones a pair larger if need be). The
    accuracy of a fold is measured at the threshold that is best on all the other folds. Of several thresholds that are
    equally good the highest is taken, the one that accepts least.

    Parameters
    ----------
    scores : ndarray of shape (m,)
        Similarities, higher for pairs that look more alike.
    issame : ndarray of bool, shape (m,)
        Whether a pair shows one person (genuine) or two (impostor).
    folds : int, 2 to m
        10 in the protocol.
    fars : tuple of float, each above 0 and at most 1
        False accept rates at which to measure the true accept rate.

    Returns
    -------
    VerificationResult

    Raises
    ------
    InputError
        If there are no genuine or no impostor pairs, fewer pairs than folds, scores that are not finite, lengths that
        differ, or rates out of range.

    Examples
    --------
    >>> result = score_pairs([0.9, 0.2, 0.8, 0.1], [True, False, True, False], folds=2, fars=(0.5, 0.1))
    >>> result.threshold, result.auc, result.tar
    (0.8, 1.0, {0.5: 1.0, 0.1: None})
    """
    scores, issame = _checked_pairs(scores, issame, folds)
    for far in fars:
        if not 0 < far <= 1:
            raise InputError(f"a false accept rate must be above 0 and at most 1, not {far}")

    n_genuine = int(np.count_nonzero(issame))
    n_impostor = len(issame) - n_genuine
    thresholds, true_accepts, false_accepts = _sweep(scores, issame)
    false_rates, true_rates = false_accepts / n_impostor, true_accepts / n_genuine
    # A common denominator keeps the comparison in whole numbers, so that equals are equal.
    balance = true_accepts * n_impostor + (n_impostor - false_accepts) * n_genuine
    most_balanced = int(np.argmax(balance))
    accuracies = _fold_accuracies(scores, issame, folds)
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        threshold=_most_accurate_threshold(scores, issame),
        balanced_accuracy=float(balance[most_balanced] / (2 * n_genuine * n_impostor)),
        balanced_threshold=float(thresholds[most_balanced]),
        auc=float(np.sum(np.diff(false_rates) * (true_rates[1:] + true_rates[:-1]) / 2)),
        tar={far: _tar(far, n_impostor, false_accepts, true_rates) for far in fars},
        n_genuine=n_genuine,
        n_impostor=n_impostor,
        roc=(false_rates, true_rates),
        scores=(scores[issame], scores[~issame]),
    )


def _checked_pairs(scores, issame, folds):
    scores, issame = np.asarray(scores, np.float64), np.asarray(issame).astype(bool)
    if scores.ndim != 1 or scores.shape != issame.shape:
        raise InputError(f"scores and issame must be flat and of one length, not {scores.shape} and {issame.shape}")
    if not np.isfinite(scores).all():
        raise InputError("scores hold NaN or infinity; check the model that made the embeddings")
    if issame.all() or not issame.any():
        raise InputError("verification needs pairs of one person and pairs of two persons; issame has only one kind")
    if not 2 <= folds <= len(scores):
        raise InputError(f"folds must be 2 to the number of pairs ({len(scores)}), not {folds}")
    return scores, issame


def _sweep(scores, issame):
    """Every threshold that makes a difference, falling, with the genuine and impostor pairs accepted at each."""
    order = np.argsort(-scores)
    falling = scores[order]
    last_of_equals = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    true_accepts = np.cumsum(issame[order])[last_of_equals]
    false_accepts = last_of_equals + 1 - true_accepts
    accept_nothing = np.nextafter(falling[0], np.inf)
    thresholds = np.insert(falling[last_of_equals], 0, accept_nothing)
    return thresholds, np.insert(true_accepts, 0, 0), np.insert(false_accepts, 0, 0)


def _most_accurate_threshold(scores, issame):
    thresholds, true_accepts, false_accepts = _sweep(scores, issame)
    return float(thresholds[np.argmax(true_accepts - false_accepts)])


def _fold_accuracies(scores, issame, folds):
    accuracies = []
    for fold in np.array_split(np.arange(len(scores)), folds):
        threshold = _most_accurate_threshold(np.delete(scores, fold), np.delete(issame, fold))
        accuracies.append(np.mean((scores[fold] >= threshold) == issame[fold]))
    return np.array(accuracies)


def _tar(far, n_impostor, false_accepts, true_rates):
    # The margin undoes the rounding of the product: 0.29 * 100 falls just short of 29.
    allowed = math.floor(far * n_impostor + 1e-9)
    if allowed < 1:
        return None
    return float(true_rates[np.searchsorted(false_accepts, allowed, side="right") - 1])
