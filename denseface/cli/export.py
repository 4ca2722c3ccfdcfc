"""``denseface export``: a model as ONNX."""

from __future__ import annotations

import argparse
import json

from denseface.cli.console import OK
from denseface.cli.options import add_example, image_size, positive


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "export",
        help="write a model as ONNX",
        description="Write a model as an ONNX file that takes raw RGB pixels, 0 to 255, and gives embeddings that are "
        "not normalised. ONNX Runtime and MXNet must compute the same from it, or it is not written.",
    )
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH", help="PREFIX alone means the newest")
    parser.add_argument("-o", "--out", required=True, metavar="OUT.onnx", help="file to write")
    parser.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operators (default: 17)")
    parser.add_argument("--batch", type=positive, metavar="N", help="take exactly N pictures (default: any number)")
    parser.add_argument(
        "--image-size",
        type=image_size,
        default=(112, 112, 3),
        metavar="H,W[,C]",
        help="height, width and channels (1 gray, 3 RGB) of the network's input (default: 112,112,3)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_example(parser, "denseface export --model models/d63-arcface-orl/model,100 -o model.onnx")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export the model."""
    from denseface.checkpoint import load_model, parse_model
    from denseface.engines.onnx_model import IDENTITY, as_ndarrays
    from denseface.identity import identity
    from denseface.inference import checked_embedding
    from denseface.onnx_export import OLDEST_OPSET, export

    model = load_model(*parse_model(args.model))
    height, width, channels = args.image_size
    shape = (args.batch or 1, channels, height, width)
    symbol, emb_size = checked_embedding(model, shape)
    report = export(
        symbol,
        *as_ndarrays(model),
        shape,
        args.out,
        dynamic_batch=args.batch is None,
        opset=args.opset or OLDEST_OPSET,
        metadata={IDENTITY: json.dumps(identity(model))},
    )
    figures = {
        "path": args.out,
        "opset": report.opset,
        "nodes": report.nodes,
        "emb_size": emb_size,
        "largest_difference": report.difference,
    }
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        print(
            f"{args.out}: {report.nodes} nodes, opset {report.opset}; ONNX Runtime differs from MXNet by at most "
            f"{report.difference:.1e} of the largest value"
        )
    return OK
