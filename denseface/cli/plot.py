"""``denseface plot``: a picture of a network, or of what the layers of a trained DenseNet read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.cli.console import OK, print_line
from denseface.cli.network_options import Network, add_network_options, load_network
from denseface.cli.options import add_example

if TYPE_CHECKING:
    from denseface.report.summary import Summary


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "plot",
        help="draw a network",
        description="Draw a network: stem, blocks, transitions and head as boxes, with the shapes between them, their "
        "parameters and their MACs (multiply-accumulates). With --graph, draw every operator with Graphviz. With "
        "--reuse, draw how strongly each layer of a trained DenseNet reads each earlier one: the mean absolute weight, "
        "as in Figure 5 of the paper.",
    )
    which = add_network_options(parser)
    which.add_argument("--reuse", metavar="PREFIX,EPOCH", help="draw what the layers of this saved DenseNet read")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--graph", action="store_true", help="draw every operator (needs Graphviz's program dot)")
    add_example(
        parser,
        "denseface plot d121 -o d121.pdf",
        "denseface plot y1 --graph -o y1.svg",
        "denseface plot --model models/d15-arcface-orl/model -o d15.png",
        "denseface plot --reuse models/d15-arcface-orl/model -o reuse.png",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    if args.reuse:
        _draw_reuse(args.reuse, args.out)
    else:
        draw(load_network(args), args.out, args.graph)
    print_line(args.out)
    return OK


def draw(network: Network, out: str | Path, graph: bool) -> Summary:
    """Draw a network as boxes, or as a graph of all operators; return its layers and costs."""
    from denseface.report import diagram
    from denseface.report.plotting import check_format, save_figure
    from denseface.report.structure import parts_of
    from denseface.report.summary import summarize

    check_format(out)
    summary = summarize(network.symbol, network.input_shape, network.name)
    if graph:
        diagram.draw_graph(network.symbol, network.input_shape, out)
    else:
        save_figure(diagram.draw_parts(parts_of(summary, network.input_shape), network.name), out)
    return summary


def _draw_reuse(text: str, out: str) -> None:
    from denseface.models.checkpoint import load_model, parse_model
    from denseface.report.plotting import check_drawable, save_figure
    from denseface.report.reuse import draw_reuse, reuse

    check_drawable(out)
    model = load_model(*parse_model(text))
    save_figure(draw_reuse(reuse(model), model.name), out)
