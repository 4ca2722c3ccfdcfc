"""``denseface dataset drop``: copy a training set without pictures that are far from their person's center."""

from __future__ import annotations

import argparse

from denseface.cli.console import OK, print_line
from denseface.cli.dataset.faces import progress
from denseface.cli.options import add_example

_ANGLE = 75.0


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "drop",
        help="copy a training set without pictures that probably have a wrong label",
        description="Copy a training set without the pictures that a network sees far from the dominant center of "
        "their person, and those that cannot be read. The network is a run of train.py on this set, best with --loss "
        "subcenter. OUT/dropped.csv lists what was dropped. Verification sets are not copied.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of train.rec")
    parser.add_argument("out", metavar="OUT", help="folder to make")
    parser.add_argument("--run", required=True, dest="prefix", metavar="PREFIX", help="run that was trained on the set")
    parser.add_argument(
        "--angle",
        type=_angle,
        default=_ANGLE,
        metavar="DEGREES",
        help="drop pictures at a larger angle from the center, 0 to 180 (default: %(default)g, as in the paper)",
    )
    add_example(parser, "denseface dataset drop datasets/web datasets/cleaned --run models/d63-subcenter-web/model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the angles, and write the other pictures."""
    from denseface.core.text import counted
    from denseface.data.records import FaceRecords
    from denseface.datasets.drop import write_without
    from denseface.training.subcenters import measure_angles

    with FaceRecords(args.folder) as records:
        with progress() as show:
            found = measure_angles(args.prefix, records, show)
        dropped = {
            key: ("", angle) if isinstance(angle, str) else (f"{angle:.2f}", "far from the dominant center")
            for key, angle in found.items()
            if isinstance(angle, str) or angle > args.angle
        }
        kept = write_without(records, dropped, args.out)
    print_line(f"{args.out}: {counted(kept.num_images, 'picture')} of {counted(kept.num_classes, 'person')}")
    lost = f", the only ones of {counted(kept.num_lost, 'person')}" if kept.num_lost else ""
    print_line(f"{args.out}/dropped.csv: {counted(len(dropped), 'picture')} dropped{lost}")
    return OK


def _angle(text):
    value = float(text)
    if not 0 <= value <= 180:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 180 degrees")
    return value


_angle.__name__ = "number"
