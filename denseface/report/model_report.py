"""A description of a model for other people: the model, its measurements, and what was not measured."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from denseface.data.pictures import decode
from denseface.data.template_set import TemplateSet
from denseface.embedding.embedder import Embedder
from denseface.evaluation.groups import Group
from denseface.report.charts import draw_groups, draw_verification
from denseface.report.document import Block, Document, Figure, Paragraph, PicturePair, PicturePairs, Section, Table
from denseface.report.plotting import rendered
from denseface.report.tables import group_rows, metric_rows, threshold_rows
from denseface.verification.verify import VerificationReport

_WORST = 6  # pairs of each kind
_SIDE = 112  # pixels of a picture in the page
_RUNS = 5
_UNKNOWN = "not stated"


class Statements(NamedTuple):
    """Statements of a model's owner, which cannot be measured.

    Attributes
    ----------
    trained_on : str or None
        The pictures that it was trained on.
    license : str or None
        Under which it may be used.
    recipe : mapping of str to str
        The options of its run, as far as they are known.
    """

    trained_on: str | None
    license: str | None
    recipe: Mapping[str, str]


class Measured(NamedTuple):
    """A set that a model was measured on.

    Attributes
    ----------
    report : VerificationReport
    groups : mapping of str to mapping of str to Group
        The rates of groups of people by what groups them.
    """

    report: VerificationReport
    groups: Mapping[str, Mapping[str, Group]]


def describe_model(
    embedder: Embedder, measured: Sequence[Measured], statements: Statements, pictures: bool = True
) -> Document:
    """Describe a model.

    Parameters
    ----------
    embedder : Embedder
        The measured model.
    measured : sequence of Measured
        At least one.
    statements : Statements
    pictures : bool
        Show the pairs of pictures that the model is most wrong about.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    reports = [each.report for each in measured]
    sections = [Section("What it was trained on", [_origin(statements)])]
    sections += [
        Section(f"Measured on {each.report.name}", [*_measurement(each, reports), *_worst(each.report, pictures)])
        for each in measured
    ]
    sections += [
        Section("Speed on this machine", [_speed(embedder)]),
        Section("What was not measured", [Paragraph(text) for text in _missing(measured, statements)]),
    ]
    if statements.recipe:
        options = Table("Those that differ from the defaults", [("option", "value"), *statements.recipe.items()])
        sections.append(Section("Options of the training run", [options]))
    return Document(f"Face recognition model {name_of(embedder)}", [_facts(embedder)], sections)


def name_of(embedder: Embedder) -> str:
    """Return the names of a model and its folder, without the path on this machine."""
    return "/".join(Path(embedder.model.name).parts[-2:])


def _facts(embedder: Embedder) -> Table:
    height, width, channels = embedder.image_shape
    where = f" on {embedder.provider}" if embedder.provider else ""
    facts = {
        "fingerprint (SHA-256)": str(embedder.fingerprint["sha256"]),
        "input": f"{height} x {width} pixels, {'RGB' if channels == 3 else 'gray'}",
        "values in an embedding": str(embedder.emb_size),
        "computed by": f"{embedder.engine}{where}, {embedder.precision.removesuffix(where)}",
        "mirror images": "added to each embedding" if embedder.flip else "not used",
    }
    return Table("The model", [("", "value"), *facts.items()])


def _origin(statements: Statements) -> Table:
    stated = {"training pictures": statements.trained_on, "license": statements.license}
    rows = [("", "as its owner states"), *((name, text or _UNKNOWN) for name, text in stated.items())]
    return Table("Statements", rows)


def _measurement(measured: Measured, reports: Sequence[VerificationReport]) -> Iterator[Block]:
    report = measured.report
    way, result = report.way, report.result
    yield Paragraph(
        f"{result.n_genuine} pairs show one person and {result.n_impostor} show two; {report.shared.count} people are "
        f"in them ({report.people.source}). Intervals are those of 95 %, and respect that pairs share people."
    )
    yield Table("Metrics; flip adds the embedding of the mirror image, plain does not", metric_rows(report, reports))
    yield Table(
        "Thresholds: from which score on two faces are taken for one person, by the false accept rate that is wanted. "
        "The interval is that of the false accept rate on other pairs of such people.",
        threshold_rows(report, way),
    )
    rates = ", ".join(
        f"{tar:.4f} at a false accept rate of {far:g}" for far, tar in result.tar.items() if tar is not None
    )
    yield _drawn(
        draw_verification({report.name: report}),
        "ROC and DET curves with 95 % intervals, the scores of both kinds of pairs, and how true probabilities are.",
        f"True accept rate {rates}. Equal error rate {result.eer:.4f}, area under the ROC curve {result.auc:.4f}.",
    )
    for column, groups in measured.groups.items():
        rows = group_rows(groups)
        yield Table(f"Error rates by {column}, at thresholds of all people", rows)
        words = "; ".join(f"{name}: {group.people} people" for name, group in groups.items())
        yield _drawn(draw_groups(groups, column), f"Error rates by {column}, with 95 % intervals.", words)


def _drawn(figure, caption: str, description: str) -> Figure:
    return Figure(caption, description, rendered(figure, "svg"), "image/svg+xml")


def _worst(report: VerificationReport, pictures: bool) -> Iterator[Block]:
    """Show the pairs with the most wrong scores, if their pictures are wanted and there."""
    if not pictures or isinstance(report.pair_set, TemplateSet):
        return
    files, pairs = report.pair_set.unique()
    issame, scores = report.pair_set.issame, report.result.scores
    for text, kind, order in (
        ("Two people with the highest scores:", ~issame, np.argsort(-scores.impostor, kind="stable")),
        ("One person with the lowest scores:", issame, np.argsort(scores.genuine, kind="stable")),
    ):
        values = scores.genuine if kind is issame else scores.impostor
        shown = [
            PicturePair(f"score {values[at]:.3f}", *(_thumbnail(files[index]) for index in pairs[kind][at]))
            for at in order[:_WORST]
        ]
        yield Paragraph(text)
        yield PicturePairs(shown)


def _thumbnail(file: bytes) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(decode(file))
    image.thumbnail((_SIDE, _SIDE))
    image.save(content, "JPEG")
    return content.getvalue()


def _speed(embedder: Embedder) -> Table:
    """Measure embeddings of aligned faces in memory, one by one and in whole batches."""
    rows = [("", "milliseconds per face, median")]
    for count in dict.fromkeys((1, max(8, embedder.batch_size))):
        faces = np.zeros(embedder.image_shape.nchw(count), np.float32)
        embedder.compute(faces)
        durations = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            embedder.compute(faces)
            durations.append(time.perf_counter() - start)
        title = "one face" if count == 1 else f"{count} faces together"
        rows.append((title, f"{1000 * statistics.median(durations) / count:.2f}"))
    return Table("From an aligned face in memory to its embedding", rows)


def _missing(measured: Sequence[Measured], statements: Statements) -> Iterator[str]:
    if not all(each.groups for each in measured):
        yield "Error rates of groups of people: a table of people and their groups was not given."
    yield "Identification, the search for one person among many: denseface identify measures it."
    yield "Pictures of printed faces, masks and screens: the model does not recognize them as such."
    if not statements.trained_on:
        yield "Whether people of the sets above were in its training pictures: these are not stated."
    if not statements.recipe:
        yield "How it was trained: the options of its run are not beside the model."
    for each in measured:
        measurable = [far for far, tar in each.report.plain.tar.items() if tar is not None]
        rates = f"False accept rates below {min(measurable):g}" if measurable else "False accept rates"
        yield f"{rates} on {each.report.name}: it has too few pairs of two people."


def front_matter(embedder: Embedder, measured: Sequence[Measured], statements: Statements) -> dict[str, object]:
    """Return the front matter that model hubs read in a card: license, tags and results."""
    results = [
        {
            "task": {"type": "face-verification"},
            "dataset": {"name": report.name, "type": report.name},
            "metrics": [
                {"type": f"tar_at_far_{far:g}", "value": tar} for far, tar in result.tar.items() if tar is not None
            ]
            + [{"type": "accuracy", "value": result.accuracy}, {"type": "auc", "value": result.auc}],
        }
        for report, result in ((each.report, each.report.result) for each in measured)
    ]
    return {
        "license": statements.license or "unknown",
        "library_name": "denseface",
        "tags": ["face-recognition", "face-verification"],
        "model-index": [{"name": name_of(embedder), "results": results}],
    }
