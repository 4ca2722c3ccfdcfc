"""``denseface verify``: measure a model on verification sets."""

from __future__ import annotations

import argparse
import json
import logging

from denseface.cli.console import FAILED, OK, print_table, report_error
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder, positive
from denseface.core.errors import InputError

logger = logging.getLogger("denseface")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "verify",
        help="measure a model on verification sets",
        description="Measure how well a model tells whether two pictures show the same person: accuracy over folds, "
        "best balanced accuracy, area under the ROC curve, and the true accept rate (TAR) at false accept rates (FAR) "
        "of 1e-1 to 1e-6, as far as there are enough pairs to measure them. A set that cannot be used is reported, the "
        "others are still measured, and the exit code is 1. The metrics are saved beside the model, in "
        "PREFIX-EPOCH.verification.json, where match finds its threshold.",
    )
    parser.add_argument("sets", nargs="+", metavar="SET.bin", help="verification sets in InsightFace's format")
    add_model_options(parser)
    parser.add_argument(
        "--against", action="append", default=[], metavar="PREFIX,EPOCH", help="another model to measure beside it"
    )
    add_no_flip(parser)
    parser.add_argument("--folds", type=positive, default=10, metavar="N", help="folds of the accuracy (default: 10)")
    parser.add_argument(
        "--thresholds",
        choices=("scores", "insightface"),
        default="scores",
        help="thresholds among which the accuracy finds the best: every score (default), or InsightFace's, in steps of "
        "0.01 of the squared distance, to compare with published numbers",
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="draw ROC curves and scores: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    add_example(
        parser,
        "denseface verify --model models/d63-arcface-orl/model datasets/orl/orl.bin",
        "denseface verify --model models/new/model --against models/old/model lfw.bin -o roc.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure each model on each set."""
    if args.out:
        from denseface.report.plotting import check_format, new_figure

        check_format(args.out)
        new_figure(1, 1)  # fails now, not after the measurement, if matplotlib is missing
    embedders = [
        load_embedder(argparse.Namespace(**{**vars(args), "model": model}), flip=not args.no_flip)
        for model in dict.fromkeys([args.model, *args.against])
    ]
    measured = {embedder.model.name: _measure(embedder, args) for embedder in embedders}
    if args.json:
        content = [{"model": name, "sets": [row.to_dict() for row in rows]} for name, rows in measured.items()]
        print(json.dumps(content if args.against else content[0], indent=2))
    else:
        for name, reports in measured.items():
            for report in reports:
                print(f"{report.name}, {name}" if args.against else report.name)
                print_table(_rows(report))
    if args.out and any(measured.values()):
        _draw(measured, args.out)
    return OK if all(len(reports) == len(args.sets) for reports in measured.values()) else FAILED


def _measure(embedder, args):
    """Measure a model on each set, and save the metrics beside it."""
    from denseface.data.pairs import read_pairs
    from denseface.evaluation.thresholds import save_metrics
    from denseface.evaluation.verify import verify

    reports = []
    for path in args.sets:
        try:
            pairs = read_pairs(path)
            reports.append(verify(embedder, pairs, folds=args.folds, thresholds=args.thresholds, progress=True))
        except InputError as error:
            report_error(error)
    if reports:
        try:
            save_metrics(embedder, reports)
        except (InputError, OSError) as error:
            logger.warning("the metrics are not saved: %s", error)
    return reports


def _draw(measured, path):
    from denseface.report.charts import draw_verification
    from denseface.report.plotting import save_figure

    results = {
        f"{report.name}, {name}": report.flip or report.plain for name, rows in measured.items() for report in rows
    }
    save_figure(draw_verification(results), path)


def _rows(report):
    """One row per metric, one column with flip and one without."""
    ways = {"flip": report.flip, "plain": report.plain}
    results = {way: result for way, result in ways.items() if result is not None}
    plain = report.plain
    rows = [("", *results)]
    rows.append(
        (f"accuracy over {plain.folds} folds", *(f"{r.accuracy:.4f} +- {r.accuracy_std:.4f}" for r in results.values()))
    )
    for name, attribute in (
        ("best balanced accuracy", "balanced_accuracy"),
        ("area under the ROC curve", "auc"),
        ("threshold of best accuracy", "threshold"),
    ):
        rows.append((name, *(f"{getattr(result, attribute):.4f}" for result in results.values())))
    for far, tar in plain.tar.items():
        if tar is not None:
            rows.append((f"TAR at FAR {far:g}", *(f"{result.tar[far]:.4f}" for result in results.values())))
    rows.append(("genuine + impostor pairs", f"{plain.n_genuine} + {plain.n_impostor}"))
    return rows
