"""``denseface dataset unpack``: unpack a training set to pictures."""

from __future__ import annotations

import argparse

from denseface.cli.console import FAILED, OK, print_line
from denseface.cli.dataset.faces import progress
from denseface.cli.options import add_example


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "unpack",
        help="unpack a training set to folders of pictures",
        description="Write each picture of a training set to a file OUT/LABEL/KEY.jpg, byte for byte. Records that "
        "cannot be read are listed in OUT/bad.csv, and the exit code is 1.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of train.rec")
    parser.add_argument("out", metavar="OUT", help="folder to make")
    add_example(parser, "denseface dataset unpack datasets/orl pictures")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the pictures."""
    from denseface.core.text import counted
    from denseface.datasets.unpack import unpack

    with progress() as show:
        num_images, num_bad = unpack(args.folder, args.out, show)
    print_line(f"{args.out}: {counted(num_images, 'picture')}")
    if num_bad:
        print_line(f"{args.out}/bad.csv: {counted(num_bad, 'record')} could not be read")
    return FAILED if num_bad else OK
