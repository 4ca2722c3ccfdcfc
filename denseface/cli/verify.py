"""``denseface verify``: measure a model on verification sets."""

from __future__ import annotations

import argparse
import itertools
import logging
import os

from denseface.cli.console import FAILED, OK, print_json, print_line, print_table, report_error
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder, positive
from denseface.core.errors import InputError

logger = logging.getLogger("denseface")

_NAMES = {
    "accuracy over {} folds": "accuracy",
    "standard deviation of folds": "accuracy_std",
    "best balanced accuracy": "balanced_accuracy",
    "area under the ROC curve": "auc",
    "equal error rate": "eer",
    "d'": "d_prime",
    "threshold of best accuracy": "threshold",
    "its false match rate": "fmr",
    "its false non-match rate": "fnmr",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "verify",
        help="measure a model on verification sets",
        description="Measure how well a model tells whether two pictures show the same person: accuracy over folds, "
        "best balanced accuracy, area under the ROC curve, equal error rate, d', and the true accept rate (TAR) at "
        "false accept rates (FAR) of 1e-1 to 1e-6, as far as there are enough pairs to measure them. The 95 % "
        "intervals respect that pairs share people; with --against, so do those of the differences of two models. A "
        "set that cannot be used is reported, the others are still measured, and the exit code is 1. The metrics are "
        "saved beside the model, in "
        "PREFIX-EPOCH.verification.json, where match finds its threshold.",
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
    if args.out:
        from denseface.report.plotting import check_drawable

        check_drawable(args.out)
    groups = {}
    if args.groups:
        from denseface.verification.groups import read_groups

        groups = read_groups(args.groups)
    embedders = [
        load_embedder(argparse.Namespace(**{**vars(args), "model": model}), flip=not args.no_flip)
        for model in dict.fromkeys([args.model, *args.against])
    ]
    measured = {embedder.model.name: _measure(embedder, args) for embedder in embedders}
    first = next(iter(measured))
    if args.json:
        content = [_content(name, reports, measured[first]) for name, reports in measured.items()]
        print_json(content if args.against else content[0])
    else:
        for name, reports in measured.items():
            for report in reports.values():
                print_line(f"{report.name}, {name}" if args.against else report.name)
                print_table(_rows(report, reports.values()))
                print_line(f"intervals for {report.shared.count} people, {report.people.source}")
                for column, group_of in groups.items():
                    print_line(f"{report.name}, by {column}")
                    print_table(_grouped(report, group_of))
        for path, name in itertools.product(args.sets, list(measured)[1:]):
            if path in measured[first] and path in measured[name]:
                print_line(f"{measured[name][path].name}, {first} minus {name}")
                print_table(_compared(measured[first][path], measured[name][path]))
    if args.out and any(measured.values()):
        _draw(measured, args.out)
    return OK if all(reports.keys() == set(args.sets) for reports in measured.values()) else FAILED


def _content(name, reports, first):
    """What JSON says of a model; of those after the first also the differences, first minus this."""
    sets = []
    for path, report in reports.items():
        sets.append(report.to_dict())
        for other, checks in _checks(report, reports.values()).items():
            for way, check in checks.items():
                sets[-1][way]["probability"].setdefault("brier_fitted_on", {})[other] = check.brier
        if reports is not first and path in first:
            sets[-1]["first_minus_this"] = _compare(first[path], report).to_dict()
    return {"model": name, "sets": sets}


def _measure(embedder, args):
    """Measure a model on each set, and save the metrics beside it."""
    from denseface.data.pairs import read_pairs
    from denseface.data.template_set import read_templates
    from denseface.deciding.thresholds import save_metrics
    from denseface.verification.verify import verify
    from denseface.verification.verify_templates import verify_templates

    reports = {}
    for path in args.sets:
        try:
            options = {"folds": args.folds, "thresholds": args.thresholds, "progress": True}
            if os.path.isdir(path):
                report = verify_templates(embedder, read_templates(path), **options)
            else:
                report = verify(embedder, read_pairs(path), **options)
            report.intervals  # noqa: B018 - fails here, before the report counts, if the table of people is faulty
            reports[path] = report
        except InputError as error:
            report_error(error)
    if reports:
        try:
            save_metrics(embedder, reports.values())
        except (InputError, OSError) as error:
            logger.warning("the metrics are not saved: %s", error)
    return reports


def _draw(measured, path):
    from denseface.report.charts import draw_verification
    from denseface.report.plotting import save_figure

    reports = {f"{report.name}, {name}": report for name, reports in measured.items() for report in reports.values()}
    save_figure(draw_verification(reports), path)


def _rows(report, reports):
    """One row per metric; with flip and without, a column of values and one of their 95 % intervals."""
    plain, ways = report.plain, report.ways
    rows = [("", *(heading for way in ways for heading in (way, "95 % interval")))]

    def add(name, values, intervals=None):
        cells = zip(values, intervals or [None] * len(values))
        rows.append((name, *(cell for value, interval in cells for cell in (value, _interval(interval)))))

    found = list(report.intervals.values())
    for name, attribute in _NAMES.items():
        values = [getattr(result, attribute) for result in ways.values()]
        add(
            name.format(plain.folds),
            ["-" if value is None else f"{value:.4f}" for value in values],
            [getattr(each, attribute, None) for each in found],
        )
    for far, tar in plain.tar.items():
        if tar is not None:
            values = [f"{result.tar[far]:.4f}" for result in ways.values()]
            add(f"TAR at FAR {far:g}", values, [each.tar[far] for each in found])
    checks = report.checks.values()
    add("Brier score, other people", ["-" if check is None else f"{check.brier:.4f}" for check in checks])
    for name, checks in _checks(report, reports).items():
        add(f"Brier score, fitted on {name}", [f"{check.brier:.4f}" for check in checks.values()])
    rows.append(("genuine + impostor pairs", f"{plain.n_genuine} + {plain.n_impostor}"))
    return rows


def _grouped(report, groups):
    """One column per group: what it has, and its error rates at the thresholds of all people."""
    from denseface.verification.groups import measure_groups

    found = measure_groups(report, next(iter(report.ways)), groups, (1e-2, 1e-3))
    measured = list(found.values())
    rows = [
        ("", *found),
        ("people", *(str(group.people) for group in measured)),
        ("genuine pairs", *(str(group.n_genuine) for group in measured)),
        ("impostor pairs", *(str(group.n_impostor) for group in measured)),
    ]
    for title in measured[0].rates:
        rows.append((f"FMR at {title}", *(_rate(group.rates[title].fmr) for group in measured)))
        rows.append((f"FNMR at {title}", *(_rate(group.rates[title].fnmr) for group in measured)))
    return rows


def _rate(rate):
    return f"{rate.value:.4f} ({_interval(rate.interval)})" if rate else "-"


def _interval(interval):
    return f"{interval.low:.4f}-{interval.high:.4f}" if interval else ""


def _checks(report, reports):
    """How true the probabilities are that were fitted on the model's other sets, by set and way."""
    from denseface.evaluation.calibration import check

    return {
        other.name: {way: check(other.calibrations[way], *result.scores) for way, result in report.ways.items()}
        for other in reports
        if other is not report
    }


def _compare(report, other):
    from denseface.evaluation.influence import compare

    way = next(iter(report.ways))
    return compare(report.ways[way], other.ways[way], report.shared)


def _compared(report, other):
    """One row per metric: the difference of two models on the same pairs, and its 95 % interval."""
    differences = _compare(report, other)
    named = {
        title.format(report.plain.folds): getattr(differences, attribute, None) for title, attribute in _NAMES.items()
    }
    named |= {f"TAR at FAR {far:g}": found for far, found in differences.tar.items()}
    cells = {title: found for title, found in named.items() if found}
    return [
        ("", "difference", "95 % interval"),
        *(
            (title, f"{value:+.4f}", f"{interval.low:+.4f} to {interval.high:+.4f}")
            for title, (value, interval) in cells.items()
        ),
    ]
