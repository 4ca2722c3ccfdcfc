"""``denseface dataset folder``: build a training set from folders of pictures."""

from __future__ import annotations

import argparse
import os
import re

from denseface.cli.console import OK, print_line
from denseface.cli.dataset.faces import add_encoding_options, load_encoding, print_reasons, progress
from denseface.cli.options import add_example, positive


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "folder",
        help="build a training set from one folder of pictures per person",
        description="Build a training set from a folder that contains one folder of pictures per person, and with "
        "--holdout a verification set of the people held out, OUT/holdout.bin. OUT/manifest.csv lists the file of each "
        "record. Files that cannot be used are left out and listed in OUT/bad.csv. A list of people has one name per "
        "line, or is one of LFW's, with a number of pictures behind each name; a name that ends in * stands for all "
        "that start so.",
    )
    parser.add_argument("source", metavar="DIR", help="folder of folders of pictures")
    parser.add_argument("out", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--min-pictures",
        type=positive,
        default=1,
        metavar="N",
        help="leave out people with fewer usable pictures (default: 1)",
    )
    parser.add_argument(
        "--unlabeled",
        action="store_true",
        help="DIR contains pictures without identities, for train.py --loss teacher; with or without subfolders",
    )
    parser.add_argument("--people", metavar="FILE", help="train on the people in this list only")
    parser.add_argument(
        "--holdout",
        type=_holdout,
        default=0,
        metavar="PEOPLE",
        help="people to hold out for the verification set: a number, a fraction such as 0.1, or a list (default: 0)",
    )
    parser.add_argument("--exclude", metavar="FILE", help="leave out the people in this list; they need not be there")
    parser.add_argument(
        "--pairs",
        type=_pairs,
        default=3000,
        metavar="N",
        help="largest number of genuine and of impostor pairs, or 'all' (default: 3000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides which people and pairs are drawn (default: 0)"
    )
    add_encoding_options(parser)
    add_example(
        parser,
        "denseface dataset folder photos datasets/mine --holdout 0.1",
        "denseface dataset folder photos datasets/mine --landmarks landmarks.txt",
        "denseface dataset folder lfw view1 --people peopleDevTrain.txt --face center --min-pictures 2",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the set."""
    from denseface.core.text import counted, listed
    from denseface.datasets.folder import Split, build_from_folder
    from denseface.datasets.pairing import FOLDS

    with progress() as show:
        split = Split(
            people=args.people,
            holdout=args.holdout,
            exclude=args.exclude,
            min_pictures=args.min_pictures,
            unlabeled=args.unlabeled,
            max_pairs=args.pairs,
            seed=args.seed,
        )
        made = build_from_folder(args.source, args.out, split, load_encoding(args), show)
    people = "without identities" if args.unlabeled else f"of {counted(made.num_classes, 'person')}"
    print_line(f"{args.out}: {counted(made.num_images, 'picture')} {people} to train on")
    if made.num_holdout:
        print_line(
            f"{args.out}/holdout.bin: {made.num_genuine} genuine and {made.num_impostor} impostor pairs of the "
            f"{made.num_holdout} people held out"
        )
        if min(made.num_genuine, made.num_impostor) < FOLDS:
            advice = "hold out more people" if args.pairs is None or args.pairs >= FOLDS else "raise --pairs"
            print_line(f"{args.out}/holdout.bin: too few pairs for the {FOLDS} folds of verification; {advice}")
    if made.left_out:
        too_few = f"fewer than {counted(args.min_pictures, 'usable picture')}"
        kept = f"; --min-pictures 1 keeps {counted(made.num_few, 'picture')}" if made.num_few else ""
        print_line(f"{counted(len(made.left_out), 'person')} left out, with {too_few}: {listed(made.left_out)}{kept}")
    if made.num_absent.get("exclude"):
        print_line(f"{args.exclude}: {counted(made.num_absent['exclude'], 'person')} without a folder in {args.source}")
    if made.num_bad:
        print_line(f"{args.out}/bad.csv: {counted(made.num_bad, 'file')} left out, with the reasons")
        print_reasons(made.reasons)
    return OK


def _holdout(text: str) -> int | float | str:
    if re.fullmatch(r"[0-9]{1,8}", text):
        return int(text)
    if re.fullmatch(r"0?\.[0-9]{1,8}", text):
        return float(text)
    if re.fullmatch(r"-?[0-9.]+", text) or not os.path.exists(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of people, nor a fraction such as 0.1, nor a file with their names"
        )
    return text


def _pairs(text: str) -> int | None:
    return None if text == "all" else positive(text)
