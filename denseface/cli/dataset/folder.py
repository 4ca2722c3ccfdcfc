"""``denseface dataset folder``: folders of pictures to records."""

from __future__ import annotations

import argparse
import re

from denseface.cli.console import OK
from denseface.cli.dataset.faces import add_face_options, face_options, progress
from denseface.cli.options import add_example, positive


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "folder",
        help="a training set from one folder of pictures a person",
        description="Make a training set of a folder that holds one folder of pictures a person, and with --holdout a "
        "verification set of the people held out, OUT/holdout.bin. OUT/manifest.csv says which record is which file. A "
        "picture that cannot be used is left out and listed in OUT/bad.csv.",
    )
    parser.add_argument("source", metavar="DIR", help="folder of folders of pictures")
    parser.add_argument("out", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--min-pictures", type=positive, default=1, metavar="N", help="leave out people with fewer (default: 1)"
    )
    parser.add_argument(
        "--holdout",
        type=_holdout,
        default=0,
        metavar="PEOPLE",
        help="keep so many people from training, a number or a fraction such as 0.1 (default: 0)",
    )
    parser.add_argument(
        "--pairs",
        type=_pairs,
        default=3000,
        metavar="N",
        help="pairs of one person, and pairs of two, of the people held out, or 'all' (default: 3000)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides whom and what is drawn (default: 0)")
    add_face_options(parser)
    add_example(parser, "denseface dataset folder photos datasets/mine --landmarks landmarks.txt --holdout 0.1")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the set."""
    from denseface.datasets import folder

    with progress() as show:
        made = folder.build_from_folder(
            args.source,
            args.out,
            min_pictures=args.min_pictures,
            holdout=args.holdout,
            max_pairs=args.pairs,
            seed=args.seed,
            on_progress=show,
            **face_options(args),
        )
    print(f"{args.out}: {made.num_images} pictures of {made.num_classes} people to train on")
    if made.num_holdout:
        print(
            f"{args.out}/holdout.bin: {made.num_genuine} pairs of one person and {made.num_impostor} of two, of the "
            f"{made.num_holdout} people held out"
        )
    if made.num_bad:
        print(f"{args.out}/bad.csv: {made.num_bad} pictures could not be used")
    if made.num_left_out:
        print(f"{made.num_left_out} people left out, with fewer than {args.min_pictures} pictures")
    if made.num_ignored:
        print(f"{made.num_ignored} other files ignored")
    return OK


def _holdout(text):
    if re.fullmatch(r"[0-9]{1,8}", text):
        return int(text)
    if re.fullmatch(r"0?\.[0-9]{1,8}", text):
        return float(text)
    raise argparse.ArgumentTypeError(f"write {text!r} as a number of people, or as a fraction such as 0.1")


def _pairs(text):
    return None if text == "all" else positive(text)
