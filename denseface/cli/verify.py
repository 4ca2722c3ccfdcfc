"""``denseface verify``: measure a model on verification sets."""

from __future__ import annotations

import argparse
import json
import logging

from denseface.cli.console import FAILED, OK, print_table, report_error
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder
from denseface.core.errors import InputError

logger = logging.getLogger("denseface")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "verify",
        help="measure a model on verification sets",
        description="Measure how well a model tells whether two pictures show the same person: accuracy over 10 folds, "
        "best balanced accuracy, and the true accept rate (TAR) at false accept rates of 1e-1 to 1e-6 as far as the "
        "pairs allow ('-' where they are too few). A set that cannot be used is named, and the others are still "
        "measured; the exit code is 1 then. The figures are kept beside the model, in PREFIX-EPOCH.verification.json.",
    )
    parser.add_argument("sets", nargs="+", metavar="SET.bin", help="verification sets in InsightFace's format")
    add_model_options(parser)
    parser.add_argument(
        "--against", action="append", default=[], metavar="PREFIX,EPOCH", help="another model to measure beside it"
    )
    add_no_flip(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw ROC curves and scores: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_example(
        parser,
        "denseface verify --model models/d63-arcface-orl/model,100 datasets/orl/orl.bin",
        "denseface verify datasets/orl/orl.bin --model new,100 --against old,100 --plot roc.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure each model on each set."""
    if args.plot:
        from denseface.report.plotting import check_format, new_figure

        check_format(args.plot)
        new_figure(1, 1)  # says at once if matplotlib is missing
    embedders = [
        load_embedder(argparse.Namespace(**{**vars(args), "model": model}), flip=not args.no_flip)
        for model in dict.fromkeys([args.model, *args.against])
    ]
    measured = {embedder.model.name: _measure(embedder, args.sets) for embedder in embedders}
    if args.json:
        content = [{"model": name, "sets": [row.to_dict() for row in rows]} for name, rows in measured.items()]
        print(json.dumps(content if args.against else content[0], indent=2))
    else:
        for name, reports in measured.items():
            if args.against:
                print(f"{name}:")
            if reports:
                print_table(_rows(reports))
    if args.plot and any(measured.values()):
        _plot(measured, args.plot)
    return OK if all(len(reports) == len(args.sets) for reports in measured.values()) else FAILED


def _measure(embedder, sets):
    """Measure a model on each set, and keep the figures."""
    from denseface.data.pairs import read_pairs
    from denseface.evaluation.thresholds import keep_figures
    from denseface.evaluation.verify import verify

    reports = []
    for path in sets:
        try:
            reports.append(verify(embedder, read_pairs(path), progress=True))
        except InputError as error:
            report_error(error)
    if reports:
        try:
            keep_figures(embedder, reports)
        except (InputError, OSError) as error:
            logger.warning("the figures are not kept: %s", error)
    return reports


def _plot(measured, path):
    from denseface.report.charts import draw_verification
    from denseface.report.plotting import save_figure

    results = {
        f"{report.name}, {name}": report.flip or report.plain for name, rows in measured.items() for report in rows
    }
    save_figure(draw_verification(results), path)


def _rows(reports):
    """A heading, and for each set one row with flip and one without."""
    fars = [f"TAR@{far:g}" for far in reports[0].plain.tar]
    rows = [("set", "images", "pairs", "accuracy", "balanced", "threshold", "AUC", *fars)]
    for report in reports:
        for way, result in (("flip", report.flip), ("plain", report.plain)):
            if result is not None:
                rows.append((report.name, way, *_cells(result)))
    return rows


def _cells(result):
    return (
        str(result.n_genuine + result.n_impostor),
        f"{result.accuracy:.4f} +- {result.accuracy_std:.4f}",
        f"{result.balanced_accuracy:.4f}",
        f"{result.threshold:.4f}",
        f"{result.auc:.4f}",
        *("-" if tar is None else f"{tar:.4f}" for tar in result.tar.values()),
    )
