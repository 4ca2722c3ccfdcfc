"""``denseface summary``: the stages of a network, or its layers, and what they cost."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from denseface.cli.console import OK, print_json, print_line, print_table
from denseface.cli.network_options import add_network_options, load_network
from denseface.cli.options import add_example
from denseface.report.numbers import abbreviated

if TYPE_CHECKING:
    from denseface.report.summary import Costs, Layer, Summary

logger = logging.getLogger("denseface")

_SUMS = ("parameters", "states", "MACs", "FLOPs", "memory")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "summary",
        help="sum up the stages of a network and what they cost",
        description="Sum up each stage of a network (the layers that work on pictures of one size) and the whole: "
        "layers, parameters, states (the moving averages of batch normalization), MACs, FLOPs, and the memory of all "
        "outputs in float32, for one picture. With --layers, list every layer first. MACs are multiply-accumulates of "
        "convolutions and fully connected layers; papers often call these FLOPs. FLOPs are the floating-point "
        "operations of all layers in inference; a MAC counts as two.",
    )
    add_network_options(parser)
    parser.add_argument("--layers", action="store_true", help="every layer, with the shape of its output")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, those of the layers too")
    add_example(
        parser,
        "denseface summary d121",
        "denseface summary y1 --size 96 --set net_act=relu --layers",
        "denseface summary --model models/d15-arcface-orl/model",
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
        metrics = {"network": network.name, "image_shape": list(shape), **summary.to_dict()}
        print_json(metrics)
    else:
        if args.layers:
            print_table([("layer", "kind", "output", "params", "MACs", "memory"), *map(_layer_row, summary.layers)])
            print_line()
        print_stages(summary)
    for op, names in summary.unknown.items():
        logger.warning("not counted: operator %s, in %s", op, ", ".join(names))
    return OK


def print_stages(summary: Summary) -> None:
    """Print a table of the stages and the total."""
    sums = {**summary.stages, "total": summary.total}
    rows = [(name, str(costs.layers), *_sums(costs)) for name, costs in sums.items()]
    print_table([("stage", "layers", *_SUMS), *rows])


def _layer_row(layer: Layer) -> tuple[str, ...]:
    macs = "?" if layer.macs is None else abbreviated(layer.macs)
    memory = f"{layer.memory / 2**20:.3f} MiB"
    return layer.name, layer.kind, "x".join(map(str, layer.output)), abbreviated(layer.parameters), macs, memory


def _sums(row: Costs) -> tuple[str, ...]:
    counts = (row.parameters, row.auxiliary, row.macs, row.flops)
    return (*(f"{count:,}" for count in counts), f"{row.memory / 2**20:.3f} MiB")
