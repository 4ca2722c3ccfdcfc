"""``denseface verify``: measure a model on verification sets."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_json, print_line, print_table, report_error, report_warning
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder, positive
from denseface.core.errors import InputError
from denseface.core.text import distinct_names

if TYPE_CHECKING:
    from denseface.embedding.embedder import Embedder
    from denseface.verification.verify import VerificationReport

logger = logging.getLogger("denseface")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "verify",
        help="measure a model on verification sets",
        description="Measure how well a model tells whether two pictures show the same person: accuracy over folds, "
        "best balanced accuracy, area under the ROC curve, equal error rate, d', and true accept rate (TAR) and "
        "threshold at false accept rates (FAR) of 1e-1 to 1e-6, as far as there are enough pairs to measure them. The "
        "95 % intervals respect that pairs share people; with --against, so do those of the differences of two models. "
        "Beside a threshold is the interval of the FAR that it has on other pairs of such people. A set that cannot be "
        "used is reported, the others are still measured, and the exit code is 1. The metrics are saved beside the "
        "model, in PREFIX-EPOCH.verification.json, where match, search, identify and cluster find thresholds.",
    )
    parser.add_argument(
        "sets",
        nargs="+",
        metavar="SET",
        help="verification sets in InsightFace's format, or folders of IJB-B or IJB-C in the layout of its evaluation",
    )
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
    parser.add_argument(
        "--groups",
        metavar="FILE.csv",
        help="error rates of groups of people too: a table with a column person and others to group by, such as sex",
    )
    parser.add_argument(
        "--all-pairs",
        action="store_true",
        help="pair every picture of a set with every other one, for rates that its own pairs are too few for; the "
        "people of the set must be known",
    )
    parser.add_argument(
        "--threshold-from",
        metavar="SET",
        help="choose thresholds on this set too, and measure them on the others",
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="draw ROC curves and scores: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    add_example(
        parser,
        "denseface verify --model models/d15-arcface-orl/model datasets/orl/orl.bin",
        "denseface verify --model models/new/model --against models/old/model lfw.bin -o roc.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure each model on each set."""
    from denseface.report import tables
    from denseface.verification.groups import measure_groups, read_groups

    if args.out:
        from denseface.report.plotting import check_drawable

        check_drawable(args.out)
    groups = read_groups(args.groups) if args.groups else {}
    embedders = [
        load_embedder(argparse.Namespace(**{**vars(args), "model": model}), flip=not args.no_flip)
        for model in dict.fromkeys([args.model, *args.against])
    ]
    paths = list({os.path.abspath(path): path for path in args.sets}.values())
    names = dict(zip([*paths, args.threshold_from], distinct_names([*paths, args.threshold_from or "-"])))
    measured = {embedder.model.name: _measure(embedder, paths, names, args) for embedder in embedders}
    others = {embedder.model.name: _measure_other(embedder, names, args) for embedder in embedders}
    first = next(iter(measured))
    if args.json:
        content = [_content(name, reports, measured[first], others[name]) for name, reports in measured.items()]
        print_json(content if args.against else content[0])
    else:
        for name, reports in measured.items():
            for report in reports.values():
                print_line(f"{report.name}, {name}" if args.against else report.name)
                print_table(tables.metric_rows(report, reports.values()))
                for line in tables.notes(report):
                    print_line(line)
                if other := others[name]:
                    print_line(f"{report.name}, at thresholds chosen on {other.name}")
                    print_table(tables.transfer_rows(report, other))
                for column, group_of in groups.items():
                    print_line(f"{report.name}, by {column}")
                    found = measure_groups(report, report.way, group_of)
                    print_table(tables.group_rows(found))
                    for group in tables.small_groups(found):
                        report_warning(f"{report.name}: {column} {group} has too few people to say anything")
        for path, name in itertools.product(paths, list(measured)[1:]):
            if path in measured[first] and path in measured[name]:
                print_line(f"{measured[name][path].name}, {first} minus {name}")
                print_table(tables.difference_rows(measured[first][path], measured[name][path]))
    if args.out and any(measured.values()):
        _draw(measured, args.out)
    return OK if all(reports.keys() == set(paths) for reports in measured.values()) else FAILED


def _content(name, reports, first, other):
    """What JSON says of a model; of those after the first also the differences, first minus this."""
    from denseface.report import tables

    sets = []
    for path, report in reports.items():
        sets.append(report.to_dict())
        for fitted, checks in tables.checks_on_others(report, reports.values()).items():
            for way, check in checks.items():
                sets[-1][way]["probability"].setdefault("brier_fitted_on", {})[fitted] = check.brier
        if other:
            found = {title: point._asdict() for title, point in tables.at_thresholds_of(report, other).items()}
            sets[-1]["thresholds_from"] = {"name": other.name, **found}
        if reports is not first and path in first:
            sets[-1]["first_minus_this"] = tables.compare_reports(first[path], report).to_dict()
    return {"model": name, "sets": sets}


def _measure(
    embedder: Embedder, paths: Sequence[str], names: Mapping[str, str], args: argparse.Namespace
) -> dict[str, VerificationReport]:
    """Measure a model on each set, and save the metrics beside it."""
    from denseface.deciding.thresholds import save_metrics

    reports = {}
    for path in paths:
        try:
            reports[path] = _measure_set(embedder, path, names, args)
        except InputError as error:
            report_error(error)
    if reports:
        try:
            save_metrics(embedder, reports)
        except (InputError, OSError) as error:
            logger.warning("the metrics are not saved: %s", error)
    return reports


def _measure_other(embedder: Embedder, names: Mapping[str, str], args: argparse.Namespace) -> VerificationReport | None:
    """Measure a model on the set that thresholds are to be chosen on."""
    path = args.threshold_from
    return _measure_set(embedder, path, names, args) if path else None


def _measure_set(
    embedder: Embedder, path: str, names: Mapping[str, str], args: argparse.Namespace
) -> VerificationReport:
    from denseface.verification.sets import measure_set

    # A folder has a name inside; folders of one name are told apart by where they are.
    several = sum(map(os.path.isdir, args.sets)) > 1
    name = names[path] if several or not os.path.isdir(path) else None
    options = {"all_pairs": args.all_pairs, "folds": args.folds, "thresholds": args.thresholds}
    return measure_set(embedder, path, name, **options)


def _draw(measured, path):
    from denseface.report.charts import draw_verification
    from denseface.report.plotting import save_figure

    reports = {f"{report.name}, {name}": report for name, reports in measured.items() for report in reports.values()}
    save_figure(draw_verification(reports), path)
