"""Measure a model on a file or folder of pairs."""

from __future__ import annotations

import os
from dataclasses import replace

from denseface.core.errors import InputError
from denseface.data.pairs import read_pairs
from denseface.data.template_set import read_templates
from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import FOLDS
from denseface.verification.cross_pairs import CrossPairs
from denseface.verification.verify import VerificationReport, verify
from denseface.verification.verify_templates import verify_templates


def measure_set(
    embedder: Embedder,
    path: str,
    name: str | None = None,
    *,
    all_pairs: bool = False,
    folds: int = FOLDS,
    thresholds: str = "scores",
) -> VerificationReport:
    """Measure a model on a set, with a progress bar.

    Parameters
    ----------
    embedder : Embedder
    path : str
        A verification set in InsightFace's format, or a folder of IJB-B or IJB-C.
    name : str, optional
        What to call the set instead of its own name.
    all_pairs : bool
        Pair every picture with every other one.
    folds, thresholds
        See :func:`denseface.evaluation.metrics.score_pairs`.

    Raises
    ------
    InputError
        If the set cannot be used.
    """
    if os.path.isdir(path):
        if all_pairs:
            raise InputError("pairs of templates are those that its list has", path=path, option="all_pairs")
        templates = read_templates(path)
        templates = replace(templates, name=name or templates.name)
        report = verify_templates(embedder, templates, folds=folds, thresholds=thresholds, progress=True)
    else:
        pairs = read_pairs(path)
        pairs = replace(pairs, name=name or pairs.name)
        chosen = CrossPairs(pairs) if all_pairs else pairs
        report = verify(embedder, chosen, folds=folds, thresholds=thresholds, progress=True)
    report.check()  # before it counts
    return report
