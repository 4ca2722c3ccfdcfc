"""``denseface plot-run``: curves of a training run."""

from __future__ import annotations

import argparse

from denseface.cli.console import OK, print_line
from denseface.cli.options import add_example


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "plot-run",
        help="draw the curves of a training run",
        description="Draw loss, accuracy, learning rate, norm of the gradient and verification (averaged weights as "
        "SET-ema) against the step, from the files that train.py writes beside the model: PREFIX-training.csv and "
        "PREFIX-verification.csv.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the run")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    add_example(parser, "denseface plot-run models/d15-arcface-orl -o run.png")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    from denseface.report.charts import draw_run
    from denseface.report.plotting import check_format, save_figure

    check_format(args.out)
    save_figure(draw_run(args.folder), args.out)
    print_line(args.out)
    return OK
