"""``denseface compare``: networks side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from denseface.cli.console import OK, print_json, print_table
from denseface.cli.network_options import add_build_options, network_by_name, network_of_model
from denseface.cli.options import add_example
from denseface.core.errors import InputError
from denseface.core.text import distinct_names

if TYPE_CHECKING:
    from denseface.report.comparison import Measured


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "compare",
        help="compare networks: cost, speed, accuracy",
        description="Compare networks: parameters, GMACs (multiply-accumulates) and memory of the activations per "
        "picture, and measured on this CPU: the median time from one picture to its embedding, embeddings per second "
        "in batches of 8, and pictures per second in training with batches of 8. For saved models also the accuracy "
        "over 10 folds on verification sets. Other programs that run at the same time distort the measurement.",
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="network in config.py, such as d121")
    parser.add_argument("--models", nargs="+", default=[], metavar="PREFIX,EPOCH", help="saved models")
    parser.add_argument(
        "--verify", nargs="+", default=[], metavar="SET.bin", help="verification sets to measure the models on"
    )
    add_build_options(parser)
    parser.add_argument("--no-training", action="store_true", help="do not measure training, which takes the most time")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("-o", "--out", metavar="FILE", help="draw a chart: .png, .pdf or .svg")
    add_example(
        parser,
        "denseface compare d63 d121 r50 y1 -o chart.png",
        "denseface compare --models models/a/model models/b/model --verify datasets/orl/orl.bin --no-training",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the networks one after the other."""
    from denseface.core.progress_bar import ProgressBar
    from denseface.report.comparison import measure
    from denseface.report.plotting import check_drawable, save_figure

    if not args.networks and not args.models:
        raise InputError("nothing to compare: name networks, or saved models with --models")
    if args.verify and not args.models:
        raise InputError("networks by name are not trained; name saved models with --models", option="verify")
    if args.out:
        check_drawable(args.out)
    networks = [network_by_name(name, args) for name in args.networks]
    models = [network_of_model(name, args.size) for name in args.models]
    accuracies = [{} for _ in networks] + [_accuracies(model.name, args) for model in models]
    rows = [
        measure(network.symbol, network.input_shape, network.name, training=not args.no_training, accuracies=known)
        for network, known in ProgressBar(
            list(zip([*networks, *models], accuracies)), "comparing", unit="network", leave=False
        )
    ]
    if args.out:
        from denseface.report.charts import draw_comparison

        save_figure(draw_comparison(rows), args.out)
    if args.json:
        print_json([row.to_dict() for row in rows])
    else:
        print_table(_table(rows))
    return OK


def _accuracies(model: str, args: argparse.Namespace) -> dict[str, float]:
    """Accuracy of a saved model on each set."""
    if not args.verify:
        return {}
    from denseface.data.pairs import read_pairs
    from denseface.embedding.embedder import Embedder
    from denseface.verification.verify import verify

    embedder = Embedder.load(model, image_shape=args.size)
    paths = list(dict.fromkeys(args.verify))
    reports = [
        verify(embedder, replace(read_pairs(path), name=name), progress=True)
        for path, name in zip(paths, distinct_names(paths))
    ]
    return {report.name: report.result.accuracy for report in reports}


def _table(rows: Sequence[Measured]) -> list[tuple[str, ...]]:
    sets = list(dict.fromkeys(name for row in rows for name in row.accuracies))
    heading = ("network", "parameters", "GMACs", "activations", "latency", "embeddings/s", "training/s", *sets)
    cells = [
        (
            row.name,
            f"{row.costs.parameters:,}",
            f"{row.costs.macs / 1e9:.3f}",
            f"{row.costs.memory / 2**20:.1f} MiB",
            f"{row.latency:.1f} ms",
            f"{row.throughput:.1f}",
            "-" if row.training is None else f"{row.training:.1f}",
            *(f"{row.accuracies[name]:.4f}" if name in row.accuracies else "-" for name in sets),
        )
        for row in rows
    ]
    return [heading, *cells]
