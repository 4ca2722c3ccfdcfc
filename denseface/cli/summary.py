"""``denseface summary``: the layers of a network, and what they cost."""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING

from denseface.cli.console import OK, print_table
from denseface.cli.network_options import add_network_options, load_network
from denseface.cli.options import add_example

if TYPE_CHECKING:
    from denseface.report.summary import Figures, Layer

logger = logging.getLogger("denseface")

_COSTS = ("parameters", "states", "MACs", "FLOPs", "memory")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "summary",
        help="list the layers of a network and what they cost",
        description="List the layers of a network: the shape of their output for one picture, parameters, states (the "
        "moving averages of batch normalisation), MACs, FLOPs, and the memory that their output takes in float32; then "
        "the same for each stage, which is what works on pictures of one size, and for the whole network. MACs are "
        "multiply-accumulates, of convolutions and fully connected layers; papers often call these FLOPs. FLOPs are "
        "floating-point operations of all layers in inference, in which one MAC counts as two.",
    )
    add_network_options(parser)
    parser.add_argument("--stages", action="store_true", help="leave out the single layers")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_example(
        parser,
        "denseface summary d121",
        "denseface summary y1 --size 96 --set net_act=relu --stages",
        "denseface summary --model models/d63-arcface-orl/model,600",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    from denseface.data.pictures import PictureShape
    from denseface.report.summary import summarize

    network = load_network(args)
    summary = summarize(network.symbol, network.input_shape, network.name)
    if args.json:
        shape = PictureShape.from_nchw((1, *network.input_shape))
        figures = {"network": network.name, "image_shape": list(shape), **summary.to_dict()}
        print(json.dumps(figures, indent=2))
    else:
        if not args.stages:
            rows = [(layer.name, layer.kind, _shape(layer), *_costs(layer)) for layer in summary.layers]
            print_table([("layer", "kind", "output", *_COSTS), *rows])
            print()
        sums = {**summary.stages, "total": summary.total}
        rows = [(name, str(figures.layers), *_costs(figures)) for name, figures in sums.items()]
        print_table([("stage", "layers", *_COSTS), *rows])
    for op, names in summary.unknown.items():
        logger.warning("not counted: the operator %s, in %s", op, ", ".join(names))
    return OK


def _shape(layer: Layer) -> str:
    return "x".join(map(str, layer.output))


def _costs(row: Layer | Figures) -> tuple[str, ...]:
    counts = (row.parameters, row.auxiliary, row.macs, row.flops)
    return (*("?" if count is None else f"{count:,}" for count in counts), f"{row.memory / 2**20:.3f} MiB")
