"""``denseface gallery``: files of embeddings as a whole."""

from __future__ import annotations

import argparse

from denseface.cli.console import FAILED, OK, print_line, report_unreadable, report_warning
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_model_options,
    add_no_flip,
    load_cropper,
    load_embedder,
)
from denseface.core.text import counted


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command and its subcommands to the parser."""
    parser = subparsers.add_parser(
        "gallery", help="merge and import files of embeddings", description="Work on files of embeddings as a whole."
    )
    add_example(
        parser,
        "denseface gallery merge part-*.npz -o photos.npz",
        "denseface gallery import old.npy --names old.txt --check photos --model face.onnx -o people.npz",
    )
    commands = parser.add_subparsers(dest="gallery_command", required=True, metavar="COMMAND")
    merge = commands.add_parser(
        "merge",
        help="make one file of all parts",
        description="Make one file of embeddings of the parts that denseface embed --part has written, in any order: "
        "byte for byte what one machine would have written. Parts that are missing, or were computed otherwise or from "
        "other pictures, are named.",
    )
    merge.add_argument("parts", nargs="+", metavar="PART.npz", help="the files of all parts")
    merge.add_argument("-o", "--out", required=True, metavar="OUT.npz", help="file to write")
    add_example(merge, "denseface gallery merge part-*.npz -o photos.npz")
    merge.set_defaults(run=run_merge)
    _add_import(commands)


def _add_import(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "import",
        help="make a gallery of embeddings that another program has stored",
        description="Make a file of embeddings, as denseface embed writes it, of an array that another program has "
        "computed with the same model. With --check, the model's embeddings of some of the pictures are compared with "
        "the array, and nothing is written if a cosine is below 0.99.",
    )
    parser.add_argument("file", metavar="FILE", help="an array (N, values), .npy, or .npz with one array")
    parser.add_argument(
        "--names", required=True, metavar="FILE", help="a text file of N names, one per line, each once"
    )
    parser.add_argument("-o", "--out", required=True, metavar="OUT.npz", help="file to write")
    parser.add_argument(
        "--check",
        nargs="+",
        metavar="PATH",
        help="pictures, or folders of pictures, to compare the array with; the name of a picture is its path, or its "
        "path below the folder, with or without suffix",
    )
    add_model_options(parser)
    add_face_options(parser)
    add_no_flip(parser)
    add_example(
        parser, "denseface gallery import old.npy --names old.txt --check photos --model face.onnx -o people.npz"
    )
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """Import embeddings that another program has stored."""
    import contextlib

    from denseface.core.progress_bar import ProgressBar
    from denseface.data.sources import Sources
    from denseface.galleries.importing import import_gallery

    embedder = load_embedder(args, crop=load_cropper(args))
    with contextlib.ExitStack() as opened:
        pictures = opened.enter_context(Sources(args.check)) if args.check else None
        total = len(pictures) if pictures else 0
        checking = opened.enter_context(ProgressBar(total=total, desc="checking", unit="picture", leave=False))
        writing = opened.enter_context(ProgressBar(desc="writing", unit="embedding", leave=False))
        imported = import_gallery(
            args.file,
            args.names,
            args.out,
            embedder,
            flip=not args.no_flip,
            pictures=pictures,
            on_checked=checking.update,
            on_written=writing.update,
        )
    if imported.checked:
        said = f"{counted(imported.checked, 'picture')} checked, cosines from {imported.agreement:.4f}"
    else:
        said = "none checked"
        report_warning(
            f"nothing was checked: if another model than {args.model}, or other crops, made these embeddings, searches "
            "are wrong; --check compares some with their pictures"
        )
    print_line(f"{args.out}: {counted(imported.embedded, 'embedding')} of {imported.emb_size} values, {said}")
    return FAILED if pictures and report_unreadable(pictures.unreadable) else OK


def run_merge(args: argparse.Namespace) -> int:
    """Merge the parts."""
    from denseface.core.progress_bar import ProgressBar
    from denseface.galleries.parts import merge

    with ProgressBar(unit="embedding") as bar:
        count, emb_size = merge(args.parts, args.out, bar.update)
    print_line(f"{args.out}: {counted(count, 'embedding')} of {emb_size} values, {counted(len(args.parts), 'part')}")
    return OK
