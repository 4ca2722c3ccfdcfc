"""``denseface cluster``: group faces of unknown people."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from denseface.cli.console import OK, print_json, print_line
from denseface.cli.options import add_example, add_far, add_set, load_embedder_of, positive, score
from denseface.core.errors import InputError
from denseface.core.text import printable

if TYPE_CHECKING:
    from denseface.deciding.thresholds import Threshold
    from denseface.galleries.gallery import Gallery

_MOST_DRAWN, _PICTURES = 40, 8


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "cluster",
        help="group faces of unknown people",
        description="Group the faces in a file that denseface embed wrote. Two groups become one as long as the mean "
        "similarity between their pictures reaches a threshold; nearly equal pictures weigh as much as one. Faces that "
        "resemble too few others are in no group. Two faces of one photograph are two people.",
    )
    parser.add_argument("gallery", metavar="GALLERY.npz", help="what denseface embed wrote")
    parser.add_argument("-o", "--out", required=True, metavar="OUT.csv", help="table of pictures and their groups")
    parser.add_argument(
        "--smallest", type=positive, default=3, metavar="N", help="least number of pictures in a group (default: 3)"
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--threshold", type=score, metavar="SCORE", help="least mean similarity, -1 to 1 (default: 0.5 without --model)"
    )
    add_far(limit, "take the threshold that denseface verify has found for the model at this false accept rate")
    add_set(parser)
    parser.add_argument(
        "--model", metavar="PREFIX,EPOCH", help="the model that embed used: take its threshold (default: at FAR 1e-3)"
    )
    parser.add_argument(
        "--same-picture", action="store_true", help="let faces of one photograph be one person, as in collages"
    )
    parser.add_argument(
        "--sheet", metavar="FILE.png", help="draw pictures of the largest groups; they are read where embed read them"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_example(
        parser, "denseface cluster photos.npz -o people.csv --model models/d15-arcface-orl/model --sheet people.png"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Group the faces, and write the table and the sheet."""
    from denseface.core.files import replacing
    from denseface.core.text import counted
    from denseface.datasets.output import replacing_csv
    from denseface.galleries.clusters import cluster
    from denseface.galleries.gallery import Gallery

    if args.sheet and not args.sheet.lower().endswith(".png"):
        raise InputError("the name must end in .png", path=args.sheet, option="sheet")
    gallery = Gallery(args.gallery)
    threshold = _threshold(gallery, args)
    groups = cluster(gallery, threshold.value, args.smallest, same_picture=args.same_picture).tolist()
    count = max(groups, default=-1) + 1
    members = {number: [] for number in range(count)}
    with replacing_csv(args.out, ("picture", "group")) as table:
        names = gallery.names(range(len(groups)))
        for row, group in enumerate(groups):
            table.writerow((_writable(names[row]), "" if group < 0 else group))
            if group >= 0:
                members[group].append(names[row])
        if args.sheet:
            from denseface.datasets.contact_sheet import sheet_of_groups

            rows = [
                (f"group {number}: {counted(len(found), 'face')}", [[_picture(name) for name in found[:_PICTURES]]])
                for number, found in list(members.items())[:_MOST_DRAWN]
            ]
            with replacing(args.sheet) as file:
                sheet_of_groups(rows).save(file, "PNG")
    alone = sum(group < 0 for group in groups)
    if args.json:
        chosen = {"threshold": threshold.value, "threshold_of": threshold.name, "far": threshold.far}
        print_json({"faces": len(groups), "groups": count, "alone": alone, **chosen})
    else:
        of_set = f" ({threshold.name}, FAR {threshold.far:g})" if threshold.name else ""
        found = f"{counted(len(groups), 'face')} in {counted(count, 'group')}, {alone} in none"
        print_line(f"{args.out}: {found}; threshold {threshold.value:.4f}{of_set}")
    return OK


def _threshold(gallery: Gallery, args: argparse.Namespace) -> Threshold:
    """Return the threshold that is stated, or that of the model, which must be the gallery's."""
    from denseface.deciding.thresholds import Threshold, find_threshold
    from denseface.galleries.clusters import THRESHOLD

    if not args.model:
        if args.far or args.set:
            raise InputError("a threshold of the model, so name it", option="far" if args.far else "set")
        return Threshold(THRESHOLD if args.threshold is None else args.threshold)
    if args.threshold is not None:
        raise InputError("a threshold is stated, so none is taken of a model; leave out one", option="threshold")
    return find_threshold(load_embedder_of(gallery, args.model), args.set, args.far)


def _writable(name: str) -> str:
    """Escape a name that no file can have, which UTF-8 cannot write."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return printable(name)
    return name


def _picture(name: str) -> str | bytes:
    """Return a picture's file, without the number of a face in it; one that is not there is drawn as a crossed box."""
    path, mark, number = name.rpartition("#")
    name = path if mark and number.isdigit() and not os.path.exists(name) else name
    return name if os.path.isfile(name) else b""
