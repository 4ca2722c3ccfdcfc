"""Face verification: do the two faces of a pair show the same person, and how often is the answer right?

The score of a pair is the cosine similarity of its two embeddings. It is accepted as the same person when

    score >= threshold.

For embeddings of length 1 the squared distance is ``d**2 = 2 - 2 * cos``. InsightFace's rule "squared distance <
threshold" therefore ranks pairs in the same order and has the same ROC curve; its threshold ``t`` corresponds to the
score ``1 - t / 2``.

References
----------
Huang et al., "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments", 2007.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FOLDS = 10
THRESHOLDS = ("scores", "insightface")

_CHUNK = 1024


class Pairs(NamedTuple):
    """Something of each pair of a set.

    Attributes
    ----------
    genuine : ndarray of shape (n_genuine,)
        Of the pairs that show one person.
    impostor : ndarray of shape (n_impostor,)
        Of the pairs that show two.
    """

    genuine: np.ndarray
    impostor: np.ndarray


class Roc(NamedTuple):
    """A ROC curve, from the strictest threshold, which accepts no pair, to the most lenient, which accepts all.

    Attributes
    ----------
    far, tar : ndarray of shape (n,)
        False and true accept rates, rising from 0 to 1.
    thresholds : ndarray of shape (n,)
        The threshold of each, falling.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class VerificationResult:
    """The metrics that :func:`score_pairs` computes.

    Attributes
    ----------
    accuracy, accuracy_std : float
        Mean and standard deviation of the accuracy over the folds; the standard deviation is that of the population,
        as InsightFace prints it.
    threshold : float
        The score threshold with the best accuracy over all pairs: the one to use in production.
    fmr, fnmr : float
        The false match rate and the false non-match rate at that threshold: the fractions of impostor pairs that are
        accepted, and of genuine pairs that are rejected.
    balanced_accuracy, balanced_threshold : float
        The best mean of two rates over all pairs, accepted genuine pairs and rejected impostor pairs, and the threshold
        that reaches it. Unlike `accuracy` it does not depend on the number of pairs of each kind.
    auc : float
        Area under the ROC curve: the chance that a genuine pair scores above an impostor pair, ties counting half.
    tar : dict of float to (float or None)
        True accept rate at each false accept rate: the one at the most lenient threshold whose false accept rate does
        not exceed it, without interpolation. None where there are too few impostor pairs to measure that rate
        (``n_impostor * far < 1``).
    eer, eer_threshold : float
        The equal error rate, at which as many impostor pairs are accepted as genuine pairs rejected, in shares of each
        kind, between two thresholds by linear interpolation; and the threshold nearest to it.
    d_prime : float or None
        Distance of the mean scores of genuine and impostor pairs, in units of their standard deviation: the root of the
        mean of both variances. None where that is 0.
    n_genuine, n_impostor : int
        Number of pairs that show the same person, and two persons.
    folds : int
        Number of folds of the accuracy.
    mixed_folds : bool
        Whether most folds have pairs of both kinds, or could not because there are fewer such pairs than folds. Where
        this is False, the set is in the order of its kinds, and `accuracy` says little.
    roc : Roc
    scores : Pairs
        The score of each pair.
    right : Pairs
        Whether the answer at the threshold of the pair's fold was right, bool.
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    fmr: float
    fnmr: float
    balanced_accuracy: float
    balanced_threshold: float
    auc: float
    tar: dict[float, float | None]
    eer: float
    eer_threshold: float
    d_prime: float | None
    n_genuine: int
    n_impostor: int
    folds: int
    mixed_folds: bool
    roc: Roc = field(repr=False, compare=False)
    scores: Pairs = field(repr=False, compare=False)
    right: Pairs = field(repr=False, compare=False)

    def threshold_at(self, far: float) -> float | None:
        """Return the most lenient threshold whose false accept rate does not exceed `far`.

        None where there are too few impostor pairs to measure that rate.
        """
        at = _point_at(self.roc, far, self.n_impostor)
        return None if at is None else float(self.roc.thresholds[at])

    def tar_at(self, far: float) -> float | None:
        """Return the true accept rate at that threshold."""
        at = _point_at(self.roc, far, self.n_impostor)
        return None if at is None else float(self.roc.tar[at])

    def to_dict(self) -> dict:
        """Return all metrics but the ROC curve, in types that JSON knows; keys of ``tar`` become "1e-06" and so on."""
        metrics = {name: value for name, value in vars(self).items() if name not in ("roc", "scores", "right")}
        return {**metrics, "tar": {f"{far:g}": tar for far, tar in self.tar.items()}}


def pair_scores(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Compute the cosine similarity of each pair of embeddings.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
        Normalized or not.
    pairs : ndarray of int, shape (m, 2)
        Rows of `embeddings`, 0 to n - 1; the two of a pair in each row.

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
        raise InputError(f"embedding {np.argmin(finite)} contains NaN or infinity; check the model")

    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        left, right = (normalize(embeddings[side]) for side in pairs[start : start + _CHUNK].T)
        scores[start : start + _CHUNK] = np.einsum("ij,ij->i", left, right)
    return scores.clip(-1, 1)


def score_pairs(
    scores: np.ndarray,
    issame: np.ndarray,
    folds: int = FOLDS,
    fars: tuple[float, ...] = FARS,
    thresholds: str = "scores",
) -> VerificationResult:
    """Compute the metrics of verification by the protocol of LFW.

    The pairs are split, in their order, into `folds` folds of equal size (the first ones get one pair more if need
    be). The accuracy of a fold is measured at the threshold that is best on all other folds. Of several thresholds
    that are equally good the highest is taken, which accepts the fewest pairs.

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
    thresholds : {"scores", "insightface"}
        Thresholds among which the accuracy of a fold finds the best: every distinct score, or those of InsightFace's
        verification, which are the squared distances 0, 0.01, ..., 3.99 with its rule "distance < threshold". The
        second is coarser; it is there to compare with published numbers. It changes nothing but `accuracy`.

    Returns
    -------
    VerificationResult

    Raises
    ------
    InputError
        If there are no genuine or no impostor pairs, fewer pairs than folds, scores that are not finite, lengths that
        differ, or rates out of range.

    References
    ----------
    Huang et al., "Labeled Faces in the Wild", 2007 (view 2).

    Examples
    --------
    >>> result = score_pairs([0.9, 0.2, 0.8, 0.1], [True, False, True, False], folds=2, fars=(0.5, 0.1))
    >>> result.threshold, result.auc, result.tar
    (0.8, 1.0, {0.5: 1.0, 0.1: None})
    """
    scores, issame = _checked_pairs(scores, issame, folds)
    for far in fars:
        if not 0 < far <= 1:
            raise InputError(f"a false accept rate must be above 0 and at most 1, not {far}", option="fars")
    if thresholds not in THRESHOLDS:
        raise InputError(f"must be one of {', '.join(THRESHOLDS)}, not {thresholds}", option="thresholds")

    n_genuine = int(np.count_nonzero(issame))
    n_impostor = len(issame) - n_genuine
    tried, true_accepts, false_accepts = _sweep(scores, issame)
    roc = Roc(false_accepts / n_impostor, true_accepts / n_genuine, tried)
    # Whole numbers over a common denominator, so that equal thresholds compare as equal.
    balance = true_accepts * n_impostor + (n_impostor - false_accepts) * n_genuine
    most_balanced = int(np.argmax(balance))
    parts = np.array_split(np.arange(len(scores)), folds)
    accept = _accepted if thresholds == "scores" else _accepted_as_insightface
    accepted = accept(scores, issame, parts)
    right = accepted == issame
    pure = sum(issame[part].all() or not issame[part].any() for part in parts)
    threshold = _most_accurate_threshold(scores, issame)
    accuracies = np.array([right[part].mean() for part in parts])
    eer, eer_threshold = _equal_error_rate(tried, roc.far, 1 - roc.tar)
    return VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        threshold=threshold,
        fmr=float(np.mean(scores[~issame] >= threshold)),
        fnmr=float(np.mean(scores[issame] < threshold)),
        balanced_accuracy=float(balance[most_balanced] / (2 * n_genuine * n_impostor)),
        balanced_threshold=float(tried[most_balanced]),
        auc=float(np.sum(np.diff(roc.far) * (roc.tar[1:] + roc.tar[:-1]) / 2)),
        tar={far: None if (at := _point_at(roc, far, n_impostor)) is None else float(roc.tar[at]) for far in fars},
        eer=eer,
        eer_threshold=eer_threshold,
        d_prime=_d_prime(scores[issame], scores[~issame]),
        n_genuine=n_genuine,
        n_impostor=n_impostor,
        folds=folds,
        mixed_folds=bool(min(n_genuine, n_impostor) < folds or 2 * pure <= folds),
        roc=roc,
        scores=Pairs(scores[issame], scores[~issame]),
        right=Pairs(right[issame], right[~issame]),
    )


def _checked_pairs(scores: ArrayLike, issame: ArrayLike, folds: int) -> tuple[np.ndarray, np.ndarray]:
    scores, issame = np.asarray(scores, np.float64), np.asarray(issame).astype(bool)
    if scores.ndim != 1 or scores.shape != issame.shape:
        raise InputError(f"scores and issame must be flat and of one length, not {scores.shape} and {issame.shape}")
    if not np.isfinite(scores).all():
        raise InputError("scores contain NaN or infinity; check the model that computed the embeddings")
    if issame.all() or not issame.any():
        raise InputError("verification needs pairs of one person and pairs of two persons; these are all of one kind")
    if not 2 <= folds <= len(scores):
        raise InputError(f"must be 2 to the number of pairs, {len(scores)}, not {folds}", option="folds")
    return scores, issame


def _sweep(scores: np.ndarray, issame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the thresholds that make a difference, in falling order, and the pairs accepted at each, of both kinds."""
    order = np.argsort(-scores)
    falling = scores[order]
    last_of_equals = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    true_accepts = np.cumsum(issame[order])[last_of_equals]
    false_accepts = last_of_equals + 1 - true_accepts
    accept_nothing = np.nextafter(falling[0], np.inf)
    thresholds = np.insert(falling[last_of_equals], 0, accept_nothing)
    return thresholds, np.insert(true_accepts, 0, 0), np.insert(false_accepts, 0, 0)


def _most_accurate_threshold(scores: np.ndarray, issame: np.ndarray) -> float:
    thresholds, true_accepts, false_accepts = _sweep(scores, issame)
    return float(thresholds[np.argmax(true_accepts - false_accepts)])


def _accepted(scores: np.ndarray, issame: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return which pairs of each fold the best threshold of all others accepts."""
    accepted = np.empty(len(scores), bool)
    for part in parts:
        threshold = _most_accurate_threshold(np.delete(scores, part), np.delete(issame, part))
        accepted[part] = scores[part] >= threshold
    return accepted


def _accepted_as_insightface(scores: np.ndarray, issame: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The same as :func:`_accepted` with InsightFace's thresholds; of equally good ones, the smallest."""
    distances = np.arange(0, 4, 0.01)
    # The first threshold that accepts a pair; for a pair at distance 4, one beyond the last.
    first = np.searchsorted(distances, 2 - 2 * scores, side="right")
    gains = np.zeros((len(parts), len(distances) + 1), np.int64)  # right answers that a threshold adds to the last one
    for number, part in enumerate(parts):
        np.add.at(gains[number], first[part], np.where(issame[part], 1, -1))
    right = np.cumsum(gains[:, :-1], axis=1)  # less a constant per fold, the number of impostor pairs
    accepted = np.empty(len(scores), bool)
    for part, best in zip(parts, np.argmax(right.sum(axis=0) - right, axis=1)):
        accepted[part] = first[part] <= best
    return accepted


def _equal_error_rate(
    thresholds: np.ndarray, false_accepts: np.ndarray, false_rejects: np.ndarray
) -> tuple[float, float]:
    """Return the rate where two curves cross, the one rising and the other falling, and the nearest threshold."""
    after = int(np.argmax(false_accepts >= false_rejects))
    gaps = (false_rejects - false_accepts)[after - 1 : after + 1]
    share = gaps[0] / (gaps[0] - gaps[1])
    rate = false_accepts[after - 1] + share * (false_accepts[after] - false_accepts[after - 1])
    return float(rate), float(thresholds[after - (gaps[0] < -gaps[1])])


def _d_prime(genuine: np.ndarray, impostor: np.ndarray) -> float | None:
    deviation = math.sqrt((np.var(genuine) + np.var(impostor)) / 2)
    distance = float(genuine.mean() - impostor.mean())
    return distance / deviation if deviation else None


def _point_at(roc: Roc, far: float, n_impostor: int) -> int | None:
    """Return the most lenient point of a ROC curve whose false accept rate does not exceed `far`."""
    allowed = math.floor(far * n_impostor + 1e-9)  # absorbs rounding of the product: 0.29 * 100 is just below 29
    if allowed < 1:
        return None
    return int(np.searchsorted(roc.far, (allowed + 0.5) / n_impostor)) - 1
