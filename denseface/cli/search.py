"""``denseface search``: whose picture is this?"""

from __future__ import annotations

import argparse
import json
import re

from denseface.cli.console import FAILED, OK, print_table, report_error
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_model_options,
    cut_faces,
    embed_faces,
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
        "similarities, -1 to 1. The file must come from the same model. A picture of exactly the network's size is an "
        "aligned face; in any other, the face is found and cut out as it was for the file. A picture that cannot be "
        "read, or has no face, is reported, and the search continues with the others; the exit code is then 1.",
    )
    parser.add_argument("gallery", metavar="GALLERY.npz", help="what denseface embed wrote")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures of faces to search for")
    parser.add_argument("-k", type=positive, default=5, metavar="N", help="how many to find for each (default: 5)")
    add_model_options(parser)
    add_face_options(parser, faces=("largest", "center", "all"))
    parser.add_argument("--json", action="store_true", help="print what is found as JSON")
    add_example(parser, "denseface search faces.npz anna.jpg --model models/d63-arcface-orl/model -k 3")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search for each picture."""
    from denseface.data.cropping import Crop
    from denseface.embedding.gallery import Gallery

    gallery = Gallery(args.gallery)
    args.image_size = args.image_size or tuple(gallery.model["image_shape"])
    if gallery.model["precision"] != "float32":
        args.engine = args.engine or gallery.model["engine"]
    is_said = bool(args.aligned or args.landmarks or args.detector)
    crop = load_cropper(args) if is_said else _cropper_of(gallery, args)
    embedder = load_embedder(args, flip=gallery.model["flip"], crop=crop)
    gallery.require_same(embedder.describe())
    faces, failures = [], 0
    for picture in args.pictures:
        try:
            if crop.aligned and not is_said:
                _check_size(picture, embedder, gallery)
            crops = cut_faces(embedder, picture, args)
        except InputError as error:
            crops = [Crop("", None, str(error))]
        for face in crops:
            if face.pixels is None:
                failures += 1
                report_error(InputError(f"{picture}{face.suffix}: {face.reason}" if face.suffix else face.reason))
            else:
                faces.append((picture + face.suffix, face.pixels))
    if faces:
        found = gallery.search(embed_faces(embedder, faces), args.k)
        _print({name: matches for (name, _), matches in zip(faces, found)}, args.json)
    return FAILED if failures else OK


def _cropper_of(gallery, args):
    """Make what cuts faces out as it was done for the gallery."""
    args.aligned = gallery.crop["by"] == "aligned"
    args.detector = None if args.aligned else _pack_of(gallery.crop)
    return load_cropper(args)


def _pack_of(description):
    """The model pack of a gallery's detector, if that is not the default one; a path in a file is not trusted."""
    detector = description.get("detector")
    name = detector.get("name") if isinstance(detector, dict) else None
    return name if isinstance(name, str) and re.fullmatch(r"\w+", name) else None


def _check_size(picture, embedder, gallery):
    """Where nobody says that a picture shows an aligned face, only one of the network's size does."""
    from denseface.data.pictures import load_picture

    if load_picture(picture).shape[:2] != embedder.image_shape[:2]:
        raise InputError(
            f"{picture}: not of the network's size, and {gallery.path} was made with --aligned; if this is an aligned "
            f"face too, search with --aligned; if not, embed the pictures of {gallery.path} again without it"
        )


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
