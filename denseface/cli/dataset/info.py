"""``denseface dataset info``: inspect a set."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_json, print_line
from denseface.cli.dataset.faces import progress
from denseface.cli.options import add_example
from denseface.core.text import counted, listed, printable

if TYPE_CHECKING:
    from denseface.datasets.inspection import PairsReport, RecordsReport

_SHOWN = 5


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "info",
        help="inspect a set",
        description="Read every picture of a training set (a folder) or a verification set (a .bin), and report its "
        "contents and problems. The exit code is 1 if there is a problem.",
    )
    parser.add_argument("set", metavar="SET", help="folder of train.rec, or verification set .bin")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--sheet", metavar="FILE.png", help="draw some pictures of some people, or some pairs")
    add_example(parser, "denseface dataset info datasets/orl --sheet orl.png", "denseface dataset info lfw.bin --json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Inspect the set."""
    from denseface.datasets.inspection import inspect_pairs, inspect_records

    is_pairs = Path(args.set).suffix == ".bin"
    report: PairsReport | RecordsReport
    with progress() as show:
        if is_pairs:
            report = pairs = inspect_pairs(args.set, show)
            rows = _pairs_rows(pairs)
        else:
            report = records = inspect_records(args.set, show)
            rows = _records_rows(records)
    if args.sheet:
        _write_sheet(args.set, is_pairs, args.sheet)
    if args.json:
        print_json(report.to_dict())
    else:
        _print([*rows, *_rows(report)])
    return FAILED if report.problems else OK


def _records_rows(report: RecordsReport) -> list[tuple[str, str]]:
    per_person = report.per_person
    return [
        ("pictures", f"{report.pictures.count} ({report.layout} layout)"),
        ("people", str(report.num_people)),
        ("pictures per person", ", ".join(f"{name} {value:g}" for name, value in per_person.items()) or "-"),
        ("people by pictures", _join(report.histogram)),
        *([("near copies", _near(report.near_copies))] if report.near_copies else []),
        ("property", f"{report.num_classes} classes, {report.width}x{report.height}"),
    ]


def _near(copies: Sequence[str]) -> str:
    return f"{counted(len(copies), 'picture')} nearly the same as another of the person: {listed(copies)}"


def _pairs_rows(report: PairsReport) -> list[tuple[str, str]]:
    return [
        ("genuine pairs", str(report.num_genuine)),
        ("impostor pairs", str(report.num_impostor)),
        ("different pictures", str(report.pictures.count)),
    ]


def _rows(report: RecordsReport | PairsReport) -> list[tuple[str, str]]:
    pictures = report.pictures
    problems = report.problems or ["none"]
    return [
        ("sizes", _join(pictures.sizes)),
        ("formats", _join(pictures.formats)),
        *(("problem", problem) for problem in problems),
    ]


def _print(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values; long values are wrapped, so that the table fits the terminal, or 80 columns."""
    indent = max(len(name) for name, _ in rows) + 2
    wrapper = textwrap.TextWrapper(
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * indent,
        break_long_words=False,  # a path stays whole
        break_on_hyphens=False,
    )
    for name, value in rows:
        wrapper.initial_indent = name.ljust(indent)
        for line in wrapper.wrap(printable(value)):
            print_line(line)


def _join(counts: Mapping[str, int]) -> str:
    shown = [f"{name}: {count}" for name, count in list(counts.items())[: 2 * _SHOWN]]
    return ", ".join(shown + ["..."] * (len(counts) > len(shown))) or "-"


def _write_sheet(path: str, is_pairs: bool, out: str) -> None:
    from denseface.core.files import replacing
    from denseface.data.pairs import read_pairs
    from denseface.data.records import FaceRecords
    from denseface.datasets.contact_sheet import sheet_of_pairs, sheet_of_records

    if is_pairs:
        sheet = sheet_of_pairs(read_pairs(path))
    else:
        with FaceRecords(path) as records:
            sheet = sheet_of_records(records)
    with replacing(out) as file:
        sheet.save(file, "PNG")
