"""``denseface dataset pairs``: build a verification set from a list of pairs."""

from __future__ import annotations

import argparse
from collections import Counter

from denseface.cli.console import FAILED, OK, print_line
from denseface.cli.dataset.faces import add_encoding_options, load_encoding, print_reasons, progress
from denseface.cli.options import add_example
from denseface.core.text import counted


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "pairs",
        help="build a verification set from a list of pairs",
        description="Build a verification set from a list, in its order. The list is LFW's pairs.txt, with lines "
        "NAME N1 N2 for genuine and NAME1 N1 NAME2 N2 for impostor pairs, where 1 of NAME is NAME/NAME_0001.jpg or the "
        "same file in another picture format; or it has lines PATH1 PATH2 0|1, where 1 is a genuine pair. The pairs of "
        "a list that announces one number of each kind, as pairsDevTest.txt does, are spread over ten folds. Pictures "
        "that no face can be cut out of are listed in OUT.bad.csv; the exit code is 1 if pairs are left out.",
    )
    parser.add_argument("list", metavar="FILE", help="list of pairs")
    parser.add_argument("out", metavar="OUT.bin", help="file to write")
    parser.add_argument("--images", metavar="ROOT", help="folder of all pictures (default: the list's folder)")
    parser.add_argument(
        "--unfound",
        choices=("omit", "center", "fail"),
        default="omit",
        help="what becomes of a pair with a picture that no face can be cut out of: leave it out (default), take the "
        "middle of the picture, or keep it as a failure to enroll, which never matches",
    )
    add_encoding_options(parser)
    add_example(
        parser,
        "denseface dataset pairs lfw/pairs.txt lfw.bin --face center --unfound center",
        "denseface dataset pairs lfw/pairs.txt lfw.bin --landmarks landmarks.txt",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the set."""
    from denseface.datasets import pair_list

    with progress() as show:
        made = pair_list.build_from_list(
            args.list,
            args.out,
            images=args.images,
            encoding=load_encoding(args),
            unfound=args.unfound,
            on_progress=show,
        )
    print_line(f"{args.out}: {made.num_genuine} genuine and {made.num_impostor} impostor pairs")
    if made.bad:
        fates = {"center": "their middle is taken", "fail": "kept as failures to enroll"}
        omitted = f"{counted(made.num_omitted, 'pair')} left out; --unfound keeps them"
        said = omitted if made.num_omitted else fates[args.unfound]
        print_line(f"{made.bad_file}: {counted(len(made.bad), 'picture')} without a face that can be cut out, {said}")
        print_reasons(Counter((face.kind, face.remedy) for face in made.bad))
    return FAILED if made.num_omitted else OK
