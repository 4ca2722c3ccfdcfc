"""``denseface export``: a model as ONNX."""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path

from denseface.cli.console import OK
from denseface.cli.options import add_example, batch_size, image_size
from denseface.core.errors import InputError

_CALIBRATION = 256


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
    parser.add_argument("--batch", type=batch_size, metavar="N", help="take exactly N pictures (default: any number)")
    parser.add_argument(
        "--image-size",
        type=image_size,
        default=(112, 112, 3),
        metavar="H,W[,C]",
        help="height, width and channels (1 gray, 3 RGB) of the network's input (default: 112,112,3)",
    )
    parser.add_argument(
        "--int8",
        metavar="PATH",
        help="let layers compute with whole numbers of 8 bits, in ranges taken from the pictures of PATH (as for "
        "embed); fast with --engine openvino-bf16",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_example(parser, "denseface export --model models/d63-arcface-orl/model,100 -o model.onnx")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export the model."""
    figures = _export_int8(args) if args.int8 else _export(args, args.out)
    if args.json:
        print(json.dumps(figures, indent=2))
        return OK
    print(
        f"{args.out}: {figures['nodes']} nodes, opset {figures['opset']}; ONNX Runtime differs from MXNet by at most "
        f"{figures['largest_difference']:.1e} of the largest value"
    )
    if args.int8:
        print(f"int8: embeddings have a cosine of at least {figures['int8_cosine']:.5f} to those without")
    return OK


def _export(args, path):
    from denseface.data.pictures import PictureShape
    from denseface.embedding.engines.onnx_model import FINGERPRINT, as_ndarrays
    from denseface.export.onnx import OLDEST_OPSET, export
    from denseface.models.checkpoint import load_model, parse_model
    from denseface.models.embedding_network import checked_embedding

    model = load_model(*parse_model(args.model))
    shape = PictureShape(*args.image_size).nchw(args.batch or 1)
    symbol, emb_size = checked_embedding(model, shape)
    report = export(
        symbol,
        *as_ndarrays(model),
        shape,
        path,
        dynamic_batch=args.batch is None,
        opset=args.opset or OLDEST_OPSET,
        metadata={FINGERPRINT: json.dumps(model.fingerprint)},
    )
    return {
        "path": args.out,
        "opset": report.opset,
        "nodes": report.nodes,
        "emb_size": emb_size,
        "largest_difference": report.difference,
    }


def _export_int8(args):
    from denseface.core.files import replacing
    from denseface.export.int8 import quantize

    batches = _calibration(args.int8, args.image_size, args.batch or 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        figures = _export(args, path)
        content, figures["int8_cosine"] = quantize(path.read_bytes(), batches)
    with replacing(args.out) as file:
        file.write(content)
    return figures


def _calibration(path, image_size, batch_size):
    """Batches of up to ``_CALIBRATION`` pictures from all over the path; repeated to fill the last one."""
    import numpy as np

    from denseface.data.sources import Sources

    with Sources([path]) as sources:
        spread = islice(sources, 0, None, -(-len(sources) // _CALIBRATION))
        pictures = np.stack([_load(source, image_size) for source in spread])
    count = -(-len(pictures) // batch_size)
    pictures = np.resize(pictures, (count * batch_size, *pictures.shape[1:])).transpose(0, 3, 1, 2)
    return np.split(pictures.astype(np.float32), count)


def _load(source, image_size):
    from denseface.data.pictures import load_picture

    payload = source.load()
    try:
        return load_picture(payload, image_size)
    except InputError as error:
        raise InputError(f"--int8: {source.name}: {error}") from error
