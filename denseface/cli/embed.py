"""``denseface embed``: embeddings of any number of pictures."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_line, report_unreadable
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_model_options,
    add_no_flip,
    load_cropper,
    load_embedder,
)
from denseface.core.text import counted, listed

if TYPE_CHECKING:
    from denseface.galleries.parts import Part


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "embed",
        help="compute the embeddings of pictures",
        description="Write the embeddings of pictures to a file. A PATH is a picture; a folder, searched with all "
        "folders below it; a list .txt of paths, one per line; a record file .rec, or the folder of train.rec; or a "
        "verification set .bin. A picture of exactly the network's size is an aligned face, and so is everything in "
        "record files and verification sets; in any other, the face is found and cut out. A picture that cannot be "
        "read, or has no face, is reported and left out; the exit code is then 1. The same command resumes an "
        "interrupted one.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="where the pictures are")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT.npz", help="file to write: embeddings, names and model"
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="embed only the I-th of N parts, for N machines that all have the same PATHs; denseface gallery merge "
        "makes one file of theirs, byte for byte what one machine writes",
    )
    parser.add_argument("--strict", action="store_true", help="stop at a picture that cannot be read")
    add_model_options(parser)
    add_face_options(parser, faces=("largest", "center", "all"))
    add_no_flip(parser)
    add_example(
        parser,
        "denseface embed faces/ --model models/d15-arcface-orl/model -o faces.npz",
        "denseface embed photos/ --face all --model models/d15-arcface-orl/model -o photos.npz",
        "denseface embed datasets/orl --model model.onnx --engine openvino -o orl.npz",
        "denseface embed photos/ --part 3/8 --model model.onnx -o part-3.npz",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Embed all pictures of the paths."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from denseface.core.progress_bar import ProgressBar
    from denseface.data.sources import Sources
    from denseface.galleries.bulk import embed_all

    with Sources(args.paths) as sources:
        embedder = load_embedder(args, flip=not args.no_flip, crop=load_cropper(args))
        part = args.part and args.part.of(sources, embedder.batch_size)
        total = part.size if part else len(sources)
        with ProgressBar(total=total, unit="picture") as bar, logging_redirect_tqdm():
            counts = embed_all(embedder, sources, args.out, part=part, strict=args.strict, on_progress=bar.update)
    said = [f"{counted(counts.embedded, 'embedding')} of {embedder.emb_size} values"]
    if counts.taken_over:
        said.append(f"{counted(counts.taken_over, 'picture')} done by an earlier run")
    if counts.skipped:
        said.append(f"{counted(counts.skipped, 'picture')} skipped")
    if counts.several:
        said.append(f"{counted(counts.several, 'picture')} of several faces; the {args.face or 'largest'} was taken")
    if sources.left_out:
        said.append(f"{counted(len(sources.left_out), 'file')} left out, not pictures: {listed(sources.left_out)}")
    print_line(f"{args.out}: {', '.join(said)}")
    return FAILED if report_unreadable(sources.unreadable) or counts.skipped else OK


def _part(text: str) -> Part:
    from denseface.galleries.parts import Part

    index, _, count = text.partition("/")
    part = Part(int(index), int(count))
    if not 1 <= part.number <= part.total:
        raise argparse.ArgumentTypeError("write 3/8 for the third of eight parts")
    return part
