"""Tables of measurements, as cells of text, for the terminal and for pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from denseface.core.text import counted
from denseface.evaluation.calibration import Check, check
from denseface.evaluation.influence import Difference, Differences, Rate, compare
from denseface.evaluation.operating_points import AtThreshold, measure_at

if TYPE_CHECKING:
    from denseface.evaluation.groups import Group
    from denseface.evaluation.intervals import Interval
    from denseface.verification.verify import VerificationReport

_FEW = 10  # people: with fewer, intervals contain the truth clearly less often than 95 %, see docs/evaluation.md
_SOME = 40  # and with fewer than this, at low rates

Rows = list[Sequence[str]]  # of a table, the headings first

METRICS = {
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


def metric_rows(report: VerificationReport, reports: Iterable[VerificationReport]) -> Rows:
    """Make one row per metric; with mirror images and without, a column of values and one of their 95 % intervals.

    Parameters
    ----------
    report : VerificationReport
    reports : iterable of VerificationReport
        All sets of the model: probabilities that were fitted on the others are checked on this one.
    """
    results, intervals = list(report.ways.values()), list(report.intervals.values())
    plain = report.plain
    rows: Rows = [("", *(heading for way in report.ways for heading in (way, "95 % interval")))]

    def add(name: str, values: Sequence[str], bounds: Sequence[Interval | None] | None = None) -> None:
        rows.append((name, *itertools.chain.from_iterable(zip(values, map(_interval, bounds or [None] * len(values))))))

    for title, attribute in METRICS.items():
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
    add("Brier score, other people", [_number(check and check.brier) for check in report.checks.values()])
    for name, checks in checks_on_others(report, reports).items():
        add(f"Brier score, fitted on {name}", [_number(check.brier) for check in checks.values()])
    rows.append(("genuine + impostor pairs", f"{plain.n_genuine} + {plain.n_impostor}"))
    return rows


def notes(report: VerificationReport) -> Iterator[str]:
    """Yield the notes below the table."""
    yield f"intervals for {counted(report.shared.count, 'person')}, {report.people.source}"
    if report.shared.count < _SOME:
        yield f"of fewer than {_SOME} people, intervals at low rates are too narrow"
    if not report.plain.mixed_folds:
        yield "no accuracy over folds: most folds have pairs of one kind only; mix the order of the pairs"


def threshold_rows(report: VerificationReport, way: str) -> Rows:
    """Make one row per false accept rate: its threshold and the metrics there."""
    return [
        ("FAR", "threshold", "95 % interval of its FAR", "TAR", "95 % interval"),
        *(
            (
                f"{far:g}",
                _number(point.threshold),
                _interval(point.fmr_interval),
                _number(point.tar),
                _interval(point.tar_interval),
            )
            for far, point in report.points[way].items()
        ),
    ]


def transfer_rows(report: VerificationReport, other: VerificationReport) -> Rows:
    """Make one row per threshold of another set: the metrics there on this one."""
    rows: Rows = [("threshold of", "score", "accuracy", "balanced accuracy", "FAR", "FRR")]
    for title, at in at_thresholds_of(report, other).items():
        rates = (_rate(rate) for rate in (at.accuracy, at.balanced_accuracy, at.fmr, at.fnmr))
        rows.append((title, _number(at.threshold), *rates))
    return rows


def at_thresholds_of(report: VerificationReport, other: VerificationReport) -> dict[str, AtThreshold]:
    """Measure the thresholds of another set, with mirror images where there are any."""
    way, result = report.way, report.result
    chosen = other.ways[way]
    thresholds = {
        "best accuracy": chosen.threshold,
        "best balanced accuracy": chosen.balanced_threshold,
        **{f"FAR {far:g}": point.threshold for far, point in other.points[way].items()},
    }
    return {title: measure_at(result, report.shared, threshold) for title, threshold in thresholds.items()}


def group_rows(groups: Mapping[str, Group]) -> Rows:
    """Make one column per group: its size, and its error rates at the thresholds of all people."""
    measured = list(groups.values())
    rows: Rows = [
        ("", *groups),
        ("people", *(str(group.people) for group in measured)),
        ("genuine pairs", *(str(group.n_genuine) for group in measured)),
        ("impostor pairs", *(str(group.n_impostor) for group in measured)),
    ]
    for title in measured[0].rates:
        rates = [group.rates[title] for group in measured]
        rows.append((f"FMR at {title}", *(_rate(each.fmr) for each in rates)))
        rows.append((f"FNMR at {title}", *(_rate(each.fnmr) for each in rates)))
        if len(groups) > 1:
            rows.append(("FMR above that of others", *(_difference(each.fmr_excess) for each in rates)))
            rows.append(("FNMR above that of others", *(_difference(each.fnmr_excess) for each in rates)))
    return rows


def small_groups(groups: Mapping[str, Group]) -> list[str]:
    """Return the groups with too few people for conclusions: their intervals contain the truth less often than 95 %."""
    return [name for name, group in groups.items() if group.people < _FEW]


def _difference(found: Difference | None) -> str:
    return f"{found.value:+.4f} ({found.interval.low:+.4f} to {found.interval.high:+.4f})" if found else "-"


def checks_on_others(report: VerificationReport, reports: Iterable[VerificationReport]) -> dict[str, dict[str, Check]]:
    """Check the probabilities that were fitted on the model's other sets, by set and way."""
    return {
        other.name: {way: check(other.calibrations[way], *result.scores) for way, result in report.ways.items()}
        for other in reports
        if other is not report
    }


def compare_reports(report: VerificationReport, other: VerificationReport) -> Differences:
    """Compare two models on the same pairs, with mirror images where there are any."""
    way = report.way
    return compare(report.ways[way], other.ways[way], report.shared)


def difference_rows(report: VerificationReport, other: VerificationReport) -> Rows:
    """Make one row per metric: the difference of two models on the same pairs, and its 95 % interval."""
    differences = compare_reports(report, other)
    named = {title.format(report.plain.folds): getattr(differences, name, None) for title, name in METRICS.items()}
    named.update({f"TAR at FAR {far:g}": found for far, found in differences.tar.items()})
    return [
        ("", "difference", "95 % interval"),
        *(
            (title, f"{found.value:+.4f}", f"{found.interval.low:+.4f} to {found.interval.high:+.4f}")
            for title, found in named.items()
            if found
        ),
    ]


def _rate(rate: Rate | None) -> str:
    return f"{rate.value:.4f} ({_interval(rate.interval)})" if rate else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(interval: Interval | None) -> str:
    return f"{interval.low:.4f}-{interval.high:.4f}" if interval else ""
