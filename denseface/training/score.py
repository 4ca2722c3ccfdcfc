"""How good a step is by what verification measured, and that in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from denseface.evaluation.metrics import VerificationResult


class Score(NamedTuple):
    """What decides which step is the best.

    Attributes
    ----------
    value : float
        Mean balanced accuracy over the verification sets.
    noise : float
        Twice its standard error, with the pairs as independent draws. Pairs of few people vary more.
    """

    value: float
    noise: float


def score(results: Mapping[str, VerificationResult]) -> Score:
    """Score the results of one step by verification set, at least one."""
    count = len(results)
    variance = sum(_variance(result) for result in results.values())
    return Score(sum(result.balanced_accuracy for result in results.values()) / count, 2 * math.sqrt(variance) / count)


def _variance(result: VerificationResult) -> float:
    """Variance of the balanced accuracy: that of the mean of two fractions."""
    accepted = np.mean(result.scores.genuine >= result.balanced_threshold)
    rejected = np.mean(result.scores.impostor < result.balanced_threshold)
    kinds = ((accepted, result.n_genuine), (rejected, result.n_impostor))
    return float(sum(rate * (1 - rate) / number for rate, number in kinds)) / 4


def describe(result: VerificationResult) -> str:
    """Write a result in one line; first what does not depend on how many of the pairs are genuine."""
    measured = [far for far, tar in result.tar.items() if tar is not None]
    strictest = f", TAR {result.tar[min(measured)]:.4f} at FAR {min(measured):g}" if measured else ""
    constant = max(result.n_genuine, result.n_impostor) / (result.n_genuine + result.n_impostor)
    return (
        f"balanced accuracy {result.balanced_accuracy:.4f}{strictest}, accuracy {result.accuracy:.4f} +- "
        f"{result.accuracy_std:.4f} (one answer for all pairs: {constant:.4f})"
    )
