"""``denseface match``: are two pictures of one person?"""

from __future__ import annotations

import argparse
import json

from denseface.cli.console import OK
from denseface.cli.faces import embed_picture
from denseface.cli.options import (
    add_example,
    add_face_options,
    add_model_options,
    add_no_flip,
    load_cropper,
    load_embedder,
)
from denseface.core.text import printable


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "match",
        help="tell whether two pictures show the same person",
        description="Compare the faces in two pictures. A picture of exactly the network's size is an aligned face; in "
        "any other, the face is found and cut out. They show the same person if their score, the cosine similarity of "
        "their embeddings, is at or above the threshold. By default that is the threshold of the highest accuracy that "
        "denseface verify has found for this model, on the largest set it was measured on. Its false match rate there, "
        "with a 95 % interval, and the probability that this score stands for, are printed beside it.",
    )
    parser.add_argument("pictures", nargs=2, metavar="PICTURE", help="a picture of a face")
    add_model_options(parser)
    add_face_options(parser)
    add_no_flip(parser)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--threshold", type=_score, metavar="SCORE", help="use this threshold, -1 to 1")
    choice.add_argument("--set", metavar="NAME", help="use the threshold of this verification set")
    parser.add_argument(
        "--prior",
        type=_probability,
        default=0.5,
        metavar="P",
        help="probability of one person before the pictures are seen, which the printed one starts from (default: 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_example(parser, "denseface match anna.jpg bert.jpg --model models/d63-arcface-orl/model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare the two pictures."""
    from denseface.core.vectors import similarity
    from denseface.evaluation.thresholds import Threshold, find_threshold

    embedder = load_embedder(args, flip=not args.no_flip, crop=load_cropper(args))
    if args.threshold is None:
        found = find_threshold(embedder, args.set)
    else:
        found = Threshold(args.threshold, "--threshold", None, None, None)
    one, other = (embed_picture(embedder, picture, args) for picture in args.pictures)
    score = float(similarity(one[0], other[0]))
    same = score >= found.value
    probability = found.probability and float(found.probability.probability(score, args.prior))
    if args.json:
        content = {"same": same, "score": score, "threshold": found.value, "threshold_of": found.name}
        certainty = {"probability": probability, "false_match_rate": found.fmr, "interval": found.fmr_interval}
        print(json.dumps({**content, **certainty}, indent=2))
        return OK
    verdict = "same person" if same else "different persons"
    print(f"{verdict}: score {score:.4f}, threshold {found.value:.4f} ({printable(found.name)})")
    if found.fmr_interval:
        low, high = found.fmr_interval
        print(
            f"probability of one person {probability:.4f} if it was {args.prior:g} before; false match rate of the "
            f"threshold {found.fmr:.4f} ({low:.4f}-{high:.4f})"
        )
    return OK


def _probability(text):
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError("a probability here is above 0 and below 1")
    return number


def _score(text):
    score = float(text)
    if not -1 <= score <= 1:
        raise argparse.ArgumentTypeError("scores are from -1 to 1")
    return score
