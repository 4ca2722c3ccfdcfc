"""``denseface report``: describe a model in one page, for those who did not train it."""

from __future__ import annotations

import argparse
import dataclasses
import os

from denseface.cli.console import FAILED, OK, print_line, report_error
from denseface.cli.options import add_example, add_model_options, add_no_flip, load_embedder
from denseface.core.errors import InputError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "report",
        help="describe a model in one page",
        description="Measure a model on verification sets, and write one page that somebody who did not train it can "
        "judge it by: what it was trained on (as its owner states), metrics and thresholds with intervals, curves, "
        "groups of people, the pairs that it is most wrong about, its speed, and what was not measured. "
        "The page is one HTML file that loads nothing from elsewhere; its numbers are those of denseface verify.",
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help="as for denseface verify")
    add_model_options(parser)
    add_no_flip(parser)
    parser.add_argument("-o", "--out", required=True, metavar="FILE.html", help="the page to write")
    parser.add_argument(
        "--card", metavar="FILE.md", help="write it as Markdown too, without pictures, as hubs of models show it"
    )
    parser.add_argument("--groups", metavar="FILE.csv", help="error rates of groups of people, as for denseface verify")
    parser.add_argument("--trained-on", metavar="TEXT", help="which pictures the model was trained on")
    parser.add_argument("--license", metavar="TEXT", help="under which license it may be used")
    parser.add_argument("--no-pictures", action="store_true", help="leave out the pictures of people")
    add_example(
        parser,
        "denseface report --model models/d15-arcface-orl/model datasets/orl/orl.bin -o report.html",
        'denseface report --model model.onnx lfw.bin --trained-on "our own pictures" --license MIT -o report.html',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the model, and write the page."""
    from denseface.core.files import replacing
    from denseface.core.text import distinct_names
    from denseface.report.document import to_html, to_markdown
    from denseface.report.model_report import Measured, Statements, describe_model, front_matter
    from denseface.report.plotting import new_figure
    from denseface.verification.groups import measure_groups, read_groups
    from denseface.verification.sets import measure_set

    new_figure(1, 1)  # fails here, before anything is measured, without matplotlib
    groups = read_groups(args.groups) if args.groups else {}
    embedder = load_embedder(args, flip=not args.no_flip)
    measured, paths = [], list(dict.fromkeys(map(os.path.abspath, args.sets)))
    for path, name in zip(paths, distinct_names(paths)):
        try:
            report = measure_set(embedder, path, name)
            way = report.way
            by = {column: measure_groups(report, way, group_of) for column, group_of in groups.items()}
            measured.append(Measured(report, by))
        except InputError as error:
            report_error(error)
    if not measured:
        return FAILED
    statements = Statements(args.trained_on, args.license, _recipe(embedder.fingerprint["prefix"]))
    document = describe_model(embedder, measured, statements, pictures=not args.no_pictures)
    pages = {args.out: to_html(document)}
    if args.card:
        pages[args.card] = to_markdown(document, front_matter(embedder, measured, statements))
    for path, page in pages.items():
        with replacing(path) as file:
            file.write(page.encode())
        print_line(f"{path}: {embedder.model.name} on {', '.join(each.report.name for each in measured)}")
    return OK if len(measured) == len(paths) else FAILED


def _recipe(prefix: str) -> dict[str, str]:
    """Return the options of the run that made a model, as far as they are its own and say nothing of the machine."""
    from denseface.options.spec import BY_NAME, DevicesSpec, KeepingSpec, StartSpec
    from denseface.training.saved_options import read_options

    local = {field.name for spec in (DevicesSpec, KeepingSpec, StartSpec) for field in dataclasses.fields(spec)}
    local |= {"dataset_path", "networks", "symbol_path"}
    found = {}
    for name, value in read_options(f"{prefix}-config.json").items():
        value = tuple(value) if isinstance(value, list) else value
        if name in BY_NAME and name not in local and value not in (BY_NAME[name].default, None):
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found[name] = os.path.basename(text) if name == "teacher" else text
    return found
