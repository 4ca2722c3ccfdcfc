"""``denseface search``: whose picture is this?"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from functools import partial

from denseface.cli.console import FAILED, OK, print_table, report_error
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_model_options,
    embed_faces,
    given_scaling,
    load_cropper,
    load_embedder,
    positive,
    warn_of_several,
)
from denseface.core.errors import InputError
from denseface.embedding.engines import ENGINES

_MOST_THREADS = 4


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
    import numpy as np

    from denseface.core.cpus import usable_cpus
    from denseface.core.parallel import ordered_map
    from denseface.embedding.gallery import Gallery
    from denseface.embedding.scaling import make_scaling

    gallery = Gallery(args.gallery)
    args.image_size = args.image_size or tuple(gallery.model["image_shape"])
    if gallery.model["precision"] != "float32" and gallery.model["engine"] in ENGINES:
        args.engine = args.engine or gallery.model["engine"]
    if not args.model.endswith(".onnx") and make_scaling(**given_scaling(args)) is None:
        args.input_mean, args.input_scale, args.bgr = gallery.scaling or (None, None, False)
    is_said = bool(args.aligned or args.landmarks or args.detector)
    crop = load_cropper(args) if is_said else _cropper_of(gallery, args)
    embedder = load_embedder(args, flip=gallery.model["flip"], crop=crop)
    gallery.require_same(embedder.describe())
    cut = partial(_cut, embedder, gallery if crop.aligned and not is_said else None)
    failures: list[InputError] = []
    faces = _faces(
        ordered_map(cut, args.pictures, usable_cpus(most=_MOST_THREADS), ahead=2 * embedder.batch_size), args, failures
    )
    names, rows = [], []
    while batch := list(itertools.islice(faces, embedder.batch_size)):
        names += [name for name, _ in batch]
        rows.append(embed_faces(embedder, batch))
    if rows:
        _print(dict(zip(names, gallery.search(np.concatenate(rows), args.k))), args.json)
    return FAILED if failures else OK


def _faces(cut, args, failures):
    """Yield the name and the pixels of every face; report what has none, and add it to `failures`."""
    from tqdm import tqdm

    with tqdm(zip(args.pictures, cut), total=len(args.pictures), unit="picture", disable=None) as bar:
        for picture, crops in bar:
            warn_of_several(picture, crops, args)
            for face in crops:
                if face.pixels is None:
                    named = f"{picture}{face.suffix}: {face.reason}" if face.suffix else face.reason
                    failures.append(InputError(named))
                    bar.clear()
                    report_error(failures[-1])
                else:
                    yield picture + face.suffix, face.pixels


def _cut(embedder, gallery, picture):
    """Cut out the faces of a picture, on another thread; a gallery allows only pictures of the network's size."""
    from denseface.data.cropping import Crop
    from denseface.data.pictures import load_picture

    try:
        if gallery is None:
            return embedder.cut(picture)
        pixels = load_picture(picture)
        if pixels.shape[:2] == embedder.image_shape[:2]:
            return embedder.crop(pixels, embedder.image_shape)
        # Where nobody says that a picture shows an aligned face, only one of the network's size does.
        reason = (
            f"{picture}: not of the network's size, and {gallery.path} was made with --aligned; if this is an aligned "
            f"face too, search with --aligned; if not, embed the pictures of {gallery.path} again without it"
        )
    except InputError as error:
        reason = str(error)
    return [Crop("", None, reason)]


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
