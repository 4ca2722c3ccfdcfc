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
        description="Find the most similar faces in a file that denseface embed wrote. The scores "
        "are cosine similarities, -1 to 1. The file must come from the same model. The pictures show aligned faces, "
        "or --landmarks or --detect cuts the faces out. A picture that cannot be read, or has no face, is named, and "
        "the others are still searched for; the exit code is 1 then.",
    )
    parser.add_argument("gallery", metavar="GALLERY.npz", help="what denseface embed wrote")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures of faces to search for")
    parser.add_argument("-k", type=positive, default=5, metavar="N", help="how many to find for each (default: 5)")
    add_model_options(parser)
    add_alignment_options(parser)
    parser.add_argument("--json", action="store_true", help="print what is found as JSON")
    add_example(parser, "denseface search faces.npz anna.jpg --model models/d63-arcface-orl/model,100 -k 3")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search for each picture."""
    import numpy as np

    from denseface.embedding.gallery import Gallery

    gallery = Gallery(args.gallery)
    args.image_size = args.image_size or tuple(gallery.model["image_shape"])
    embedder = load_embedder(args, flip=gallery.model["flip"])
    _check_model(gallery, embedder)
    crop = load_cropper(args, embedder)
    queries = {}
    for picture in args.pictures:
        try:
            queries[picture] = embedder.embed(picture if crop is None else crop.read(picture))[0]
        except InputError as error:
            report_error(error)
    if queries:
        places, scores = gallery.nearest(np.stack(list(queries.values())), args.k)
        names = gallery.names(places.flat)
        found = {
            picture: [{"name": names[place], "score": score} for place, score in zip(row, row_scores)]
            for picture, row, row_scores in zip(queries, places.tolist(), scores.tolist())
        }
        _print(found, args.json)
    return OK if len(queries) == len(set(args.pictures)) else FAILED


def _check_model(gallery, embedder):
    theirs, ours = gallery.model, embedder.fingerprint
    if theirs["sha256"] != ours["sha256"]:
        raise InputError(
            f"{gallery.path}: its embeddings come from another model, {theirs.get('prefix')},{theirs.get('epoch')}; "
            "search with that one, or embed the pictures anew"
        )


def _print(found, as_json):
    if as_json:
        print(json.dumps([{"picture": picture, "found": matches} for picture, matches in found.items()], indent=2))
    else:
        rows = [("picture", "rank", "score", "name")]
        for picture, matches in found.items():
            rows += [(picture, str(i), f"{m['score']:.4f}", m["name"]) for i, m in enumerate(matches, 1)]
        print_table(rows)
