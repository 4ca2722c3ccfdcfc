"""``denseface cluster``: group faces of unknown people."""

from __future__ import annotations

import argparse
import os

from denseface.cli.console import OK, print_json, print_line
from denseface.cli.options import add_example, positive
from denseface.core.errors import InputError

_MOST_DRAWN, _PICTURES = 40, 8


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "cluster",
        help="group faces of unknown people",
        description="Group the faces in a file that denseface embed wrote, by HDBSCAN of scikit-learn (pip install "
        "scikit-learn). Each group is likely to be one person; a person may be in several groups, and faces that "
        "resemble no others are in none.",
    )
    parser.add_argument("gallery", metavar="GALLERY.npz", help="what denseface embed wrote")
    parser.add_argument("-o", "--out", required=True, metavar="OUT.csv", help="table of pictures and their groups")
    parser.add_argument(
        "--smallest", type=positive, default=3, metavar="N", help="least number of pictures in a group (default: 3)"
    )
    parser.add_argument(
        "--sheet", metavar="FILE.png", help="draw pictures of the largest groups; they are read where embed read them"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_example(parser, "denseface cluster photos.npz -o people.csv --sheet people.png")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Group the faces, and write the table and the sheet."""
    from denseface.core.files import replacing
    from denseface.core.text import counted
    from denseface.datasets.output import replacing_csv
    from denseface.galleries.clusters import cluster
    from denseface.galleries.gallery import Gallery

    if args.sheet and not args.sheet.lower().endswith(".png"):
        raise InputError(f"{args.sheet}: the name must end in .png", option="sheet")
    gallery = Gallery(args.gallery)
    groups = cluster(gallery, args.smallest).tolist()
    count = max(groups, default=-1) + 1
    members = {number: [] for number in range(count)}
    with replacing_csv(args.out, ("picture", "group")) as table:
        names = gallery.names(range(len(groups)))
        for row, group in enumerate(groups):
            table.writerow((names[row], "" if group < 0 else group))
            if group >= 0:
                members[group].append(names[row])
    alone = sum(group < 0 for group in groups)
    if args.sheet and members:
        from denseface.datasets.contact_sheet import sheet_of_groups

        rows = [
            (f"group {number}: {counted(len(found), 'face')}", [[_picture(name) for name in found[:_PICTURES]]])
            for number, found in list(members.items())[:_MOST_DRAWN]
        ]
        with replacing(args.sheet) as file:
            sheet_of_groups(rows).save(file, "PNG")
    if args.json:
        print_json({"faces": len(groups), "groups": count, "alone": alone})
    else:
        print_line(f"{args.out}: {counted(len(groups), 'face')} in {counted(count, 'group')}, {alone} in none")
    return OK


def _picture(name):
    """Return a picture's file, without the number of a face in it; one that is not there is drawn as a crossed box."""
    path, mark, number = name.rpartition("#")
    name = path if mark and number.isdigit() and not os.path.exists(name) else name
    return name if os.path.isfile(name) else b""
