"""``denseface gallery``: files of embeddings as a whole."""

from __future__ import annotations

import argparse

from denseface.cli.console import OK, print_line
from denseface.cli.options import add_example
from denseface.core.text import counted


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command and its subcommands to the parser."""
    parser = subparsers.add_parser(
        "gallery", help="merge files of embeddings", description="Work on files of embeddings as a whole."
    )
    add_example(parser, "denseface gallery merge part-*.npz -o photos.npz")
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
    merge.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Merge the parts."""
    from denseface.core.progress_bar import ProgressBar
    from denseface.galleries.parts import merge

    with ProgressBar(unit="embedding") as bar:
        count, emb_size = merge(args.parts, args.out, bar.update)
    print_line(f"{args.out}: {counted(count, 'embedding')} of {emb_size} values, {counted(len(args.parts), 'part')}")
    return OK
