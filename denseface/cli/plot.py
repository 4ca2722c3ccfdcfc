"""``denseface plot``: a diagram of a network."""

from __future__ import annotations

import argparse

from denseface.cli.console import OK
from denseface.cli.network_options import add_network_options, load_network
from denseface.cli.options import add_example


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "plot",
        help="draw a network",
        description="Draw a network: stem, blocks, transitions and head as boxes, with the shapes between them, their "
        "parameters and their MACs (multiply-accumulates). With --graph, draw every operator with Graphviz.",
    )
    add_network_options(parser)
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--graph", action="store_true", help="draw every operator (needs Graphviz's program dot)")
    add_example(
        parser,
        "denseface plot d121 -o d121.pdf",
        "denseface plot y1 --graph -o y1.svg",
        "denseface plot --model models/d15-arcface-orl/model -o d15.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    from denseface.report import diagram
    from denseface.report.plotting import check_format, save_figure
    from denseface.report.structure import parts_of
    from denseface.report.summary import summarize

    check_format(args.out)
    network = load_network(args)
    summary = summarize(network.symbol, network.input_shape, network.name)
    if args.graph:
        diagram.draw_graph(network.symbol, network.input_shape, args.out)
    else:
        save_figure(diagram.draw_parts(parts_of(summary, network.input_shape), network.name), args.out)
    print(args.out)
    return OK
