"""Measure a model on pairs of templates, as InsightFace's evaluation of IJB-B and IJB-C does."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import numpy as np

from denseface.core.errors import InputError, warn_of_many
from denseface.core.progress_bar import ProgressBar
from denseface.core.text import counted, listed
from denseface.data.faces import CutPicture, Face, compute_batches, cut_ahead, usable
from denseface.data.pictures import load_picture
from denseface.data.template_set import TemplateSet
from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import FOLDS, VerificationResult, pair_scores, score_pairs
from denseface.verification.verify import VerificationReport

logger = logging.getLogger("denseface")


def verify_templates(
    embedder: Embedder,
    template_set: TemplateSet,
    *,
    folds: int = FOLDS,
    thresholds: str = "scores",
    progress: bool = False,
) -> VerificationReport:
    """Measure how well a model tells whether two templates are of one person.

    A template is the sum over its media of the mean embedding of their pictures, each embedding as the network computes
    it, not normalized, times the detection score. Pictures are fused as they are computed, so memory grows with the
    number of templates only.

    Parameters
    ----------
    embedder : Embedder
        Its network takes square pictures.
    template_set : TemplateSet
        As from :func:`denseface.data.template_set.read_templates`. Pictures that cannot be aligned are named in a
        warning (the first 20) and left out.
    folds, thresholds
        See :func:`denseface.evaluation.metrics.score_pairs`. With ``insightface`` the true accept rates are those of
        :func:`nearest_tar`.
    progress : bool
        Show a progress bar if stderr is a terminal.

    Raises
    ------
    InputError
        If a template has no picture that can be used, or the pairs cannot be measured.
    """
    height, width, _ = embedder.image_shape
    if height != width:
        raise InputError(f"{template_set.name}: aligned faces are square, and the network takes {height} x {width}")
    ways = ("flip", "plain") if embedder.flip else ("plain",)
    sums = {way: np.zeros((template_set.num_templates, embedder.emb_size)) for way in ways}
    weights, skipped = template_set.weights(), 0
    bar = ProgressBar(template_set.files, template_set.name, leave=False, disable=not progress)

    def skip(_: int, face: Face) -> None:
        nonlocal skipped
        skipped += 1
        warn_of_many(skipped, f"skipped: {face.message}", "pictures skipped")

    size = embedder.batch_size
    with cut_ahead(partial(_cut, template_set, embedder.image_shape), enumerate(bar), ahead=2 * size) as pictures:
        batches = compute_batches(embedder.compute, usable(pictures, skip), size, embedder.image_shape)
        for batch, embeddings in batches:
            rows = np.array([picture.key for picture in batch])
            for way, fused in sums.items():
                computed = embeddings.plain if way == "plain" else embeddings.summed
                np.add.at(fused, template_set.templates[rows], weights[rows, None] * computed.astype(np.float64))
    if skipped:
        logger.warning("%s: %d of %d pictures left out", template_set.name, skipped, len(template_set.files))
    results = {way: _measure(fused, template_set, folds, thresholds) for way, fused in sums.items()}
    return VerificationReport(template_set.name, results.get("flip"), results["plain"], template_set)


def _cut(template_set: TemplateSet, image_shape: tuple[int, int, int], numbered: tuple[int, str]) -> CutPicture[int]:
    index, file = numbered
    path = template_set.folder / file
    try:
        pixels = load_picture(template_set.load(index, image_shape[0]), image_shape)
        return CutPicture(index, [Face(str(path), pixels)])
    except InputError as error:
        return CutPicture(index, [Face.failed(str(path), error, path)])


def _measure(fused: np.ndarray, template_set: TemplateSet, folds: int, thresholds: str) -> VerificationResult:
    empty = np.flatnonzero(~fused.any(axis=1))
    if len(empty):
        named = listed([str(template_set.ids[index]) for index in empty[:6]])
        raise InputError(
            f"{template_set.name}: {counted(len(empty), 'template')} without a picture that can be used: {named}"
        )
    try:
        scores = pair_scores(fused, template_set.pairs)
        result = score_pairs(scores, template_set.issame, folds, thresholds=thresholds)
    except InputError as error:
        raise InputError(f"{template_set.name}: {error.args[0]}", option=error.option) from error
    if thresholds == "insightface":
        return replace(result, tar={far: nearest_tar(result, far) for far in result.tar})
    return result


def nearest_tar(result: VerificationResult, far: float) -> float:
    """Return the true accept rate where the false accept rate is nearest, as InsightFace's evaluation takes it.

    Its ROC curve lacks the points within straight lines, as scikit-learn's ``roc_curve`` leaves them out. Of points
    that are equally near it takes the most lenient.
    """
    false = np.rint(result.roc.far[1:] * result.n_impostor)
    true = np.rint(result.roc.tar[1:] * result.n_genuine)
    bends = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    kept = np.concatenate([[True], bends, [True]]) if len(false) > 1 else np.array([True])
    false_rates = np.append(0, false[kept] / result.n_impostor)
    true_rates = np.append(0, true[kept] / result.n_genuine)
    distances = np.abs(false_rates - far)
    return float(true_rates[np.flatnonzero(distances == distances.min())[-1]])
