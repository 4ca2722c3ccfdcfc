"""``denseface export``: a model as ONNX."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.cli.console import OK, print_json, print_line
from denseface.cli.options import add_example, add_scaling, batch_size, given_scaling, image_size
from denseface.core.text import counted

if TYPE_CHECKING:
    import numpy as np

    from denseface.models.checkpoint import Model

_CALIBRATION = 256


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "export",
        help="write a model as ONNX",
        description="Write a model as an ONNX file that takes raw RGB pixels, 0 to 255, and computes embeddings that "
        "are not normalized. It is only written if ONNX Runtime and MXNet compute the same from it.",
    )
    parser.add_argument(
        "--model", required=True, metavar="PREFIX,EPOCH", help="PREFIX alone means the newest; or a file .onnx"
    )
    parser.add_argument("-o", "--out", required=True, metavar="OUT.onnx", help="file to write")
    parser.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operators (default: 17)")
    parser.add_argument("--batch", type=batch_size, metavar="N", help="take exactly N pictures (default: any number)")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="H,W[,C]",
        help="height, width and channels (1 gray, 3 RGB) of the network's input (default: 112,112,3, and for a file "
        ".onnx its own)",
    )
    parser.add_argument(
        "--int8",
        metavar="PATH",
        help="let layers compute with whole numbers of 8 bits, in ranges measured on the pictures of PATH (as for "
        "embed); fast with --engine openvino-bf16",
    )
    add_scaling(parser)
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    add_example(parser, "denseface export --model models/d15-arcface-orl/model -o model.onnx")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export the model."""
    model = _load_model(args)
    written = _export_int8(model, args) if args.int8 else _export(model, args, args.out)
    if args.json:
        print_json(written)
        return OK
    print_line(
        f"{args.out}: {counted(written['nodes'], 'node')}, opset {written['opset']}; ONNX Runtime differs from MXNet "
        f"by at most {written['largest_difference']:.1e} of the largest value"
    )
    if written["not_for_insightface"]:
        print_line(f"not for the insightface package: {written['not_for_insightface']}")
    if args.int8:
        print_line(f"int8: the cosine of its embeddings with those of float32 is at least {written['int8_cosine']:.5f}")
    return OK


def _load_model(args: argparse.Namespace) -> Model:
    """Load the model; if no size of pictures is given, take that of the model."""
    from denseface.data.pictures import PictureShape
    from denseface.embedding.scaling import make_scaling, scaled
    from denseface.importing.onnx import import_onnx
    from denseface.models.checkpoint import load_model, parse_model

    scaling = make_scaling(**given_scaling(args), image_shape=args.image_size)
    if args.model.endswith(".onnx"):
        shape = args.image_size and PictureShape(*args.image_size).nchw(1)[1:]
        model = import_onnx(args.model, scaling, shape)
        args.image_size = args.image_size or PictureShape.from_nchw((1, *model.file.input_shape))
        return model
    args.image_size = args.image_size or (112, 112, 3)
    return scaled(load_model(*parse_model(args.model)), scaling)


def _export(model: Model, args: argparse.Namespace, path: Path) -> dict:
    from denseface.data.pictures import PictureShape
    from denseface.deciding.thresholds import read_metrics
    from denseface.export.onnx import OLDEST_OPSET, export

    shape = PictureShape(*args.image_size).nchw(args.batch or 1)
    metrics = None if args.int8 else read_metrics(model)  # other numbers have other thresholds
    report = export(
        model,
        shape,
        path,
        dynamic_batch=args.batch is None,
        opset=args.opset or OLDEST_OPSET,
        metrics=metrics,
    )
    return {
        "path": args.out,
        "opset": report.opset,
        "nodes": report.nodes,
        "emb_size": report.emb_size,
        "largest_difference": report.difference,
        "not_for_insightface": report.not_for_insightface,
    }


def _export_int8(model: Model, args: argparse.Namespace) -> dict:
    from denseface.core.files import replacing
    from denseface.core.onnx_format import read_model
    from denseface.export.insightface import is_known_to_scale
    from denseface.export.int8 import quantize

    batches = _calibration(args.int8, args.image_size, args.batch or 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        written = _export(model, args, path)
        content, written["int8_cosine"] = quantize(path.read_bytes(), batches)
    if not is_known_to_scale([node.name for node in read_model(content).graph.node]):
        written["not_for_insightface"] = "quantization has put other nodes first"
    with replacing(args.out) as file:
        file.write(content)
    return written


def _calibration(path: str, image_size: tuple[int, int, int], batch_size: int) -> list[np.ndarray]:
    """Read up to ``_CALIBRATION`` pictures from all over the path in batches; some are repeated to fill the last."""
    import numpy as np

    from denseface.data.cropping import Cropper
    from denseface.data.faces import PictureError, cut_ahead, cut_source, usable
    from denseface.data.pictures import as_batch
    from denseface.data.sources import Sources

    cut = partial(cut_source, crop=Cropper(), image_shape=image_size)
    try:
        with Sources([path]) as sources:
            spread = islice(sources, 0, None, -(-len(sources) // _CALIBRATION))
            with cut_ahead(cut, spread, ahead=2 * batch_size) as cuts:
                pictures = as_batch([face.pixels for picture in usable(cuts) for face in picture.faces], image_size)
    except PictureError as error:
        error.option = "int8"
        raise
    count = -(-len(pictures) // batch_size)
    return np.split(np.resize(pictures, (count * batch_size, *pictures.shape[1:])), count)
