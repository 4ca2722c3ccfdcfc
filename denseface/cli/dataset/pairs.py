"""``denseface dataset pairs``: build a verification set from a list of pairs."""

from __future__ import annotations

import argparse

from denseface.cli.console import OK
from denseface.cli.dataset.faces import add_encoding_options, encoding_options, progress
from denseface.cli.options import add_example


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "pairs",
        help="build a verification set from a list of pairs",
        description="Build a verification set from a list, in its order. The list is LFW's pairs.txt, with lines "
        "NAME N1 N2 for genuine and NAME1 N1 NAME2 N2 for impostor pairs, where 1 of NAME is NAME/NAME_0001.jpg or the "
        "same file in another picture format; or it has lines PATH1 PATH2 0|1, where 1 is a genuine pair.",
    )
    parser.add_argument("list", metavar="FILE", help="list of pairs")
    parser.add_argument("out", metavar="OUT.bin", help="file to write")
    parser.add_argument("--images", metavar="ROOT", help="folder of all pictures (default: the list's folder)")
    add_encoding_options(parser)
    add_example(parser, "denseface dataset pairs lfw/pairs.txt lfw.bin --landmarks landmarks.txt")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the set."""
    from denseface.datasets import pair_list

    with progress() as show:
        genuine, impostor = pair_list.build_from_list(
            args.list, args.out, images=args.images, on_progress=show, **encoding_options(args)
        )
    print(f"{args.out}: {genuine} genuine and {impostor} impostor pairs")
    return OK
