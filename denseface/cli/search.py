"""``denseface search``: whose picture is this?"""

from __future__ import annotations

import argparse
import json

from denseface.cli.console import FAILED, OK, print_table, report_error
from denseface.cli.options import (
    add_alignment_options,
    add_example,
    add_model_options,
    load_cropper,
    load_embedder,
    positive,
)
from denseface.core.errors import InputError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "search",
        help="find the most similar faces among embeddings",
        description="Find the most similar faces in a file that denseface embed wrote. The scores are cosine "
        "similarities, -1 to 1. The file must come from the same model, and the faces must be cut out alike: the "
        "pictures show aligned faces, or --landmarks or --detect cuts the faces out. A picture that cannot be read, or "
        "has no face, is reported, and the search continues with the others; the exit code is then 1.",
    )
    parser.add_argument("gallery", metavar="GALLERY.npz", help="what denseface embed wrote")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures of faces to search for")
    parser.add_argument("-k", type=positive, default=5, metavar="N", help="how many to find for each (default: 5)")
    add_model_options(parser)
    add_alignment_options(parser)
    parser.add_argument("--json", action="store_true", help="print what is found as JSON")
    add_example(parser, "denseface search faces.npz anna.jpg --model models/d63-arcface-orl/model -k 3")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search for each picture."""
    import numpy as np

    from denseface.embedding.embedder import embed_file
    from denseface.embedding.gallery import Gallery

    gallery = Gallery(args.gallery)
    args.image_size = args.image_size or tuple(gallery.model["image_shape"])
    if gallery.model["precision"] != "float32":
        args.engine = args.engine or gallery.model["engine"]
    embedder = load_embedder(args, flip=gallery.model["flip"])
    crop = load_cropper(args, embedder)
    gallery.require_same(embedder.describe(crop))
    queries = {}
    for picture in args.pictures:
        try:
            queries[picture] = embed_file(embedder, picture, crop)
        except InputError as error:
            report_error(error)
    if queries:
        found = gallery.search(np.stack(list(queries.values())), args.k)
        _print(dict(zip(queries, found)), args.json)
    return OK if len(queries) == len(set(args.pictures)) else FAILED


def _print(found, as_json):
    if as_json:
        content = [
            {"picture": picture, "found": [match._asdict() for match in matches]} for picture, matches in found.items()
        ]
        print(json.dumps(content, indent=2))
    else:
        rows = [("picture", "rank", "score", "name")]
        for picture, matches in found.items():
            rows += [(picture, str(i), f"{match.score:.4f}", match.name) for i, match in enumerate(matches, 1)]
        print_table(rows)
