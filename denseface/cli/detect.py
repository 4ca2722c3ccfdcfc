"""``denseface detect``: the faces in photographs, as a file of landmarks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_line, report_unreadable
from denseface.cli.dataset.faces import add_processes
from denseface.cli.options import add_example, add_limits, load_limits
from denseface.core.text import counted

if TYPE_CHECKING:
    from denseface.core.progress_bar import ProgressBar

_ON_SHEET = 96


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "detect",
        help="find the faces in photographs",
        description="Write the faces in photographs to a file: for each the picture's path, five landmarks, the box, "
        "the score and the picture's size. The option --landmarks of the other commands reads it; look it over, and "
        "correct it, in between. A PATH is a picture, a folder, or a list .txt of paths. A picture without a face is "
        "reported, and listed with the reason; the exit code is then 1. The same command resumes an interrupted one.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="where the photographs are")
    parser.add_argument("-o", "--out", required=True, metavar="FACES.txt", help="file to write")
    parser.add_argument("--sheet", metavar="FILE.png", help=f"draw up to {_ON_SHEET} of the faces, cut out")
    add_limits(parser)
    add_processes(parser)
    add_example(
        parser,
        "denseface detect photos -o faces.txt --sheet faces.png",
        "denseface embed photos --landmarks faces.txt --model models/d15-arcface-orl/model -o photos.npz",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find the faces."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from denseface.data.cropping import Cropper
    from denseface.data.sources import Sources
    from denseface.datasets.face_list import list_faces

    crop = Cropper(**load_limits(args))
    with Sources(args.paths) as sources, logging_redirect_tqdm(), _bar(len(sources)) as bar:
        counts = list_faces(sources, args.out, crop=crop, processes=args.processes, on_progress=bar.update)
    said = [f"{counted(counts.faces, 'face')} in {counted(counts.pictures, 'picture')}"]
    if counts.taken_over:
        said.append(f"{counted(counts.taken_over, 'picture')} done by an earlier run")
    if counts.without:
        said.append(f"{counted(counts.without, 'picture')} without a face")
    print_line(f"{args.out}: {', '.join(said)}")
    if args.sheet:
        _write_sheet(args.out, args.sheet)
    return FAILED if report_unreadable(sources.unreadable) or counts.without else OK


def _bar(total: int) -> ProgressBar:
    from denseface.core.progress_bar import ProgressBar

    return ProgressBar(total=total, unit="picture")


def _write_sheet(path: str, out: str) -> None:
    from denseface.core.files import replacing
    from denseface.datasets.contact_sheet import sheet_of_faces
    from denseface.datasets.face_list import listed_faces

    with replacing(out) as file:
        sheet_of_faces(listed_faces(path, _ON_SHEET)).save(file, "PNG")
