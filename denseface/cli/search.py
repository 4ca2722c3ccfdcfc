"""``denseface search``: whose picture is this?"""

from __future__ import annotations

import argparse
import re
from functools import partial
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_json, print_table
from denseface.cli.faces import embed_pictures
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_far,
    add_fuse,
    add_model_options,
    add_set,
    given_scaling,
    load_cropper,
    load_embedder,
    positive,
    rate,
    score,
)
from denseface.core.errors import InputError
from denseface.core.providers import PROVIDERS
from denseface.embedding.engines import ENGINES

if TYPE_CHECKING:
    from denseface.data.cropping import Cropper
    from denseface.data.faces import CutPicture
    from denseface.data.sources import Source
    from denseface.deciding.thresholds import Threshold
    from denseface.embedding.embedder import Embedder
    from denseface.galleries.gallery import Gallery


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "search",
        help="find the most similar faces among embeddings",
        description="Find the most similar faces in a file that denseface embed wrote. The scores are cosine "
        "similarities, -1 to 1. The file must come from the same model. A picture of exactly the network's size is an "
        "aligned face; in any other, the face is found and cut out as it was for the file. A picture that cannot be "
        "read, or has no face, is reported, and the search continues with the others; the exit code is then 1. With "
        "--fuse, people are found instead of pictures; the folder of a picture in the file names its person. With "
        "--open, only scores that reach a threshold count.",
    )
    parser.add_argument("gallery", metavar="GALLERY.npz", help="what denseface embed wrote")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures of faces to search for")
    parser.add_argument("-k", type=positive, default=5, metavar="N", help="how many to find for each (default: 5)")
    add_fuse(
        parser,
        "find people instead of pictures; score of a person with several pictures: of the mean of their embeddings, or "
        "the highest",
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="say nobody where no score reaches a threshold: by default that of FAR 1e-3 in denseface verify",
    )
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=score, metavar="SCORE", help="--open at this score, -1 to 1")
    add_far(limit, "--open at the threshold that denseface verify has found for this false accept rate")
    limit.add_argument(
        "--fpir",
        type=rate,
        metavar="RATE",
        help="--open at a threshold at which at most this fraction of searches for strangers finds anybody: that of a "
        "false accept rate of at most RATE / N, for N pictures in the file",
    )
    add_set(parser)
    add_model_options(parser)
    add_face_options(parser, faces=("largest", "center", "all"))
    parser.add_argument("--json", action="store_true", help="print what is found as JSON")
    add_example(
        parser,
        "denseface search faces.npz anna.jpg --model models/d15-arcface-orl/model -k 3",
        "denseface search people.npz anna.jpg --model models/d15-arcface-orl/model --fuse mean",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search for each picture."""
    from denseface.embedding.scaling import make_scaling
    from denseface.galleries.gallery import Gallery
    from denseface.galleries.people import Templates

    gallery = Gallery(args.gallery)
    searched = Templates(gallery, args.fuse) if args.fuse else gallery
    args.image_size = args.image_size or tuple(gallery.model["image_shape"])
    if gallery.model["precision"] != "float32" and not (args.engine or args.provider):
        args.engine = gallery.model["engine"] if gallery.model["engine"] in ENGINES else None
        args.provider = gallery.provider if gallery.provider in PROVIDERS else None
    if not args.model.endswith(".onnx") and make_scaling(**given_scaling(args)) is None:
        args.input_mean, args.input_scale, args.bgr = gallery.scaling or (None, None, False)
    is_said = bool(args.aligned or args.landmarks or args.detector)
    crop = load_cropper(args) if is_said else _cropper_of(gallery, args)
    embedder = load_embedder(args, flip=gallery.model["flip"], crop=crop)
    gallery.require_same(embedder.describe())
    threshold = _threshold(gallery, embedder, args)
    cut = partial(_cut_aligned, embedder, gallery) if crop.aligned and not is_said else None
    names, rows, num_failures = embed_pictures(embedder, args.pictures, args, cut)
    if names:
        found = dict(zip(names, searched.search(rows, args.k)))
        if threshold:
            found = {
                name: [match for match in matches if match.score >= threshold.value] for name, matches in found.items()
            }
        _print(found, threshold, args)
    return FAILED if num_failures else OK


def _cut_aligned(embedder: Embedder, gallery: Gallery, source: Source) -> CutPicture:
    """Take only a picture of the network's size for an aligned face, where nobody says that it is one."""
    from denseface.data.faces import CutPicture, Face
    from denseface.data.pictures import load_picture

    try:
        pixels = load_picture(source.file)
        if pixels.shape[:2] != embedder.image_shape[:2]:
            raise InputError(
                f"not of the network's size, and {gallery.path} was made with --aligned; if this is an aligned face "
                f"too, search with --aligned; if not, embed the pictures of {gallery.path} again without it"
            )
        (crop,) = embedder.crop(pixels, embedder.image_shape)
    except InputError as error:
        return CutPicture(source, [Face.failed(source.name, error, source.file)])
    return CutPicture(source, [Face(source.name, crop.pixels)])


def _cropper_of(gallery: Gallery, args: argparse.Namespace) -> Cropper:
    """Make what cuts faces out as it was done for the gallery."""
    args.aligned = gallery.crop["by"] == "aligned"
    args.detector = None if args.aligned else _pack_of(gallery.crop)
    return load_cropper(args)


def _pack_of(description: dict) -> str | None:
    """The model pack of a gallery's detector, if that is not the default one; a path in a file is not trusted."""
    detector = description.get("detector")
    name = detector.get("name") if isinstance(detector, dict) else None
    return name if isinstance(name, str) and re.fullmatch(r"\w+", name) else None


def _threshold(gallery: Gallery, embedder: Embedder, args: argparse.Namespace) -> Threshold | None:
    """Return the threshold of an open search; None if whatever is nearest is wanted."""
    from denseface.deciding.thresholds import Threshold, find_threshold, find_threshold_of_search

    if args.threshold is not None:
        return Threshold(args.threshold)
    if args.fpir:
        return find_threshold_of_search(embedder, len(gallery), args.fpir, args.set)
    return find_threshold(embedder, args.set, args.far) if args.open or args.far else None


def _print(found, threshold, args):
    if args.json:
        content = []
        for picture, matches in found.items():
            content.append({"picture": picture, "found": [match._asdict() for match in matches]})
            if threshold:
                content[-1].update(threshold=threshold.value, threshold_of=threshold.name, far=threshold.far)
        print_json(content)
        return
    rows = [("picture", "rank", "score", "person" if args.fuse else "name")]
    for picture, matches in found.items():
        rows += [(picture, str(i), f"{match.score:.4f}", match.name) for i, match in enumerate(matches, 1)]
        if not matches:
            rows.append((picture, "-", f"< {threshold.value:.4f}", "nobody"))
    print_table(rows)
