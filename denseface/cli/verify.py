"""``denseface verify``: measure a model on verification sets."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
from dataclasses import replace

from denseface.cli.console import FAILED, OK, print_json, print_line, print_table, report_error
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder, positive
from denseface.core.errors import InputError
from denseface.core.text import counted, distinct_names

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
                print_table(_rows(report, reports.values()))
                for line in _notes(report):
                    print_line(line)
                if others[name]:
                    print_line(f"{report.name}, at thresholds chosen on {others[name].name}")
                    print_table(_transferred(report, others[name]))
                for column, group_of in groups.items():
                    print_line(f"{report.name}, by {column}")
                    print_table(_grouped(report, group_of))
        for path, name in itertools.product(paths, list(measured)[1:]):
            if path in measured[first] and path in measured[name]:
                print_line(f"{measured[name][path].name}, {first} minus {name}")
                print_table(_compared(measured[first][path], measured[name][path]))
    if args.out and any(measured.values()):
        _draw(measured, args.out)
    return OK if all(reports.keys() == set(paths) for reports in measured.values()) else FAILED


def _content(name, reports, first, other):
    """What JSON says of a model; of those after the first also the differences, first minus this."""
    sets = []
    for path, report in reports.items():
        sets.append(report.to_dict())
        for fitted, checks in _checks(report, reports.values()).items():
            for way, check in checks.items():
                sets[-1][way]["probability"].setdefault("brier_fitted_on", {})[fitted] = check.brier
        if other:
            found = {title: point._asdict() for title, point in _at_thresholds_of(report, other).items()}
            sets[-1]["thresholds_from"] = {"name": other.name, **found}
        if reports is not first and path in first:
            sets[-1]["first_minus_this"] = _compare(first[path], report).to_dict()
    return {"model": name, "sets": sets}


def _measure(embedder, paths, names, args):
    """Measure a model on each set, and save the metrics beside it."""
    from denseface.deciding.thresholds import save_metrics

    reports = {}
    for path in paths:
        try:
            reports[path] = _measure_set(embedder, path, names[path], args)
        except InputError as error:
            report_error(error)
    if reports:
        try:
            save_metrics(embedder, reports)
        except (InputError, OSError) as error:
            logger.warning("the metrics are not saved: %s", error)
    return reports


def _measure_other(embedder, names, args):
    """Measure a model on the set that thresholds are to be chosen on."""
    path = args.threshold_from
    return _measure_set(embedder, path, names[path], args) if path else None


def _measure_set(embedder, path, name, args):
    from denseface.data.pairs import read_pairs
    from denseface.data.template_set import read_templates
    from denseface.verification.cross_pairs import CrossPairs
    from denseface.verification.verify import verify
    from denseface.verification.verify_templates import verify_templates

    options = {"folds": args.folds, "thresholds": args.thresholds, "progress": True}
    if os.path.isdir(path):
        if args.all_pairs:
            raise InputError(f"{path}: pairs of templates are those that its list has", option="all_pairs")
        templates = read_templates(path)
        if sum(map(os.path.isdir, args.sets)) > 1:  # each of which may be called ijbc inside
            templates = replace(templates, name=name)
        report = verify_templates(embedder, templates, **options)
    else:
        pairs = replace(read_pairs(path), name=name)
        report = verify(embedder, CrossPairs(pairs) if args.all_pairs else pairs, **options)
    report.check()  # before it counts
    return report


def _draw(measured, path):
    from denseface.report.charts import draw_verification
    from denseface.report.plotting import save_figure

    reports = {f"{report.name}, {name}": report for name, reports in measured.items() for report in reports.values()}
    save_figure(draw_verification(reports), path)


def _rows(report, reports):
    """One row per metric; with flip and without, a column of values and one of their 95 % intervals."""
    results, intervals = list(report.ways.values()), list(report.intervals.values())
    plain = report.plain
    rows = [("", *(heading for way in report.ways for heading in (way, "95 % interval")))]

    def add(name, values, bounds=None):
        rows.append((name, *itertools.chain.from_iterable(zip(values, map(_interval, bounds or [None] * len(values))))))

    for title, attribute in _NAMES.items():
        values = [_number(getattr(result, attribute)) for result in results]
        if plain.mixed_folds or not attribute.startswith("accuracy"):
            add(title.format(plain.folds), values, [getattr(each, attribute, None) for each in intervals])
        if attribute == "accuracy":
            share = max(plain.n_genuine, plain.n_impostor) / (plain.n_genuine + plain.n_impostor)
            add("accuracy of one answer for all", [_number(share)] * len(results))
    for far, tar in plain.tar.items():
        if tar is not None:
            values = [_number(result.tar[far]) for result in results]
            add(f"TAR at FAR {far:g}", values, [each.tar[far] for each in intervals])
    for far in report.points["plain"]:
        points = [points[far] for points in report.points.values()]
        add(
            f"threshold at FAR {far:g}, its FAR",
            [_number(point.threshold) for point in points],
            [point.fmr_interval for point in points],
        )
    checks = report.checks.values()
    add("Brier score, other people", [_number(check and check.brier) for check in checks])
    for name, checks in _checks(report, reports).items():
        add(f"Brier score, fitted on {name}", [_number(check.brier) for check in checks.values()])
    rows.append(("genuine + impostor pairs", f"{plain.n_genuine} + {plain.n_impostor}"))
    return rows


def _notes(report):
    """Yield what a reader of the table has to know."""
    yield f"intervals for {counted(report.shared.count, 'person')}, {report.people.source}"
    if not report.plain.mixed_folds:
        yield "no accuracy over folds: most folds have pairs of one kind only; mix the order of the pairs"


def _transferred(report, other):
    """One row per threshold that was chosen on another set: what it is worth on this one."""
    rows = [("threshold of", "score", "accuracy", "balanced accuracy", "FAR", "FRR")]
    for title, at in _at_thresholds_of(report, other).items():
        rates = (_rate(rate) for rate in (at.accuracy, at.balanced_accuracy, at.fmr, at.fnmr))
        rows.append((title, _number(at.threshold), *rates))
    return rows


def _at_thresholds_of(report, other):
    """Measure the thresholds of another set, with mirror images where there are any."""
    from denseface.evaluation.operating_points import measure_at

    way, result = next(iter(report.ways.items()))
    chosen = other.ways[way]
    thresholds = {
        "best accuracy": chosen.threshold,
        "best balanced accuracy": chosen.balanced_threshold,
        **{f"FAR {far:g}": point.threshold for far, point in other.points[way].items()},
    }
    return {title: measure_at(result, report.shared, threshold) for title, threshold in thresholds.items()}


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


def _number(value):
    return "-" if value is None else f"{value:.4f}"


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
