"""``denseface verify``: measure a model on verification sets."""

from __future__ import annotations

import argparse
import json
import logging

from denseface.cli.console import FAILED, OK, print_table, report_error
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder
from denseface.errors import InputError

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
    add_no_flip(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_example(parser, "denseface verify --model models/d63-arcface-orl/model,100 datasets/orl/orl.bin")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure each set."""
    from denseface.evaluation import verify
    from denseface.figures import keep_figures
    from denseface.pairs import read_bin

    embedder = load_embedder(args, flip=not args.no_flip)
    reports = []
    for path in args.sets:
        try:
            reports.append(verify(embedder, read_bin(path), progress=True))
        except InputError as error:
            report_error(error)
    if args.json:
        print(json.dumps({"model": embedder.model.name, "sets": [report.to_dict() for report in reports]}, indent=2))
    elif reports:
        print_table(_rows(reports))
    if reports:
        try:
            keep_figures(embedder, reports)
        except (InputError, OSError) as error:
            logger.warning("the figures are not kept: %s", error)
    return OK if len(reports) == len(args.sets) else FAILED


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
