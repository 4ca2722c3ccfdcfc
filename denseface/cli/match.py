"""``denseface match``: are two pictures, or two folders of pictures, of one person?"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from denseface.cli.console import FAILED, OK, print_json, print_line, report_unreadable, report_warning
from denseface.cli.faces import embed_picture, embed_pictures
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_far,
    add_fuse,
    add_model_options,
    add_no_flip,
    add_set,
    load_cropper,
    load_embedder,
    score,
)
from denseface.core.errors import InputError
from denseface.core.text import counted, listed, printable

if TYPE_CHECKING:
    import numpy as np

    from denseface.embedding.embedder import Embedder


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "match",
        help="tell whether two pictures, or folders of pictures, show the same person",
        description="Compare the faces in two pictures, or those in a folder of one person's pictures with another "
        "picture or folder. A picture of exactly the network's size is an aligned face; in any other, the face is "
        "found and cut out. They show the same person if their score, the cosine similarity of their embeddings, is at "
        "or above the threshold. By default that is the threshold that denseface verify has found for this model at a "
        "false accept rate (FAR) of 1e-3, or the lowest that the set has enough pairs for, on the largest set it was "
        "measured on. The 95 % interval of the false match rate that it really has, and the probability that this "
        "score stands for, are printed beside it; both are measured on the pairs of that set, and scores of folders "
        "are distributed otherwise. A picture in a folder that cannot be "
        "read, or has no face, is reported and left out; the exit code is then 1.",
    )
    parser.add_argument(
        "pictures", nargs=2, metavar="PICTURE", help="a picture of a face, or a folder of one person's pictures"
    )
    add_fuse(
        parser,
        "score of a folder: of the mean of the embeddings of its pictures (default), or the highest of its pictures",
    )
    add_model_options(parser)
    add_face_options(parser)
    add_no_flip(parser)
    parser.add_argument("--threshold", type=score, metavar="SCORE", help="use this threshold, -1 to 1")
    add_far(parser, "use the threshold that denseface verify has found for this false accept rate")
    add_set(parser)
    parser.add_argument(
        "--prior",
        type=_probability,
        default=0.5,
        metavar="P",
        help="probability of one person before the pictures are seen, which the printed one starts from (default: 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_example(
        parser,
        "denseface match anna.jpg bert.jpg --model models/d15-arcface-orl/model",
        "denseface match people/anna someone.jpg --model models/d15-arcface-orl/model",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare the two pictures or folders."""
    from denseface.core.vectors import similarity
    from denseface.deciding.thresholds import Threshold, find_threshold
    from denseface.galleries.people import compare

    if args.threshold is not None and (args.set or args.far):
        raise InputError("a threshold is stated, so none is taken of a set; leave out one", option="threshold")
    folders = [path for path in args.pictures if os.path.isdir(path)]
    if args.fuse and not folders:
        raise InputError("neither of the two is a folder, so there is nothing to fuse; leave it out", option="fuse")
    embedder = load_embedder(args, flip=not args.no_flip, crop=load_cropper(args))
    stated = args.threshold is not None
    found = Threshold(args.threshold) if stated else find_threshold(embedder, args.set, args.far)
    sides, failures = zip(*(_embed(embedder, path, args) for path in args.pictures))
    one, other = sides
    fusion = (args.fuse or "mean") if folders else None
    found_score = compare(one, other, fusion) if fusion else float(similarity(one, other)[0, 0])
    sizes, code = [len(rows) for rows in sides], FAILED if any(failures) else OK
    same = found_score >= found.value
    probability = found.probability and float(found.probability.probability(found_score, args.prior))
    if args.json:
        decided = {"same": same, "score": found_score, "threshold": found.value, "threshold_of": found.name}
        compared = {"far": found.far, "fuse": fusion, "pictures": sizes}
        certainty = {"probability": probability, "false_match_rate": found.fmr, "interval": found.fmr_interval}
        print_json({**decided, **compared, **certainty})
        return code
    verdict = "same person" if same else "different persons"
    fused = f" ({fusion} of {' and '.join(counted(size, 'picture') for size in sizes)})" if fusion else ""
    of_set = f" ({printable(found.name)}, FAR {found.far:g})" if found.name else ""
    print_line(f"{verdict}: score {found_score:.4f}{fused}, threshold {found.value:.4f}{of_set}")
    if found.fmr_interval:
        low, high = found.fmr_interval
        said = f"false match rate of the threshold {found.fmr:.4f} ({low:.4f}-{high:.4f})"
        if probability is not None:
            said = f"probability of one person {probability:.4f} if it was {args.prior:g} before; {said}"
        print_line(said + ("; both measured without folders" if fusion else ""))
    return code


def _embed(embedder: Embedder, path: str, args: argparse.Namespace) -> tuple[np.ndarray, int]:
    """Embed a picture, or those of a folder that can be used; return also how many cannot."""
    if not os.path.isdir(path):
        return embed_picture(embedder, path, args), 0
    pictures, num_unreadable = _pictures_in(path)
    faces = embed_pictures(embedder, pictures, args)
    if not faces.names:
        raise InputError("none of its pictures can be used", path=path)
    return faces.rows, faces.num_failures + num_unreadable


def _pictures_in(folder: str) -> tuple[list[str], int]:
    """Return the paths of the pictures of a person, and how many folders in it cannot be read.

    A folder that may have pictures of several people is refused.
    """
    from denseface.data.sources import Sources

    with Sources([folder]) as sources:
        found = list(sources)
        if sources.left_out:
            report_warning(
                f"{folder}: {counted(len(sources.left_out), 'file')} left out, not pictures: {listed(sources.left_out)}"
            )
    if found[0].is_aligned:
        raise InputError(
            "a record file is in it, which has pictures of many people; name a folder of one person", path=folder
        )
    one, *more = dict.fromkeys(os.path.dirname(source.name) for source in found)
    if more:
        raise InputError(
            f"its pictures are in several folders, such as {one or '.'} and {more[0]}, which may be several "
            "people; name the folder of one person",
            path=folder,
        )
    report_unreadable(sources.unreadable)
    return [source.name for source in found], len(sources.unreadable)


def _probability(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError("a probability here is above 0 and below 1")
    return number
